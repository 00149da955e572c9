//! The daemon's answers. The field names are stable; cpctl(8) documents them, because `cpctl --json` uses the same
//! ones. Times are in the format of [`rfc3339`]: RFC 3339 in UTC.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::error::ErrorCode;

/// The answer to a request that succeeded: one line with its newline. `body` must be a struct; its fields are put next
/// to `ok`.
pub fn encode_ok(body: &impl Serialize) -> Vec<u8> {
    #[derive(Serialize)]
    struct Success<'a, T: Serialize> {
        ok: bool,
        #[serde(flatten)]
        body: &'a T,
    }
    match serde_json::to_vec(&Success { ok: true, body }) {
        Ok(mut line) => {
            line.push(b'\n');
            line
        }
        Err(_) => encode_error(ErrorCode::Internal, "the answer could not be encoded"),
    }
}

/// The answer to a request that was refused: one line with its newline.
pub fn encode_error(code: ErrorCode, message: &str) -> Vec<u8> {
    let refusal = ErrorBody { code: code.as_str().to_owned(), message: message.to_owned() };
    let envelope = Envelope { ok: false, error: Some(refusal) };
    // Encoding text and a boolean cannot fail. If it did, the client would not take the empty line for a success.
    let mut line = serde_json::to_vec(&envelope).unwrap_or_default();
    line.push(b'\n');
    line
}

/// Formats `seconds` since 1970 as RFC 3339 in UTC: `2026-01-31T12:00:00Z`. A time after the year 9999 becomes the last
/// time that can be represented.
pub fn rfc3339(seconds: u64) -> String {
    let second = i64::try_from(seconds).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(second).unwrap_or(jiff::Timestamp::MAX).to_string()
}

/// The part that all answers share: whether the request succeeded, and the error if it did not. The other fields depend
/// on the command and have a type of their own.
#[derive(Serialize, Deserialize, Debug)]
pub struct Envelope {
    pub ok: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
}

/// The reason for a refusal. `code` is text, not an [`ErrorCode`], so that a client can also read codes that are newer
/// than itself.
#[derive(Serialize, Deserialize, Debug)]
pub struct ErrorBody {
    pub code: String,
    pub message: String,
}

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
    /// The name of one of the fields of [`SessionStates`].
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
pub struct Status {
    pub version: String,
    pub uptime_seconds: u64,
    /// The number of open client connections, logged in or not.
    pub connections: u64,
    pub sessions: SessionStates,
    pub queued_messages: u64,
    /// The total size of the store's files.
    pub store_bytes: u64,
    pub counters: Counters,
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

/// The number of sessions in each state of docs/protocol.md section 5.
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

/// The number of events of each kind since the daemon started.
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq, Clone, Copy, Default)]
#[serde(default)]
pub struct Counters {
    pub connections_accepted: u64,
    /// Connections refused or closed because of a limit.
    pub connections_refused: u64,
    pub logins: u64,
    pub login_failures: u64,
    /// The part of `login_failures` that was refused by a throttle.
    pub logins_throttled: u64,
    /// Messages answered with 240.
    pub messages_accepted: u64,
    /// Messages answered with 540, 545 or 546.
    pub messages_refused: u64,
    /// Messages acknowledged with 250.
    pub messages_delivered: u64,
    /// Messages deleted because they were older than `limits.message_age`.
    pub messages_expired: u64,
    /// Messages deleted by `queue.purge`.
    pub messages_purged: u64,
    /// Messages deleted with their recipient by `user.remove`. Present only if the request asked for details.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages_removed: Option<u64>,
    /// Messages in the queues when the daemon started. Present only if the request asked for details.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages_at_start: Option<u64>,
    /// PDUs answered with 500.
    pub bad_commands: u64,
    /// Timers of sessions that ran out, including the end of a WMSG and the silence that ends a PDU in the classic
    /// dialect.
    pub timeouts: u64,
    /// The batches that the store has answered, whether they succeeded or failed.
    pub store_batches: u64,
    /// The part of `store_batches` of which something failed.
    pub store_failures: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_chunk_decodes_to_the_bytes_that_were_encoded() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(BackupChunk::new(&bytes).bytes(), Some(bytes));
        assert_eq!(BackupChunk { data: "no base64!".to_owned() }.bytes(), None);
    }
}
