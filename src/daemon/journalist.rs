//! What happened, in lines for the log.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::conn::Clients;
use super::logging::{Line, Logger, Repeated};
use super::spelling;
use crate::engine::events::{Ended, Event, Guessing, Limit, TooMany};
use crate::engine::port::{AddressKey, SessionId};
use crate::proto::session::NEVER;
use crate::proto::types::{Millis, Username};

/// A limit that is reached over and over is logged once in this time, then counted.
const QUIET_MS: Millis = 10_000;

/// Those whose limits, and addresses whose failed logins, are counted apart instead of logged one by one; all others beyond
/// are counted together.
const FAILING_MAX: usize = 4096;

/// Whom a limit is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Who {
    All,
    User(Username),
    Queue(Username),
    At(AddressKey),
}

impl Who {
    fn named(self, line: Line) -> Line {
        match self {
            Who::All => line,
            Who::User(user) => line.field("user", user),
            Who::Queue(user) => line.field("queue", user),
            Who::At(from) => with_address(line, Some(from)),
        }
    }
}

#[derive(Debug)]
pub struct Journalist {
    logger: Logger,
    /// By what is reached and by whom; beyond [`FAILING_MAX`] by what alone.
    limits: HashMap<(Limit, Who), Repeated>,
    /// Of addresses that are throttled, by address; the name is the last one that was tried.
    failing: HashMap<Option<AddressKey>, (Repeated, Username)>,
    accept: Repeated,
    /// When the counts of what was not logged are looked at again.
    due: Millis,
}

impl Journalist {
    pub fn new(logger: Logger) -> Journalist {
        Journalist { logger, limits: HashMap::new(), failing: HashMap::new(), accept: Repeated::new(QUIET_MS), due: 0 }
    }

    /// When [`Journalist::settle`] is to be called.
    pub fn next_deadline(&self) -> Millis {
        self.due
    }

    /// Logs one event of the engine.
    pub fn tell(&mut self, event: &Event, clients: &Clients, now: Millis) {
        self.due = self.due.min(now + QUIET_MS);
        match event {
            Event::LoggedIn { session, user } => {
                self.logger.info(with_peer(Line::new("login").field("user", user), *session, clients, None));
            }
            Event::LoginFailed { session, login } => self.failed(*session, *login, clients, now),
            Event::Throttled { session, login } => {
                let (limit, who) = match login.too_many {
                    TooMany::Address => (Limit::FailuresPerAddress, Who::At(login.from)),
                    TooMany::Name => (Limit::FailuresPerUser, Who::User(login.name)),
                };
                if let Some(line) = self.reached(limit, who, now) {
                    self.logger.warn(match who {
                        Who::User(_) => with_peer(line, *session, clients, Some(login.from)),
                        Who::All | Who::Queue(_) | Who::At(_) => line,
                    });
                }
            }
            Event::Guessing(Guessing { name, failures, addresses }) => {
                let line = Line::new("guessing").field("user", name).field("failures", failures);
                self.logger.warn(line.field("addresses", addresses));
            }
            Event::UserFull { session, login } => {
                if let Some(line) = self.reached(Limit::SessionsPerUser, Who::User(login.name), now) {
                    self.logger.warn(with_peer(line, *session, clients, Some(login.from)));
                }
            }
            Event::Limit { limit, user, queue } => {
                let who = match (user, queue) {
                    (Some(user), _) => Who::User(*user),
                    (None, Some(queue)) => Who::Queue(*queue),
                    (None, None) => Who::All,
                };
                if let Some(line) = self.reached(*limit, who, now) {
                    self.logger.warn(match (user, queue) {
                        (Some(_), Some(queue)) => line.field("queue", queue),
                        _ => line,
                    });
                }
            }
            Event::MadeWay { session, from } => {
                if let Some(line) = self.reached(Limit::Connections, Who::All, now) {
                    self.logger.warn(with_peer(line.field("closed", "the oldest"), *session, clients, Some(*from)));
                }
            }
            Event::Expired { messages } => {
                self.logger.info(Line::new("messages expired").field("messages", messages));
            }
        }
    }

