//! What the daemon answers. Field names are stable; cpctl(8) documents them, since cpctl's `--json` shows the same.
//! Times are RFC 3339 in UTC, as [`rfc3339`] writes them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::error::ErrorCode;

/// The line, with its newline, that says yes. `body` must be a struct; its fields stand beside `ok`.
pub fn encode_ok(body: &impl Serialize) -> Vec<u8> {
    #[derive(Serialize)]
    struct Yes<'a, T: Serialize> {
        ok: bool,
        #[serde(flatten)]
        body: &'a T,
    }
    match serde_json::to_vec(&Yes { ok: true, body }) {
        Ok(mut line) => {
            line.push(b'\n');
            line
        }
        Err(_) => encode_error(ErrorCode::Internal, "the answer could not be encoded"),
    }
}

/// The line, with its newline, that says no.
pub fn encode_error(code: ErrorCode, message: &str) -> Vec<u8> {
    let refusal = Refusal { code: code.as_str().to_owned(), message: message.to_owned() };
    let verdict = Verdict { ok: false, error: Some(refusal) };
    // Text and a boolean always encode; an empty line would still be a refusal to whoever reads it.
    let mut line = serde_json::to_vec(&verdict).unwrap_or_default();
    line.push(b'\n');
    line
}

/// `seconds` since 1970 as RFC 3339 in UTC: `2026-01-31T12:00:00Z`. What lies beyond year 9999 is its end.
pub fn rfc3339(seconds: u64) -> String {
    let second = i64::try_from(seconds).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(second).unwrap_or(jiff::Timestamp::MAX).to_string()
}

/// The part of an answer that says whether it is one. The rest is read by the type of the command asked.
#[derive(Serialize, Deserialize, Debug)]
pub struct Verdict {
    pub ok: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Refusal>,
}

/// Why not. `code` is text here, so that a code which is newer than the reader still reaches people.
#[derive(Serialize, Deserialize, Debug)]
pub struct Refusal {
    pub code: String,
    pub message: String,
}

/// It is done, and there is nothing to say about it.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq)]
pub struct Done {}

/// It is done, and ended so many sessions.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq)]
pub struct Ended {
    pub sessions: u64,
}

/// A user is gone, with so many messages and sessions.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq)]
pub struct Removed {
    pub messages: u64,
    pub sessions: u64,
}

/// So many messages were deleted.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq)]
pub struct Purged {
    pub messages: u64,
}

/// A page in the order of names. `next` is the `after` of the next page, `null` on the last.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq)]
pub struct NamePage<T> {
    pub rows: Vec<T>,
    pub next: Option<String>,
}

/// A page in the order of ids. `next` is the `after` of the next page, `null` on the last.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq)]
pub struct IdPage<T> {
    pub rows: Vec<T>,
    pub next: Option<u64>,
}

#[derive(Serialize, Deserialize, Debug, PartialEq, Eq, Clone)]
pub struct UserInfo {
    pub name: String,
    pub locked: bool,
    pub created: String,
    pub last_login: Option<String>,
    /// Messages that wait for this user.
    pub queued: u64,
    /// Until when logins from where this user has not logged in before are refused, as too many have failed; `null`: they
    /// are not. Versions before 0.3.0 do not know.
    #[serde(default)]
    pub throttled: Option<String>,
}

#[derive(Serialize, Deserialize, Debug, PartialEq, Eq, Clone)]
pub struct QueueInfo {
    pub user: String,
    pub messages: u64,
    /// Of their bodies.
    pub bytes: u64,
    /// When the first of them was queued.
    pub oldest: String,
}

