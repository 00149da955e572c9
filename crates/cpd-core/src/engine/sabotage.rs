//! The engine's part of the fault injection (see [`crate::sabotage`]).

use super::port::SessionId;
use super::{Engine, Millis, Username};
use crate::mailboxes::Mailboxes;
use crate::sabotage::{Fault, is_ordered};

impl<M: Mailboxes> Engine<M> {
    pub(super) fn inject_leaky_reply(&mut self, id: SessionId, name: Username, now: Millis) {
        if is_ordered(Fault::LeakyReply) && !self.core.mailboxes.may_exist(name) {
            self.with_session(id, now, |session, context| session.receive(b"?\r\n", context));
        }
    }
}
