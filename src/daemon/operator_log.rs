//! The lines of the log about what operators change.

use cpd_control::answer::{Effect, outcome};
use cpd_control::{ErrorCode, PurgeFilter, request};
use cpd_core::engine::requests::{AdminResult, Request};

use super::control_hub::Caller;
use super::logging::LogLine;

/// The line of a request with this result; `None` if the request was not to change anything.
pub fn log_line(request: &Request<()>, peer: Caller, result: &AdminResult) -> Option<LogLine> {
    if !request::changes(request.command()) {
        return None;
    }
    let mut line = LogLine::new("admin").field("cmd", request.command());
    if let Some(user) = request.user() {
        line = line.field("user", user);
    }
    line = match *request {
        Request::SessionClose { id } => line.field("session", id),
        Request::QueuePurge { which: PurgeFilter { id, from, older_than_seconds }, .. } => {
            let line = [("id", id), ("older_than_seconds", older_than_seconds)]
                .into_iter()
                .fold(line, |line, (key, number)| {
                    number.into_iter().fold(line, |line, number| line.field(key, number))
                });
            from.into_iter().fold(line, |line, from| line.field("from", from))
        }
        Request::ThrottleClear { address: Some(address), .. } => line.field("addr", address),
        Request::ThrottleClear { user: None, address: None } => line.field("all", true),
        Request::UserPasswd { keep_sessions: true, .. } => line.field("keep_sessions", true),
        _ => line,
    };
    line = line.field("uid", peer.uid).field("pid", peer.pid);
    Some(match outcome(request, result) {
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

#[cfg(test)]
mod tests;
