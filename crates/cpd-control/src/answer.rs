//! The daemon's answers, and how they are made of what the engine answers. The field names are stable; cpctl(8) documents them, because `cpctl --json` uses the same
//! ones. Times are in the format of [`rfc3339`]: RFC 3339 in UTC.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
pub use cpd_core::dfa::StateName;
pub use cpd_core::engine::counters::COUNTERS;
use cpd_core::engine::port::{MessageRow, SessionId};
use cpd_core::engine::requests::QueueSummary;
use cpd_core::engine::requests::{self, AdminResult, PurgeFilter, Request, SessionRow, UserState};
use cpd_core::engine::throttle::{Subject, Throttled};
use cpd_core::time::Millis;
use serde::{Deserialize, Serialize};

use super::encoding::{Numbers, encode_ok, rfc3339};
use super::error::{ControlError, ErrorCode, encode_error};
pub use super::error::{Envelope, ErrorBody};
use super::limits::{ANSWER_MAX_BYTES, DAMAGED_ROWS_MAX};

/// The request succeeded; there is nothing to add.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq)]
pub struct Done {}

/// The request succeeded and ended this many sessions.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq)]
pub struct SessionsEnded {
    pub sessions: u64,
}

/// A user was removed. The messages in its queue were deleted and its sessions ended; these are their numbers.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq)]
pub struct Removed {
    pub messages: u64,
    pub sessions: u64,
}

/// The number of messages that were deleted.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq)]
pub struct Purged {
    pub messages: u64,
}

/// One page of a list in the order of names. `next` is the `after` of the next page, or `null` on the last page.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq)]
pub struct NamePage<T> {
    pub rows: Vec<T>,
    pub next: Option<String>,
}

/// One page of a list in the order of ids. `next` is the `after` of the next page, or `null` on the last page.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq)]
pub struct IdPage<T> {
    pub rows: Vec<T>,
    pub next: Option<u64>,
}

/// A user.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq, Clone)]
pub struct UserInfo {
    pub name: String,
    pub locked: bool,
    pub created: String,
    /// `null` if the user has never logged in.
    pub last_login: Option<String>,
    /// The number of messages in the user's queue.
    pub queued: u64,
    /// The time until which logins from addresses that are not known addresses of this user are refused, because too
    /// many have failed; `null` if they are not refused. Versions before 0.3.0 omit this field.
    #[serde(default)]
    pub throttled: Option<String>,
}

/// A queue that is not empty.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq, Clone)]
pub struct QueueInfo {
    pub user: String,
    pub messages: u64,
    /// The total size of the bodies.
    pub bytes: u64,
    /// The time at which the first of the messages was queued.
    pub oldest: String,
}

/// A message in a queue.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq, Clone)]
pub struct MessageInfo {
    pub id: u64,
    pub sender: String,
    pub queued_at: String,
    /// The size of the body.
    pub bytes: u64,
    /// Present only if the request asked for bodies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

/// A session of a client.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq, Clone)]
pub struct SessionInfo {
    pub id: u64,
    /// The user who is logged in; `null` before the login.
    pub user: Option<String>,
    /// The address and port of the peer.
    pub address: String,
    /// The kind of listener that accepted the connection: `cp` or `classic`.
    pub listener: String,
    /// The [`StateName::key`] of its state.
    pub state: String,
    /// The time at which the client connected.
    pub since: String,
    /// The time since the last complete PDU.
    pub idle_seconds: u64,
}

/// The throttles in force, beginning with those that last longest.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq)]
pub struct Throttles {
    pub throttles: Vec<ThrottleInfo>,
    /// Whether there are more throttles than the request's limit.
    pub more: bool,
}

/// A throttle in force: logins are refused because too many have failed. If only `address` is set, it applies to all
/// logins from there. If only `user` is set, it applies to logins of that user from addresses that are not known
/// addresses of the user. If both are set, it applies to logins of that user from that address.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq, Clone)]
pub struct ThrottleInfo {
    pub user: Option<String>,
    /// An IPv4 address, an IPv6 /64, or `uid` and the id of a local user.
    pub address: Option<String>,
    pub failures: u64,
    /// The number of addresses that the failures came from; 16 means 16 or more.
    pub addresses: u64,
    /// The time from which on logins are tried again, unless another one fails before.
    pub until: String,
}

/// Failed logins were forgotten. `forgotten` is the number of counters deleted: one for each address, each user, and
/// each pair of a user and an address that was counted.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq)]
pub struct ThrottlesCleared {
    pub forgotten: u64,
}

/// A copy of the store that the daemon holds for downloading: its number, and its length in bytes.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq)]
pub struct Backup {
    pub backup: u64,
    pub bytes: u64,
}

/// A piece of a backup, encoded in base64.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq)]
pub struct BackupChunk {
    pub data: String,
}

impl BackupChunk {
    /// Encodes `bytes`.
    pub fn new(bytes: &[u8]) -> BackupChunk {
        BackupChunk { data: STANDARD.encode(bytes) }
    }

