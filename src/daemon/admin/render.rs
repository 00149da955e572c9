//! The engine's results as answers of the control protocol.

use std::fmt;

use super::super::wall::WallClock;
use super::{Asked, Expected, outcome};
use crate::control::answer::{
    Backup, BackupChunk, Checked, ConfigurationInfo, Counters, Done, Ended, Forgotten, IdPage, ListenerInfo,
    MessageInfo, NamePage, Pong, Purged, QueueInfo, Removed, SessionInfo, SessionStates, Shrunk, Status, ThrottleInfo,
    Throttles, UserInfo,
};
use crate::control::{ANSWER_MAX_BYTES, DAMAGED_MAX, ErrorCode, encode_error, encode_ok, rfc3339};
use crate::engine::events::{self, AdminResult, SessionRow, Throttled, UserState};
use crate::engine::port::{MessageRow, SessionId};
use crate::engine::queues::QueueSummary;
use crate::engine::throttle::Subject;

/// What answers need and the engine does not know.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    pub version: &'a str,
    pub uptime_seconds: u64,
    pub clock: WallClock,
    pub details: &'a Details,
    /// The peer's address and the kind of its listener; `None` when the connection is gone.
    pub peer_of: &'a dyn Fn(SessionId) -> Option<(String, &'static str)>,
}

/// What a status says beside numbers, where it is asked to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Details {
    pub listeners: Vec<ListenerInfo>,
    pub configuration: ConfigurationInfo,
}

impl fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("version", &self.version).finish_non_exhaustive()
    }
}

/// The answer, one line with its newline and of at most [`ANSWER_MAX_BYTES`].
pub fn render(asked: &Asked, result: AdminResult, context: &Context<'_>) -> Vec<u8> {
    let line = match outcome(asked, &result) {
        Ok(_) => answer(asked, result, context),
        Err(refusal) => refusal.encode(),
    };
    // What is asked for is bounded so that it fits; only what a damaged store returns might not.
    if line.len() <= ANSWER_MAX_BYTES {
        return line;
    }
    encode_error(ErrorCode::Internal, "the answer is longer than the protocol allows")
}

/// The answer to a ping.
pub fn pong(version: &str) -> Vec<u8> {
    encode_ok(&Pong { version: version.to_owned() })
}

fn answer(asked: &Asked, result: AdminResult, context: &Context<'_>) -> Vec<u8> {
    match (asked.answer, result) {
        (Expected::Done, AdminResult::Done) => encode_ok(&Done {}),
        (Expected::Ended, AdminResult::Ended { sessions }) => encode_ok(&Ended { sessions }),
        (Expected::Removed, AdminResult::Gone { messages, sessions }) => encode_ok(&Removed { messages, sessions }),
        (Expected::Purged, AdminResult::Gone { messages, .. }) => encode_ok(&Purged { messages }),
        (Expected::Users, AdminResult::Users { rows, more }) => {
            let next = rows.last().filter(|_| more).map(|user| user.row.name.to_string());
            encode_ok(&NamePage { rows: rows.into_iter().map(|row| user(row, context)).collect(), next })
        }
        (Expected::User, AdminResult::Users { rows, .. }) => match rows.into_iter().next() {
            Some(row) => encode_ok(&user(row, context)),
            None => unexpected(),
        },
        (Expected::Queues, AdminResult::Queues { rows, more }) => {
            let next = rows.last().filter(|_| more).map(|row| row.user.to_string());
            encode_ok(&NamePage { rows: rows.into_iter().map(queue).collect(), next })
        }
        (Expected::Messages { after }, AdminResult::Messages { rows, more }) => {
            // The store leaves out what was deleted meanwhile. Where that is the whole page there is no last row; the
            // first id of the page, at the least, is behind us then.
            let last = rows.last().map_or(after.saturating_add(1), |row| row.id.0);
            encode_ok(&IdPage { rows: rows.into_iter().map(message).collect(), next: Some(last).filter(|_| more) })
        }
        (Expected::Sessions, AdminResult::Sessions { rows, more }) => {
            let next = rows.last().filter(|_| more).map(|row| row.id.serial);
            // A row without an address is of a connection that has just gone.
            encode_ok(&IdPage { rows: rows.into_iter().filter_map(|row| session(row, context)).collect(), next })
        }
        (Expected::Throttles, AdminResult::Throttles { rows, more }) => {
            encode_ok(&Throttles { throttles: rows.into_iter().map(|row| throttle(row, context)).collect(), more })
        }
        (Expected::Forgotten, AdminResult::Forgotten { buckets }) => encode_ok(&Forgotten { forgotten: buckets }),
        (Expected::Backup, AdminResult::Backup { backup, bytes }) => encode_ok(&Backup { backup, bytes }),
        (Expected::Chunk, AdminResult::Bytes(bytes)) => encode_ok(&BackupChunk::new(&bytes)),
        (Expected::Checked, AdminResult::Checked { rows, mut damaged, next }) => {
            damaged.truncate(DAMAGED_MAX);
            encode_ok(&Checked { rows, damaged, next })
        }
        (Expected::Shrunk, AdminResult::Shrunk { before, after }) => {
            encode_ok(&Shrunk { before_bytes: before, after_bytes: after })
        }
        (Expected::Status { details }, AdminResult::Status(found)) => {
            let details = details.then(|| context.details.clone());
            encode_ok(&status(&found, context, details))
        }
        (_, _) => unexpected(),
    }
}

