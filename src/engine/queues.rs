//! Who has what queued: the index over the store's rows, with quotas, leases and waiters. Some tens of bytes a message;
//! bodies stay in the store.

mod purge;
mod quota;
mod succession;

use std::collections::VecDeque;

pub use purge::Purged;
pub use quota::Quota;

use super::names::NameMap;
use super::port::SessionId;
use super::settings::Limits;
use crate::proto::download::MessageId;
use crate::proto::limits::{PAGE_MAX_BYTES, PAGE_MAX_MESSAGES};
use crate::proto::types::{Millis, Username};

/// A name's number in this run; a message's sender keeps it after the user is gone.
type NameId = u32;

/// One queued message, in 16 bytes.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// The id above, the body's length in the lowest `LENGTH_BITS`.
    packed: u64,
    /// Queued at, in seconds since 1970, to 2106.
    at: u32,
    sender: NameId,
}

/// Entries that one look for expired messages goes over, and no further mailbox behind them.
const LOOKED_AT_MAX: usize = 100_000;
const LENGTH_BITS: u32 = 10;
const _: () = assert!(crate::proto::limits::MESSAGE_MAX_BYTES < 1 << LENGTH_BITS);

impl Entry {
    fn new(id: MessageId, bytes: usize, at: u64, sender: NameId) -> Entry {
        let length = (bytes as u64) & ((1 << LENGTH_BITS) - 1);
        Entry { packed: id.0 << LENGTH_BITS | length, at: u32::try_from(at).unwrap_or(u32::MAX), sender }
    }

    fn id(&self) -> MessageId {
        MessageId(self.packed >> LENGTH_BITS)
    }

    fn bytes(&self) -> u64 {
        self.packed & ((1 << LENGTH_BITS) - 1)
    }
}

/// The one download of a queue: up to `last`, read up to `cursor`.
#[derive(Debug)]
struct Lease {
    session: SessionId,
    cursor: MessageId,
    last: MessageId,
}

/// One user's queue.
#[derive(Debug, Default)]
struct Mailbox {
    /// In the order of their ids. The first `committed` are on stable storage, the others on their way.
    entries: VecDeque<Entry>,
    committed: usize,
    bytes: u64,
    by_sender: NameMap<NameId, u32>,
    lease: Option<Lease>,
    waiters: VecDeque<SessionId>,
    /// The user is being removed: nothing more is taken.
    leaving: bool,
}

#[derive(Debug)]
struct User {
    name: Username,
    exists: bool,
    /// Messages of this sender in all queues.
    sent: u32,
    /// When this sender may have sent nothing for a minute, in microseconds: each message adds its share of a minute.
    rested_at: u64,
    mailbox: Option<Box<Mailbox>>,
}

/// What is known of one queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueSummary {
    pub user: Username,
    pub messages: u64,
    pub bytes: u64,
    /// Seconds since 1970.
    pub oldest: u64,
}

/// What is known of one queued message without its body.
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
    users: Vec<User>,
    messages: u64,
    bytes: u64,
}

impl Queues {
    /// Bodies queued in all, in bytes, and messages queued in all.
    pub fn totals(&self) -> (u64, u64) {
        (self.messages, self.bytes)
    }

    pub fn add_user(&mut self, name: Username) {
        let id = self.intern(name);
        if let Some(user) = self.users.get_mut(id as usize) {
            user.exists = true;
        }
    }

    pub fn exists(&self, name: Username) -> bool {
        self.user(name).is_some_and(|u| u.exists)
    }

    /// The number of messages that wait for `name`.
    pub fn queued(&self, name: Username) -> u64 {
        self.mailbox(name).map_or(0, |m| m.committed as u64)
    }

    /// From now on nothing is taken for `name`. Every message for it, also those on their way to the store.
    pub fn begin_removal(&mut self, name: Username) -> Vec<u64> {
        let Some(mailbox) = self.mailbox_or_new(name) else {
            return Vec::new();
        };
        mailbox.leaving = true;
        mailbox.entries.iter().map(|e| e.id().0).collect()
    }

    /// The removal failed.
    pub fn cancel_removal(&mut self, name: Username) {
        if let Some(mailbox) = self.mailbox_or_new(name) {
            mailbox.leaving = false;
        }
        self.tidy(name);
    }

    /// The user and its queue are gone.
    pub fn remove_user(&mut self, name: Username) {
        if let Some(user) = self.user_mut(name) {
            user.exists = false;
            if let Some(mailbox) = user.mailbox.take() {
                self.messages -= mailbox.entries.len() as u64;
                self.bytes -= mailbox.bytes;
                mailbox.entries.iter().for_each(|entry| self.gone(entry.sender));
            }
        }
    }

