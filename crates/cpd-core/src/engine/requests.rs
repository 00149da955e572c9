//! What an operator can ask of the engine, and what the engine answers. The control protocol has the same words.

use std::net::IpAddr;

use cp_proto::values::Username;

use super::counters::Counters;
use super::port::{MessageRow, SessionId, UserRow};
use super::throttle::Throttled;
use crate::dfa::StateName;
use crate::time::Millis;

/// The most bytes of a backup that one [`Request::StoreBackupRead`] returns.
pub const BACKUP_CHUNK_BYTES: u32 = 256 * 1024;

/// A request. `P` is what it holds of a new password: the password as it was received, the hash that the engine takes,
/// or nothing, for the log.
///
/// For lists, `after` is the last row of the previous page (the `next` of its answer), and `limit` is the most rows
/// wanted. Message and session ids begin at 1, so `after: 0` asks for the first page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request<P = String> {
    /// Adds a user.
    UserAdd { name: Username, password: P },
    /// Sets a user's password and, unless `keep_sessions` is set, ends the user's sessions.
    UserPasswd { name: Username, password: P, keep_sessions: bool },
    /// Lists all users in the order of their names.
    UserList { after: Option<Username>, limit: u32 },
    /// Shows one user.
    UserShow { name: Username },
    /// Locks a user and ends its sessions.
    UserLock { name: Username },
    /// Lets a locked user log in again.
    UserUnlock { name: Username },
    /// Removes a user, its queue and its sessions.
    UserRemove { name: Username },
    /// Lists the queues that are not empty, in the order of their users' names.
    QueueList { after: Option<Username>, limit: u32 },
    /// Lists the messages of a queue in the order in which they were queued; `body` asks for their bodies, too.
    QueueShow { user: Username, after: u64, limit: u32, body: bool },
    /// Deletes messages from a queue.
    QueuePurge { user: Username, which: PurgeFilter },
    /// Makes a copy of the store and holds it until [`Request::StoreBackupEnd`].
    StoreBackup,
    /// Reads a piece of the copy from `offset` on.
    StoreBackupRead { backup: u64, offset: u64 },
    /// Discards the copy.
    StoreBackupEnd { backup: u64 },
    /// Verifies the checksums of one page of rows.
    StoreCheck { after: u64, limit: u32 },
    /// Returns unused space of the store to the file system.
    StoreShrink,
    /// Lists the sessions in the order of their ids.
    SessionList { after: u64, limit: u32 },
    /// Closes a session.
    SessionClose { id: u64 },
    /// Lists the throttles in force, those that last longest first.
    ThrottleList { limit: u32 },
    /// Forgets the failed logins of a user and those from an address, or all failed logins if neither is set.
    ThrottleClear { user: Option<Username>, address: Option<IpAddr> },
    /// Asks whether the daemon answers.
    Ping,
    /// Asks for the state of the daemon; with `details`, for its listeners, its configuration and two more counters.
    Status { details: bool },
}

/// Selects the messages of a queue to delete: those that meet all conditions that are set, or all messages if none is
/// set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PurgeFilter {
    pub id: Option<u64>,
    pub from: Option<Username>,
    pub older_than_seconds: Option<u64>,
}

