//! Writes the engine's events to the log, and counts repeated ones instead of logging each.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use cp_proto::values::Username;
use cpd_core::engine::events::{Ended, GuessingAlert, Limit, LogEvent, ThrottleCause};
use cpd_core::engine::port::{AddressKey, SessionId};
use cpd_core::time::{Millis, NEVER};

use super::clients::Clients;
use super::logging::{LogLine, Logger, RepeatSuppressor};

/// A limit that is reached repeatedly is logged once in this time; further cases are only counted.
const SUPPRESS_MS: Millis = 10_000;

/// How many pairs of limit and subject are counted separately, and how many throttled addresses. All beyond that are
/// counted together.
const TRACKED_MAX: usize = 4096;

/// The user, queue or address that a limit is about; `All` if there is no particular one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum LimitSubject {
    All,
    User(Username),
    Queue(Username),
    Address(AddressKey),
}

impl LimitSubject {
    fn add_to(self, line: LogLine) -> LogLine {
        match self {
            LimitSubject::All => line,
            LimitSubject::User(user) => line.field("user", user),
            LimitSubject::Queue(user) => line.field("queue", user),
            LimitSubject::Address(from) => with_address(line, Some(from)),
        }
    }
}

/// Logs what happens to sessions, with suppression of floods.
#[derive(Debug)]
pub struct SessionLog {
    logger: Logger,
    /// By limit and subject; beyond [`TRACKED_MAX`] entries by limit alone.
    limits: HashMap<(Limit, LimitSubject), RepeatSuppressor>,
    /// Failed logins from throttled addresses, with the last user name tried. `None` counts all addresses beyond
    /// [`TRACKED_MAX`] together.
    throttled_failures: HashMap<Option<AddressKey>, (RepeatSuppressor, Username)>,
    accept_failures: RepeatSuppressor,
    /// When [`SessionLog::flush_suppressed`] has something to do next.
    due: Millis,
}

impl SessionLog {
    pub fn new(logger: Logger) -> SessionLog {
        SessionLog {
            logger,
            limits: HashMap::new(),
            throttled_failures: HashMap::new(),
            accept_failures: RepeatSuppressor::new(SUPPRESS_MS),
            due: 0,
        }
    }

    /// When to call [`SessionLog::flush_suppressed`] next.
    pub fn next_deadline(&self) -> Millis {
        self.due
    }

    /// Logs one event of the engine.
    pub fn log_event(&mut self, event: &LogEvent, clients: &Clients, now: Millis) {
        self.due = self.due.min(now + SUPPRESS_MS);
        match event {
            LogEvent::LoggedIn { session, user } => {
                self.logger.info(with_peer(LogLine::new("login").field("user", user), *session, clients, None));
            }
            LogEvent::LoginFailed { session, login } => self.log_failed_login(*session, *login, clients, now),
            LogEvent::Throttled { session, login } => {
                let (limit, subject) = match login.cause {
                    ThrottleCause::Address => (Limit::FailuresPerAddress, LimitSubject::Address(login.from)),
                    ThrottleCause::Name => (Limit::FailuresPerUser, LimitSubject::User(login.name)),
                };
                if let Some(line) = self.limit_line(limit, subject, now) {
                    self.logger.warn(match subject {
                        LimitSubject::User(_) => with_peer(line, *session, clients, Some(login.from)),
                        LimitSubject::All | LimitSubject::Queue(_) | LimitSubject::Address(_) => line,
                    });
                }
            }
            LogEvent::GuessingAlert(GuessingAlert { name, failures, addresses }) => {
                let line = LogLine::new("guessing").field("user", name).field("failures", failures);
                self.logger.warn(line.field("addresses", addresses));
            }
            LogEvent::TooManySessions { session, login } => {
                if let Some(line) = self.limit_line(Limit::SessionsPerUser, LimitSubject::User(login.name), now) {
                    self.logger.warn(with_peer(line, *session, clients, Some(login.from)));
                }
            }
            LogEvent::Limit { limit, user, queue } => {
                let subject = match (user, queue) {
                    (Some(user), _) => LimitSubject::User(*user),
                    (None, Some(queue)) => LimitSubject::Queue(*queue),
                    (None, None) => LimitSubject::All,
                };
                if let Some(line) = self.limit_line(*limit, subject, now) {
                    self.logger.warn(match (user, queue) {
                        (Some(_), Some(queue)) => line.field("queue", queue),
                        _ => line,
                    });
                }
            }
            LogEvent::GuestEvicted { session, from } => {
                if let Some(line) = self.limit_line(Limit::Connections, LimitSubject::All, now) {
                    self.logger.warn(with_peer(line.field("closed", "the oldest"), *session, clients, Some(*from)));
                }
            }
            LogEvent::Expired { messages } => {
                self.logger.info(LogLine::new("messages expired").field("messages", messages));
            }
        }
    }

