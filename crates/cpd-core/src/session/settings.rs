//! The settings of a session (docs/protocol.md sections 6 and 8).

use crate::time::Millis;

/// How long a client may take for each of these, in milliseconds (section 6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// From the first byte of a PDU to its end.
    pub pdu: Millis,
    /// From the connection to the successful login.
    pub login: Millis,
    /// From sending a message, or from the acknowledgement of an earlier one, to the next 250.
    pub ack: Millis,
    /// From entering Error Processing to 201.
    pub recover: Millis,
    /// From one complete PDU to the next, while logged in.
    pub idle: Millis,
    /// How long output may wait for a client that reads neither all of it nor
    /// [`WRITE_PROGRESS_MIN_BYTES`](crate::limits::WRITE_PROGRESS_MIN_BYTES).
    pub write: Millis,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts { pdu: 30_000, login: 60_000, ack: 30_000, recover: 60_000, idle: 30 * 60_000, write: 30_000 }
    }
}

/// The settings that a session consults. They are passed with each call, so that a reload affects open sessions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionSettings {
    /// The first `:` of an SMSG ends the recipient, and further ones belong to the message. If this is off, a second
    /// `:` is an error.
    pub allow_colon: bool,
    /// How long a silence ends a PDU in the classic dialect, in milliseconds.
    pub classic_quiet: Millis,
    /// The timeouts of section 6.
    pub timeouts: Timeouts,
}

impl Default for SessionSettings {
    fn default() -> SessionSettings {
        SessionSettings { allow_colon: false, classic_quiet: 50, timeouts: Timeouts::default() }
    }
}
