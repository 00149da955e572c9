//! From the control protocol to the engine and back: a request becomes a task, its result an answer and a line of the
//! log. It knows no socket and no clock, and must never let a password into an answer or a log.

mod render;

use std::net::IpAddr;

use super::control_conn::Peer;
use super::logging::Line;
use crate::control::{self, BACKUP_CHUNK_BYTES, ControlError, ErrorCode, Request};
use crate::engine::events::{AdminRequest, AdminResult, PurgeFilter};
use crate::engine::port::AddressKey;
use crate::proto::types::{Password, Username};

pub use self::render::{Context, Details, pong, render};

/// What is to be done for a request.
#[derive(Debug)]
pub enum Task {
    Engine(AdminRequest),
    /// The password is to be hashed first; [`AfterHash::request`] is what the engine is asked then.
    Hash {
        name: Username,
        password: Password,
        then: AfterHash,
    },
    /// The event loop itself answers, by [`pong`].
    Ping,
}

/// What to do with a hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AfterHash {
    Add,
    Passwd { keep_sessions: bool },
}

impl AfterHash {
    /// The engine's part, with the hash in PHC form.
    pub fn request(self, name: Username, hash: String) -> AdminRequest {
        match self {
            AfterHash::Add => AdminRequest::UserAdd { name, hash },
            AfterHash::Passwd { keep_sessions } => AdminRequest::UserPasswd { name, hash, keep_sessions },
        }
    }
}

/// What is remembered of a request until its answer: enough to render that and to log the change.
#[derive(Clone, Debug)]
pub struct Asked {
    command: &'static str,
    changes: bool,
    answer: Expected,
    about: About,
}

/// What an answer looks like that is not a refusal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expected {
    Done,
    Ended,
    Removed,
    Purged,
    Users,
    User,
    Queues,
    /// The page begins after this id.
    Messages {
        after: u64,
    },
    Sessions,
    Throttles,
    Forgotten,
    Backup,
    Chunk,
    Checked,
    Shrunk,
    Status {
        details: bool,
    },
}

/// What a request named, for the log and for refusals.
#[derive(Clone, Copy, Default, Debug)]
struct About {
    user: Option<Username>,
    session: Option<u64>,
    backup: Option<u64>,
    which: control::PurgeFilter,
    keep_sessions: bool,
    address: Option<IpAddr>,
}

impl Asked {
    /// As in `cmd`.
    pub fn command(&self) -> &'static str {
        self.command
    }

    /// Whether it changes anything, and so is logged.
    pub fn changes(&self) -> bool {
        self.changes
    }
}

/// What `request` means, at `wall_seconds` since 1970.
pub fn task(request: Request, wall_seconds: u64) -> (Task, Asked) {
    let (command, changes, about) = (request.command(), request.changes(), about(&request));
    let (answer, task) = translate(request, wall_seconds);
    (task, Asked { command, changes, answer, about })
}

fn translate(request: Request, wall_seconds: u64) -> (Expected, Task) {
    let (answer, request) = match request {
        Request::UserAdd { name, password } => {
            return (Expected::Done, Task::Hash { name, password, then: AfterHash::Add });
        }
        Request::UserPasswd { name, password, keep_sessions } => {
            return (Expected::Ended, Task::Hash { name, password, then: AfterHash::Passwd { keep_sessions } });
        }
        Request::UserList { after, limit } => (Expected::Users, AdminRequest::UserList { after, limit }),
        Request::UserShow { name } => (Expected::User, AdminRequest::UserShow { name }),
        Request::UserLock { name } => (Expected::Ended, AdminRequest::UserLock { name, locked: true }),
        Request::UserUnlock { name } => (Expected::Done, AdminRequest::UserLock { name, locked: false }),
        Request::UserRemove { name } => (Expected::Removed, AdminRequest::UserRemove { name }),
        Request::QueueList { after, limit } => (Expected::Queues, AdminRequest::QueueList { after, limit }),
        Request::QueueShow { user, after, limit, body } => {
            (Expected::Messages { after }, AdminRequest::QueueShow { user, after, limit, bodies: body })
        }
        Request::QueuePurge { user, which } => {
            let before = which.older_than_seconds.map(|age| wall_seconds.saturating_sub(age));
            let filter = PurgeFilter { id: which.id, from: which.from, before };
            (Expected::Purged, AdminRequest::QueuePurge { user, filter })
        }
        Request::StoreBackup => (Expected::Backup, AdminRequest::BackupBegin),
        Request::StoreBackupRead { backup, offset } => {
            (Expected::Chunk, AdminRequest::BackupRead { backup, offset, length: BACKUP_CHUNK_BYTES })
        }
        Request::StoreBackupEnd { backup } => (Expected::Done, AdminRequest::BackupEnd { backup }),
        Request::StoreCheck { after, limit } => (Expected::Checked, AdminRequest::Check { after, limit }),
        Request::StoreShrink => (Expected::Shrunk, AdminRequest::Shrink),
        Request::SessionList { after, limit } => (Expected::Sessions, AdminRequest::SessionList { after, limit }),
        Request::SessionClose { id } => (Expected::Done, AdminRequest::SessionClose { serial: id }),
        Request::ThrottleList { limit } => (Expected::Throttles, AdminRequest::ThrottleList { limit }),
        Request::ThrottleClear { user, address } => {
            (Expected::Forgotten, AdminRequest::ThrottleClear { user, address: address.map(AddressKey::of) })
        }
        Request::Ping => return (Expected::Done, Task::Ping),
        Request::Status { details } => (Expected::Status { details }, AdminRequest::Status),
    };
    (answer, Task::Engine(request))
}

