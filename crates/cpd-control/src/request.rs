//! The requests that an operator can send to the daemon. One table, [`COMMANDS`], lists the commands and the fields
//! that each takes; the parser uses it, and so do tests.

use std::net::IpAddr;

use cp_proto::values::{Password, Username};
use serde::Serializer;
use serde::ser::SerializeMap;

use super::error::{ControlError, ErrorCode};
use super::fields::{Fields, missing_field, printable_name};
use super::frame::RequestLine;
use super::{PROTOCOL_VERSION, ROWS_DEFAULT, ROWS_MAX};

/// A request. `Debug` does not show passwords.
///
/// For lists, `after` is the last row of the previous page (the `next` of its answer), and `limit` is the most rows
/// wanted, from 1 to [`ROWS_MAX`]. Message and session ids begin at 1, so `after: 0` asks for the first page.
#[derive(Debug)]
pub enum Request {
    /// Adds a user. Answered by [`super::answer::Done`].
    UserAdd { name: Username, password: Password },
    /// Sets a user's password and, unless `keep_sessions` is set, ends the user's sessions. Answered by
    /// [`super::answer::SessionsEnded`].
    UserPasswd { name: Username, password: Password, keep_sessions: bool },
    /// Lists all users in the order of their names. Answered by [`super::answer::NamePage`] of
    /// [`super::answer::UserInfo`].
    UserList { after: Option<Username>, limit: u32 },
    /// Shows one user. Answered by [`super::answer::UserInfo`].
    UserShow { name: Username },
    /// Locks a user and ends its sessions. Answered by [`super::answer::SessionsEnded`].
    UserLock { name: Username },
    /// Lets a locked user log in again. Answered by [`super::answer::Done`].
    UserUnlock { name: Username },
    /// Removes a user, its queue and its sessions. Answered by [`super::answer::Removed`].
    UserRemove { name: Username },
    /// Lists the queues that are not empty, in the order of their users' names. Answered by [`super::answer::NamePage`]
    /// of [`super::answer::QueueInfo`].
    QueueList { after: Option<Username>, limit: u32 },
    /// Lists the messages of a queue in the order in which they were queued; `body` asks for their bodies, too.
    /// Answered by [`super::answer::IdPage`] of [`super::answer::MessageInfo`].
    QueueShow { user: Username, after: u64, limit: u32, body: bool },
    /// Deletes messages from a queue. Answered by [`super::answer::Purged`].
    QueuePurge { user: Username, which: PurgeFilter },
    /// Makes a copy of the store and holds it until `store.backup.end` or until the connection is closed. Answered by
    /// [`super::answer::Backup`].
    StoreBackup,
    /// Reads a piece of the copy from `offset` on. Answered by [`super::answer::BackupChunk`] of at most
    /// [`super::BACKUP_CHUNK_BYTES`]; only at the end of the copy is it empty.
    StoreBackupRead { backup: u64, offset: u64 },
    /// Discards the copy. Answered by [`super::answer::Done`].
    StoreBackupEnd { backup: u64 },
    /// Verifies the checksums of one page of rows. Answered by [`super::answer::CheckPage`].
    StoreCheck { after: u64, limit: u32 },
    /// Returns unused space of the store to the file system. Answered by [`super::answer::Shrunk`].
    StoreShrink,
    /// Lists the sessions in the order of their ids. Answered by [`super::answer::IdPage`] of
    /// [`super::answer::SessionInfo`].
    SessionList { after: u64, limit: u32 },
    /// Closes a session. Answered by [`super::answer::Done`].
    SessionClose { id: u64 },
    /// Lists the throttles in force, those that last longest first. Answered by [`super::answer::Throttles`].
    ThrottleList { limit: u32 },
    /// Forgets the failed logins of a user and those from an address, or all failed logins if neither is set. Answered
    /// by [`super::answer::ThrottlesCleared`].
    ThrottleClear { user: Option<Username>, address: Option<IpAddr> },
    /// Asks whether the daemon answers. Answered by [`super::answer::Pong`].
    Ping,
    /// Asks for the state of the daemon. Answered by [`super::answer::Status`]. With `details`, the answer includes the
    /// listeners, the configuration and two more counters; versions before 0.2.0 refuse this field.
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

impl PurgeFilter {
    fn serialize_into<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        if let Some(id) = self.id {
            map.serialize_entry("id", &id)?;
        }
        if let Some(from) = self.from {
            map.serialize_entry("from", from.as_str())?;
        }
        if let Some(seconds) = self.older_than_seconds {
            map.serialize_entry("older_than_seconds", &seconds)?;
        }
        Ok(())
    }
}

