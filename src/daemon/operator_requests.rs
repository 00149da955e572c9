//! Translates between the control protocol and the engine: a request becomes a task, and its result an answer and a
//! line of the log. It knows no socket and no clock, and must never let a password into an answer or a log.

mod render;

use std::net::IpAddr;

use cp_proto::values::{Password, Username};
use cpd_control::{self, BACKUP_CHUNK_BYTES, ControlError, ErrorCode, Request};
use cpd_core::engine::events::{AdminRequest, AdminResult, PurgeFilter};
use cpd_core::engine::port::AddressKey;

use super::control_hub::Peer;
use super::logging::Line;

pub use self::render::{AnswerContext, StatusDetails, pong, render};

/// The work that a request requires.
#[derive(Debug)]
pub enum Task {
    /// The engine handles it.
    Engine(AdminRequest),
    /// The password has to be hashed before the engine gets the request.
    Hash { name: Username, password: Password, then: HashPurpose },
    /// The event loop answers it itself, with [`pong`].
    Ping,
}

/// The purpose of a password's hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HashPurpose {
    /// To add a user.
    Add,
    /// To change a user's password.
    Passwd { keep_sessions: bool },
}

impl HashPurpose {
    /// The request to the engine, with the hash in PHC form.
    pub fn request(self, name: Username, hash: String) -> AdminRequest {
        match self {
            HashPurpose::Add => AdminRequest::UserAdd { name, hash },
            HashPurpose::Passwd { keep_sessions } => AdminRequest::UserPasswd { name, hash, keep_sessions },
        }
    }
}

/// The part of a request that is kept until its result comes: enough to render the answer and to log the change.
#[derive(Clone, Debug)]
pub struct PendingRequest {
    command: &'static str,
    changes: bool,
    answer: AnswerForm,
    subject: RequestSubject,
}

/// The form of the answer if the request is not refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum AnswerForm {
    Done,
    Ended,
    Removed,
    Purged,
    Users,
    User,
    Queues,
    /// The page contains the messages after this id.
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

/// The objects and options that a request named, for the log and for refusals.
#[derive(Clone, Copy, Default, Debug)]
struct RequestSubject {
    user: Option<Username>,
    session: Option<u64>,
    backup: Option<u64>,
    which: cpd_control::PurgeFilter,
    keep_sessions: bool,
    address: Option<IpAddr>,
}

impl PendingRequest {
    /// The value of the request's field `cmd`.
    pub fn command(&self) -> &'static str {
        self.command
    }

    /// Whether the request changes anything; if so, it is logged.
    pub fn changes(&self) -> bool {
        self.changes
    }
}

/// Splits `request` into what has to be done and what has to be remembered. `wall_seconds` is the time since 1970.
pub fn prepare(request: Request, wall_seconds: u64) -> (Task, PendingRequest) {
    let (command, changes, subject) = (request.command(), request.changes(), subject_of(&request));
    let (answer, task) = translate(request, wall_seconds);
    (task, PendingRequest { command, changes, answer, subject })
}

fn translate(request: Request, wall_seconds: u64) -> (AnswerForm, Task) {
    let (answer, request) = match request {
        Request::UserAdd { name, password } => {
            return (AnswerForm::Done, Task::Hash { name, password, then: HashPurpose::Add });
        }
        Request::UserPasswd { name, password, keep_sessions } => {
            return (AnswerForm::Ended, Task::Hash { name, password, then: HashPurpose::Passwd { keep_sessions } });
        }
        Request::UserList { after, limit } => (AnswerForm::Users, AdminRequest::UserList { after, limit }),
        Request::UserShow { name } => (AnswerForm::User, AdminRequest::UserShow { name }),
        Request::UserLock { name } => (AnswerForm::Ended, AdminRequest::UserLock { name, locked: true }),
        Request::UserUnlock { name } => (AnswerForm::Done, AdminRequest::UserLock { name, locked: false }),
        Request::UserRemove { name } => (AnswerForm::Removed, AdminRequest::UserRemove { name }),
        Request::QueueList { after, limit } => (AnswerForm::Queues, AdminRequest::QueueList { after, limit }),
        Request::QueueShow { user, after, limit, body } => {
            (AnswerForm::Messages { after }, AdminRequest::QueueShow { user, after, limit, bodies: body })
        }
        Request::QueuePurge { user, which } => {
            let before = which.older_than_seconds.map(|age| wall_seconds.saturating_sub(age));
            let filter = PurgeFilter { id: which.id, from: which.from, before };
            (AnswerForm::Purged, AdminRequest::QueuePurge { user, filter })
        }
        Request::StoreBackup => (AnswerForm::Backup, AdminRequest::BackupBegin),
        Request::StoreBackupRead { backup, offset } => {
            (AnswerForm::Chunk, AdminRequest::BackupRead { backup, offset, length: BACKUP_CHUNK_BYTES })
        }
        Request::StoreBackupEnd { backup } => (AnswerForm::Done, AdminRequest::BackupEnd { backup }),
        Request::StoreCheck { after, limit } => (AnswerForm::Checked, AdminRequest::Check { after, limit }),
        Request::StoreShrink => (AnswerForm::Shrunk, AdminRequest::Shrink),
        Request::SessionList { after, limit } => (AnswerForm::Sessions, AdminRequest::SessionList { after, limit }),
        Request::SessionClose { id } => (AnswerForm::Done, AdminRequest::SessionClose { serial: id }),
        Request::ThrottleList { limit } => (AnswerForm::Throttles, AdminRequest::ThrottleList { limit }),
        Request::ThrottleClear { user, address } => {
            (AnswerForm::Forgotten, AdminRequest::ThrottleClear { user, address: address.map(AddressKey::of) })
        }
        Request::Ping => return (AnswerForm::Done, Task::Ping),
        Request::Status { details } => (AnswerForm::Status { details }, AdminRequest::Status),
    };
    (answer, Task::Engine(request))
}

