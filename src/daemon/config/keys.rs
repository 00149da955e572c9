//! The table of keys: name, kind and range of the value, whether a change needs a restart, and the meaning. The
//! defaults are those of [`Config::default`]. Tests compare the manual page and the shipped file with this table.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use toml::de::DeValue;

use super::values::{Config, check_socket_path};
use crate::auth;
use crate::daemon::logging::levels::{Level, LogTarget};
use crate::duration;

/// The number of addresses that one key of `[listen]` may have.
pub const LISTEN_MAX_ADDRESSES: usize = 64;
/// The largest value of a [`ValueKind::Number`] in `[limits]`.
pub const LIMIT_MAX: u32 = 1 << 31;
/// Longest name of a group, in bytes (as in utmp and useradd(8)).
pub const GROUP_MAX_BYTES: usize = 32;

const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// One key of the configuration file.
pub struct ConfigKey {
    /// The section, without brackets.
    pub section: &'static str,
    /// The name within the section.
    pub key: &'static str,
    /// The kind of the value, with its range.
    pub kind: ValueKind,
    /// A reload does not change the value.
    pub needs_restart: bool,
    /// The comment in the shipped file; it may have several lines.
    pub help: &'static str,
}

/// Finds the field of a key in a [`Config`].
type Field<T> = fn(&mut Config) -> &mut T;

/// The kind of a value, the field that holds it, and its range. A value outside of `usual` is allowed, but warned
/// about.
pub enum ValueKind {
    /// A list of addresses with ports.
    Addresses { field: Field<Vec<SocketAddr>> },
    /// An absolute path. With `socket` it must be short enough for the address of a Unix socket.
    Path { field: Field<PathBuf>, socket: bool },
    /// The name of a group; empty for none.
    Group { field: Field<String> },
    /// A whole number.
    Number { field: Field<u32>, range: (u32, u32), usual: (u32, u32) },
    /// A number of bytes. 0 counts as usual.
    Bytes { field: Field<u64>, usual_min: u64 },
    /// A duration. `range`, `usual` and `unit` are in milliseconds; the field counts in units of `unit`. With `zero`, 0
    /// is allowed as well.
    Duration { field: Field<u64>, unit: u64, range: (u64, u64), usual: (u64, u64), zero: bool },
    /// `true` or `false`.
    Flag { field: Field<bool> },
    /// The target of the log.
    Target { field: Field<LogTarget> },
    /// The level of the log.
    Level { field: Field<Level> },
}

