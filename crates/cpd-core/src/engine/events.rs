//! What the engine reports: events for the log, and results for operators.

pub use super::logins::{Ended, ThrottledLogin};
use cp_proto::values::Username;

use super::port::{AddressKey, SessionId};
pub use super::throttle::{GuessingAlert, ThrottleCause, Throttled};

/// An event for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogEvent {
    LoggedIn {
        session: SessionId,
        user: Username,
    },
    /// The cause is left out: the log says no more than the 565.
    LoginFailed {
        session: SessionId,
        login: Ended,
    },
    /// A login was refused without trying its password, because too many before it failed.
    Throttled {
        session: SessionId,
        login: ThrottledLogin,
    },
    /// From now on, attempts on this name from addresses that it has not logged in from are throttled for longer than a
    /// minute.
    GuessingAlert(GuessingAlert),
    /// The password was right, but the user already has as many sessions as `sessions_per_user` allows.
    TooManySessions {
        session: SessionId,
        login: Ended,
    },
    /// `user`: the user who has used up the limit, if it belongs to one. `queue`: the user whose queue it concerns, if
    /// it concerns one.
    Limit {
        limit: Limit,
        user: Option<Username>,
        queue: Option<Username>,
    },
    /// All connections are in use: this guest is evicted for another client.
    GuestEvicted {
        session: SessionId,
        from: AddressKey,
    },
    Expired {
        messages: u64,
    },
}

/// A limit that was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Limit {
    Connections,
    ConnectionsPerAddress,
    QueueMessages,
    QueueMessagesPerSender,
    MessagesPerSender,
    MessagesPerSenderMinute,
    StoreBytes,
    FailuresPerAddress,
    FailuresPerUser,
    SessionsPerUser,
}

impl Limit {
    /// The configuration key that sets the limit.
    pub fn key(self) -> &'static str {
        match self {
            Limit::Connections => "limits.connections",
            Limit::ConnectionsPerAddress => "limits.connections_per_address",
            Limit::QueueMessages => "limits.queue_messages",
            Limit::QueueMessagesPerSender => "limits.queue_messages_per_sender",
            Limit::MessagesPerSender => "limits.messages_per_sender",
            Limit::MessagesPerSenderMinute => "limits.messages_per_sender_minute",
            Limit::StoreBytes => "limits.store_bytes",
            Limit::FailuresPerAddress => "limits.failures_per_address",
            Limit::FailuresPerUser => "limits.failures_per_user",
            Limit::SessionsPerUser => "limits.sessions_per_user",
        }
    }
}
