//! The places of sessions.

use super::port::{AddressKey, SessionId};
use crate::proto::session::Session;
use crate::proto::types::Millis;
use crate::timer::Key;

/// One place for a connection.
#[derive(Debug)]
pub(super) struct Slot {
    pub serial: u64,
    pub place: u32,
    pub from: AddressKey,
    pub opened: Millis,
    /// In the wheel, at or before the session's deadline.
    pub timer: Option<(Key, Millis)>,
    /// In the list of those to be looked at.
    pub dirty: bool,
    pub session: Option<Session>,
}

impl Slot {
    pub fn id(&self) -> SessionId {
        SessionId { serial: self.serial, slot: self.place }
    }

    pub fn session(&self) -> Option<&Session> {
        self.session.as_ref()
    }

    pub fn opened(&self) -> Millis {
        self.opened
    }
}