/// Every key, in the order of the shipped file.
pub const KEYS: &[ConfigKey] = &[
    ConfigKey {
        section: "listen",
        key: "cp",
        kind: ValueKind::Addresses { field: |c| &mut c.cp },
        needs_restart: true,
        help: "addresses for CP; [::] is both families, IPv4 alone where IPv6 is off\n\
               where systemd opens the port (cpd.socket), that decides and this is not used: cpd-listen shows and\n\
               changes it, 'cpd-listen all' for every address, 'cpd-listen local' for this machine alone",
    },
    ConfigKey {
        section: "listen",
        key: "classic",
        kind: ValueKind::Addresses { field: |c| &mut c.classic },
        needs_restart: true,
        help: "addresses for the classic dialect, for clients of 2020 that end no line",
    },
    ConfigKey {
        section: "control",
        key: "socket",
        kind: ValueKind::Path { field: |c| &mut c.control_socket, socket: true },
        needs_restart: true,
        help: "where cpctl connects",
    },
    ConfigKey {
        section: "control",
        key: "group",
        kind: ValueKind::Group { field: |c| &mut c.control_group },
        needs_restart: true,
        help: "may connect there, beside root and the daemon's user; no such group: a warning, mode 0600",
    },
    ConfigKey {
        section: "store",
        key: "path",
        kind: ValueKind::Path { field: |c| &mut c.store_path, socket: false },
        needs_restart: true,
        help: "the file of users and messages",
    },
    ConfigKey {
        section: "auth",
        key: "memory_kib",
        kind: ValueKind::Number {
            field: |c| &mut c.auth.memory_kib,
            range: (auth::MEMORY_MIN_KIB, auth::MEMORY_MAX_KIB),
            usual: (auth::MEMORY_MIN_KIB, 256 * 1024),
        },
        needs_restart: false,
        help: "memory of one password hash (argon2id) in KiB",
    },
    ConfigKey {
        section: "auth",
        key: "iterations",
        kind: ValueKind::Number {
            field: |c| &mut c.auth.iterations,
            range: (auth::ITERATIONS_MIN, auth::ITERATIONS_MAX),
            usual: (auth::ITERATIONS_MIN, 20),
        },
        needs_restart: false,
        help: "passes of one password hash over its memory",
    },
    ConfigKey {
        section: "auth",
        key: "threads",
        kind: ValueKind::Number { field: |c| &mut c.auth.threads, range: (0, 256), usual: (0, 64) },
        needs_restart: true,
        help: "threads that verify passwords; 0: one less than the cores, at least 1",
    },
    limit(
        "connections",
        |c| &mut c.settings.limits.connections,
        (10, 1_000_000),
        "connections in all, a twentieth for addresses known by a login; lowered to what the file limit allows, and said so",
    ),
    limit(
        "connections_per_address",
        |c| &mut c.settings.limits.connections_per_address,
        (2, 1_000_000),
        "connections of one address (IPv6: of one /64)",
    ),
    limit(
        "queue_messages",
        |c| &mut c.settings.limits.queue_messages,
        (10, 1_000_000),
        "messages in one recipient's queue; the last fifth is for senders with at most 10 in it",
    ),
    limit(
        "queue_messages_per_sender",
        |c| &mut c.settings.limits.queue_messages_per_sender,
        (2, 1_000_000),
        "of them, messages of one sender",
    ),
    limit(
        "messages_per_sender",
        |c| &mut c.settings.limits.messages_per_sender,
        (100, 100_000_000),
        "messages of one sender in all queues; above it the sender gets 540",
    ),
    limit(
        "messages_per_sender_minute",
        |c| &mut c.settings.limits.messages_per_sender_minute,
        (10, 100_000_000),
        "messages that one sender may leave in a minute; above it the sender gets 540",
    ),
    limit(
        "failures_per_address",
        |c| &mut c.settings.limits.failures_per_address,
        (1, 1000),
        "failed logins of one address in a minute; more are throttled",
    ),
    limit(
        "failures_per_user",
        |c| &mut c.settings.limits.failures_per_user,
        (1, 1000),
        "failed logins for one user in a minute, from addresses that this user never logged in from",
    ),
    limit(
        "failures_per_user_day",
        |c| &mut c.settings.limits.failures_per_user_day,
        (10, 100_000),
        "the same in a day",
    ),
    limit(
        "sessions_per_user",
        |c| &mut c.settings.limits.sessions_per_user,
        (1, 1_000_000),
        "sessions of one user at a time; one more gets 500 instead of 230",
    ),
    ConfigKey {
        section: "limits",
        key: "store_bytes",
        kind: ValueKind::Bytes { field: |c| &mut c.settings.limits.store_bytes, usual_min: 1024 * 1024 },
        needs_restart: false,
        help: "bytes of queued messages, above which senders get 540; 0: as the disk allows",
    },
    ConfigKey {
        section: "limits",
        key: "message_age",
        kind: ValueKind::Duration {
            field: |c| &mut c.settings.limits.message_age,
            unit: SECOND,
            range: (SECOND, 36_500 * DAY),
            usual: (HOUR, 36_500 * DAY),
            zero: true,
        },
        needs_restart: false,
        help: "undelivered messages expire after this, counted and logged; 0s: kept until downloaded",
    },
    timeout("pdu", |c| &mut c.settings.session.timeouts.pdu, "first byte of a PDU to its end"),
    timeout("login", |c| &mut c.settings.session.timeouts.login, "connect to logged in"),
    timeout("ack", |c| &mut c.settings.session.timeouts.ack, "RMSG sent to its 250"),
    timeout("recover", |c| &mut c.settings.session.timeouts.recover, "Error Processing to 201"),
    timeout("idle", |c| &mut c.settings.session.timeouts.idle, "last PDU to the next while logged in"),
    timeout("write", |c| &mut c.settings.session.timeouts.write, "bytes waiting for a client that takes none"),
    ConfigKey {
        section: "protocol",
        key: "allow_colon",
        kind: ValueKind::Flag { field: |c| &mut c.settings.session.allow_colon },
        needs_restart: false,
        help: "further colons of an SMSG belong to the message; 546 is not sent",
    },
    ConfigKey {
        section: "protocol",
        key: "classic_quiet",
        kind: ValueKind::Duration {
            field: |c| &mut c.settings.session.classic_quiet,
            unit: 1,
            range: (1, 10 * SECOND),
            usual: (10, SECOND),
            zero: false,
        },
        needs_restart: false,
        help: "silence that ends a PDU in the classic dialect",
    },
    ConfigKey {
        section: "log",
        key: "target",
        kind: ValueKind::Target { field: |c| &mut c.log_target },
        needs_restart: true,
        help: "auto: where systemd or syslog listens, else stderr",
    },
    ConfigKey {
        section: "log",
        key: "level",
        kind: ValueKind::Level { field: |c| &mut c.log_level },
        needs_restart: false,
        help: "the least important lines that are logged",
    },
];