#[derive(Serialize, Deserialize, Debug, PartialEq, Eq, Clone)]
pub struct MessageInfo {
    pub id: u64,
    pub sender: String,
    pub queued_at: String,
    /// Of its body.
    pub bytes: u64,
    /// Only when it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

#[derive(Serialize, Deserialize, Debug, PartialEq, Eq, Clone)]
pub struct SessionInfo {
    pub id: u64,
    /// Who is logged in; `null` before that.
    pub user: Option<String>,
    /// Address and port of the peer, or what stands for them on a local socket.
    pub address: String,
    /// `cp`, `classic`, `tls` or `unix`.
    pub listener: String,
    /// One of the names of [`SessionStates`]' fields.
    pub state: String,
    /// When it connected.
    pub since: String,
    /// Since its last complete PDU.
    pub idle_seconds: u64,
}

/// The throttles in force that last longest.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq)]
pub struct Throttles {
    pub throttles: Vec<ThrottleInfo>,
    /// Whether there are more than were asked for.
    pub more: bool,
}

/// Failed logins that keep others out: from `address` whoever they say they are; for `user` from wherever that user has not
/// logged in before; where both are named, for that user from there.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq, Clone)]
pub struct ThrottleInfo {
    pub user: Option<String>,
    /// An IPv4 address, an IPv6 /64 or a local user's id.
    pub address: Option<String>,
    pub failures: u64,
    /// How many addresses they came from; 16 stands for more, too.
    pub addresses: u64,
    /// When the next login is tried, if none fails before.
    pub until: String,
}

/// What was counted of failed logins is forgotten: so many buckets of an address, a user, or a user at an address.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq)]
pub struct Forgotten {
    pub forgotten: u64,
}

/// A held copy of the store and its whole length.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq)]
pub struct Backup {
    pub backup: u64,
    pub bytes: u64,
}

/// A piece of a backup in base64.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq)]
pub struct BackupChunk {
    pub data: String,
}

impl BackupChunk {
    pub fn new(bytes: &[u8]) -> BackupChunk {
        BackupChunk { data: STANDARD.encode(bytes) }
    }

    /// The bytes, or `None` when it is not base64.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        STANDARD.decode(&self.data).ok()
    }
}

/// What one page of a check found. `damaged` names rows for people, at most [`super::DAMAGED_MAX`].
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq)]
pub struct Checked {
    pub rows: u64,
    pub damaged: Vec<String>,
    pub next: Option<u64>,
}

/// What a store has of the disk, before it was shrunk and after.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq)]
pub struct Shrunk {
    pub before_bytes: u64,
    pub after_bytes: u64,
}

/// Here I am.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq)]
pub struct Pong {
    pub version: String,
}

#[derive(Serialize, Deserialize, Debug, PartialEq, Eq, Clone, Default)]
pub struct Status {
    pub version: String,
    pub uptime_seconds: u64,
    /// Open connections of clients, logged in or not.
    pub connections: u64,
    pub sessions: SessionStates,
    pub queued_messages: u64,
    /// The sizes of the store's files.
    pub store_bytes: u64,
    pub counters: Counters,
    /// Only where details were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listeners: Option<Vec<ListenerInfo>>,
    /// Only where details were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<ConfigurationInfo>,
}

/// Where clients and administrators come in.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq, Clone)]
pub struct ListenerInfo {
    /// As in [`SessionInfo`], or `control`.
    pub listener: String,
    /// Address and port, or a path.
    pub address: String,
    /// `systemd` or `cpd`.
    pub opened_by: String,
}

/// Which configuration is in force.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq, Clone, Default)]
pub struct ConfigurationInfo {
    /// `null`: there is none, or none was read; the defaults hold.
    pub file: Option<String>,
    /// When what is in force was read.
    pub read_at: String,
    /// Why the file as it was at the last reload is not in force; `null` where it is.
    pub problem: Option<String>,
    /// When that was found out.
    pub problem_since: Option<String>,
    /// Keys whose new value waits for a restart.
    pub needs_restart: Vec<String>,
}

/// How many sessions are in each state of docs/protocol.md section 5.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq, Clone, Copy, Default)]
#[serde(default)]
pub struct SessionStates {
    pub idle: u64,
    pub user_validated: u64,
    pub authentication_validated: u64,
    pub process_command: u64,
    pub sending_message: u64,
    pub receiving_message: u64,
    pub error_processing: u64,
}

/// What happened since the daemon started.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq, Clone, Copy, Default)]
#[serde(default)]
pub struct Counters {
    pub connections_accepted: u64,
    /// Over a limit.
    pub connections_refused: u64,
    pub logins: u64,
    pub login_failures: u64,
    /// Of those failures, the ones that a throttle decided.
    pub logins_throttled: u64,
    /// Answered by 240.
    pub messages_accepted: u64,
    /// Answered by 540, 545 or 546.
    pub messages_refused: u64,
    /// Acknowledged by 250.
    pub messages_delivered: u64,
    /// Older than `message_age`.
    pub messages_expired: u64,
    /// Deleted by an administrator.
    pub messages_purged: u64,
    /// Gone with their recipient. Only where details were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages_removed: Option<u64>,
    /// Queued when the daemon started. Only where details were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages_at_start: Option<u64>,
    /// Answered by 500.
    pub bad_commands: u64,
    pub timeouts: u64,
    /// Commits: each makes durable what came together.
    pub store_batches: u64,
    pub store_failures: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_of_a_backup_is_what_it_was_made_of() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(BackupChunk::new(&bytes).bytes(), Some(bytes));
        assert_eq!(BackupChunk { data: "no base64!".to_owned() }.bytes(), None);
    }
}
