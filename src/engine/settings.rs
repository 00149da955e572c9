//! The limits that the engine holds across sessions.

use crate::proto::settings::SessionSettings;

/// Bounds of what users may hold and try (`[limits]` of cpd.conf(5)).
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
    /// Messages that one sender may leave in a minute.
    pub messages_per_sender_minute: u32,
    /// Failed logins of one address in a minute; more are throttled.
    pub failures_per_address: u32,
    /// Failed logins for one name in a minute, from addresses it never logged in from; more are throttled.
    pub failures_per_user: u32,
    /// The same in a day.
    pub failures_per_user_day: u32,
    /// Sessions that a user may have at a time.
    pub sessions_per_user: u32,
    /// Bodies queued in all, in bytes; 0: no bound.
    pub store_bytes: u64,
    /// Seconds after which an undelivered message expires; 0: never.
    pub message_age: u64,
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

/// Everything the engine is told; may change while it runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    pub session: SessionSettings,
    pub limits: Limits,
}
