//! What the engine reports: events for the log, and results for operators.

pub use super::logins::{Ended, ThrottledLogin};
use cp_proto::values::Username;

use super::counters::Counters;
use super::port::{AddressKey, MessageRow, SessionId, UserRow};
use super::queues::QueueSummary;
pub use super::throttle::{GuessingAlert, ThrottleCause, Throttled};
use crate::dfa::StateName;
use crate::time::Millis;

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

/// Which of a user's messages to purge: those that match every field that is set.
#[derive(Debug, Clone, Copy, Default)]
pub struct PurgeFilter {
    pub id: Option<u64>,
    pub from: Option<Username>,
    /// Queued before this time, in seconds since 1970.
    pub before: Option<u64>,
}

/// An operator's request.
#[derive(Debug)]
pub enum AdminRequest {
    UserAdd {
        name: Username,
        hash: String,
    },
    UserPasswd {
        name: Username,
        hash: String,
        keep_sessions: bool,
    },
    UserLock {
        name: Username,
        locked: bool,
    },
    UserRemove {
        name: Username,
    },
    UserList {
        after: Option<Username>,
        limit: u32,
    },
    UserShow {
        name: Username,
    },
    QueueList {
        after: Option<Username>,
        limit: u32,
    },
    QueueShow {
        user: Username,
        after: u64,
        limit: u32,
        bodies: bool,
    },
    QueuePurge {
        user: Username,
        filter: PurgeFilter,
    },
    BackupBegin,
    BackupRead {
        backup: u64,
        offset: u64,
        length: u32,
    },
    BackupEnd {
        backup: u64,
    },
    Check {
        after: u64,
        limit: u32,
    },
    Shrink,
    SessionList {
        after: u64,
        limit: u32,
    },
    ThrottleList {
        limit: u32,
    },
    /// For a user, for an address, or for both; with neither, for all.
    ThrottleClear {
        user: Option<Username>,
        address: Option<AddressKey>,
    },
    SessionClose {
        serial: u64,
    },
    Status,
}

/// The result of an [`AdminRequest`].
#[derive(Debug)]
pub enum AdminResult {
    Done,
    UserExists,
    NoSuchUser,
    NoSuchSession,
    NoSuchMessage,
    Busy,
    NoSuchBackup,
    Failed(String),
    Users {
        rows: Vec<UserState>,
        more: bool,
    },
    Queues {
        rows: Vec<QueueSummary>,
        more: bool,
    },
    Messages {
        rows: Vec<MessageRow>,
        more: bool,
    },
    /// The number of sessions that were ended.
    SessionsEnded {
        sessions: u64,
    },
    /// The numbers of messages removed and of sessions ended.
    Removed {
        messages: u64,
        sessions: u64,
    },
    Sessions {
        rows: Vec<SessionRow>,
        more: bool,
    },
    /// The number of buckets of failed logins that were cleared, in whole or in part.
    FailuresCleared {
        buckets: u64,
    },
    Throttles {
        rows: Vec<Throttled>,
        more: bool,
    },
    Backup {
        backup: u64,
        bytes: u64,
    },
    Bytes(Vec<u8>),
    Checked {
        rows: u64,
        damaged: Vec<String>,
        next: Option<u64>,
    },
    Shrunk {
        before: u64,
        after: u64,
    },
    Status(Box<Status>),
}

/// A user's row in the store, and what only the engine knows about the user.
#[derive(Debug, Clone)]
pub struct UserState {
    pub row: UserRow,
    /// Messages that wait for the user.
    pub queued: u64,
    /// Until when attempts from addresses that the user has not logged in from are throttled. `None`: they are not.
    pub throttled: Option<Millis>,
}

/// One session. Its address and listener are known to the caller that accepted the connection.
#[derive(Debug, Clone)]
pub struct SessionRow {
    pub id: SessionId,
    pub user: Option<Username>,
    pub state: StateName,
    /// When the connection was made.
    pub opened: Millis,
    /// Milliseconds since its last complete PDU, or since the connection was made.
    pub idle: Millis,
}

/// The state of the engine and its counters.
#[derive(Debug, Clone)]
pub struct Status {
    pub connections: u32,
    /// The number of sessions in each state, in the order of [`StateName::ALL`].
    pub states: [(StateName, u32); StateName::ALL.len()],
    pub queued_messages: u64,
    pub queued_bytes: u64,
    pub store_bytes: u64,
    pub counters: Counters,
}
