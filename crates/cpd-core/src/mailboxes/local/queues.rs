//! The queues: an index of the messages in the store, with quotas, leases and waiting sessions. It takes some tens of
//! bytes a message; bodies stay in the store.

mod handover;
mod purge;
mod quota;

use std::collections::VecDeque;

use cp_proto::values::Username;

use super::names::NameMap;
use crate::download::{MessageId, PageMessage};
use crate::engine::port::SessionId;
use crate::engine::requests::{QueueSummary, keep_first_by_key};
use crate::engine::settings::Limits;
use crate::limits::{PAGE_MAX_BYTES, PAGE_MAX_MESSAGES};
use crate::mailboxes::QuotaError;
use crate::time::Millis;

/// The number of a name in this run. Messages keep their sender's number when that user is removed.
type NameId = u32;

/// One queued message, in 16 bytes.
#[derive(Debug, Clone, Copy)]
struct QueueEntry {
    /// The id, shifted left by `LENGTH_BITS`, and the length of the body in the bits below.
    packed: u64,
    /// When it was queued, in seconds since 1970; later times than 2106 count as that.
    at: u32,
    sender: NameId,
}

/// A scan for expired messages begins no further mailbox after this many entries.
const EXPIRY_SCAN_MAX: usize = 100_000;
const LENGTH_BITS: u32 = 10;
const _: () = assert!(cp_proto::limits::MESSAGE_MAX_BYTES < 1 << LENGTH_BITS);

impl QueueEntry {
    fn new(id: MessageId, bytes: usize, at: u64, sender: NameId) -> QueueEntry {
        let length = (bytes as u64) & ((1 << LENGTH_BITS) - 1);
        QueueEntry { packed: id.0 << LENGTH_BITS | length, at: u32::try_from(at).unwrap_or(u32::MAX), sender }
    }

    fn id(&self) -> MessageId {
        MessageId(self.packed >> LENGTH_BITS)
    }

    fn bytes(&self) -> u64 {
        self.packed & ((1 << LENGTH_BITS) - 1)
    }
}

/// The right of one session to download the queue, up to `last`. Messages up to `cursor` have been read.
#[derive(Debug)]
struct Lease {
    session: SessionId,
    cursor: MessageId,
    last: MessageId,
}

/// The messages that were removed from one queue.
#[derive(Debug)]
pub struct PurgedMessages(Vec<QueueEntry>);

/// One user's queue.
#[derive(Debug, Default)]
struct Mailbox {
    /// In the order of their ids. The first `committed` are on stable storage, the others on their way to it.
    entries: VecDeque<QueueEntry>,
    committed: usize,
    bytes: u64,
    by_sender: NameMap<NameId, u32>,
    lease: Option<Lease>,
    waiters: VecDeque<SessionId>,
    /// The user is being removed: no more messages are taken.
    being_removed: bool,
}

/// A name with its counts and its mailbox. It stays when its user is removed.
#[derive(Debug)]
struct QueueUser {
    name: Username,
    exists: bool,
    /// Messages of this sender in all queues.
    queued_as_sender: u32,
    /// A leaky bucket: when it will be empty, in microseconds on the monotonic clock. Each message moves that on by a
    /// minute divided by the limit; one that would move it more than a minute ahead is refused.
    rate_free_at_us: u64,
    mailbox: Option<Box<Mailbox>>,
}

/// One queued message, without its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueuedMessage {
    pub id: MessageId,
    pub sender: Username,
    pub at: u64,
    pub bytes: u64,
}

/// All queues.
#[derive(Debug, Default)]
pub struct Queues {
    names: NameMap<Username, NameId>,
    users: Vec<QueueUser>,
    messages: u64,
    bytes: u64,
}

impl Queues {
    /// The number of queued messages and the bytes of their bodies, including those on their way to the store.
    pub fn totals(&self) -> (u64, u64) {
        (self.messages, self.bytes)
    }

    /// Adds a user.
    pub fn add_user(&mut self, name: Username) {
        let id = self.intern(name);
        if let Some(user) = self.users.get_mut(id as usize) {
            user.exists = true;
        }
    }

    /// Whether there is such a user.
    pub fn exists(&self, name: Username) -> bool {
        self.user(name).is_some_and(|u| u.exists)
    }

    /// The number of messages that wait for `name`.
    pub fn queued(&self, name: Username) -> u64 {
        self.mailbox(name).map_or(0, |m| m.committed as u64)
    }

