//! How the requests of operators ([`requests::Request`]) are written. One table, [`COMMANDS`], lists the commands and the
//! fields that each takes; the parser uses it, and so do tests.

use cp_proto::values::{Password, Username};
use cpd_core::engine::requests::{self, PurgeFilter};
use serde::Serializer;
use serde::ser::SerializeMap;

use super::error::{ControlError, ErrorCode};
use super::fields::{Fields, missing_field, printable_name};
use super::frame::RequestLine;
use super::limits::{PROTOCOL_VERSION, ROWS_DEFAULT, ROWS_MAX};

/// A request as it is sent and received. `Debug` does not show passwords.
pub type Request = requests::Request<Password>;

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

/// Whether a command is logged with the peer's credentials; see [`CommandSpec::changes`].
pub fn changes(command: &str) -> bool {
    COMMANDS.iter().any(|spec| spec.name == command && spec.changes)
}

impl RequestLine {
    /// Parses the request in this line.
    ///
    /// # Errors
    /// The errors of [`parse`].
    pub fn request(&self) -> Result<Request, ControlError> {
        parse(self.as_bytes())
    }
}

/// Encodes the request as one line with its newline.
pub fn encode(request: &Request) -> RequestLine {
    // This is larger than any request, so the vector never grows and leaves no copy of a password in freed memory.
    let mut bytes = Vec::with_capacity(1024);
    let mut serializer = serde_json::Serializer::new(&mut bytes);
    // This cannot fail: it writes to memory, and all keys are text.
    let written = serialize_into(request, &mut serializer);
    debug_assert!(written.is_ok());
    bytes.push(b'\n');
    RequestLine::new(bytes)
}

fn serialize_into<S: Serializer>(request: &Request, serializer: S) -> Result<(), S::Error> {
    let mut map = serializer.serialize_map(None)?;
    map.serialize_entry("v", &PROTOCOL_VERSION)?;
    map.serialize_entry("cmd", request.command())?;
    match request {
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
            serialize_filter(which, &mut map)?;
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

fn serialize_filter<M: SerializeMap>(filter: &PurgeFilter, map: &mut M) -> Result<(), M::Error> {
    if let Some(id) = filter.id {
        map.serialize_entry("id", &id)?;
    }
    if let Some(from) = filter.from {
        map.serialize_entry("from", from.as_str())?;
    }
    if let Some(seconds) = filter.older_than_seconds {
        map.serialize_entry("older_than_seconds", &seconds)?;
    }
    Ok(())
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
