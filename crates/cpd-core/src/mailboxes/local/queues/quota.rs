//! Quotas: how many messages a sender may have queued and may send, and how many a queue may hold.

use super::{Mailbox, Millis, NameId, QueueUser, Queues};
use crate::engine::settings::Limits;
use crate::mailboxes::QuotaError;

/// A sender with fewer messages than this in a queue may use the last fifth of it.
const LAST_FIFTH_SENDER_MAX: u32 = 10;
const MINUTE_US: u64 = 60_000_000;

impl Queues {
    /// Counts one more queued message of this sender.
    pub(super) fn count_queued(&mut self, sender: NameId) {
        if let Some(user) = self.users.get_mut(sender as usize) {
            user.queued_as_sender = user.queued_as_sender.saturating_add(1);
        }
    }

    /// Counts one queued message less of this sender.
    pub(super) fn uncount_queued(&mut self, sender: NameId) {
        if let Some(user) = self.users.get_mut(sender as usize) {
            user.queued_as_sender = user.queued_as_sender.saturating_sub(1);
        }
    }
}

impl QueueUser {
    /// Checks the quotas of the sender. If it may send one more message, returns the value that `rate_free_at_us`
    /// takes then.
    pub(super) fn check_sender_quota(&self, limits: &Limits, now: Millis) -> Result<u64, QuotaError> {
        if self.queued_as_sender >= limits.messages_per_sender {
            return Err(QuotaError::SenderTotal);
        }
        let now = now.saturating_mul(1000);
        let cost = (MINUTE_US / u64::from(limits.messages_per_sender_minute.max(1))).max(1);
        let rate_free_at_us = self.rate_free_at_us.max(now).saturating_add(cost);
        if rate_free_at_us.saturating_sub(now) > MINUTE_US { Err(QuotaError::SenderRate) } else { Ok(rate_free_at_us) }
    }
}

impl Mailbox {
    pub(super) fn check_quota(&self, sender: NameId, limits: &Limits) -> Result<(), QuotaError> {
        if self.being_removed {
            return Err(QuotaError::NoSuchUser);
        }
        if self.entries.len() as u64 >= u64::from(limits.queue_messages) {
            return Err(QuotaError::QueueFull);
        }
        let queued = self.by_sender.get(&sender).copied().unwrap_or(0);
        let last_fifth = self.entries.len() as u64 >= u64::from(limits.queue_messages - limits.queue_messages / 5);
        if queued >= limits.queue_messages_per_sender {
            return Err(QuotaError::SenderFull);
        }
        if last_fifth && queued >= LAST_FIFTH_SENDER_MAX {
            return Err(QuotaError::LastFifth);
        }
        Ok(())
    }
}