    /// Takes no more messages for `name`, and returns the ids of all messages for it, including those on their way to
    /// the store.
    pub fn begin_removal(&mut self, name: Username) -> Vec<u64> {
        let Some(mailbox) = self.mailbox_or_new(name) else {
            return Vec::new();
        };
        mailbox.being_removed = true;
        mailbox.entries.iter().map(|e| e.id().0).collect()
    }

    /// Takes messages for `name` again, because its removal failed.
    pub fn cancel_removal(&mut self, name: Username) {
        if let Some(mailbox) = self.mailbox_or_new(name) {
            mailbox.being_removed = false;
        }
        self.free_if_unused(name);
    }

    /// Removes the user and its queue.
    pub fn remove_user(&mut self, name: Username) {
        if let Some(user) = self.user_mut(name) {
            user.exists = false;
            if let Some(mailbox) = user.mailbox.take() {
                self.messages -= mailbox.entries.len() as u64;
                self.bytes -= mailbox.bytes;
                mailbox.entries.iter().for_each(|entry| self.uncount_queued(entry.sender));
            }
        }
    }

    /// Adds a message that is already in the store. Messages must come in the order of their ids.
    pub fn load(&mut self, id: MessageId, recipient: Username, sender: Username, at: u64, bytes: usize) {
        let sender = self.intern(sender);
        self.messages += 1;
        self.bytes += bytes as u64;
        self.count_queued(sender);
        if let Some(mailbox) = self.mailbox_or_new(recipient) {
            mailbox.push(QueueEntry::new(id, bytes, at, sender));
            mailbox.committed += 1;
        }
    }

    /// Queues a message that goes to the store next.
    ///
    /// # Errors
    /// The quota that it would exceed, or [`QuotaError::NoSuchUser`]; nothing has changed then.
    pub fn admit(
        &mut self,
        id: MessageId,
        recipient: Username,
        sender: Username,
        at: u64,
        bytes: usize,
        (limits, now): (&Limits, Millis),
    ) -> Result<(), QuotaError> {
        let index = self.names.get(&recipient).copied().ok_or(QuotaError::NoSuchUser)?;
        let sender = self.intern(sender);
        let Some(user) = self.users.get(index as usize).filter(|user| user.exists) else {
            return Err(QuotaError::NoSuchUser);
        };
        if let Some(mailbox) = &user.mailbox {
            mailbox.check_quota(sender, limits)?;
        }
        let rate_free_at_us =
            self.users.get(sender as usize).map_or(Ok(0), |from| from.check_sender_quota(limits, now))?;
        if limits.store_bytes > 0 && self.bytes + bytes as u64 > limits.store_bytes {
            return Err(QuotaError::StoreFull);
        }
        self.messages += 1;
        self.bytes += bytes as u64;
        if let Some(user) = self.users.get_mut(index as usize) {
            user.mailbox.get_or_insert_default().push(QueueEntry::new(id, bytes, at, sender));
        }
        if let Some(from) = self.users.get_mut(sender as usize) {
            from.queued_as_sender = from.queued_as_sender.saturating_add(1);
            from.rate_free_at_us = rate_free_at_us;
        }
        Ok(())
    }

    /// Notes that a message is on stable storage. Returns whether a session waits for it. `None`: it is no longer
    /// queued.
    pub fn commit(&mut self, recipient: Username, id: MessageId) -> Option<bool> {
        match self.mailbox_mut(recipient) {
            Some(mailbox) if mailbox.entries.get(mailbox.committed).is_some_and(|e| e.id() == id) => {
                mailbox.committed += 1;
                Some(!mailbox.waiters.is_empty())
            }
            _ => None,
        }
    }

    /// Removes a message that was acknowledged, has expired or was not stored. Returns whether it was there.
    pub fn remove(&mut self, recipient: Username, id: MessageId) -> bool {
        let Some(mailbox) = self.mailbox_mut(recipient) else {
            return false;
        };
        let Some(entry) = mailbox.take(id) else {
            return false;
        };
        self.messages -= 1;
        self.bytes -= entry.bytes();
        self.uncount_queued(entry.sender);
        self.free_if_unused(recipient);
        true
    }

    /// Removes from `messages`, which are in the order of their ids, those that are not in `user`'s queue.
    pub fn retain_queued(&self, user: Username, messages: &mut Vec<PageMessage>) {
        let (Some(mailbox), Some(first)) = (self.mailbox(user), messages.first()) else {
            return messages.clear();
        };
        let start = mailbox.entries.partition_point(|entry| entry.id() < first.id);
        let mut queued = mailbox.entries.range(start..).map(QueueEntry::id).peekable();
        messages.retain(|message| {
            while queued.next_if(|id| *id < message.id).is_some() {}
            queued.peek() == Some(&message.id)
        });
    }

