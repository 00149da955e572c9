//! What the engine has to tell: to the log, and to an administrator who asked.

pub use super::logins::{Ended, NotTried};
use super::port::{AddressKey, MessageRow, SessionId, UserRow};
use super::queues::QueueSummary;
pub use super::throttle::{Guessing, Throttled, TooMany};
use crate::proto::types::{Millis, Username};

/// Something for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    LoggedIn {
        session: SessionId,
        user: Username,
    },
    /// Never more than the protocol tells: not why.
    LoginFailed {
        session: SessionId,
        login: Ended,
    },
    /// A login that was refused without a look at its password, as one before it failed too often.
    Throttled {
        session: SessionId,
        login: NotTried,
    },
    /// Strangers are throttled at this name for longer than a minute.
    Guessing(Guessing),
    /// The right password, of a user who has as many sessions as it may have.
    UserFull {
        session: SessionId,
        login: Ended,
    },
    /// `user`: who has used it up, where it is one user's; `queue`: whose queue it is about.
    Limit {
        limit: Limit,
        user: Option<Username>,
        queue: Option<Username>,
    },
    /// All places are taken: this connection, which has not logged in, is closed for another one.
    MadeWay {
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
    Work,
}

impl Limit {
    /// The key of the configuration that sets it.
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
            Limit::Work => "work under way",
        }
    }
}

/// What happened since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    pub connections: u64,
    pub refused_connections: u64,
    pub logins: u64,
    pub failed_logins: u64,
    pub throttled_logins: u64,
    pub stored: u64,
    pub refused_sends: u64,
    pub acknowledged: u64,
    pub expired: u64,
    pub purged: u64,
    /// Gone with their recipient.
    pub removed: u64,
    /// In the store when the process started.
    pub found: u64,
    pub bad_commands: u64,
    pub timeouts: u64,
    pub store_batches: u64,
    pub store_failures: u64,
}

/// Which of a user's messages to purge; all that are set must hold.
#[derive(Debug, Clone, Copy, Default)]
pub struct PurgeFilter {
    pub id: Option<u64>,
    pub from: Option<Username>,
    /// Queued before this time, in seconds since 1970.
    pub before: Option<u64>,
}

/// What an administrator asks for.
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
    /// Of a user, or an address, or both; of neither: all.
    ThrottleClear {
        user: Option<Username>,
        address: Option<AddressKey>,
    },
    SessionClose {
        serial: u64,
    },
    Status,
}

/// What is answered.
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
    /// How many sessions were ended.
    Ended {
        sessions: u64,
    },
    /// How many messages are gone, and sessions were ended.
    Gone {
        messages: u64,
        sessions: u64,
    },
    Sessions {
        rows: Vec<SessionRow>,
        more: bool,
    },
    /// So many buckets of failed logins were forgotten, in whole or in part.
    Forgotten {
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

/// A user, and what only the engine knows of it.
#[derive(Debug, Clone)]
pub struct UserState {
    pub row: UserRow,
    /// Messages that wait.
    pub queued: u64,
    /// Until when nobody who has not logged in from where they are gets in, if that is so.
    pub throttled: Option<Millis>,
}

/// One session. Its address and listener are known to whoever accepted it.
#[derive(Debug, Clone)]
pub struct SessionRow {
    pub id: SessionId,
    pub user: Option<Username>,
    pub state: &'static str,
    /// Since when it has been connected.
    pub opened: Millis,
    /// How long ago its last complete PDU was.
    pub idle: Millis,
}

#[derive(Debug, Clone)]
pub struct Status {
    pub connections: u32,
    /// By the names of the contract's states.
    pub states: Vec<(&'static str, u32)>,
    pub queued_messages: u64,
    pub queued_bytes: u64,
    pub store_bytes: u64,
    pub counters: Counters,
}