impl<P> Request<P> {
    /// The same request with another password.
    pub fn map_password<Q>(self, map: impl FnOnce(P) -> Q) -> Request<Q> {
        match self {
            Request::UserAdd { name, password } => Request::UserAdd { name, password: map(password) },
            Request::UserPasswd { name, password, keep_sessions } => {
                Request::UserPasswd { name, password: map(password), keep_sessions }
            }
            Request::UserList { after, limit } => Request::UserList { after, limit },
            Request::UserShow { name } => Request::UserShow { name },
            Request::UserLock { name } => Request::UserLock { name },
            Request::UserUnlock { name } => Request::UserUnlock { name },
            Request::UserRemove { name } => Request::UserRemove { name },
            Request::QueueList { after, limit } => Request::QueueList { after, limit },
            Request::QueueShow { user, after, limit, body } => Request::QueueShow { user, after, limit, body },
            Request::QueuePurge { user, which } => Request::QueuePurge { user, which },
            Request::StoreBackup => Request::StoreBackup,
            Request::StoreBackupRead { backup, offset } => Request::StoreBackupRead { backup, offset },
            Request::StoreBackupEnd { backup } => Request::StoreBackupEnd { backup },
            Request::StoreCheck { after, limit } => Request::StoreCheck { after, limit },
            Request::StoreShrink => Request::StoreShrink,
            Request::SessionList { after, limit } => Request::SessionList { after, limit },
            Request::SessionClose { id } => Request::SessionClose { id },
            Request::ThrottleList { limit } => Request::ThrottleList { limit },
            Request::ThrottleClear { user, address } => Request::ThrottleClear { user, address },
            Request::Ping => Request::Ping,
            Request::Status { details } => Request::Status { details },
        }
    }

    /// The name of the command, the value of `cmd`.
    pub fn command(&self) -> &'static str {
        match self {
            Request::UserAdd { .. } => "user.add",
            Request::UserPasswd { .. } => "user.passwd",
            Request::UserList { .. } => "user.list",
            Request::UserShow { .. } => "user.show",
            Request::UserLock { .. } => "user.lock",
            Request::UserUnlock { .. } => "user.unlock",
            Request::UserRemove { .. } => "user.remove",
            Request::QueueList { .. } => "queue.list",
            Request::QueueShow { .. } => "queue.show",
            Request::QueuePurge { .. } => "queue.purge",
            Request::StoreBackup => "store.backup",
            Request::StoreBackupRead { .. } => "store.backup.read",
            Request::StoreBackupEnd { .. } => "store.backup.end",
            Request::StoreCheck { .. } => "store.check",
            Request::StoreShrink => "store.shrink",
            Request::SessionList { .. } => "session.list",
            Request::SessionClose { .. } => "session.close",
            Request::ThrottleList { .. } => "throttle.list",
            Request::ThrottleClear { .. } => "throttle.clear",
            Request::Ping => "ping",
            Request::Status { .. } => "status",
        }
    }

    /// The user that the request is about, if it names one.
    pub fn user(&self) -> Option<Username> {
        match self {
            Request::UserAdd { name, .. }
            | Request::UserPasswd { name, .. }
            | Request::UserShow { name }
            | Request::UserLock { name }
            | Request::UserUnlock { name }
            | Request::UserRemove { name } => Some(*name),
            Request::QueueShow { user, .. } | Request::QueuePurge { user, .. } => Some(*user),
            Request::ThrottleClear { user, .. } => *user,
            Request::UserList { .. }
            | Request::QueueList { .. }
            | Request::StoreBackup
            | Request::StoreBackupRead { .. }
            | Request::StoreBackupEnd { .. }
            | Request::StoreCheck { .. }
            | Request::StoreShrink
            | Request::SessionList { .. }
            | Request::SessionClose { .. }
            | Request::ThrottleList { .. }
            | Request::Ping
            | Request::Status { .. } => None,
        }
    }
}

/// The result of a [`Request`].
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

/// A summary of the messages in one queue that are on stable storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueSummary {
    pub user: Username,
    pub messages: u64,
    pub bytes: u64,
    /// When the oldest message was queued, in seconds since 1970.
    pub oldest: u64,
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

/// Keeps the `limit` rows with the lowest keys, in order, without sorting the others. Returns whether there were more.
pub(crate) fn keep_first_by_key<T, K: Ord>(rows: &mut Vec<T>, limit: usize, key: impl Fn(&T) -> K) -> bool {
    let more = rows.len() > limit;
    if more {
        rows.select_nth_unstable_by_key(limit, &key);
        rows.truncate(limit);
    }
    rows.sort_unstable_by_key(key);
    more
}
