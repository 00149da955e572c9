//! What an administrator can ask of the daemon. One table, [`COMMANDS`], says which commands there are and which fields
//! each takes; parsing goes by it, and so do the documents' tests.

use std::net::IpAddr;

use serde::Serializer;
use serde::ser::SerializeMap;

use super::error::{ControlError, ErrorCode};
use super::fields::{Fields, missing, shown};
use super::frame::Line;
use super::{ROWS_DEFAULT, ROWS_MAX, VERSION};
use crate::proto::types::{Password, Username};

/// One request. `Debug` shows no password.
///
/// In lists `after` is the last row of the page before (`next` of its answer) and `limit` the most rows wanted, from 1
/// to [`ROWS_MAX`]. Message and session ids begin at 1, so that `after: 0` is the beginning.
#[derive(Debug)]
pub enum Request {
    /// Answered by [`super::answer::Done`].
    UserAdd { name: Username, password: Password },
    /// Answered by [`super::answer::Ended`]. Ends the user's sessions unless `keep_sessions`.
    UserPasswd { name: Username, password: Password, keep_sessions: bool },
    /// In the order of names. Answered by [`super::answer::NamePage`] of [`super::answer::UserInfo`].
    UserList { after: Option<Username>, limit: u32 },
    /// Answered by [`super::answer::UserInfo`].
    UserShow { name: Username },
    /// Answered by [`super::answer::Ended`].
    UserLock { name: Username },
    /// Answered by [`super::answer::Done`].
    UserUnlock { name: Username },
    /// Answered by [`super::answer::Removed`].
    UserRemove { name: Username },
    /// The queues that are not empty, in the order of their users' names. Answered by [`super::answer::NamePage`] of
    /// [`super::answer::QueueInfo`].
    QueueList { after: Option<Username>, limit: u32 },
    /// In the order of queueing. Answered by [`super::answer::IdPage`] of [`super::answer::MessageInfo`].
    QueueShow { user: Username, after: u64, limit: u32, body: bool },
    /// Answered by [`super::answer::Purged`], however many there are: the daemon goes through them in pages.
    QueuePurge { user: Username, which: PurgeFilter },
    /// Makes a copy and holds it until `store.backup.end` or the connection's end. Answered by
    /// [`super::answer::Backup`].
    StoreBackup,
    /// Answered by [`super::answer::BackupChunk`] of at most [`super::BACKUP_CHUNK_BYTES`], empty only at the end.
    StoreBackupRead { backup: u64, offset: u64 },
    /// Answered by [`super::answer::Done`].
    StoreBackupEnd { backup: u64 },
    /// Answered by [`super::answer::Checked`].
    StoreCheck { after: u64, limit: u32 },
    /// Answered by [`super::answer::Shrunk`].
    StoreShrink,
    /// In the order of ids. Answered by [`super::answer::IdPage`] of [`super::answer::SessionInfo`].
    SessionList { after: u64, limit: u32 },
    /// Answered by [`super::answer::Done`].
    SessionClose { id: u64 },
    /// Those that last longest. Answered by [`super::answer::Throttles`].
    ThrottleList { limit: u32 },
    /// Forgets the failed logins of a user, of an address, or, without either, all. Answered by [`super::answer::Forgotten`].
    ThrottleClear { user: Option<Username>, address: Option<IpAddr> },
    /// Whether anybody is there. Answered by [`super::answer::Pong`].
    Ping,
    /// Answered by [`super::answer::Status`]; `details`: with where the daemon listens and by which configuration, which
    /// versions before 0.2.0 do not know.
    Status { details: bool },
}

/// Which messages of a queue to delete: those that meet every condition given; all of them when none is.
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

/// A command of the control protocol.
pub struct CommandShape {
    /// As in `cmd`.
    pub name: &'static str,
    /// The fields it takes, beside `v` and `cmd`.
    pub fields: &'static [&'static str],
    /// Whether it changes anything, and so is logged with the peer's credentials.
    pub changes: bool,
    parse: fn(&mut Fields) -> Result<Request, ControlError>,
}

const fn shape(
    name: &'static str,
    fields: &'static [&'static str],
    changes: bool,
    parse: fn(&mut Fields) -> Result<Request, ControlError>,
) -> CommandShape {
    CommandShape { name, fields, changes, parse }
}

