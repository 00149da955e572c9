//! Renders the engine's results as answers of the control protocol.

use std::fmt;

use cpd_control::answer::{
    Backup, BackupChunk, COUNTERS, CheckPage, ConfigurationInfo, Done, IdPage, ListenerInfo, MessageInfo, NamePage,
    Pong, Purged, QueueInfo, Removed, SessionInfo, SessionsEnded, Shrunk, Status, ThrottleInfo, Throttles,
    ThrottlesCleared, UserInfo,
};
use cpd_control::{ANSWER_MAX_BYTES, DAMAGED_ROWS_MAX, ErrorCode, encode_error, encode_ok, rfc3339};
use cpd_core::engine::events::{self, AdminResult, SessionRow, Throttled, UserState};
use cpd_core::engine::port::{MessageRow, SessionId};
use cpd_core::engine::queues::QueueSummary;
use cpd_core::engine::throttle::Subject;

use super::super::wall_time::WallTimeConverter;
use super::{AnswerForm, PendingRequest, outcome};

/// The contents of answers that the engine's result does not have.
#[derive(Clone, Copy)]
pub struct AnswerContext<'a> {
    pub version: &'a str,
    /// Time since the start, by the monotonic clock.
    pub uptime_seconds: u64,
    /// Converts times of the event loop to wall-clock times.
    pub clock: WallTimeConverter,
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
pub fn render(pending: &PendingRequest, result: AdminResult, context: &AnswerContext<'_>) -> Vec<u8> {
    let line = match outcome(pending, &result) {
        Ok(_) => answer(pending, result, context),
        Err(refusal) => refusal.encode(),
    };
    // Requests are bounded so that their answers fit; only what a damaged store returns might not.
    if line.len() <= ANSWER_MAX_BYTES {
        return line;
    }
    encode_error(ErrorCode::Internal, "the answer is longer than the protocol allows")
}

/// The answer to a ping.
pub fn pong(version: &str) -> Vec<u8> {
    encode_ok(&Pong { version: version.to_owned() })
}

fn answer(pending: &PendingRequest, result: AdminResult, context: &AnswerContext<'_>) -> Vec<u8> {
    match (pending.answer, result) {
        (AnswerForm::Done, AdminResult::Done) => encode_ok(&Done {}),
        (AnswerForm::Ended, AdminResult::SessionsEnded { sessions }) => encode_ok(&SessionsEnded { sessions }),
        (AnswerForm::Removed, AdminResult::Removed { messages, sessions }) => {
            encode_ok(&Removed { messages, sessions })
        }
        (AnswerForm::Purged, AdminResult::Removed { messages, .. }) => encode_ok(&Purged { messages }),
        (AnswerForm::Users, AdminResult::Users { rows, more }) => {
            let next = rows.last().filter(|_| more).map(|user| user.row.name.to_string());
            encode_ok(&NamePage { rows: rows.into_iter().map(|row| user(row, context)).collect(), next })
        }
        (AnswerForm::User, AdminResult::Users { rows, .. }) => match rows.into_iter().next() {
            Some(row) => encode_ok(&user(row, context)),
            None => unexpected(),
        },
        (AnswerForm::Queues, AdminResult::Queues { rows, more }) => {
            let next = rows.last().filter(|_| more).map(|row| row.user.to_string());
            encode_ok(&NamePage { rows: rows.into_iter().map(queue).collect(), next })
        }
        (AnswerForm::Messages { after }, AdminResult::Messages { rows, more }) => {
            // The store leaves out messages that were deleted meanwhile. If that is the whole page, there is no last
            // row, and the next page begins after the smallest id that the page can have contained.
            let last = rows.last().map_or(after.saturating_add(1), |row| row.id.0);
            encode_ok(&IdPage { rows: rows.into_iter().map(message).collect(), next: Some(last).filter(|_| more) })
        }
        (AnswerForm::Sessions, AdminResult::Sessions { rows, more }) => {
            let next = rows.last().filter(|_| more).map(|row| row.id.serial);
            // A row without an address belongs to a connection that has just gone.
            encode_ok(&IdPage { rows: rows.into_iter().filter_map(|row| session(row, context)).collect(), next })
        }
        (AnswerForm::Throttles, AdminResult::Throttles { rows, more }) => {
            encode_ok(&Throttles { throttles: rows.into_iter().map(|row| throttle(row, context)).collect(), more })
        }
        (AnswerForm::Forgotten, AdminResult::FailuresCleared { buckets }) => {
            encode_ok(&ThrottlesCleared { forgotten: buckets })
        }
        (AnswerForm::Backup, AdminResult::Backup { backup, bytes }) => encode_ok(&Backup { backup, bytes }),
        (AnswerForm::Chunk, AdminResult::Bytes(bytes)) => encode_ok(&BackupChunk::new(&bytes)),
        (AnswerForm::Checked, AdminResult::Checked { rows, mut damaged, next }) => {
            damaged.truncate(DAMAGED_ROWS_MAX);
            encode_ok(&CheckPage { rows, damaged, next })
        }
        (AnswerForm::Shrunk, AdminResult::Shrunk { before, after }) => {
            encode_ok(&Shrunk { before_bytes: before, after_bytes: after })
        }
        (AnswerForm::Status { details }, AdminResult::Status(found)) => {
            let details = details.then(|| context.details.clone());
            encode_ok(&status(&found, context, details))
        }
        (_, _) => unexpected(),
    }
}

/// The engine's result has another form than the request's answer: a fault of the daemon.
fn unexpected() -> Vec<u8> {
    encode_error(ErrorCode::Internal, "the daemon's answer does not fit the request")
}

fn user(UserState { row, queued, throttled }: UserState, context: &AnswerContext<'_>) -> UserInfo {
    UserInfo {
        name: row.name.to_string(),
        locked: row.locked,
        created: rfc3339(row.created),
        last_login: row.last_login.map(rfc3339),
        queued,
        throttled: throttled.map(|until| rfc3339(context.clock.wall_seconds_at(until))),
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
        until: rfc3339(context.clock.wall_seconds_at(row.until)),
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
        since: rfc3339(context.clock.wall_seconds_at(row.opened)),
        idle_seconds: row.idle / 1000,
    })
}

fn status(found: &events::Status, context: &AnswerContext<'_>, details: Option<StatusDetails>) -> Status {
    let (listeners, configuration) = details.map(|found| (found.listeners, found.configuration)).unzip();
    let details = listeners.is_some();
    let counters = COUNTERS.iter().filter(|counter| details || !counter.in_details_only);
    Status {
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