const fn limit(key: &'static str, field: Field<u32>, usual: (u32, u32), help: &'static str) -> ConfigKey {
    ConfigKey {
        section: "limits",
        key,
        kind: ValueKind::Number { field, range: (1, LIMIT_MAX), usual },
        needs_restart: false,
        help,
    }
}

const fn timeout(key: &'static str, field: Field<u64>, help: &'static str) -> ConfigKey {
    let kind = ValueKind::Duration { field, unit: 1, range: (100, DAY), usual: (SECOND, 2 * HOUR), zero: false };
    ConfigKey { section: "timeouts", key, kind, needs_restart: false, help }
}

impl ConfigKey {
    /// `section.key`
    pub fn name(&self) -> String {
        format!("{}.{}", self.section, self.key)
    }

    /// The value in `config`, as TOML.
    pub fn show(&self, config: &Config) -> String {
        let mut config = config.clone();
        let c = &mut config;
        match &self.kind {
            ValueKind::Addresses { field } => {
                let all: Vec<String> = field(c).iter().map(|address| quoted(&address.to_string())).collect();
                format!("[{}]", all.join(", "))
            }
            ValueKind::Path { field, .. } => quoted(&field(c).to_string_lossy()),
            ValueKind::Group { field } => quoted(field(c)),
            ValueKind::Number { field, .. } => field(c).to_string(),
            ValueKind::Bytes { field, .. } => field(c).to_string(),
            ValueKind::Duration { field, unit, .. } => quoted(&duration::show(field(c).saturating_mul(*unit))),
            ValueKind::Flag { field } => field(c).to_string(),
            ValueKind::Target { field } => quoted(field(c).name()),
            ValueKind::Level { field } => quoted(field(c).name()),
        }
    }

    /// The default value, as TOML.
    pub fn default_value(&self) -> String {
        self.show(&Config::default())
    }

    /// A human-readable description of the allowed values.
    pub fn range(&self) -> String {
        match &self.kind {
            ValueKind::Addresses { .. } => {
                format!("a list of at most {LISTEN_MAX_ADDRESSES} addresses with port, as \"[::]:5035\"")
            }
            ValueKind::Path { socket: false, .. } => String::from("an absolute path"),
            ValueKind::Path { socket: true, .. } => {
                format!("an absolute path of at most {} bytes", super::values::SOCKET_PATH_MAX_BYTES)
            }
            ValueKind::Group { .. } => {
                format!("the name of a group, at most {GROUP_MAX_BYTES} bytes, or empty for none")
            }
            ValueKind::Number { range: (low, high), .. } => format!("a whole number from {low} to {high}"),
            ValueKind::Bytes { .. } => format!("a whole number from 0 to {}", i64::MAX),
            ValueKind::Duration { range: (low, high), zero, .. } => {
                let zero = if *zero { "0s, or " } else { "" };
                format!("{zero}a duration from {} to {}", duration::show(*low), duration::show(*high))
            }
            ValueKind::Flag { .. } => String::from("true or false"),
            ValueKind::Target { .. } => one_of(LogTarget::ALL.map(LogTarget::name)),
            ValueKind::Level { .. } => one_of(Level::ALL.map(Level::name)),
        }
    }

    /// Stores `value` in the field. Returns what is unusual about it, if anything.
    ///
    /// # Errors
    /// What is wrong with the value, without the range. The field is unchanged then.
    pub(super) fn apply(&self, c: &mut Config, value: &DeValue<'_>) -> Result<Option<String>, String> {
        match &self.kind {
            ValueKind::Addresses { field } => addresses(value).map(|all| *field(c) = all)?,
            ValueKind::Path { field, socket } => path(value, *socket).map(|path| *field(c) = path)?,
            ValueKind::Group { field } => group(value).map(|group| *field(c) = group)?,
            ValueKind::Number { field, range: (low, high), usual } => {
                let number = integer(value)?;
                let inside = u32::try_from(number).ok().filter(|n| (*low..=*high).contains(n));
                let number = inside.ok_or_else(|| format!("{number} is out of range"))?;
                *field(c) = number;
                return Ok(unusual(number, *usual, |n| n.to_string()));
            }
            ValueKind::Bytes { field, usual_min } => {
                let number = integer(value)?;
                let bytes = u64::try_from(number).map_err(|_| format!("{number} is out of range"))?;
                *field(c) = bytes;
                let usual = bytes == 0 || bytes >= *usual_min;
                return Ok((!usual).then(|| format!("{bytes} is less than the usual {usual_min}")));
            }
            ValueKind::Duration { field, unit, range: (low, high), usual, zero } => {
                let text = string(value)?;
                let millis = duration::parse(text).ok_or_else(|| format!("{} is not a duration", quoted(text)))?;
                let inside = (*low..=*high).contains(&millis) && millis % unit == 0;
                if *zero && millis == 0 {
                    *field(c) = 0;
                } else if inside {
                    *field(c) = millis / unit;
                    return Ok(unusual(millis, *usual, duration::show));
                } else {
                    return Err(format!("{text} is out of range"));
                }
            }
            ValueKind::Flag { field } => {
                let flag = value
                    .as_bool()
                    .ok_or_else(|| format!("expected true or false, found {}", toml_type_name(value)))?;
                *field(c) = flag;
            }
            ValueKind::Target { field } => {
                *field(c) = choice(value, LogTarget::ALL.map(|target| (target.name(), target)))?;
            }
            ValueKind::Level { field } => *field(c) = choice(value, Level::ALL.map(|level| (level.name(), level)))?,
        }
        Ok(None)
    }