    /// Decodes the bytes, or returns `None` if `data` is not valid base64.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        STANDARD.decode(&self.data).ok()
    }
}

/// The result of checking one page of rows. `damaged` describes the damaged rows, at most [`super::DAMAGED_ROWS_MAX`].
/// `next` is the `after` of the next page, or `null` on the last page.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq)]
pub struct CheckPage {
    pub rows: u64,
    pub damaged: Vec<String>,
    pub next: Option<u64>,
}

/// The disk space that the store used before and after it was shrunk.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq)]
pub struct Shrunk {
    pub before_bytes: u64,
    pub after_bytes: u64,
}

/// The answer to a ping: the version of the daemon.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq)]
pub struct Pong {
    pub version: String,
}

/// The state of the daemon.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq, Clone, Default)]
pub struct StatusAnswer {
    pub version: String,
    pub uptime_seconds: u64,
    /// The number of open client connections, logged in or not.
    pub connections: u64,
    /// The number of sessions in each state of docs/protocol.md section 5.
    pub sessions: Numbers,
    pub queued_messages: u64,
    /// The total size of the store's files.
    pub store_bytes: u64,
    /// The number of events of each kind since the daemon started: [`COUNTERS`].
    pub counters: Numbers,
    /// Present only if the request asked for details.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listeners: Option<Vec<ListenerInfo>>,
    /// Present only if the request asked for details.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<ConfigurationInfo>,
}

/// A socket on which the daemon listens for clients or operators.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq, Clone)]
pub struct ListenerInfo {
    /// The same values as in [`SessionInfo`], or `control`.
    pub listener: String,
    /// An address and port, or a path.
    pub address: String,
    /// The program that opened the socket: `systemd` or `cpd`.
    pub opened_by: String,
}

/// The configuration in force.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq, Clone, Default)]
pub struct ConfigurationInfo {
    /// `null` if no file was read and the defaults apply.
    pub file: Option<String>,
    /// The time at which the configuration in force was read.
    pub read_at: String,
    /// The reason why the file, as it was at the last reload, is not in force; `null` if it is in force.
    pub problem: Option<String>,
    /// The time at which the problem was first found.
    pub problem_since: Option<String>,
    /// The keys whose new values take effect only after a restart.
    pub needs_restart: Vec<String>,
}

/// The contents of answers that the engine's result does not have.
#[derive(Clone, Copy)]
pub struct AnswerContext<'a> {
    pub version: &'a str,
    /// Time since the start, by the monotonic clock.
    pub uptime_seconds: u64,
    /// Converts times of the engine to seconds since 1970.
    pub wall_seconds_at: &'a dyn Fn(Millis) -> u64,
    pub details: &'a StatusDetails,
    /// The peer's address and the kind of its listener; `None` if the connection is gone.
    pub peer_of: &'a dyn Fn(SessionId) -> Option<(String, &'static str)>,
}

/// The contents of a status apart from numbers, sent if details were requested.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StatusDetails {
    pub listeners: Vec<ListenerInfo>,
    pub configuration: ConfigurationInfo,
}

impl fmt::Debug for AnswerContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnswerContext").field("version", &self.version).finish_non_exhaustive()
    }
}

/// The answer: one line with its newline, of at most [`ANSWER_MAX_BYTES`].
pub fn render(request: &Request<()>, result: AdminResult, context: &AnswerContext<'_>) -> Vec<u8> {
    let line = match outcome(request, &result) {
        Ok(_) => answer(request, result, context),
        Err(refusal) => refusal.encode(),
    };
    // Requests are bounded so that their answers fit; only what a damaged store returns might not.
    if line.len() <= ANSWER_MAX_BYTES {
        return line;
    }
    encode_error(ErrorCode::Internal, "the answer is longer than the protocol allows")
}