/// Every command there is.
pub const COMMANDS: &[CommandShape] = &[
    shape("user.add", &["name", "password"], true, |f| {
        Ok(Request::UserAdd { name: name(f, "name")?, password: f.password("password")? })
    }),
    shape("user.passwd", &["name", "password", "keep_sessions"], true, |f| {
        let (name, keep_sessions) = (name(f, "name")?, f.switch("keep_sessions")?);
        Ok(Request::UserPasswd { name, password: f.password("password")?, keep_sessions })
    }),
    shape("user.list", &["after", "limit"], false, |f| {
        Ok(Request::UserList { after: f.username("after")?, limit: limit(f)? })
    }),
    shape("user.show", &["name"], false, |f| Ok(Request::UserShow { name: name(f, "name")? })),
    shape("user.lock", &["name"], true, |f| Ok(Request::UserLock { name: name(f, "name")? })),
    shape("user.unlock", &["name"], true, |f| Ok(Request::UserUnlock { name: name(f, "name")? })),
    shape("user.remove", &["name"], true, |f| Ok(Request::UserRemove { name: name(f, "name")? })),
    shape("queue.list", &["after", "limit"], false, |f| {
        Ok(Request::QueueList { after: f.username("after")?, limit: limit(f)? })
    }),
    shape("queue.show", &["user", "after", "limit", "body"], false, |f| {
        let (user, after) = (name(f, "user")?, f.number("after", 0..=u64::MAX)?.unwrap_or(0));
        Ok(Request::QueueShow { user, after, limit: limit(f)?, body: f.switch("body")? })
    }),
    shape("queue.purge", &["user", "id", "from", "older_than_seconds"], true, |f| {
        let user = name(f, "user")?;
        let (id, from) = (f.number("id", 1..=u64::MAX)?, f.username("from")?);
        let older_than_seconds = f.number("older_than_seconds", 1..=u64::MAX)?;
        Ok(Request::QueuePurge { user, which: PurgeFilter { id, from, older_than_seconds } })
    }),
    shape("store.backup", &[], true, |_| Ok(Request::StoreBackup)),
    shape("store.backup.read", &["backup", "offset"], false, |f| {
        Ok(Request::StoreBackupRead { backup: number(f, "backup")?, offset: number(f, "offset")? })
    }),
    shape("store.backup.end", &["backup"], false, |f| Ok(Request::StoreBackupEnd { backup: number(f, "backup")? })),
    shape("store.check", &["after", "limit"], false, |f| {
        let after = f.number("after", 0..=u64::MAX)?.unwrap_or(0);
        Ok(Request::StoreCheck { after, limit: limit(f)? })
    }),
    shape("store.shrink", &[], true, |_| Ok(Request::StoreShrink)),
    shape("session.list", &["after", "limit"], false, |f| {
        let after = f.number("after", 0..=u64::MAX)?.unwrap_or(0);
        Ok(Request::SessionList { after, limit: limit(f)? })
    }),
    shape("session.close", &["id"], true, |f| Ok(Request::SessionClose { id: number(f, "id")? })),
    shape("throttle.list", &["limit"], false, |f| Ok(Request::ThrottleList { limit: limit(f)? })),
    shape("throttle.clear", &["user", "address"], true, |f| {
        Ok(Request::ThrottleClear { user: f.username("user")?, address: f.address("address")? })
    }),
    shape("ping", &[], false, |_| Ok(Request::Ping)),
    shape("status", &["details"], false, |f| Ok(Request::Status { details: f.switch("details")? })),
];

impl Request {
    /// The request in one line, without its newline.
    ///
    /// Errors, each naming what is wrong: every code of [`ErrorCode`] from `bad_json` to `bad_password` but `too_long`,
    /// which is the framer's.
    pub fn parse(line: &[u8]) -> Result<Request, ControlError> {
        let mut fields = Fields::parse(line)?;
        match fields.version() {
            None => return Err(missing("v")),
            Some(Some(VERSION)) => {}
            Some(other) => {
                let said = other.map_or_else(|| "this".to_owned(), |v| v.to_string());
                let message = format!("version {said} is not spoken here; version {VERSION} is");
                return Err(ControlError::new(ErrorCode::UnknownVersion, message));
            }
        }
        let command = fields.text("cmd")?.ok_or_else(|| missing("cmd"))?;
        let Some(shape) = COMMANDS.iter().find(|shape| shape.name == command) else {
            let message = format!("there is no command '{}'", shown(&command));
            return Err(ControlError::new(ErrorCode::UnknownCommand, message));
        };
        // First, so that a misspelt field is called unknown and not its proper form missing.
        fields.only(shape.fields, shape.name)?;
        (shape.parse)(&mut fields)
    }

    /// The command's name, as in `cmd`.
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

    /// Whether it changes anything, and so is logged with the peer's credentials.
    pub fn changes(&self) -> bool {
        COMMANDS.iter().any(|shape| shape.name == self.command() && shape.changes)
    }

    /// The request as one line with its newline.
    pub fn encode(&self) -> Line {
        // Larger than any request, so that no copy of a password stays behind in memory that the vector outgrew.
        let mut bytes = Vec::with_capacity(1024);
        let mut serializer = serde_json::Serializer::new(&mut bytes);
        // Writing to memory does not fail, and every key is text.
        let written = self.serialize_into(&mut serializer);
        debug_assert!(written.is_ok());
        bytes.push(b'\n');
        Line::new(bytes)
    }

    fn serialize_into<S: Serializer>(&self, serializer: S) -> Result<(), S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("v", &VERSION)?;
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

/// A password is UTF-8 by its own rule.
fn password_text(password: &Password) -> &str {
    std::str::from_utf8(password.as_bytes()).unwrap_or_default()
}

fn name(fields: &mut Fields, field: &str) -> Result<Username, ControlError> {
    fields.username(field)?.ok_or_else(|| missing(field))
}

fn number(fields: &mut Fields, field: &str) -> Result<u64, ControlError> {
    fields.number(field, 0..=u64::MAX)?.ok_or_else(|| missing(field))
}

fn limit(fields: &mut Fields) -> Result<u32, ControlError> {
    Ok(fields.number32("limit", 1..=ROWS_MAX)?.unwrap_or(ROWS_DEFAULT))
}