    /// Logs a failed login. For a throttled address it logs one line in [`SUPPRESS_MS`] only, with the number of those
    /// not logged (protocol.md section 7).
    fn log_failed_login(&mut self, session: SessionId, login: Ended, clients: &Clients, now: Millis) {
        let line = LogLine::new("auth failure").field("user", login.name);
        if !login.throttled {
            return self.logger.warn(with_peer(line, session, clients, Some(login.from)));
        }
        let known =
            self.throttled_failures.len() < TRACKED_MAX || self.throttled_failures.contains_key(&Some(login.from));
        let key = known.then_some(login.from);
        let (repeated, last) =
            self.throttled_failures.entry(key).or_insert((RepeatSuppressor::new(SUPPRESS_MS), login.name));
        *last = login.name;
        if let Some(more) = repeated.note(now) {
            let line = with_peer(line, session, clients, Some(login.from));
            self.logger.warn(if more > 0 { line.field("more", more) } else { line });
        }
    }

    /// The line for a limit that was reached, or `None` if it was logged less than [`SUPPRESS_MS`] ago.
    fn limit_line(&mut self, limit: Limit, subject: LimitSubject, now: Millis) -> Option<LogLine> {
        let apart = self.limits.len() < TRACKED_MAX || self.limits.contains_key(&(limit, subject));
        // Those counted together have no common subject to name.
        let subject = if apart { subject } else { LimitSubject::All };
        let more =
            self.limits.entry((limit, subject)).or_insert_with(|| RepeatSuppressor::new(SUPPRESS_MS)).note(now)?;
        Some(subject.add_to(LogLine::new("limit reached").field("limit", limit.key()).field("more", more)))
    }

    /// Logs that a connection could not be accepted.
    pub fn accept_failed(&mut self, error: &io::Error, now: Millis) {
        self.due = self.due.min(now + SUPPRESS_MS);
        if let Some(more) = self.accept_failures.note(now) {
            self.logger.warn(LogLine::new("accepting paused").field("cause", error).field("more", more));
        }
    }

    /// Logs all counts that are still suppressed. For the end of the process.
    pub fn flush_all(&mut self, now: Millis) {
        self.due = 0;
        self.flush_suppressed(now.saturating_add(SUPPRESS_MS));
    }

    /// Logs how many repeats were suppressed, where the time of suppression is over. Returns `true` about once in
    /// [`SUPPRESS_MS`] as long as events occur.
    pub fn flush_suppressed(&mut self, now: Millis) -> bool {
        if self.due > now {
            return false;
        }
        self.due = NEVER;
        for ((limit, subject), repeated) in &mut self.limits {
            if let Some(more) = repeated.take_suppressed(now) {
                let line = LogLine::new("limit reached").field("limit", limit.key()).field("more", more);
                self.logger.warn(subject.add_to(line));
            }
        }
        self.limits.retain(|_, repeated| repeated.has_suppressed() || repeated.is_suppressing(now));
        if let Some(more) = self.accept_failures.take_suppressed(now) {
            self.logger.warn(LogLine::new("accepting paused").field("more", more));
        }
        for (from, (repeated, name)) in &mut self.throttled_failures {
            if let Some(more) = repeated.take_suppressed(now) {
                let line = with_address(LogLine::new("auth failure").field("user", name), *from);
                self.logger.warn(line.field("more", more));
            }
        }
        self.throttled_failures.retain(|_, (repeated, _)| repeated.has_suppressed() || repeated.is_suppressing(now));
        if !self.throttled_failures.is_empty() || self.accept_failures.has_suppressed() || !self.limits.is_empty() {
            self.due = now + SUPPRESS_MS;
        }
        true
    }
}

/// Adds the client's address, port and listener, or only the address `from` if the session is closed already.
fn with_peer(line: LogLine, session: SessionId, clients: &Clients, from: Option<AddressKey>) -> LogLine {
    if let Some((peer, kind)) = clients.peer_of(session) {
        let line = line.field("addr", peer.host()).field("port", peer.port());
        return line.field("listener", kind.name());
    }
    with_address(line, from)
}

/// Adds the address. An IPv6 prefix is written as an address without `/64`, as programs that read the log expect.
fn with_address(line: LogLine, from: Option<AddressKey>) -> LogLine {
    match from {
        Some(AddressKey::V4(bits)) => line.field("addr", Ipv4Addr::from_bits(bits)),
        Some(AddressKey::V6(bits)) => line.field("addr", Ipv6Addr::from_bits(u128::from(bits) << 64)),
        Some(AddressKey::Local(_)) | None => line,
    }
}