/// The engine answered another question: a fault of ours.
fn unexpected() -> Vec<u8> {
    encode_error(ErrorCode::Internal, "the daemon's answer does not fit the request")
}

fn user(UserState { row, queued, throttled }: UserState, context: &Context<'_>) -> UserInfo {
    UserInfo {
        name: row.name.to_string(),
        locked: row.locked,
        created: rfc3339(row.created),
        last_login: row.last_login.map(rfc3339),
        queued,
        throttled: throttled.map(|until| rfc3339(context.clock.seconds_at(until))),
    }
}

fn throttle(row: Throttled, context: &Context<'_>) -> ThrottleInfo {
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
        until: rfc3339(context.clock.seconds_at(row.until)),
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

fn session(row: SessionRow, context: &Context<'_>) -> Option<SessionInfo> {
    let (address, listener) = (context.peer_of)(row.id)?;
    Some(SessionInfo {
        id: row.id.serial,
        user: row.user.map(|user| user.to_string()),
        address,
        listener: listener.to_owned(),
        state: state_key(row.state).to_owned(),
        since: rfc3339(context.clock.seconds_at(row.opened)),
        idle_seconds: row.idle / 1000,
    })
}

/// The contract's name of a state as a field of [`SessionStates`].
fn state_key(name: &str) -> &'static str {
    match name {
        "Idle" => "idle",
        "User Validated" => "user_validated",
        "Authentication Validated" => "authentication_validated",
        "Process Command" => "process_command",
        "Sending Message" => "sending_message",
        "Receiving Message" => "receiving_message",
        "Error Processing" => "error_processing",
        _ => "unknown",
    }
}

fn status(found: &events::Status, context: &Context<'_>, details: Option<Details>) -> Status {
    let (listeners, configuration) = details.map(|found| (found.listeners, found.configuration)).unzip();
    let mut sessions = SessionStates::default();
    for (name, count) in &found.states {
        let field = match state_key(name) {
            "idle" => &mut sessions.idle,
            "user_validated" => &mut sessions.user_validated,
            "authentication_validated" => &mut sessions.authentication_validated,
            "process_command" => &mut sessions.process_command,
            "sending_message" => &mut sessions.sending_message,
            "receiving_message" => &mut sessions.receiving_message,
            "error_processing" => &mut sessions.error_processing,
            _ => continue,
        };
        *field += u64::from(*count);
    }
    Status {
        version: context.version.to_owned(),
        uptime_seconds: context.uptime_seconds,
        connections: u64::from(found.connections),
        sessions,
        queued_messages: found.queued_messages,
        store_bytes: found.store_bytes,
        counters: counters(&found.counters, listeners.is_some()),
        listeners,
        configuration,
    }
}

fn counters(found: &events::Counters, details: bool) -> Counters {
    // Taken apart, so that a counter which is new cannot be forgotten here.
    let events::Counters {
        connections,
        refused_connections,
        logins,
        failed_logins,
        throttled_logins,
        stored,
        refused_sends,
        acknowledged,
        expired,
        purged,
        removed,
        found: at_start,
        bad_commands,
        timeouts,
        store_batches,
        store_failures,
    } = *found;
    Counters {
        connections_accepted: connections,
        connections_refused: refused_connections,
        logins,
        login_failures: failed_logins,
        logins_throttled: throttled_logins,
        messages_accepted: stored,
        messages_refused: refused_sends,
        messages_delivered: acknowledged,
        messages_expired: expired,
        messages_purged: purged,
        messages_removed: details.then_some(removed),
        messages_at_start: details.then_some(at_start),
        bad_commands,
        timeouts,
        store_batches,
        store_failures,
    }
}
