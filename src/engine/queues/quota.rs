//! How much of the queues one sender may have, and one recipient's.

use super::{Mailbox, Millis, NameId, Queues, User};
use crate::engine::settings::Limits;

/// A sender with so many in a queue, or fewer, may use the last fifth of it.
const FEW: u32 = 10;
const MINUTE_US: u64 = 60_000_000;

/// Why a message is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quota {
    NoSuchUser,
    QueueFull,
    SenderFull,
    /// What is left of the queue is for those who have few messages in it.
    LastFifth,
    /// In all queues.
    SenderTotal,
    /// In a minute.
    SenderRate,
    StoreFull,
}

impl Queues {
    /// One more message of this sender is queued.
    pub(super) fn comes(&mut self, sender: NameId) {
        if let Some(user) = self.users.get_mut(sender as usize) {
            user.sent = user.sent.saturating_add(1);
        }
    }

    /// One fewer.
    pub(super) fn gone(&mut self, sender: NameId) {
        if let Some(user) = self.users.get_mut(sender as usize) {
            user.sent = user.sent.saturating_sub(1);
        }
    }
}

impl User {
    /// Whether this sender may send one more message, and when it will have rested then.
    pub(super) fn may_send(&self, limits: &Limits, now: Millis) -> Result<u64, Quota> {
        if self.sent >= limits.messages_per_sender {
            return Err(Quota::SenderTotal);
        }
        let now = now.saturating_mul(1000);
        let cost = (MINUTE_US / u64::from(limits.messages_per_sender_minute.max(1))).max(1);
        let rested_at = self.rested_at.max(now).saturating_add(cost);
        if rested_at.saturating_sub(now) > MINUTE_US { Err(Quota::SenderRate) } else { Ok(rested_at) }
    }
}

impl Mailbox {
    pub(super) fn has_room(&self, sender: NameId, limits: &Limits) -> Result<(), Quota> {
        if self.leaving {
            return Err(Quota::NoSuchUser);
        }
        if self.entries.len() as u64 >= u64::from(limits.queue_messages) {
            return Err(Quota::QueueFull);
        }
        let queued = self.by_sender.get(&sender).copied().unwrap_or(0);
        let last_fifth = self.entries.len() as u64 >= u64::from(limits.queue_messages - limits.queue_messages / 5);
        if queued >= limits.queue_messages_per_sender {
            return Err(Quota::SenderFull);
        }
        if last_fifth && queued >= FEW {
            return Err(Quota::LastFifth);
        }
        Ok(())
    }
}
