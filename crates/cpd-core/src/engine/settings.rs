//! The settings of the engine, with the limits that hold across sessions.

use crate::session::settings::SessionSettings;

/// Bounds on what users may keep and try (`[limits]` of cpd.conf(5)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    pub connections: u32,
    pub connections_per_address: u32,
    /// Messages in one recipient's queue.
    pub queue_messages: u32,
    /// Messages of one sender in one recipient's queue.
    pub queue_messages_per_sender: u32,
    /// Messages of one sender in all queues.
    pub messages_per_sender: u32,
    /// Messages that one sender may send in a minute.
    pub messages_per_sender_minute: u32,
    /// Failed logins from one address in a minute; further attempts are throttled.
    pub failures_per_address: u32,
    /// Failed logins for one name in a minute; further attempts from addresses that it never logged in from are
    /// throttled. The same number holds for the name at each single address that it has logged in from.
    pub failures_per_user: u32,
    /// Failed logins for one name in a day; further attempts from addresses that it never logged in from are throttled.
    pub failures_per_user_day: u32,
    /// Sessions that a user may have at a time.
    pub sessions_per_user: u32,
    /// Bytes of all queued bodies together; 0: no bound.
    pub store_bytes: u64,
    /// Seconds after which an undelivered message expires; 0: never.
    pub message_age: u64,
}

/// One connection in this many is reserved for known addresses.
const KNOWN_RESERVE_DIVISOR: u32 = 20;

impl Limits {
    /// The limit of connections that applies to a new one: the last ones are reserved for known addresses.
    pub fn connections_for(&self, known: bool) -> u32 {
        if known { self.connections } else { self.connections - self.connections / KNOWN_RESERVE_DIVISOR }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 10_000,
            connections_per_address: 1000,
            queue_messages: 1000,
            queue_messages_per_sender: 200,
            messages_per_sender: 100_000,
            messages_per_sender_minute: 100_000,
            failures_per_address: 10,
            failures_per_user: 10,
            failures_per_user_day: 100,
            sessions_per_user: 32,
            store_bytes: 0,
            message_age: 0,
        }
    }
}

/// All settings of the engine. They may change while it runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    pub session: SessionSettings,
    pub limits: Limits,
}
