//! The event loop: the only poll, the only clock. It owns every socket and the engine, and carries everything between
//! them, the store, the verifiers and the operators. Nothing in it waits for anything but the poll.

mod handover;
mod reconfigure;

use std::io::{self, ErrorKind};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;

use super::auth_pool::{Against, AuthPool, Done, Job};
use super::config::{Arguments, Config};
use super::conn::Clients;
use super::exit::{ExitCode, Fatal};
use super::health::{Health, stall_line};
use super::journalist::Journalist;
use super::listeners::{ControlFile, StreamListener};
use super::logging::{Line, Logger};
use super::notify::{Notice, Notifier};
use super::operators::Operators;
use super::port::{StorePort, last_word};
use super::reload::Reload;
use super::wall_clock;
use crate::engine::port::FromStore;
use crate::engine::{Engine, Verification};
use crate::proto::session::NEVER;
use crate::proto::types::Millis;

/// Tokens of the poll. Listeners and operators have the ranges below `CLIENTS`.
pub const WAKER: Token = Token(0);
const SIGNALS: Token = Token(1);
const LISTENERS: usize = 16;
const OPERATORS: usize = 1024;
const CLIENTS: usize = 4096;
const LINGERING: usize = 1 << 40;

/// Events taken from one poll.
const EVENTS_MAX: usize = 1024;
/// Connections accepted from one listener in one round.
const ACCEPTS_PER_ROUND: usize = 64;
/// How long accepting pauses when the system has no descriptor or memory left.
const ACCEPT_PAUSE_MS: Millis = 200;
/// What the store has at least to close, of that or beyond it.
const CLOSE_MIN_MS: Millis = 250;
/// How long a stop waits for what is under way.
const STOP_MS: Millis = 2000;

/// The time at the start, some 34 years: connections of a predecessor are older than this process.
pub const CLOCK_ORIGIN: Millis = 1 << 40;

/// What the loop is made of; all of it started, the poll's waker given to those that wake it.
pub struct Parts {
    pub poll: Poll,
    pub engine: Engine,
    pub store: Box<dyn StorePort>,
    pub pool: AuthPool,
    pub verifiers: usize,
    pub streams: Vec<StreamListener>,
    pub operators: Operators,
    pub control_files: Vec<ControlFile>,
    pub signals: Signals,
    pub notifier: Notifier,
    pub logger: Logger,
    pub arguments: Arguments,
    pub config: Config,
    pub waker: std::sync::Arc<mio::Waker>,
    /// Sessions at most, whatever the configuration says.
    pub connections_max: u32,
}

/// The loop's state.
pub struct Reactor {
    parts: Parts,
    started: Instant,
    clients: Clients,
    listeners: Vec<Listening>,
    accept_paused_until: Millis,
    /// When the poll whose answer is dealt with was asked.
    asked: Millis,
    /// Polls in a row that had more to tell than fits.
    full_polls: usize,
    verifying: usize,
    journalist: Journalist,
    health: Health,
    reload: Reload,
    /// What systemd was told last.
    status: String,
    stop_at: Millis,
    /// The stop leaves the connections to a successor.
    handing_over: bool,
}

struct Listening {
    listener: StreamListener,
    ready: bool,
}

impl Reactor {
    /// The range of tokens for operators.
    pub const OPERATOR_TOKENS: std::ops::Range<usize> = OPERATORS..CLIENTS;

    /// Registers what listens. Errors: [`ExitCode::System`].
    pub fn new(mut parts: Parts, started: Instant) -> Result<Reactor, Fatal> {
        let system = |e: io::Error| Fatal::new(ExitCode::System, format!("cannot watch a socket: {e}"));
        let registry = parts.poll.registry();
        registry.register(&mut parts.signals, SIGNALS, Interest::READABLE).map_err(system)?;
        let mut listeners = Vec::new();
        for (number, mut listener) in std::mem::take(&mut parts.streams).into_iter().enumerate() {
            let token = Token(LISTENERS + number);
            if token.0 >= OPERATORS {
                return Err(Fatal::new(ExitCode::Config, "too many addresses to listen on"));
            }
            registry.register(&mut listener.socket, token, Interest::READABLE).map_err(system)?;
            listeners.push(Listening { listener, ready: true });
        }
        let wake = std::sync::Arc::clone(&parts.waker);
        let wake = move || drop(wake.wake());
        let (interval, progress) = (parts.notifier.watchdog_interval(), parts.pool.progress());
        let health = Health::start(interval, progress, wake, parts.logger.clone())?;
        let journalist = Journalist::new(parts.logger.clone());
        let files = std::mem::take(&mut parts.control_files);
        let reload = Reload::new(parts.arguments.clone(), files, std::sync::Arc::clone(&parts.waker));
        Ok(Reactor {
            parts,
            started,
            clients: Clients::new(CLIENTS, LINGERING),
            listeners,
            accept_paused_until: 0,
            asked: CLOCK_ORIGIN,
            full_polls: 0,
            verifying: 0,
            journalist,
            health,
            reload,
            status: String::new(),
            stop_at: NEVER,
            handing_over: false,
        })
    }