    /// Copies the value from `from` to `to`.
    pub(super) fn copy(&self, from: &mut Config, to: &mut Config) {
        match &self.kind {
            ValueKind::Addresses { field } => field(to).clone_from(field(from)),
            ValueKind::Path { field, .. } => field(to).clone_from(field(from)),
            ValueKind::Group { field } => field(to).clone_from(field(from)),
            ValueKind::Number { field, .. } => *field(to) = *field(from),
            ValueKind::Bytes { field, .. } | ValueKind::Duration { field, .. } => *field(to) = *field(from),
            ValueKind::Flag { field } => *field(to) = *field(from),
            ValueKind::Target { field } => *field(to) = *field(from),
            ValueKind::Level { field } => *field(to) = *field(from),
        }
    }
}

fn unusual<T: PartialOrd + Copy>(value: T, (low, high): (T, T), show: impl Fn(T) -> String) -> Option<String> {
    if value < low {
        Some(format!("{} is less than the usual {}", show(value), show(low)))
    } else if value > high {
        Some(format!("{} is more than the usual {}", show(value), show(high)))
    } else {
        None
    }
}

fn one_of<const N: usize>(names: [&str; N]) -> String {
    format!("one of {}", names.map(quoted).join(", "))
}

/// `text` as a TOML string.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn toml_type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    }
}

fn string<'v>(value: &'v DeValue<'_>) -> Result<&'v str, String> {
    value.as_str().ok_or_else(|| format!("expected a string, found {}", toml_type_name(value)))
}

fn integer(value: &DeValue<'_>) -> Result<i64, String> {
    let number =
        value.as_integer().ok_or_else(|| format!("expected a whole number, found {}", toml_type_name(value)))?;
    i64::from_str_radix(number.as_str(), number.radix()).map_err(|_| format!("{number} is out of range"))
}

fn choice<T: Copy, const N: usize>(value: &DeValue<'_>, all: [(&str, T); N]) -> Result<T, String> {
    let text = string(value)?;
    let found = all.iter().find(|(name, _)| *name == text);
    found.map(|(_, choice)| *choice).ok_or_else(|| format!("{} is out of range", quoted(text)))
}

fn addresses(value: &DeValue<'_>) -> Result<Vec<SocketAddr>, String> {
    let list = value.as_array().ok_or_else(|| format!("expected a list, found {}", toml_type_name(value)))?;
    if list.len() > LISTEN_MAX_ADDRESSES {
        return Err(format!("{} addresses are too many", list.len()));
    }
    let mut all = Vec::with_capacity(list.len());
    for item in list.iter() {
        let text = string(item.get_ref())?;
        let address: SocketAddr =
            text.parse().map_err(|_| format!("{} is not an address with a port", quoted(text)))?;
        if let Some(why) = super::addresses::listen_obstacle(address) {
            return Err(format!("{} {why}", quoted(text)));
        }
        all.push(address);
    }
    Ok(all)
}

fn path(value: &DeValue<'_>, socket: bool) -> Result<PathBuf, String> {
    let text = string(value)?;
    let path = PathBuf::from(text);
    if !path.is_absolute() || path.file_name().is_none() || text.contains('\0') {
        return Err(format!("{} is not an absolute path of a file", quoted(text)));
    }
    if socket {
        check_socket_path(&path)?;
    }
    Ok(path)
}

fn group(value: &DeValue<'_>) -> Result<String, String> {
    let text = string(value)?;
    if text.len() > GROUP_MAX_BYTES || text.chars().any(|c| c.is_control() || c == ':' || c == '/') {
        return Err(format!("{} is not the name of a group", quoted(text)));
    }
    Ok(String::from(text))
}
