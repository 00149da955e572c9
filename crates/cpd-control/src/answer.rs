//! The daemon's answers. The field names are stable; cpctl(8) documents them, because `cpctl --json` uses the same
//! ones. Times are in the format of [`rfc3339`]: RFC 3339 in UTC.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
pub use cpd_core::dfa::StateName;
pub use cpd_core::engine::counters::COUNTERS;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

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
pub struct Status {
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

/// Named numbers, in an order that is kept: what an older or newer daemon counts, it names.
#[derive(Debug, PartialEq, Eq, Clone, Default)]
pub struct Numbers(Vec<(String, u64)>);

impl Numbers {
    /// The names and numbers, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(name, number)| (name.as_str(), *number))
    }
}

impl<'a> FromIterator<(&'a str, u64)> for Numbers {
    fn from_iter<T: IntoIterator<Item = (&'a str, u64)>>(numbers: T) -> Numbers {
        Numbers(numbers.into_iter().map(|(name, number)| (name.to_owned(), number)).collect())
    }
}

impl Serialize for Numbers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Numbers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Numbers, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Numbers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of numbers")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Numbers, A::Error> {
                let mut numbers = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    numbers.push(entry);
                }
                Ok(Numbers(numbers))
            }
        }

        deserializer.deserialize_map(InOrder)
    }
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