fn about(request: &Request) -> About {
    match request {
        Request::UserPasswd { name, keep_sessions, .. } => {
            About { user: Some(*name), keep_sessions: *keep_sessions, ..About::default() }
        }
        Request::UserAdd { name, .. }
        | Request::UserShow { name }
        | Request::UserLock { name }
        | Request::UserUnlock { name }
        | Request::UserRemove { name } => About { user: Some(*name), ..About::default() },
        Request::QueueShow { user, .. } => About { user: Some(*user), ..About::default() },
        Request::QueuePurge { user, which } => About { user: Some(*user), which: *which, ..About::default() },
        Request::StoreBackupRead { backup, .. } | Request::StoreBackupEnd { backup } => {
            About { backup: Some(*backup), ..About::default() }
        }
        Request::SessionClose { id } => About { session: Some(*id), ..About::default() },
        Request::ThrottleClear { user, address } => About { user: *user, address: *address, ..About::default() },
        Request::UserList { .. }
        | Request::QueueList { .. }
        | Request::StoreBackup
        | Request::StoreCheck { .. }
        | Request::StoreShrink
        | Request::SessionList { .. }
        | Request::ThrottleList { .. }
        | Request::Ping
        | Request::Status { .. } => About::default(),
    }
}

/// The line for the log; `None` where nothing was to be changed.
pub fn log_line(asked: &Asked, peer: Peer, result: &AdminResult) -> Option<Line> {
    if !asked.changes {
        return None;
    }
    let About { user, session, backup, which, keep_sessions, address } = asked.about;
    let mut line = Line::new("admin").field("cmd", asked.command);
    if let Some(user) = user {
        line = line.field("user", user);
    }
    let numbers =
        [("session", session), ("backup", backup), ("id", which.id), ("older_than_seconds", which.older_than_seconds)];
    for (key, number) in numbers {
        if let Some(number) = number {
            line = line.field(key, number);
        }
    }
    if let Some(from) = which.from {
        line = line.field("from", from);
    }
    if let Some(address) = address {
        line = line.field("addr", address);
    }
    if asked.answer == Expected::Forgotten && user.is_none() && address.is_none() {
        line = line.field("all", true);
    }
    if keep_sessions {
        line = line.field("keep_sessions", true);
    }
    line = line.field("uid", peer.uid).field("pid", peer.pid);
    Some(match outcome(asked, result) {
        Ok(Effect { messages, sessions }) => {
            let counts = [("messages", messages), ("sessions", sessions)];
            counts.into_iter().fold(line.field("result", "ok"), |line, (key, count)| match count {
                Some(count) => line.field(key, count),
                None => line,
            })
        }
        // Only where the fault is ours does the sentence say more than the fields and the code.
        Err(error) if matches!(error.code, ErrorCode::StoreFailed | ErrorCode::Internal) => {
            line.field("result", error.code).field("cause", error.message)
        }
        Err(error) => line.field("result", error.code),
    })
}

/// What a change did.
#[derive(Clone, Copy, Default, Debug)]
struct Effect {
    /// How many are gone.
    messages: Option<u64>,
    /// How many were ended.
    sessions: Option<u64>,
}

/// How it ended, for the log and for [`render`]. Errors: the refusal, by the code that the answer has.
fn outcome(asked: &Asked, result: &AdminResult) -> Result<Effect, ControlError> {
    let About { user, session, backup, which, .. } = asked.about;
    let user = user.map_or_else(|| "this one".to_owned(), |user| format!("'{user}'"));
    let (code, message) = match result {
        AdminResult::Ended { sessions } => return Ok(Effect { sessions: Some(*sessions), messages: None }),
        AdminResult::Gone { messages, sessions } => {
            let sessions = Some(*sessions).filter(|_| asked.answer == Expected::Removed);
            return Ok(Effect { messages: Some(*messages), sessions });
        }
        AdminResult::Done
        | AdminResult::Users { .. }
        | AdminResult::Queues { .. }
        | AdminResult::Messages { .. }
        | AdminResult::Sessions { .. }
        | AdminResult::Throttles { .. }
        | AdminResult::Forgotten { .. }
        | AdminResult::Backup { .. }
        | AdminResult::Bytes(_)
        | AdminResult::Checked { .. }
        | AdminResult::Shrunk { .. }
        | AdminResult::Status(_) => return Ok(Effect::default()),
        AdminResult::UserExists => (ErrorCode::UserExists, format!("there is a user {user} already")),
        AdminResult::NoSuchUser => (ErrorCode::NoSuchUser, format!("there is no user {user}")),
        AdminResult::NoSuchSession => {
            (ErrorCode::NoSuchSession, format!("there is no session {}", session.unwrap_or_default()))
        }
        AdminResult::NoSuchMessage => {
            let id = which.id.unwrap_or_default();
            (ErrorCode::NoSuchMessage, format!("there is no message {id} in the queue of {user}"))
        }
        AdminResult::NoSuchBackup => {
            (ErrorCode::NoSuchBackup, format!("there is no backup {}, or no longer", backup.unwrap_or_default()))
        }
        AdminResult::Busy if asked.answer == Expected::Backup => {
            (ErrorCode::Busy, "another backup is under way: try again".to_owned())
        }
        AdminResult::Busy => (ErrorCode::Busy, "the daemon has too much to do: try again".to_owned()),
        AdminResult::Failed(cause) => (ErrorCode::StoreFailed, cause.clone()),
    };
    Err(ControlError::new(code, message))
}

#[cfg(test)]
mod tests;
