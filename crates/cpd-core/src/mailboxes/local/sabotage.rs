//! The local mailboxes' part of the fault injection (see [`crate::sabotage`]).

use cp_proto::values::Username;

use super::LocalMailboxes;
use crate::download::Page;
use crate::engine::port::{Batch, Op, SessionId};
use crate::mailboxes::MailboxEvent;
use crate::sabotage::{Fault, is_ordered};
use crate::time::Millis;

pub(super) fn early_reply_is_ordered() -> bool {
    is_ordered(Fault::EarlyReply)
}

impl LocalMailboxes {
    pub(super) fn inject_early_reply(&mut self, batch: Option<&Batch>) {
        if !early_reply_is_ordered() {
            return;
        }
        for op in batch.iter().flat_map(|batch| &batch.ops) {
            if let Op::Insert { session, id, recipient, .. } = op {
                if self.queues.commit(*recipient, *id) == Some(true) {
                    self.grant_candidates.push_back(*recipient);
                }
                self.events.push_back(MailboxEvent::Stored { session: *session, result: Ok(()) });
            }
        }
    }

    pub(super) fn inject_early_delete(&mut self, page: Option<&Page>, now: Millis) {
        if is_ordered(Fault::EarlyDelete) {
            for message in page.iter().flat_map(|page| &page.messages) {
                self.batcher.write_lazily(Op::DeleteExpired { id: message.id }, now);
            }
        }
    }

    pub(super) fn inject_forgotten_lease(&mut self, session: SessionId, user: Username, now: Millis) {
        if is_ordered(Fault::ForgottenLease)
            && self.queues.leaseholder(user) == Some(session)
            && let Some(oldest) = self.queues.select(user, |_| true).first().copied()
        {
            self.queues.remove(user, oldest);
            self.batcher.write_lazily(Op::DeleteExpired { id: oldest }, now);
        }
    }
}
