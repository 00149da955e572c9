//! The settings that a session obeys (docs/protocol.md sections 6 and 8).

use super::types::Millis;

/// How long a peer may take. Milliseconds each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// First byte of a PDU to its end.
    pub pdu: Millis,
    /// Connect to logged in.
    pub login: Millis,
    /// RMSG sent, or an earlier one acknowledged, to the next 250.
    pub ack: Millis,
    /// Error Processing to 201.
    pub recover: Millis,
    /// Last complete PDU to the next, while logged in.
    pub idle: Millis,
    /// Bytes waiting for a client that takes none.
    pub write: Millis,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts { pdu: 30_000, login: 60_000, ack: 30_000, recover: 60_000, idle: 30 * 60_000, write: 30_000 }
    }
}

/// What a session is told when it begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionSettings {
    /// The first `:` of an SMSG ends the recipient, further ones belong to the message.
    pub allow_colon: bool,
    /// Silence that ends a PDU in the classic dialect.
    pub classic_quiet: Millis,
    pub timeouts: Timeouts,
}

impl Default for SessionSettings {
    fn default() -> SessionSettings {
        SessionSettings { allow_colon: false, classic_quiet: 50, timeouts: Timeouts::default() }
    }
}
