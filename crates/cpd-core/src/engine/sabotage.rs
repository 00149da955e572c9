//! The engine's part of the fault injection (see [`crate::sabotage`]).

use super::core::Core;
use super::port::{Batch, Op, Page, SessionId};
use super::{Engine, Millis, NEVER, Username};
use crate::sabotage::{Fault, is_ordered};

/// The time that is passed to a session whose timer fires.
pub(super) fn inject_early_timer(now: Millis, deadline: Millis) -> Millis {
    if is_ordered(Fault::EarlyTimer) && deadline != NEVER { now.max(deadline) } else { now }
}

pub(super) fn early_reply_is_ordered() -> bool {
    is_ordered(Fault::EarlyReply)
}

impl Engine {
    pub(super) fn inject_early_reply(&mut self, batch: Option<&Batch>, now: Millis) {
        if !early_reply_is_ordered() {
            return;
        }
        for op in batch.iter().flat_map(|batch| &batch.ops) {
            if let Op::Insert { session, id, recipient, .. } = op {
                self.stored(*session, *recipient, *id, Ok(()), now);
            }
        }
    }

    pub(super) fn inject_early_delete(&mut self, page: Option<&Page>, now: Millis) {
        if is_ordered(Fault::EarlyDelete) {
            for message in page.iter().flat_map(|page| &page.messages) {
                self.core.batcher.write_lazily(Op::DeleteExpired { id: message.id }, now);
            }
        }
    }

    pub(super) fn inject_leaky_reply(&mut self, id: SessionId, name: Username, now: Millis) {
        if is_ordered(Fault::LeakyReply) && !self.core.queues.exists(name) {
            self.with_session(id, now, |session, context| session.receive(b"?\r\n", context));
        }
    }
}

impl Core {
    pub(super) fn inject_forgotten_lease(&mut self, user: Username, session: SessionId, now: Millis) {
        if is_ordered(Fault::ForgottenLease)
            && self.queues.leaseholder(user) == Some(session)
            && let Some(oldest) = self.queues.select(user, |_| true).first().copied()
        {
            self.queues.remove(user, oldest);
            self.batcher.write_lazily(Op::DeleteExpired { id: oldest }, now);
        }
    }
}
