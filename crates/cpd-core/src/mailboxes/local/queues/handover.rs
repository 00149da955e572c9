//! The hand-over of leases and waiting sessions.

use cp_proto::values::Username;

use super::{Lease, Queues};
use crate::download::MessageId;
use crate::engine::port::SessionId;

impl Queues {
    /// The last message of `session`'s download of `user`'s queue. `None`: it has no lease.
    pub fn lease_end(&self, user: Username, session: SessionId) -> Option<MessageId> {
        self.mailbox(user)?.lease.as_ref().filter(|l| l.session == session).map(|l| l.last)
    }

    /// Gives the lease of `user`'s queue to a session that had it in the predecessor, from behind the message `sent` up
    /// to `last`. `false`: the queue is leased already.
    pub fn restore_lease(&mut self, user: Username, session: SessionId, sent: MessageId, last: MessageId) -> bool {
        match self.mailbox_or_new(user) {
            Some(mailbox) if mailbox.lease.is_none() => {
                mailbox.lease = Some(Lease { session, cursor: sent, last });
                true
            }
            _ => false,
        }
    }

    /// The sessions that wait for messages; those of one user are in the order in which they wait.
    pub fn waiters(&self) -> Vec<SessionId> {
        self.users.iter().filter_map(|u| u.mailbox.as_ref()).flat_map(|m| m.waiters.iter().copied()).collect()
    }
}
