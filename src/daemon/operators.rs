//! What operators ask over the control socket, carried to the engine and back. A password is hashed by the verifiers'
//! threads before the engine sees the request.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use mio::Registry;
use mio::event::Event;
use mio::net::UnixListener;

use super::admin::{self, AfterHash, Asked, Context, Details, Task};
use super::auth_pool::{AuthPool, Job};
use super::conn::Clients;
use super::control_conn::{Hub, HubEvent, Incoming, Peer};
use super::logging::{Line, Logger};
use super::spelling;
use super::wall::WallClock;
use crate::auth::AuthError;
use crate::control::rfc3339;
use crate::engine::Engine;
use crate::engine::events::{AdminRequest, AdminResult};
use crate::engine::port::{RequestId, SessionId};
use crate::proto::types::{Millis, Username};

/// Requests that the daemon makes itself have ids from here on.
const OWN_REQUESTS: u64 = 1 << 63;
/// Requests taken up in one round; a listing may cost a look at every session.
const REQUESTS_PER_TURN: usize = 8;

/// The operators' side of the event loop.
pub struct Operators {
    hub: Hub,
    logger: Logger,
    asked: HashMap<RequestId, (Asked, Peer)>,
    hashing: HashMap<RequestId, (Username, AfterHash)>,
    own_requests: u64,
    now: Millis,
    wall: Duration,
    clock: WallClock,
    started: Millis,
    details: Details,
}

impl Operators {
    /// `started`: the time of the start, from which uptime counts, whatever becomes of the wall clock.
    pub fn new(hub: Hub, logger: Logger, started: Millis, details: Details) -> Operators {
        Operators {
            hub,
            logger,
            asked: HashMap::new(),
            hashing: HashMap::new(),
            own_requests: OWN_REQUESTS,
            now: started,
            wall: Duration::ZERO,
            clock: WallClock::default(),
            started,
            details,
        }
    }

    /// A configuration was read and is in force, but for these keys.
    pub fn configured(&mut self, needs_restart: Vec<String>) {
        let configuration = &mut self.details.configuration;
        configuration.read_at = rfc3339(self.wall.as_secs());
        (configuration.problem, configuration.problem_since) = (None, None);
        configuration.needs_restart = needs_restart;
    }

    /// A configuration was read and is not in force, for this reason.
    pub fn not_configured(&mut self, problem: &str) {
        let configuration = &mut self.details.configuration;
        configuration.problem = Some(problem.to_owned());
        // The same trouble found again is no newer trouble.
        configuration.problem_since.get_or_insert_with(|| rfc3339(self.wall.as_secs()));
    }

    /// It is `now`, and `wall` since 1970.
    pub fn set_clock(&mut self, now: Millis, wall: Duration) {
        (self.now, self.wall) = (now, wall);
        self.clock.read(now, wall);
    }

    pub fn next_deadline(&self) -> Millis {
        self.hub.next_deadline()
    }

    /// A control socket or one of its connections is ready.
    pub fn ready(&mut self, event: &Event, registry: &Registry) {
        self.hub.ready(event, registry, self.now);
    }

    /// Takes up requests, a bounded number, and hands out answers. An answer lets the next request of its connection be
    /// read, so what asks without a pause has a turn in each round, as clients have.
    pub fn turn(&mut self, engine: &mut Engine, pool: &AuthPool, clients: &Clients, registry: &Registry) {
        self.hub.expire(registry, self.now);
        for _ in 0..REQUESTS_PER_TURN {
            let Some(incoming) = self.hub.next_request() else {
                break;
            };
            self.take(incoming, engine, pool);
        }
        while let Some((id, result)) = engine.next_result() {
            self.answer(id, result, clients);
        }
        while let Some(event) = self.hub.next_event() {
            match event {
                HubEvent::BackupAbandoned(backup) => {
                    self.own_requests += 1;
                    engine.admin(RequestId(self.own_requests), AdminRequest::BackupEnd { backup }, self.now);
                }
                other => self.logger.warn(Line::new("control").field("event", other)),
            }
        }
    }

    /// A password for an operator's request was hashed.
    pub fn hashed(&mut self, id: RequestId, phc: Result<String, AuthError>, engine: &mut Engine) {
        let Some((name, then)) = self.hashing.remove(&id) else {
            return;
        };
        match (phc, then) {
            (Ok(hash), AfterHash::Add) => engine.admin(id, AdminRequest::UserAdd { name, hash }, self.now),
            (Ok(hash), AfterHash::Passwd { keep_sessions }) => {
                engine.admin(id, AdminRequest::UserPasswd { name, hash, keep_sessions }, self.now);
            }
            (Err(cause), _) => engine.refuse(id, AdminResult::Failed(format!("the password was not hashed: {cause}"))),
        }
    }

    /// `socket` takes the place of the control socket. Error: as the registry says, and the old one stays.
    pub fn renew(&mut self, socket: UnixListener, registry: &Registry) -> io::Result<()> {
        self.hub.renew(socket, registry, self.now)
    }

    /// The daemon stops: no further request is taken, those under way are still answered.
    pub fn stop(&mut self, registry: &Registry) {
        // The sockets close when they are dropped; a file that was made for one goes with the listeners.
        drop(self.hub.stop(registry, self.now));
    }

    /// Whether nobody waits for an answer.
    pub fn is_drained(&self) -> bool {
        self.hub.is_drained()
    }

    /// Ends what is left.
    pub fn finish(&mut self) {
        self.hub.finish(self.now);
    }

    fn take(&mut self, incoming: Incoming, engine: &mut Engine, pool: &AuthPool) {
        let Incoming { id, request, peer } = incoming;
        let (task, asked) = admin::task(request, self.wall.as_secs());
        self.asked.insert(id, (asked, peer));
        match task {
            Task::Ping => {
                self.asked.remove(&id);
                self.hub.answer(id, admin::pong(env!("CARGO_PKG_VERSION")), self.now);
            }
            Task::Engine(request) => engine.admin(id, request, self.now),
            Task::Hash { name, password, then } => match pool.try_submit(Job::HashNew { request: id, password }) {
                Ok(()) => {
                    self.hashing.insert(id, (name, then));
                }
                Err(_) => engine.refuse(id, AdminResult::Busy),
            },
        }
    }

    fn answer(&mut self, id: RequestId, result: AdminResult, clients: &Clients) {
        let Some((asked, peer)) = self.asked.remove(&id) else {
            return;
        };
        if let Some(line) = admin::log_line(&asked, peer, &result) {
            self.logger.info(line);
        }
        if let AdminResult::Backup { backup, .. } = &result {
            self.hub.holds_backup(id, *backup);
        }
        let peer_of = |session: SessionId| {
            clients.peer_of(session).map(|(peer, dialect)| (spelling::of_peer(peer), dialect.name()))
        };
        let context = Context {
            version: env!("CARGO_PKG_VERSION"),
            uptime_seconds: self.now.saturating_sub(self.started) / 1000,
            clock: self.clock,
            details: &self.details,
            peer_of: &peer_of,
        };
        self.hub.answer(id, admin::render(&asked, result, &context), self.now);
    }
}