    /// How to tell the service manager.
    pub fn notifier(&self) -> &Notifier {
        &self.parts.notifier
    }

    /// Serves until a signal says to stop. Errors: [`ExitCode::System`] when the store or the poll is broken.
    pub fn run(mut self) -> Result<(), Fatal> {
        let mut events = Events::with_capacity(EVENTS_MAX);
        let result = loop {
            let timeout = self.timeout();
            self.asked = self.now();
            match self.parts.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => break Err(Fatal::new(ExitCode::System, format!("cannot wait for events: {error}"))),
            }
            match self.round(&events) {
                Ok(false) => {}
                Ok(true) => break Ok(()),
                Err(fatal) => break Err(fatal),
            }
        };
        let now = self.now();
        self.parts.operators.finish();
        if self.handing_over && result.is_ok() {
            self.hand_over(now);
        }
        self.clients.drop_all(&mut self.parts.engine, now);
        self.parts.pool.abandon();
        let patience = Duration::from_millis(self.stop_at.saturating_sub(now).max(CLOSE_MIN_MS));
        let queued = self.parts.engine.queued_messages();
        let last = close_in_time(self.parts.store, patience)
            .iter()
            .find_map(|result| last_word(result, queued, &self.parts.arguments));
        self.parts.notifier.finish(Duration::from_millis(200));
        result.and(last.map_or(Ok(()), Err))
    }

    /// Milliseconds since the start, and [`CLOCK_ORIGIN`].
    fn now(&self) -> Millis {
        CLOCK_ORIGIN + Millis::try_from(self.started.elapsed().as_millis()).unwrap_or(Millis::MAX - CLOCK_ORIGIN)
    }

    /// Reads both clocks and tells everybody, before anything is done at that time: messages are stamped with it.
    fn read_clocks(&mut self) -> Millis {
        let now = self.now();
        let wall = wall_clock();
        self.parts.engine.set_wall_clock(wall.as_secs());
        self.parts.operators.set_clock(now, wall);
        now
    }

    fn timeout(&self) -> Option<Duration> {
        let accepts = self.listeners.iter().any(|l| l.ready) && self.stop_at == NEVER;
        if (self.clients.has_turns() && !self.handing_over) || (accepts && self.accept_paused_until == 0) {
            return Some(Duration::ZERO);
        }
        let next = [
            if self.handing_over { NEVER } else { self.parts.engine.next_deadline() },
            self.clients.next_deadline(),
            self.parts.operators.next_deadline(),
            self.journalist.next_deadline(),
            self.health.next_deadline(),
            self.stop_at,
            if accepts { self.accept_paused_until } else { NEVER },
        ];
        let next = next.into_iter().min().filter(|next| *next != NEVER)?;
        Some(Duration::from_millis(next.saturating_sub(self.now())))
    }

    /// One round: everything that is ready gets its turn. `true`: the daemon has stopped.
    fn round(&mut self, events: &Events) -> Result<bool, Fatal> {
        let now = self.read_clocks();
        for event in events {
            match event.token() {
                WAKER => {}
                SIGNALS => self.signals(now),
                Token(LISTENERS..OPERATORS) => {
                    if let Some(listening) = self.listeners.get_mut(event.token().0 - LISTENERS) {
                        listening.ready = true;
                    }
                }
                Token(OPERATORS..CLIENTS) => self.parts.operators.ready(event, self.parts.poll.registry()),
                _ => self.clients.ready(event, &mut self.parts.engine, self.parts.poll.registry(), now),
            }
        }
        self.collect(now)?;
        self.accept(now);
        if !self.handing_over {
            self.clients.take_turns(&mut self.parts.engine, now);
        }
        self.submit(now)?;
        if !self.handing_over && self.has_seen_all(events) {
            // Not what has run out since: the answer to a poll may be older than a time at which the process stood still.
            self.parts.engine.expire(self.asked);
        }
        self.clients.expire(now);
        self.parts.operators.turn(&mut self.parts.engine, &self.parts.pool, &self.clients, self.parts.poll.registry());
        self.log_events(now);
        self.flush(now);
        self.submit(now)?;
        self.verify(now);
        self.tell(now);
        let stopped = self.has_stopped(now);
        if stopped {
            self.journalist.end(now);
        }
        Ok(stopped)
    }

    /// Whether everything that was ready has been looked at. After the process or the machine stood still, timers have
    /// run out for clients whose input is there already: it counts, so it is read before time is.
    fn has_seen_all(&mut self, events: &Events) -> bool {
        self.full_polls = if events.iter().count() < EVENTS_MAX { 0 } else { self.full_polls + 1 };
        // What comes anew stands behind what was there: under a load that never ends, timers are late by this at most.
        let rounds_max = self.parts.engine.connections() as usize / EVENTS_MAX + 1;
        if self.full_polls > rounds_max {
            self.full_polls = 0;
        }
        self.full_polls == 0
    }

    /// Takes results from the store and the verifiers.
    fn collect(&mut self, now: Millis) -> Result<(), Fatal> {
        while let Some(result) = self.parts.store.try_recv() {
            if let Some(fatal) = last_word(&result, self.parts.engine.queued_messages(), &self.parts.arguments) {
                return Err(fatal);
            }
            self.parts.engine.from_store(result, now);
        }
        while let Some(done) = self.parts.pool.try_next() {
            match done {
                Done::Verified { token, ok, rehash, problem } => {
                    self.verifying = self.verifying.saturating_sub(1);
                    if let Some(problem) = problem {
                        self.parts.logger.error(Line::new("password not verified").field("cause", problem));
                    }
                    self.parts.engine.verified(token, ok, rehash, now);
                }
                Done::Hashed { request, phc } => self.parts.operators.hashed(request, phc, &mut self.parts.engine),
            }
        }
        if let Some(stalled) = self.health.round(self.parts.store.progress()) {
            self.parts.logger.error(stall_line(stalled));
            self.parts.engine.store_stalls(stalled, now);
        }
        if let Some(loaded) = self.reload.take() {
            self.reconfigure(loaded);
        }
        if self.reload.wants_again() && !self.reload.begin(&self.parts.logger) {
            self.parts.notifier.send(Notice::Ready);
        }
        Ok(())
    }

    fn submit(&mut self, now: Millis) -> Result<(), Fatal> {
        while let Some(batch) = self.parts.engine.next_batch(now) {
            if !self.parts.store.submit(batch) {
                // Its last word may be waiting.
                while let Some(result) = self.parts.store.try_recv() {
                    if let Some(fatal) = last_word(&result, self.parts.engine.queued_messages(), &self.parts.arguments)
                    {
                        return Err(fatal);
                    }
                }
                return Err(Fatal::new(ExitCode::System, "the store does not take any more work"));
            }
        }
        Ok(())
    }

    fn flush(&mut self, now: Millis) {
        while let Some(id) = self.parts.engine.next_dirty() {
            self.clients.flush(id, &mut self.parts.engine, self.parts.poll.registry(), now);
        }
    }

    /// Keeps the verifiers busy without piling work up in front of them: what waits is the engine's to order.
    fn verify(&mut self, now: Millis) {
        while self.verifying < 2 * self.parts.verifiers {
            let Some(Verification { session, password, hash }) = self.parts.engine.next_verification(now) else {
                return;
            };
            let against = hash.map_or(Against::Dummy, Against::Stored);
            match self.parts.pool.try_submit(Job::Verify { token: session, password, against }) {
                Ok(()) => self.verifying += 1,
                // Operators' hashes have filled the queue; nobody gets in unverified.
                Err(_) => self.parts.engine.verified(session, false, None, now),
            }
        }
    }

    fn accept(&mut self, now: Millis) {
        if self.stop_at != NEVER || self.accept_paused_until > now {
            return;
        }
        self.accept_paused_until = 0;
        for listening in &mut self.listeners {
            for _ in 0..ACCEPTS_PER_ROUND {
                if !listening.ready {
                    break;
                }
                match listening.listener.socket.accept() {
                    Ok((stream, peer)) => {
                        let (engine, registry) = (&mut self.parts.engine, self.parts.poll.registry());
                        let dialect = listening.listener.dialect;
                        if let Err(error) = self.clients.add(stream, peer, dialect, engine, registry, now) {
                            self.journalist.accept_failed(&error, now);
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => listening.ready = false,
                    // The client went away again, or the network told of an older fault.
                    Err(error) if is_the_clients(&error) => {}
                    // No descriptor or memory is left, or it is something that will not go away at once.
                    Err(error) => {
                        self.accept_paused_until = now + ACCEPT_PAUSE_MS;
                        self.journalist.accept_failed(&error, now);
                        return;
                    }
                }
            }
        }
    }

    fn signals(&mut self, now: Millis) {
        let pending: Vec<i32> = self.parts.signals.pending().collect();
        for signal in pending {
            match signal {
                SIGTERM | SIGINT => self.stop(signal, now),
                SIGHUP if self.parts.config.hangup_ends => self.stop(signal, now),
                SIGHUP => {
                    self.parts.notifier.send(Notice::Reloading);
                    if !self.reload.begin(&self.parts.logger) {
                        self.parts.notifier.send(Notice::Ready);
                    }
                }
                _ => {}
            }
        }
    }

    fn stop(&mut self, signal: i32, now: Millis) {
        if self.stop_at != NEVER {
            return;
        }
        let name = match signal {
            SIGTERM => "TERM",
            SIGHUP => "HUP",
            _ => "INT",
        };
        self.parts.logger.info(Line::new("stopping").field("signal", name));
        self.parts.notifier.send(Notice::Stopping);
        self.stop_at = now + STOP_MS;
        for listening in &mut self.listeners {
            let _ = self.parts.poll.registry().deregister(&mut listening.listener.socket);
        }
        self.parts.operators.stop(self.parts.poll.registry());
        // Without a service manager there is nobody to keep the connections.
        self.handing_over = self.parts.notifier.is_active();
        if self.handing_over {
            self.parts.engine.pause();
        } else {
            self.parts.engine.stop();
        }
    }

    fn has_stopped(&self, now: Millis) -> bool {
        if self.stop_at == NEVER {
            return false;
        }
        let gone = self.handing_over || self.parts.engine.connections() == 0;
        let quiet = gone && self.parts.engine.is_idle();
        now >= self.stop_at || (quiet && self.clients.lingering() == 0 && self.parts.operators.is_drained())
    }

    /// Before a session's end is carried out: its line says where the client is.
    fn log_events(&mut self, now: Millis) {
        while let Some(event) = self.parts.engine.next_event() {
            self.journalist.tell(&event, &self.clients, now);
        }
    }

    /// Log lines, status and watchdog.
    fn tell(&mut self, now: Millis) {
        self.log_events(now);
        let settled = self.journalist.settle(now);
        let due = self.health.is_due(now);
        if due && self.health.check(&self.parts.pool.progress()) {
            self.parts.notifier.send(Notice::Watchdog);
        }
        if (settled || due) && self.parts.notifier.is_active() {
            self.tell_status();
        }
    }

    /// The line of `systemctl status`, when it is not what it was.
    fn tell_status(&mut self) {
        let (connections, messages) = (self.parts.engine.connections(), self.parts.engine.queued_messages());
        let status = format!("connections: {connections}, queued messages: {messages}");
        if status != self.status && self.parts.notifier.send(Notice::Status(status.clone())) {
            self.status = status;
        }
    }
}

/// Closes the store, but does not wait for a disk that hangs: a store that is not closed loses nothing. Returns what came
/// from it yet.
fn close_in_time(store: Box<dyn StorePort>, patience: Duration) -> Vec<FromStore> {
    let (sender, closed) = sync_channel(1);
    // Nobody listens any more when it took too long.
    let close = move || drop(sender.send(store.close()));
    match std::thread::Builder::new().name("close".to_string()).spawn(close) {
        Ok(_) => closed.recv_timeout(patience).unwrap_or_default(),
        Err(_) => Vec::new(),
    }
}

/// Whether accept(2) told of a fault of one connection, which is gone with that.
fn is_the_clients(error: &io::Error) -> bool {
    use nix::errno::Errno;
    let of_one = [
        Errno::ECONNABORTED,
        Errno::EINTR,
        Errno::EPROTO,
        Errno::ENETDOWN,
        Errno::ENOPROTOOPT,
        Errno::EHOSTDOWN,
        Errno::ENONET,
        Errno::EHOSTUNREACH,
        Errno::EOPNOTSUPP,
        Errno::ENETUNREACH,
        Errno::ETIMEDOUT,
    ];
    error.raw_os_error().is_some_and(|code| of_one.contains(&Errno::from_raw(code)))
}
