//! Carries operators' requests from the control socket to the engine, and the answers back. A password is hashed by the
//! verifiers before the engine sees the request.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use cp_proto::values::Password;
use cpd_control::answer::{AnswerContext, StatusDetails, render};
use cpd_control::rfc3339;
use cpd_core::engine::Engine;
use cpd_core::engine::port::{RequestId, SessionId};
use cpd_core::engine::requests::{AdminResult, Request};
use cpd_core::time::Millis;
use mio::Registry;
use mio::event::Event;
use mio::net::UnixListener;

use super::auth_pool::{AuthPool, Job};
use super::clients::Clients;
use super::control_hub::{Caller, Hub, HubEvent, IncomingRequest};
use super::logging::{LogLine, Logger};
use super::operator_log::log_line;
use super::wall_time::WallTimeConverter;
use crate::auth::AuthError;

/// Ids from here on are those of requests that the daemon makes itself.
const OWN_REQUESTS_FROM: u64 = 1 << 63;
/// Requests handled in one iteration of the loop; a listing may look at every session.
const REQUESTS_PER_TURN: usize = 8;

/// The operators' side of the event loop.
pub struct Operators {
    hub: Hub,
    logger: Logger,
    /// Requests under way.
    pending: HashMap<RequestId, (Request<()>, Caller)>,
    /// The last id of a request that the daemon made itself.
    last_own_request: u64,
    /// The loop's time, on the monotonic clock.
    now: Millis,
    /// The wall clock's time since 1970.
    wall: Duration,
    clock: WallTimeConverter,
    started: Millis,
    details: StatusDetails,
}

impl Operators {
    /// `started` is the loop's time of the start, from which uptime is counted, independent of the wall clock.
    pub fn new(hub: Hub, logger: Logger, started: Millis, details: StatusDetails) -> Operators {
        Operators {
            hub,
            logger,
            pending: HashMap::new(),
            last_own_request: OWN_REQUESTS_FROM,
            now: started,
            wall: Duration::ZERO,
            clock: WallTimeConverter::default(),
            started,
            details,
        }
    }

    /// A configuration was read and applied, except for the keys in `needs_restart`.
    pub fn configuration_applied(&mut self, needs_restart: Vec<String>) {
        let configuration = &mut self.details.configuration;
        configuration.read_at = rfc3339(self.wall.as_secs());
        (configuration.problem, configuration.problem_since) = (None, None);
        configuration.needs_restart = needs_restart;
    }

    /// A configuration could not be read or is invalid, for the reason `problem`, and was not applied.
    pub fn configuration_failed(&mut self, problem: &str) {
        let configuration = &mut self.details.configuration;
        configuration.problem = Some(problem.to_owned());
        // A repeated failure keeps the time of the first.
        configuration.problem_since.get_or_insert_with(|| rfc3339(self.wall.as_secs()));
    }

    /// Sets the loop's time, and the wall clock's time since 1970.
    pub fn set_clock(&mut self, now: Millis, wall: Duration) {
        (self.now, self.wall) = (now, wall);
        self.clock.note_reading(now, wall);
    }

    /// When [`Operators::turn`] must run at the latest.
    pub fn next_deadline(&self) -> Millis {
        self.hub.next_deadline()
    }

    /// Handles an event of a control socket or one of its connections.
    pub fn handle_event(&mut self, event: &Event, registry: &Registry) {
        self.hub.handle_event(event, registry, self.now);
    }

    /// Handles a bounded number of requests, and sends answers. An answer lets the next request of its connection be
    /// read, so an operator who asks without a pause gets one turn in each iteration of the loop, as clients do.
    pub fn turn(&mut self, engine: &mut Engine, pool: &AuthPool, clients: &Clients, registry: &Registry) {
        self.hub.expire(registry, self.now);
        for _ in 0..REQUESTS_PER_TURN {
            let Some(incoming) = self.hub.next_request() else {
                break;
            };
            self.begin_request(incoming, engine, pool);
        }
        while let Some((id, result)) = engine.next_result() {
            self.answer(id, result, clients);
        }
        while let Some(event) = self.hub.next_event() {
            match event {
                HubEvent::BackupAbandoned(backup) => {
                    self.last_own_request += 1;
                    engine.admin(RequestId(self.last_own_request), Request::StoreBackupEnd { backup }, self.now);
                }
                other => self.logger.warn(LogLine::new("control").field("event", other)),
            }
        }
    }

    /// The password of an operator's request was hashed: passes the request on to the engine.
    pub fn password_hashed(&mut self, id: RequestId, phc: Result<String, AuthError>, engine: &mut Engine) {
        let Some((request, _)) = self.pending.get(&id) else {
            return;
        };
        match phc {
            Ok(hash) => engine.admin(id, request.map_password(|()| hash), self.now),
            Err(cause) => engine.refuse(id, AdminResult::Failed(format!("the password was not hashed: {cause}"))),
        }
    }

    /// Replaces the control socket by `socket`.
    ///
    /// # Errors
    /// `socket` cannot be registered; the old one stays.
    pub fn replace_listener(&mut self, socket: UnixListener, registry: &Registry) -> io::Result<()> {
        self.hub.replace_listener(socket, registry, self.now)
    }

    /// The daemon is stopping: no further request is accepted, and those under way are still answered.
    pub fn stop(&mut self, registry: &Registry) {
        // Dropping the sockets closes them. A file that was made for one is removed with its `ControlFile`.
        drop(self.hub.stop(registry, self.now));
    }

    /// Whether no connection is left.
    pub fn is_drained(&self) -> bool {
        self.hub.is_drained()
    }

    /// Answers what is under way that the daemon is stopping, and closes all connections.
    pub fn finish(&mut self) {
        self.hub.finish(self.now);
    }

    fn begin_request(&mut self, incoming: IncomingRequest, engine: &mut Engine, pool: &AuthPool) {
        let IncomingRequest { id, request, peer } = incoming;
        let mut password: Option<Password> = None;
        let request = request.map_password(|given| password = Some(given));
        self.pending.insert(id, (request, peer));
        match password.map(|password| pool.try_submit(Job::HashNew { request: id, password })) {
            // Without a password there is none to replace.
            None => engine.admin(id, request.map_password(|()| String::new()), self.now),
            Some(Ok(())) => {}
            Some(Err(_)) => engine.refuse(id, AdminResult::Busy),
        }
    }

    fn answer(&mut self, id: RequestId, result: AdminResult, clients: &Clients) {
        let Some((request, peer)) = self.pending.remove(&id) else {
            return;
        };
        if let Some(line) = log_line(&request, peer, &result) {
            self.logger.info(line);
        }
        if let AdminResult::Backup { backup, .. } = &result {
            self.hub.attach_backup(id, *backup);
        }
        let peer_of =
            |session: SessionId| clients.peer_of(session).map(|(peer, kind)| (peer.host_and_port(), kind.name()));
        let context = AnswerContext {
            version: env!("CARGO_PKG_VERSION"),
            uptime_seconds: self.now.saturating_sub(self.started) / 1000,
            wall_seconds_at: &|at| self.clock.wall_seconds_at(at),
            details: &self.details,
            peer_of: &peer_of,
        };
        self.hub.answer(id, render(&request, result, &context), self.now);
    }
}
