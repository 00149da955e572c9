//! Leases and waiters from one process to the next.

use super::{Lease, Queues};
use crate::engine::port::SessionId;
use crate::proto::download::MessageId;
use crate::proto::types::Username;

impl Queues {
    /// The end of the download that `session` has of `user`'s queue.
    pub fn lease_end(&self, user: Username, session: SessionId) -> Option<MessageId> {
        self.mailbox(user)?.lease.as_ref().filter(|l| l.session == session).map(|l| l.last)
    }

    /// Gives `user`'s queue to `session` once more, behind what it has sent and up to where its download went.
    pub fn lease_again(&mut self, user: Username, session: SessionId, sent: MessageId, last: MessageId) -> bool {
        match self.mailbox_or_new(user) {
            Some(mailbox) if mailbox.lease.is_none() => {
                mailbox.lease = Some(Lease { session, cursor: sent, last });
                true
            }
            _ => false,
        }
    }

    /// The sessions that wait for messages, those of each user in their order.
    pub fn waiters(&self) -> Vec<SessionId> {
        self.users.iter().filter_map(|u| u.mailbox.as_ref()).flat_map(|m| m.waiters.iter().copied()).collect()
    }
}
