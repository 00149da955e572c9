//! The entries of the engine's session table.

use super::port::{AddressKey, SessionId};
use crate::session::Session;
use crate::time::Millis;
use crate::timer::TimerKey;

/// One entry of the session table. It is reused, with a new serial number, once its session is gone.
#[derive(Debug)]
pub(super) struct Slot {
    pub serial: u64,
    /// The index in the table.
    pub index: u32,
    pub from: AddressKey,
    /// When the connection was made.
    pub opened: Millis,
    /// The timer in the wheel and its time, which is the session's deadline or earlier. `None`: none is set.
    pub timer: Option<(TimerKey, Millis)>,
    /// The slot is in the list of changed sessions.
    pub dirty: bool,
    pub session: Option<Session>,
}

impl Slot {
    pub fn id(&self) -> SessionId {
        SessionId { serial: self.serial, slot: self.index }
    }

    pub fn session(&self) -> Option<&Session> {
        self.session.as_ref()
    }

    pub fn opened(&self) -> Millis {
        self.opened
    }
}