    /// Gives `session` the lease of `user`'s queue, up to the last message that is on stable storage now. `false`:
    /// there is no such message, or the queue is leased already.
    pub fn lease(&mut self, user: Username, session: SessionId) -> bool {
        let Some(mailbox) = self.mailbox_mut(user) else {
            return false;
        };
        let Some(last) = mailbox.committed.checked_sub(1).and_then(|i| mailbox.entries.get(i)) else {
            return false;
        };
        if mailbox.lease.is_some() {
            return false;
        }
        mailbox.lease = Some(Lease { session, cursor: MessageId(0), last: last.id() });
        true
    }

    /// Lets `session` wait for `user`'s next message, behind those that wait already.
    pub fn add_waiter(&mut self, user: Username, session: SessionId) {
        if let Some(mailbox) = self.mailbox_or_new(user) {
            mailbox.waiters.push_back(session);
        }
    }

    /// Ends `session`'s download of `user`'s queue, or its wait for one. Returns whether another session waits and
    /// messages are left.
    pub fn release(&mut self, user: Username, session: SessionId) -> bool {
        let Some(mailbox) = self.mailbox_mut(user) else {
            return false;
        };
        if mailbox.lease.as_ref().is_some_and(|l| l.session == session) {
            mailbox.lease = None;
        }
        mailbox.waiters.retain(|w| *w != session);
        let wanted = !mailbox.waiters.is_empty() && mailbox.committed > 0;
        self.free_if_unused(user);
        wanted
    }

    /// Gives the lease of `user`'s queue to the session that has waited longest, if the queue can be leased.
    pub fn grant(&mut self, user: Username) -> Option<SessionId> {
        let session = *self.mailbox(user)?.waiters.front()?;
        if !self.lease(user, session) {
            return None;
        }
        self.mailbox_mut(user)?.waiters.pop_front()
    }

    /// Appends the ids of the next page of `session`'s download to `ids`. Returns whether more messages follow that
    /// page. `None`: no message is left, or the session has no lease.
    pub fn next_page(&mut self, user: Username, session: SessionId, ids: &mut Vec<u64>) -> Option<bool> {
        let mailbox = self.mailbox_mut(user)?;
        let lease = mailbox.lease.as_mut().filter(|l| l.session == session)?;
        let start = mailbox.entries.partition_point(|e| e.id() <= lease.cursor);
        let mut bytes = 0;
        let (mut count, mut more) = (0, false);
        for entry in mailbox.entries.range(start..mailbox.committed.max(start)) {
            if entry.id() > lease.last {
                break;
            }
            bytes += entry.bytes() as usize;
            if count > 0 && (bytes > PAGE_MAX_BYTES || count >= PAGE_MAX_MESSAGES) {
                more = true;
                break;
            }
            count += 1;
            ids.push(entry.id().0);
            lease.cursor = entry.id();
        }
        (count > 0).then_some(more)
    }

    /// The session that has the lease of `user`'s queue.
    pub fn leaseholder(&self, user: Username) -> Option<SessionId> {
        self.mailbox(user)?.lease.as_ref().map(|l| l.session)
    }

    /// Up to `limit` non-empty queues whose names come after `after`, in the order of names, and whether there are
    /// more.
    pub fn list(&self, after: Option<Username>, limit: usize) -> (Vec<QueueSummary>, bool) {
        let mut found: Vec<QueueSummary> =
            self.users.iter().filter(|u| after.is_none_or(|a| u.name > a)).filter_map(summary).collect();
        let more = keep_first_by_key(&mut found, limit, |q| q.user);
        (found, more)
    }

    /// Up to `limit` messages of `user` with ids above `after`, and whether there are more.
    pub fn show(&self, user: Username, after: MessageId, limit: usize) -> (Vec<QueuedMessage>, bool) {
        let Some(mailbox) = self.mailbox(user) else {
            return (Vec::new(), false);
        };
        let start = mailbox.entries.partition_point(|e| e.id() <= after);
        let end = mailbox.committed.max(start);
        let rows = mailbox.entries.range(start..end).take(limit).filter_map(|e| self.describe(e)).collect();
        (rows, end - start > limit)
    }

    /// The ids of `user`'s messages for which `wanted` is true.
    pub fn select(&self, user: Username, wanted: impl Fn(&QueuedMessage) -> bool) -> Vec<MessageId> {
        let Some(mailbox) = self.mailbox(user) else {
            return Vec::new();
        };
        let committed = mailbox.entries.range(..mailbox.committed);
        committed.filter_map(|e| self.describe(e)).filter(wanted).map(|m| m.id).collect()
    }

