//! The engine's part of [`crate::sabotage`]: what it does wrong when a test orders it.

use super::core::Core;
use super::port::{Batch, Op, Page, SessionId};
use super::{Engine, Millis, NEVER, Username};
use crate::sabotage::{Fault, is};

/// The time that a session is told when its timer fires.
pub(super) fn time_of_expiry(now: Millis, deadline: Millis) -> Millis {
    if is(Fault::EarlyTimer) && deadline != NEVER { now.max(deadline) } else { now }
}

pub(super) fn replies_early() -> bool {
    is(Fault::EarlyReply)
}

impl Engine {
    pub(super) fn reply_early(&mut self, batch: Option<&Batch>, now: Millis) {
        if !replies_early() {
            return;
        }
        for op in batch.iter().flat_map(|batch| &batch.ops) {
            if let Op::Insert { session, id, recipient, .. } = op {
                self.stored(*session, *recipient, *id, Ok(()), now);
            }
        }
    }

    pub(super) fn delete_early(&mut self, page: Option<&Page>, now: Millis) {
        if is(Fault::EarlyDelete) {
            for message in page.iter().flat_map(|page| &page.messages) {
                self.core.work.write_lazily(Op::Forget { id: message.id }, now);
            }
        }
    }

    pub(super) fn leak(&mut self, id: SessionId, name: Username, now: Millis) {
        if is(Fault::LeakyReply) && !self.core.queues.exists(name) {
            self.with(id, now, |session, context| session.receive(b"?\r\n", context));
        }
    }
}

impl Core {
    pub(super) fn forget_lease(&mut self, user: Username, session: SessionId, now: Millis) {
        if is(Fault::ForgottenLease)
            && self.queues.leaseholder(user) == Some(session)
            && let Some(oldest) = self.queues.select(user, |_| true).first().copied()
        {
            self.queues.remove(user, oldest);
            self.work.write_lazily(Op::Forget { id: oldest }, now);
        }
    }
}