fn answer(request: &Request<()>, result: AdminResult, context: &AnswerContext<'_>) -> Vec<u8> {
    match (*request, result) {
        (Request::Ping, AdminResult::Done) => encode_ok(&Pong { version: context.version.to_owned() }),
        (
            Request::UserAdd { .. }
            | Request::UserUnlock { .. }
            | Request::StoreBackupEnd { .. }
            | Request::SessionClose { .. },
            AdminResult::Done,
        ) => encode_ok(&Done {}),
        (Request::UserPasswd { .. } | Request::UserLock { .. }, AdminResult::SessionsEnded { sessions }) => {
            encode_ok(&SessionsEnded { sessions })
        }
        (Request::UserRemove { .. }, AdminResult::Removed { messages, sessions }) => {
            encode_ok(&Removed { messages, sessions })
        }
        (Request::QueuePurge { .. }, AdminResult::Removed { messages, .. }) => encode_ok(&Purged { messages }),
        (Request::UserList { .. }, AdminResult::Users { rows, more }) => {
            let next = rows.last().filter(|_| more).map(|user| user.row.name.to_string());
            encode_ok(&NamePage { rows: rows.into_iter().map(|row| user(row, context)).collect(), next })
        }
        (Request::UserShow { .. }, AdminResult::Users { rows, .. }) => match rows.into_iter().next() {
            Some(row) => encode_ok(&user(row, context)),
            None => unexpected().encode(),
        },
        (Request::QueueList { .. }, AdminResult::Queues { rows, more }) => {
            let next = rows.last().filter(|_| more).map(|row| row.user.to_string());
            encode_ok(&NamePage { rows: rows.into_iter().map(queue).collect(), next })
        }
        (Request::QueueShow { after, .. }, AdminResult::Messages { rows, more }) => {
            // The store leaves out messages that were deleted meanwhile. If that is the whole page, there is no last
            // row, and the next page begins after the smallest id that the page can have contained.
            let last = rows.last().map_or(after.saturating_add(1), |row| row.id.0);
            encode_ok(&IdPage { rows: rows.into_iter().map(message).collect(), next: Some(last).filter(|_| more) })
        }
        (Request::SessionList { .. }, AdminResult::Sessions { rows, more }) => {
            let next = rows.last().filter(|_| more).map(|row| row.id.serial);
            // A row without an address belongs to a connection that has just gone.
            encode_ok(&IdPage { rows: rows.into_iter().filter_map(|row| session(row, context)).collect(), next })
        }
        (Request::ThrottleList { .. }, AdminResult::Throttles { rows, more }) => {
            encode_ok(&Throttles { throttles: rows.into_iter().map(|row| throttle(row, context)).collect(), more })
        }
        (Request::ThrottleClear { .. }, AdminResult::FailuresCleared { buckets }) => {
            encode_ok(&ThrottlesCleared { forgotten: buckets })
        }
        (Request::StoreBackup, AdminResult::Backup { backup, bytes }) => encode_ok(&Backup { backup, bytes }),
        (Request::StoreBackupRead { .. }, AdminResult::Bytes(bytes)) => encode_ok(&BackupChunk::new(&bytes)),
        (Request::StoreCheck { .. }, AdminResult::Checked { rows, mut damaged, next }) => {
            damaged.truncate(DAMAGED_ROWS_MAX);
            encode_ok(&CheckPage { rows, damaged, next })
        }
        (Request::StoreShrink, AdminResult::Shrunk { before, after }) => {
            encode_ok(&Shrunk { before_bytes: before, after_bytes: after })
        }
        (Request::Status { details }, AdminResult::Status(found)) => {
            let details = details.then(|| context.details.clone());
            encode_ok(&status(&found, context, details))
        }
        (_, _) => unexpected().encode(),
    }
}

/// The engine's result has another form than the request's answer: a fault of the daemon.
fn unexpected() -> ControlError {
    ControlError::new(ErrorCode::Internal, "the daemon's answer does not fit the request")
}

fn user(UserState { row, queued, throttled }: UserState, context: &AnswerContext<'_>) -> UserInfo {
    UserInfo {
        name: row.name.to_string(),
        locked: row.locked,
        created: rfc3339(row.created),
        last_login: row.last_login.map(rfc3339),
        queued,
        throttled: throttled.map(|until| rfc3339((context.wall_seconds_at)(until))),
    }
}

fn throttle(row: Throttled, context: &AnswerContext<'_>) -> ThrottleInfo {
    let (user, address) = match row.subject {
        Subject::Address(address) => (None, Some(address)),
        Subject::Name(user) => (Some(user), None),
        Subject::NameAt(user, address) => (Some(user), Some(address)),
    };
    ThrottleInfo {
        user: user.map(|user| user.to_string()),
        address: address.map(|address| address.to_string()),
        failures: u64::from(row.failures),
        addresses: u64::from(row.addresses),
        until: rfc3339((context.wall_seconds_at)(row.until)),
    }
}