    /// Up to `limit` messages for whose id and time of queueing `has_expired` is true, of queues that nobody is
    /// downloading. Scans the users from index `from` on, and returns the index at which to continue, `None` at
    /// the end. The times need not ascend: a message that was queued while the clock was wrong does not keep
    /// others from expiring.
    pub fn find_expired(
        &self,
        has_expired: impl Fn(MessageId, u64) -> bool,
        from: usize,
        limit: usize,
    ) -> (Vec<(Username, MessageId)>, Option<usize>) {
        let (mut found, mut scanned) = (Vec::new(), 0);
        for (index, user) in self.users.iter().enumerate().skip(from) {
            let Some(mailbox) = user.mailbox.as_ref().filter(|m| m.lease.is_none()) else {
                continue;
            };
            if scanned >= EXPIRY_SCAN_MAX {
                return (found, Some(index));
            }
            scanned += mailbox.committed;
            let old = mailbox.entries.range(..mailbox.committed).filter(|e| has_expired(e.id(), u64::from(e.at)));
            for entry in old {
                if found.len() >= limit {
                    return (found, Some(index));
                }
                found.push((user.name, entry.id()));
            }
        }
        (found, None)
    }

    fn describe(&self, entry: &QueueEntry) -> Option<QueuedMessage> {
        let sender = self.users.get(entry.sender as usize)?.name;
        Some(QueuedMessage { id: entry.id(), sender, at: u64::from(entry.at), bytes: entry.bytes() })
    }

    fn intern(&mut self, name: Username) -> NameId {
        let next = NameId::try_from(self.users.len()).unwrap_or(NameId::MAX);
        *self.names.entry(name).or_insert_with(|| {
            self.users.push(QueueUser { name, exists: false, queued_as_sender: 0, rate_free_at_us: 0, mailbox: None });
            next
        })
    }

    fn user(&self, name: Username) -> Option<&QueueUser> {
        self.users.get(*self.names.get(&name)? as usize)
    }

    fn user_mut(&mut self, name: Username) -> Option<&mut QueueUser> {
        self.users.get_mut(*self.names.get(&name)? as usize)
    }

    fn mailbox(&self, name: Username) -> Option<&Mailbox> {
        self.user(name)?.mailbox.as_deref()
    }

    fn mailbox_mut(&mut self, name: Username) -> Option<&mut Mailbox> {
        self.user_mut(name)?.mailbox.as_deref_mut()
    }

    fn mailbox_or_new(&mut self, name: Username) -> Option<&mut Mailbox> {
        let id = self.intern(name);
        Some(self.users.get_mut(id as usize)?.mailbox.get_or_insert_default())
    }

    /// Frees the mailbox if it is not in use.
    fn free_if_unused(&mut self, name: Username) {
        if let Some(user) = self.user_mut(name)
            && user.mailbox.as_ref().is_some_and(|m| m.is_unused())
        {
            user.mailbox = None;
        }
    }
}

fn summary(user: &QueueUser) -> Option<QueueSummary> {
    let mailbox = user.mailbox.as_ref()?;
    let oldest = mailbox.entries.front().filter(|_| mailbox.committed > 0)?;
    let bytes = mailbox.entries.range(mailbox.committed..).fold(mailbox.bytes, |sum, e| sum - e.bytes());
    Some(QueueSummary { user: user.name, messages: mailbox.committed as u64, bytes, oldest: u64::from(oldest.at) })
}

impl Mailbox {
    fn push(&mut self, entry: QueueEntry) {
        self.bytes += entry.bytes();
        *self.by_sender.entry(entry.sender).or_default() += 1;
        self.entries.push_back(entry);
    }

    fn find(&self, id: MessageId) -> Option<usize> {
        match self.entries.front() {
            Some(front) if front.id() == id => Some(0),
            _ => self.entries.binary_search_by_key(&id, QueueEntry::id).ok(),
        }
    }

    fn take(&mut self, id: MessageId) -> Option<QueueEntry> {
        let index = self.find(id)?;
        let entry = self.entries.remove(index)?;
        if index < self.committed {
            self.committed -= 1;
        }
        self.uncount(entry);
        Some(entry)
    }

    /// Takes a removed entry out of the counts.
    fn uncount(&mut self, entry: QueueEntry) {
        self.bytes -= entry.bytes();
        if let Some(count) = self.by_sender.get_mut(&entry.sender) {
            *count -= 1;
            if *count == 0 {
                self.by_sender.remove(&entry.sender);
            }
        }
    }

    fn is_unused(&self) -> bool {
        self.entries.is_empty() && self.lease.is_none() && self.waiters.is_empty() && !self.being_removed
    }
}

#[cfg(test)]
mod tests;