/// The description of a command of the control protocol.
pub struct CommandSpec {
    /// The value of `cmd`.
    pub name: &'static str,
    /// The fields that the command takes besides `v` and `cmd`.
    pub fields: &'static [&'static str],
    /// Whether the command is logged with the peer's credentials: it changes something, or copies the whole store.
    pub changes: bool,
    parse: fn(&mut Fields) -> Result<Request, ControlError>,
}

const fn spec(
    name: &'static str,
    fields: &'static [&'static str],
    changes: bool,
    parse: fn(&mut Fields) -> Result<Request, ControlError>,
) -> CommandSpec {
    CommandSpec { name, fields, changes, parse }
}

/// Every command.
pub const COMMANDS: &[CommandSpec] = &[
    spec("user.add", &["name", "password"], true, |f| {
        Ok(Request::UserAdd { name: required_username(f, "name")?, password: f.password("password")? })
    }),
    spec("user.passwd", &["name", "password", "keep_sessions"], true, |f| {
        let (name, keep_sessions) = (required_username(f, "name")?, f.boolean("keep_sessions")?);
        Ok(Request::UserPasswd { name, password: f.password("password")?, keep_sessions })
    }),
    spec("user.list", &["after", "limit"], false, |f| {
        Ok(Request::UserList { after: f.username("after")?, limit: limit_or_default(f)? })
    }),
    spec("user.show", &["name"], false, |f| Ok(Request::UserShow { name: required_username(f, "name")? })),
    spec("user.lock", &["name"], true, |f| Ok(Request::UserLock { name: required_username(f, "name")? })),
    spec("user.unlock", &["name"], true, |f| Ok(Request::UserUnlock { name: required_username(f, "name")? })),
    spec("user.remove", &["name"], true, |f| Ok(Request::UserRemove { name: required_username(f, "name")? })),
    spec("queue.list", &["after", "limit"], false, |f| {
        Ok(Request::QueueList { after: f.username("after")?, limit: limit_or_default(f)? })
    }),
    spec("queue.show", &["user", "after", "limit", "body"], false, |f| {
        let (user, after) = (required_username(f, "user")?, f.number("after", 0..=u64::MAX)?.unwrap_or(0));
        Ok(Request::QueueShow { user, after, limit: limit_or_default(f)?, body: f.boolean("body")? })
    }),
    spec("queue.purge", &["user", "id", "from", "older_than_seconds"], true, |f| {
        let user = required_username(f, "user")?;
        let (id, from) = (f.number("id", 1..=u64::MAX)?, f.username("from")?);
        let older_than_seconds = f.number("older_than_seconds", 1..=u64::MAX)?;
        Ok(Request::QueuePurge { user, which: PurgeFilter { id, from, older_than_seconds } })
    }),
    spec("store.backup", &[], true, |_| Ok(Request::StoreBackup)),
    spec("store.backup.read", &["backup", "offset"], false, |f| {
        Ok(Request::StoreBackupRead { backup: required_number(f, "backup")?, offset: required_number(f, "offset")? })
    }),
    spec("store.backup.end", &["backup"], false, |f| {
        Ok(Request::StoreBackupEnd { backup: required_number(f, "backup")? })
    }),
    spec("store.check", &["after", "limit"], false, |f| {
        let after = f.number("after", 0..=u64::MAX)?.unwrap_or(0);
        Ok(Request::StoreCheck { after, limit: limit_or_default(f)? })
    }),
    spec("store.shrink", &[], true, |_| Ok(Request::StoreShrink)),
    spec("session.list", &["after", "limit"], false, |f| {
        let after = f.number("after", 0..=u64::MAX)?.unwrap_or(0);
        Ok(Request::SessionList { after, limit: limit_or_default(f)? })
    }),
    spec("session.close", &["id"], true, |f| Ok(Request::SessionClose { id: required_number(f, "id")? })),
    spec("throttle.list", &["limit"], false, |f| Ok(Request::ThrottleList { limit: limit_or_default(f)? })),
    spec("throttle.clear", &["user", "address"], true, |f| {
        Ok(Request::ThrottleClear { user: f.username("user")?, address: f.address("address")? })
    }),
    spec("ping", &[], false, |_| Ok(Request::Ping)),
    spec("status", &["details"], false, |f| Ok(Request::Status { details: f.boolean("details")? })),
];

