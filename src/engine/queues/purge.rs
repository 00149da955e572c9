//! Messages that an administrator takes out, and that come back when the store could not delete them.

use super::{Entry, Mailbox, MessageId, Queues, Username};

/// What was taken out of one queue.
#[derive(Debug)]
pub struct Purged(Vec<Entry>);

impl Purged {
    /// How many messages they are.
    pub fn count(&self) -> u64 {
        self.0.len() as u64
    }
}

impl Queues {
    /// Takes messages out that are on stable storage; `ids` in ascending order.
    pub fn remove_all(&mut self, recipient: Username, ids: &[MessageId]) -> Purged {
        let Some(mailbox) = self.mailbox_mut(recipient) else {
            return Purged(Vec::new());
        };
        let before = mailbox.bytes;
        let purged = Purged(mailbox.take_all(ids));
        let bytes = before - mailbox.bytes;
        purged.0.iter().for_each(|entry| self.gone(entry.sender));
        self.messages -= purged.count();
        self.bytes -= bytes;
        self.tidy(recipient);
        purged
    }

    /// They are stored still: the next download has them, in their places. `true`: somebody waits for them.
    pub fn put_back(&mut self, recipient: Username, purged: Purged) -> bool {
        if !self.exists(recipient) {
            return false;
        }
        purged.0.iter().for_each(|entry| self.comes(entry.sender));
        let Some(mailbox) = self.mailbox_or_new(recipient) else { return false };
        let (before, count) = (mailbox.bytes, purged.0.len());
        purged.0.into_iter().for_each(|entry| mailbox.push(entry));
        // What is on its way to the store now has higher ids than what had been stored then.
        mailbox.entries.make_contiguous().sort_unstable_by_key(Entry::id);
        mailbox.committed += count;
        let (bytes, wanted) = (mailbox.bytes - before, !mailbox.waiters.is_empty());
        self.messages += count as u64;
        self.bytes += bytes;
        self.tidy(recipient);
        wanted
    }
}

impl Mailbox {
    fn take_all(&mut self, ids: &[MessageId]) -> Vec<Entry> {
        let (mut taken, mut committed) = (Vec::with_capacity(ids.len()), 0);
        let entries = std::mem::take(&mut self.entries);
        self.entries.reserve(entries.len().saturating_sub(ids.len()));
        for (place, entry) in entries.into_iter().enumerate() {
            if ids.binary_search(&entry.id()).is_ok() {
                self.forget(entry);
                taken.push(entry);
            } else {
                committed += usize::from(place < self.committed);
                self.entries.push_back(entry);
            }
        }
        self.committed = committed;
        taken
    }
}