fn subject_of(request: &Request) -> RequestSubject {
    match request {
        Request::UserPasswd { name, keep_sessions, .. } => {
            RequestSubject { user: Some(*name), keep_sessions: *keep_sessions, ..RequestSubject::default() }
        }
        Request::UserAdd { name, .. }
        | Request::UserShow { name }
        | Request::UserLock { name }
        | Request::UserUnlock { name }
        | Request::UserRemove { name } => RequestSubject { user: Some(*name), ..RequestSubject::default() },
        Request::QueueShow { user, .. } => RequestSubject { user: Some(*user), ..RequestSubject::default() },
        Request::QueuePurge { user, which } => {
            RequestSubject { user: Some(*user), which: *which, ..RequestSubject::default() }
        }
        Request::StoreBackupRead { backup, .. } | Request::StoreBackupEnd { backup } => {
            RequestSubject { backup: Some(*backup), ..RequestSubject::default() }
        }
        Request::SessionClose { id } => RequestSubject { session: Some(*id), ..RequestSubject::default() },
        Request::ThrottleClear { user, address } => {
            RequestSubject { user: *user, address: *address, ..RequestSubject::default() }
        }
        Request::UserList { .. }
        | Request::QueueList { .. }
        | Request::StoreBackup
        | Request::StoreCheck { .. }
        | Request::StoreShrink
        | Request::SessionList { .. }
        | Request::ThrottleList { .. }
        | Request::Ping
        | Request::Status { .. } => RequestSubject::default(),
    }
}

/// The line for the log; `None` if the request was not to change anything.
pub fn log_line(pending: &PendingRequest, peer: Peer, result: &AdminResult) -> Option<Line> {
    if !pending.changes {
        return None;
    }
    let RequestSubject { user, session, backup, which, keep_sessions, address } = pending.subject;
    let mut line = Line::new("admin").field("cmd", pending.command);
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
    if pending.answer == AnswerForm::Forgotten && user.is_none() && address.is_none() {
        line = line.field("all", true);
    }
    if keep_sessions {
        line = line.field("keep_sessions", true);
    }
    line = line.field("uid", peer.uid).field("pid", peer.pid);
    Some(match outcome(pending, result) {
        Ok(Effect { messages, sessions }) => {
            let counts = [("messages", messages), ("sessions", sessions)];
            counts.into_iter().fold(line.field("result", "ok"), |line, (key, count)| match count {
                Some(count) => line.field(key, count),
                None => line,
            })
        }
        // Only for faults of the daemon does the message say more than the fields and the code.
        Err(error) if matches!(error.code, ErrorCode::StoreFailed | ErrorCode::Internal) => {
            line.field("result", error.code).field("cause", error.message)
        }
        Err(error) => line.field("result", error.code),
    })
}

/// The effect of a change.
#[derive(Clone, Copy, Default, Debug)]
struct Effect {
    /// Messages that were removed.
    messages: Option<u64>,
    /// Sessions that were ended.
    sessions: Option<u64>,
}

/// The outcome of a request, for the log and for [`render`].
///
/// # Errors
/// The refusal, with the code that the answer carries.
fn outcome(pending: &PendingRequest, result: &AdminResult) -> Result<Effect, ControlError> {
    let RequestSubject { user, session, backup, which, .. } = pending.subject;
    let user = user.map_or_else(|| "this one".to_owned(), |user| format!("'{user}'"));
    let (code, message) = match result {
        AdminResult::SessionsEnded { sessions } => return Ok(Effect { sessions: Some(*sessions), messages: None }),
        AdminResult::Removed { messages, sessions } => {
            let sessions = Some(*sessions).filter(|_| pending.answer == AnswerForm::Removed);
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
            (ErrorCode::NoSuchSession, format!("there is no session {}", session.unwrap_or_default()))
        }
        AdminResult::NoSuchMessage => {
            let id = which.id.unwrap_or_default();
            (ErrorCode::NoSuchMessage, format!("there is no message {id} in the queue of {user}"))
        }
        AdminResult::NoSuchBackup => {
            (ErrorCode::NoSuchBackup, format!("there is no backup {}, or no longer", backup.unwrap_or_default()))
        }
        AdminResult::Busy if pending.answer == AnswerForm::Backup => {
            (ErrorCode::Busy, "another backup is under way: try again".to_owned())
        }
        AdminResult::Busy => (ErrorCode::Busy, "the daemon has too much to do: try again".to_owned()),
        AdminResult::Failed(cause) => (ErrorCode::StoreFailed, cause.clone()),
    };
    Err(ControlError::new(code, message))
}

#[cfg(test)]
mod tests;