impl Request {
    /// Parses the request in `line`, which has no newline.
    ///
    /// # Errors
    /// Any code of [`ErrorCode`] from `bad_json` to `bad_password` except `too_long`, which the framer reports. The
    /// message names the field, command or version that is wrong.
    pub fn parse(line: &[u8]) -> Result<Request, ControlError> {
        let mut fields = Fields::parse(line)?;
        match fields.version() {
            None => return Err(missing_field("v")),
            Some(Some(PROTOCOL_VERSION)) => {}
            Some(other) => {
                let said = other.map_or_else(|| "this".to_owned(), |v| v.to_string());
                let message = format!("version {said} is not spoken here; version {PROTOCOL_VERSION} is");
                return Err(ControlError::new(ErrorCode::UnknownVersion, message));
            }
        }
        let command = fields.text("cmd")?.ok_or_else(|| missing_field("cmd"))?;
        let Some(spec) = COMMANDS.iter().find(|spec| spec.name == command) else {
            let message = format!("there is no command '{}'", printable_name(&command));
            return Err(ControlError::new(ErrorCode::UnknownCommand, message));
        };
        // This check comes first, so that a misspelt field is reported as unknown, not its correct name as missing.
        fields.refuse_unknown(spec.fields, spec.name)?;
        (spec.parse)(&mut fields)
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

    /// Whether the command is logged with the peer's credentials; see [`CommandSpec::changes`].
    pub fn changes(&self) -> bool {
        COMMANDS.iter().any(|spec| spec.name == self.command() && spec.changes)
    }

    /// Encodes the request as one line with its newline.
    pub fn encode(&self) -> RequestLine {
        // This is larger than any request, so the vector never grows and leaves no copy of a password in freed memory.
        let mut bytes = Vec::with_capacity(1024);
        let mut serializer = serde_json::Serializer::new(&mut bytes);
        // This cannot fail: it writes to memory, and all keys are text.
        let written = self.serialize_into(&mut serializer);
        debug_assert!(written.is_ok());
        bytes.push(b'\n');
        RequestLine::new(bytes)
    }

    fn serialize_into<S: Serializer>(&self, serializer: S) -> Result<(), S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("v", &PROTOCOL_VERSION)?;
        map.serialize_entry("cmd", self.command())?;
        match self {
            Request::UserAdd { name, password } => {
                map.serialize_entry("name", name.as_str())?;
                map.serialize_entry("password", password_text(password))?;
            }
            Request::UserPasswd { name, password, keep_sessions } => {
                map.serialize_entry("name", name.as_str())?;
                map.serialize_entry("password", password_text(password))?;
                map.serialize_entry("keep_sessions", keep_sessions)?;
            }
            Request::UserShow { name }
            | Request::UserLock { name }
            | Request::UserUnlock { name }
            | Request::UserRemove { name } => map.serialize_entry("name", name.as_str())?,
            Request::UserList { after, limit } | Request::QueueList { after, limit } => {
                if let Some(after) = after {
                    map.serialize_entry("after", after.as_str())?;
                }
                map.serialize_entry("limit", limit)?;
            }
            Request::QueueShow { user, after, limit, body } => {
                map.serialize_entry("user", user.as_str())?;
                map.serialize_entry("after", after)?;
                map.serialize_entry("limit", limit)?;
                map.serialize_entry("body", body)?;
            }
            Request::QueuePurge { user, which } => {
                map.serialize_entry("user", user.as_str())?;
                which.serialize_into(&mut map)?;
            }
            Request::StoreBackupRead { backup, offset } => {
                map.serialize_entry("backup", backup)?;
                map.serialize_entry("offset", offset)?;
            }
            Request::StoreBackupEnd { backup } => map.serialize_entry("backup", backup)?,
            Request::StoreCheck { after, limit } => {
                map.serialize_entry("after", after)?;
                map.serialize_entry("limit", limit)?;
            }
            Request::SessionList { after, limit } => {
                map.serialize_entry("after", after)?;
                map.serialize_entry("limit", limit)?;
            }
            Request::SessionClose { id } => map.serialize_entry("id", id)?,
            Request::ThrottleList { limit } => map.serialize_entry("limit", limit)?,
            Request::ThrottleClear { user, address } => {
                if let Some(user) = user {
                    map.serialize_entry("user", user.as_str())?;
                }
                if let Some(address) = address {
                    map.serialize_entry("address", &address.to_string())?;
                }
            }
            Request::Status { details } => {
                if *details {
                    map.serialize_entry("details", details)?;
                }
            }
            Request::StoreBackup | Request::StoreShrink | Request::Ping => {}
        }
        map.end().map(drop)
    }
}

/// The password as text. `Password` guarantees that it is valid UTF-8.
fn password_text(password: &Password) -> &str {
    std::str::from_utf8(password.as_bytes()).unwrap_or_default()
}

fn required_username(fields: &mut Fields, field: &str) -> Result<Username, ControlError> {
    fields.username(field)?.ok_or_else(|| missing_field(field))
}

fn required_number(fields: &mut Fields, field: &str) -> Result<u64, ControlError> {
    fields.number(field, 0..=u64::MAX)?.ok_or_else(|| missing_field(field))
}

fn limit_or_default(fields: &mut Fields) -> Result<u32, ControlError> {
    Ok(fields.number_u32("limit", 1..=ROWS_MAX)?.unwrap_or(ROWS_DEFAULT))
}
