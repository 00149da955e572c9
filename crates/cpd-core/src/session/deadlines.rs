//! When the timers of a session end.

use crate::time::{Millis, NEVER};

/// The deadlines of a session's timers, but for those of its [`Output`](super::output::Output) and of the
/// [classic dialect](super::classic::Classic). [`NEVER`]: the timer does not run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadlines {
    /// When the unfinished PDU has taken too long.
    pub pdu: Millis,
    /// The deadline of the login, of an acknowledgement, of the recovery from an error, or of a WMSG, depending on the
    /// state. It is suspended while a password is being verified.
    pub state: Millis,
    pub idle: Millis,
}

impl Default for Deadlines {
    fn default() -> Deadlines {
        Deadlines { pdu: NEVER, state: NEVER, idle: NEVER }
    }
}