    /// Adds a message that the store has already; in the order of ids.
    pub fn load(&mut self, id: MessageId, recipient: Username, sender: Username, at: u64, bytes: usize) {
        let sender = self.intern(sender);
        self.messages += 1;
        self.bytes += bytes as u64;
        self.comes(sender);
        if let Some(mailbox) = self.mailbox_or_new(recipient) {
            mailbox.push(Entry::new(id, bytes, at, sender));
            mailbox.committed += 1;
        }
    }

    /// Takes a message that is on its way to the store, or says why not.
    ///
    /// # Errors
    /// The quota that it would exceed.
    pub fn admit(
        &mut self,
        id: MessageId,
        recipient: Username,
        sender: Username,
        at: u64,
        bytes: usize,
        (limits, now): (&Limits, Millis),
    ) -> Result<(), Quota> {
        let place = self.names.get(&recipient).copied().ok_or(Quota::NoSuchUser)?;
        let sender = self.intern(sender);
        let Some(user) = self.users.get(place as usize).filter(|user| user.exists) else {
            return Err(Quota::NoSuchUser);
        };
        if let Some(mailbox) = &user.mailbox {
            mailbox.has_room(sender, limits)?;
        }
        let rested_at = self.users.get(sender as usize).map_or(Ok(0), |from| from.may_send(limits, now))?;
        if limits.store_bytes > 0 && self.bytes + bytes as u64 > limits.store_bytes {
            return Err(Quota::StoreFull);
        }
        self.messages += 1;
        self.bytes += bytes as u64;
        if let Some(user) = self.users.get_mut(place as usize) {
            user.mailbox.get_or_insert_default().push(Entry::new(id, bytes, at, sender));
        }
        if let Some(from) = self.users.get_mut(sender as usize) {
            from.sent = from.sent.saturating_add(1);
            from.rested_at = rested_at;
        }
        Ok(())
    }

    /// The message is on stable storage. `Some(true)`: somebody waits for it. `None`: nobody has it queued any more.
    pub fn commit(&mut self, recipient: Username, id: MessageId) -> Option<bool> {
        match self.mailbox_mut(recipient) {
            Some(mailbox) if mailbox.entries.get(mailbox.committed).is_some_and(|e| e.id() == id) => {
                mailbox.committed += 1;
                Some(!mailbox.waiters.is_empty())
            }
            _ => None,
        }
    }

    /// Takes a message out: acknowledged, purged, expired, or never stored. `false`: it was not there.
    pub fn remove(&mut self, recipient: Username, id: MessageId) -> bool {
        let Some(mailbox) = self.mailbox_mut(recipient) else {
            return false;
        };
        let Some(entry) = mailbox.take(id) else {
            return false;
        };
        self.messages -= 1;
        self.bytes -= entry.bytes();
        self.gone(entry.sender);
        self.tidy(recipient);
        true
    }

    /// Whether the message waits for `user`.
    pub fn contains(&self, user: Username, id: MessageId) -> bool {
        self.mailbox(user).is_some_and(|m| m.find(id).is_some())
    }

    /// Gives `user`'s queue to `session` to download, up to what is queued now. `false`: empty, or another has it.
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

    /// Queues `session` up for `user`'s next message.
    pub fn wait(&mut self, user: Username, session: SessionId) {
        if let Some(mailbox) = self.mailbox_or_new(user) {
            mailbox.waiters.push_back(session);
        }
    }

    /// Ends `session`'s download, or its wait for one. `true`: somebody else waits for what is left.
    pub fn release(&mut self, user: Username, session: SessionId) -> bool {
        let Some(mailbox) = self.mailbox_mut(user) else {
            return false;
        };
        if mailbox.lease.as_ref().is_some_and(|l| l.session == session) {
            mailbox.lease = None;
        }
        mailbox.waiters.retain(|w| *w != session);
        let wanted = !mailbox.waiters.is_empty() && mailbox.committed > 0;
        self.tidy(user);
        wanted
    }

    /// Gives `user`'s queue to the session that waits longest, if it can be given.
    pub fn grant(&mut self, user: Username) -> Option<SessionId> {
        let session = *self.mailbox(user)?.waiters.front()?;
        if !self.lease(user, session) {
            return None;
        }
        self.mailbox_mut(user)?.waiters.pop_front()
    }

    /// Appends the ids of the next page of `session`'s download to `ids`. `None`: nothing is left; else whether more
    /// is left behind this page.
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

    /// The session that downloads `user`'s queue now.
    pub fn leaseholder(&self, user: Username) -> Option<SessionId> {
        self.mailbox(user)?.lease.as_ref().map(|l| l.session)
    }