    /// A line for each, and for an address that is throttled one in `QUIET_MS`, with the number of the others.
    fn failed(&mut self, session: SessionId, login: Ended, clients: &Clients, now: Millis) {
        let line = Line::new("auth failure").field("user", login.name);
        if !login.throttled {
            return self.logger.warn(with_peer(line, session, clients, Some(login.from)));
        }
        let known = self.failing.len() < FAILING_MAX || self.failing.contains_key(&Some(login.from));
        let key = known.then_some(login.from);
        let (repeated, last) = self.failing.entry(key).or_insert((Repeated::new(QUIET_MS), login.name));
        *last = login.name;
        if let Some(more) = repeated.hit(now) {
            let line = with_peer(line, session, clients, Some(login.from));
            self.logger.warn(if more > 0 { line.field("more", more) } else { line });
        }
    }

    /// The line that tells of it, unless one did a moment ago.
    fn reached(&mut self, limit: Limit, who: Who, now: Millis) -> Option<Line> {
        let apart = self.limits.len() < FAILING_MAX || self.limits.contains_key(&(limit, who));
        // Counted together, they are nobody's.
        let who = if apart { who } else { Who::All };
        let more = self.limits.entry((limit, who)).or_insert_with(|| Repeated::new(QUIET_MS)).hit(now)?;
        Some(who.named(Line::new("limit reached").field("limit", limit.key()).field("more", more)))
    }

    /// A connection could not be accepted.
    pub fn accept_failed(&mut self, error: &io::Error, now: Millis) {
        self.due = self.due.min(now + QUIET_MS);
        if let Some(more) = self.accept.hit(now) {
            self.logger.warn(Line::new("accepting paused").field("cause", error).field("more", more));
        }
    }

    /// Tells what was counted and not told yet: nobody will.
    pub fn end(&mut self, now: Millis) {
        self.due = 0;
        self.settle(now.saturating_add(QUIET_MS));
    }

    /// Tells the ends of floods. `true` about every `QUIET_MS` in which something happened.
    pub fn settle(&mut self, now: Millis) -> bool {
        if self.due > now {
            return false;
        }
        self.due = NEVER;
        for ((limit, who), repeated) in &mut self.limits {
            if let Some(more) = repeated.settle(now) {
                let line = Line::new("limit reached").field("limit", limit.key()).field("more", more);
                self.logger.warn(who.named(line));
            }
        }
        self.limits.retain(|_, repeated| repeated.is_counting() || repeated.is_quiet(now));
        if let Some(more) = self.accept.settle(now) {
            self.logger.warn(Line::new("accepting paused").field("more", more));
        }
        for (from, (repeated, name)) in &mut self.failing {
            if let Some(more) = repeated.settle(now) {
                let line = with_address(Line::new("auth failure").field("user", name), *from);
                self.logger.warn(line.field("more", more));
            }
        }
        self.failing.retain(|_, (repeated, _)| repeated.is_counting() || repeated.is_quiet(now));
        if !self.failing.is_empty() || self.accept.is_counting() || !self.limits.is_empty() {
            self.due = now + QUIET_MS;
        }
        true
    }
}

/// Adds where the client is, or, when it has left, where it was.
fn with_peer(line: Line, session: SessionId, clients: &Clients, from: Option<AddressKey>) -> Line {
    if let Some((peer, dialect)) = clients.peer_of(session) {
        let line = line.field("addr", spelling::of_host(peer)).field("port", peer.port());
        return line.field("listener", dialect.name());
    }
    with_address(line, from)
}

/// Without the /64 of IPv6: what reads these lines takes an address.
fn with_address(line: Line, from: Option<AddressKey>) -> Line {
    match from {
        Some(AddressKey::V4(bits)) => line.field("addr", Ipv4Addr::from_bits(bits)),
        Some(AddressKey::V6(bits)) => line.field("addr", Ipv6Addr::from_bits(u128::from(bits) << 64)),
        Some(AddressKey::Local(_)) | None => line,
    }
}