fn queue(row: QueueSummary) -> QueueInfo {
    QueueInfo { user: row.user.to_string(), messages: row.messages, bytes: row.bytes, oldest: rfc3339(row.oldest) }
}

fn message(row: MessageRow) -> MessageInfo {
    MessageInfo {
        id: row.id.0,
        sender: row.sender.to_string(),
        queued_at: rfc3339(row.queued_at),
        bytes: u64::from(row.bytes),
        body: row.body,
    }
}

fn session(row: SessionRow, context: &AnswerContext<'_>) -> Option<SessionInfo> {
    let (address, listener) = (context.peer_of)(row.id)?;
    Some(SessionInfo {
        id: row.id.serial,
        user: row.user.map(|user| user.to_string()),
        address,
        listener: listener.to_owned(),
        state: row.state.key().to_owned(),
        since: rfc3339((context.wall_seconds_at)(row.opened)),
        idle_seconds: row.idle / 1000,
    })
}

fn status(found: &requests::Status, context: &AnswerContext<'_>, details: Option<StatusDetails>) -> StatusAnswer {
    let (listeners, configuration) = details.map(|found| (found.listeners, found.configuration)).unzip();
    let details = listeners.is_some();
    let counters = COUNTERS.iter().filter(|counter| details || !counter.in_details_only);
    StatusAnswer {
        version: context.version.to_owned(),
        uptime_seconds: context.uptime_seconds,
        connections: u64::from(found.connections),
        sessions: found.states.iter().map(|(state, count)| (state.key(), u64::from(*count))).collect(),
        queued_messages: found.queued_messages,
        store_bytes: found.store_bytes,
        counters: counters.map(|counter| (counter.name, (counter.value)(&found.counters))).collect(),
        listeners,
        configuration,
    }
}

/// The effect of a change.
#[derive(Clone, Copy, Default, Debug)]
pub struct Effect {
    /// Messages that were removed.
    pub messages: Option<u64>,
    /// Sessions that were ended.
    pub sessions: Option<u64>,
}

/// The outcome of a request, for the log and for [`render`].
///
/// # Errors
/// The refusal, with the code that the answer carries.
pub fn outcome(request: &Request<()>, result: &AdminResult) -> Result<Effect, ControlError> {
    let user = request.user().map_or_else(|| "this one".to_owned(), |user| format!("'{user}'"));
    let (code, message) = match result {
        AdminResult::SessionsEnded { sessions } => return Ok(Effect { sessions: Some(*sessions), messages: None }),
        AdminResult::Removed { messages, sessions } => {
            let sessions = Some(*sessions).filter(|_| matches!(request, Request::UserRemove { .. }));
            return Ok(Effect { messages: Some(*messages), sessions });
        }
        AdminResult::Done
        | AdminResult::Users { .. }
        | AdminResult::Queues { .. }
        | AdminResult::Messages { .. }
        | AdminResult::Sessions { .. }
        | AdminResult::Throttles { .. }
        | AdminResult::FailuresCleared { .. }
        | AdminResult::Backup { .. }
        | AdminResult::Bytes(_)
        | AdminResult::Checked { .. }
        | AdminResult::Shrunk { .. }
        | AdminResult::Status(_) => return Ok(Effect::default()),
        AdminResult::UserExists => (ErrorCode::UserExists, format!("there is a user {user} already")),
        AdminResult::NoSuchUser => (ErrorCode::NoSuchUser, format!("there is no user {user}")),
        AdminResult::NoSuchSession => {
            let Request::SessionClose { id } = request else { return Err(unexpected()) };
            (ErrorCode::NoSuchSession, format!("there is no session {id}"))
        }
        AdminResult::NoSuchMessage => {
            let Request::QueuePurge { which: PurgeFilter { id: Some(id), .. }, .. } = request else {
                return Err(unexpected());
            };
            (ErrorCode::NoSuchMessage, format!("there is no message {id} in the queue of {user}"))
        }
        AdminResult::NoSuchBackup => {
            let (Request::StoreBackupRead { backup, .. } | Request::StoreBackupEnd { backup }) = request else {
                return Err(unexpected());
            };
            (ErrorCode::NoSuchBackup, format!("there is no backup {backup}, or no longer"))
        }
        AdminResult::Busy if *request == Request::StoreBackup => {
            (ErrorCode::Busy, "another backup is under way: try again".to_owned())
        }
        AdminResult::Busy => (ErrorCode::Busy, "the daemon has too much to do: try again".to_owned()),
        AdminResult::Failed(cause) => (ErrorCode::StoreFailed, cause.clone()),
    };
    Err(ControlError::new(code, message))
}

#[cfg(test)]
mod tests;