    /// Up to `limit` non-empty queues after `after`, in the order of their names, and whether there are more.
    pub fn list(&self, after: Option<Username>, limit: usize) -> (Vec<QueueSummary>, bool) {
        let mut found: Vec<QueueSummary> =
            self.users.iter().filter(|u| after.is_none_or(|a| u.name > a)).filter_map(summary).collect();
        let more = first_by_key(&mut found, limit, |q| q.user);
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

    /// Up to `limit` messages that are old by their id and their stamp and that nobody is downloading. Looks at the
    /// users from `from` on, and says where it stopped: `None` at the end. Stamps need not ascend: a message that was
    /// queued while the clock was wrong holds nothing up.
    pub fn expired(
        &self,
        is_old: impl Fn(MessageId, u64) -> bool,
        from: usize,
        limit: usize,
    ) -> (Vec<(Username, MessageId)>, Option<usize>) {
        let (mut found, mut looked_at) = (Vec::new(), 0);
        for (place, user) in self.users.iter().enumerate().skip(from) {
            let Some(mailbox) = user.mailbox.as_ref().filter(|m| m.lease.is_none()) else {
                continue;
            };
            if looked_at >= LOOKED_AT_MAX {
                return (found, Some(place));
            }
            looked_at += mailbox.committed;
            let old = mailbox.entries.range(..mailbox.committed).filter(|e| is_old(e.id(), u64::from(e.at)));
            for entry in old {
                if found.len() >= limit {
                    return (found, Some(place));
                }
                found.push((user.name, entry.id()));
            }
        }
        (found, None)
    }

    fn describe(&self, entry: &Entry) -> Option<QueuedMessage> {
        let sender = self.users.get(entry.sender as usize)?.name;
        Some(QueuedMessage { id: entry.id(), sender, at: u64::from(entry.at), bytes: entry.bytes() })
    }

    fn intern(&mut self, name: Username) -> NameId {
        let next = NameId::try_from(self.users.len()).unwrap_or(NameId::MAX);
        *self.names.entry(name).or_insert_with(|| {
            self.users.push(User { name, exists: false, sent: 0, rested_at: 0, mailbox: None });
            next
        })
    }

    fn user(&self, name: Username) -> Option<&User> {
        self.users.get(*self.names.get(&name)? as usize)
    }

    fn user_mut(&mut self, name: Username) -> Option<&mut User> {
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

    /// A queue that nobody needs costs nothing.
    fn tidy(&mut self, name: Username) {
        if let Some(user) = self.user_mut(name)
            && user.mailbox.as_ref().is_some_and(|m| m.is_unused())
        {
            user.mailbox = None;
        }
    }
}

/// Keeps the `limit` rows with the lowest keys, in order, without sorting the others. Whether there were more.
pub(super) fn first_by_key<T, K: Ord>(rows: &mut Vec<T>, limit: usize, key: impl Fn(&T) -> K) -> bool {
    let more = rows.len() > limit;
    if more {
        rows.select_nth_unstable_by_key(limit, &key);
        rows.truncate(limit);
    }
    rows.sort_unstable_by_key(key);
    more
}

fn summary(user: &User) -> Option<QueueSummary> {
    let mailbox = user.mailbox.as_ref()?;
    let oldest = mailbox.entries.front().filter(|_| mailbox.committed > 0)?;
    let bytes = mailbox.entries.range(mailbox.committed..).fold(mailbox.bytes, |sum, e| sum - e.bytes());
    Some(QueueSummary { user: user.name, messages: mailbox.committed as u64, bytes, oldest: u64::from(oldest.at) })
}

impl Mailbox {
    fn push(&mut self, entry: Entry) {
        self.bytes += entry.bytes();
        *self.by_sender.entry(entry.sender).or_default() += 1;
        self.entries.push_back(entry);
    }

    fn find(&self, id: MessageId) -> Option<usize> {
        match self.entries.front() {
            Some(front) if front.id() == id => Some(0),
            _ => self.entries.binary_search_by_key(&id, Entry::id).ok(),
        }
    }

    fn take(&mut self, id: MessageId) -> Option<Entry> {
        let place = self.find(id)?;
        let entry = self.entries.remove(place)?;
        if place < self.committed {
            self.committed -= 1;
        }
        self.forget(entry);
        Some(entry)
    }

    /// Counts the entry no more.
    fn forget(&mut self, entry: Entry) {
        self.bytes -= entry.bytes();
        if let Some(count) = self.by_sender.get_mut(&entry.sender) {
            *count -= 1;
            if *count == 0 {
                self.by_sender.remove(&entry.sender);
            }
        }
    }

    fn is_unused(&self) -> bool {
        self.entries.is_empty() && self.lease.is_none() && self.waiters.is_empty() && !self.leaving
    }
}

#[cfg(test)]
mod tests;
