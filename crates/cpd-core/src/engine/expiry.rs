//! Messages that have become older than `message_age` are removed, some at a time.

use super::Engine;
use super::events::LogEvent;
use crate::mailboxes::Mailboxes;
use crate::time::Millis;

/// Messages that one scan removes at most; the next scan follows a tick later.
const EXPIRED_PER_SCAN_MAX: usize = 256;

impl<M: Mailboxes> Engine<M> {
    /// Removes messages that are older than `message_age`, except from queues that are being downloaded.
    pub(super) fn expire_messages(&mut self, now: Millis) {
        let age = self.settings.limits.message_age;
        let cutoff = self.trusted_clock.expiry_cutoff(self.core.wall_seconds, now, age, self.first_new_id);
        let (messages, next) = cutoff.map_or((0, None), |cutoff| {
            let has_expired = |id, stamp| cutoff.has_expired(id, stamp);
            self.core.mailboxes.expire(has_expired, self.expiry_scan.1, EXPIRED_PER_SCAN_MAX, now)
        });
        if messages > 0 {
            self.core.counters.messages_expired += messages;
            self.core.events.push_back(LogEvent::Expired { messages });
        }
        self.expiry_scan = match next {
            Some(place) => (now + crate::timer::TICK_MS, place),
            None => (now.saturating_add(age.saturating_mul(100).clamp(1000, 60_000)), 0),
        };
    }
}
