//! Messages that an operator purges. They are put back if the store could not delete them.

use super::{Mailbox, MessageId, PurgedMessages, QueueEntry, Queues, Username};

impl PurgedMessages {
    /// The number of messages.
    pub fn count(&self) -> u64 {
        self.0.len() as u64
    }
}

impl Queues {
    /// Removes messages that are on stable storage; `ids` must be in ascending order.
    pub fn remove_all(&mut self, recipient: Username, ids: &[MessageId]) -> PurgedMessages {
        let Some(mailbox) = self.mailbox_mut(recipient) else {
            return PurgedMessages(Vec::new());
        };
        let before = mailbox.bytes;
        let purged = PurgedMessages(mailbox.take_all(ids));
        let bytes = before - mailbox.bytes;
        purged.0.iter().for_each(|entry| self.uncount_queued(entry.sender));
        self.messages -= purged.count();
        self.bytes -= bytes;
        self.free_if_unused(recipient);
        purged
    }

    /// Puts messages back that are still in the store: the next download contains them, in their places. Returns
    /// whether a session waits for them.
    pub fn put_back(&mut self, recipient: Username, purged: PurgedMessages) -> bool {
        if !self.exists(recipient) {
            return false;
        }
        purged.0.iter().for_each(|entry| self.count_queued(entry.sender));
        let Some(mailbox) = self.mailbox_or_new(recipient) else { return false };
        let (before, count) = (mailbox.bytes, purged.0.len());
        purged.0.into_iter().for_each(|entry| mailbox.push(entry));
        // Messages on their way to the store have higher ids than those that were stored before the purge, so the
        // stored ones still come first.
        mailbox.entries.make_contiguous().sort_unstable_by_key(QueueEntry::id);
        mailbox.committed += count;
        let (bytes, wanted) = (mailbox.bytes - before, !mailbox.waiters.is_empty());
        self.messages += count as u64;
        self.bytes += bytes;
        self.free_if_unused(recipient);
        wanted
    }
}

impl Mailbox {
    fn take_all(&mut self, ids: &[MessageId]) -> Vec<QueueEntry> {
        let (mut taken, mut committed) = (Vec::with_capacity(ids.len()), 0);
        let entries = std::mem::take(&mut self.entries);
        self.entries.reserve(entries.len().saturating_sub(ids.len()));
        for (index, entry) in entries.into_iter().enumerate() {
            if ids.binary_search(&entry.id()).is_ok() {
                self.uncount(entry);
                taken.push(entry);
            } else {
                committed += usize::from(index < self.committed);
                self.entries.push_back(entry);
            }
        }
        self.committed = committed;
        taken
    }
}
