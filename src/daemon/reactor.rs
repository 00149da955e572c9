//! The event loop. It owns the poll, every socket and the engine, reads the clocks, and carries everything between the
//! engine, the store, the verifiers and the operators. While it runs, it blocks in the poll only.

mod handover;
mod reconfigure;

use std::io::{self, ErrorKind};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use cpd_core::engine::port::FromStore;
use cpd_core::engine::{Engine, Verification};
use cpd_core::time::{Millis, NEVER};
use mio::{Events, Interest, Poll, Token};
use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;

use super::auth_pool::{AuthPool, Job, JobResult, VerifyAgainst};
use super::clients::Clients;
use super::clock::wall_clock;
use super::config::{Arguments, Config};
use super::exit::{ExitCode, Fatal};
use super::health::{Health, store_stall_line};
use super::listeners::{ControlFile, StreamListener};
use super::logging::{LogLine, Logger};
use super::notify::{Notice, Notifier};
use super::operators::Operators;
use super::port::{StorePort, fatal_outcome};
use super::reload::Reload;
use super::session_log::SessionLog;
use super::transport::{Peer, Stream};

/// The poll's token of the waker. The store, the verifiers, the health thread and a reload wake the loop with it.
pub const WAKER: Token = Token(0);
// The token of the signals, and the first token of each kind of socket; a range ends where the next one begins.
const SIGNALS: Token = Token(1);
const LISTENERS: usize = 16;
const OPERATORS: usize = 1024;
const CLIENTS: usize = 4096;
const LINGERING: usize = 1 << 40;

/// The most events that one poll returns.
const EVENTS_MAX: usize = 1024;
/// Connections accepted from one listener in one iteration of the loop.
const ACCEPTS_PER_ITERATION: usize = 64;
/// How long accepting pauses when the system has no descriptor or memory left.
const ACCEPT_PAUSE_MS: Millis = 200;
/// The least time that the store gets to close, even if [`STOP_MS`] is used up.
const CLOSE_MIN_MS: Millis = 250;
/// How long a stop waits for replies, answers and writes under way; what is left of it is for closing the store.
const STOP_MS: Millis = 2000;

/// The loop's time when the process starts, about 34 years: a predecessor's connections are older than the process.
pub const CLOCK_ORIGIN: Millis = 1 << 40;

/// The components of the loop. All of them have been started, and those that wake the loop have the waker.
pub struct ReactorParts {
    pub poll: Poll,
    pub engine: Engine,
    pub store: Box<dyn StorePort>,
    pub pool: AuthPool,
    /// Threads that verify passwords.
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
    /// The most sessions that the limit of open files allows, whatever the configuration says.
    pub connections_max: u32,
}

/// The loop's state.
pub struct Reactor {
    parts: ReactorParts,
    started: Instant,
    clients: Clients,
    listeners: Vec<PolledListener>,
    /// Nothing is accepted before this time; 0 if accepting is not paused.
    accept_paused_until: Millis,
    /// When the poll began whose events are being handled.
    polled_at: Millis,
    /// How many polls in a row returned as many events as fit.
    full_polls: usize,
    /// Passwords that were given to the verifiers and have no result yet.
    verifying: usize,
    session_log: SessionLog,
    health: Health,
    reload: Reload,
    /// The last status that the service manager was sent.
    status: String,
    stop_at: Millis,
    /// The daemon is stopping, and leaves its connections to a successor.
    handing_over: bool,
}

struct PolledListener {
    listener: StreamListener,
    /// A connection may be waiting: readiness is edge-triggered.
    ready: bool,
}

impl Reactor {
    /// The range of tokens for the control socket and its connections.
    pub const OPERATOR_TOKENS: std::ops::Range<usize> = OPERATORS..CLIENTS;

    /// Registers the listeners and signals, and starts the health thread.
    ///
    /// # Errors
    /// [`ExitCode::System`] when one of these fails, [`ExitCode::Config`] for too many listeners.
    pub fn new(mut parts: ReactorParts, started: Instant) -> Result<Reactor, Fatal> {
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
            listeners.push(PolledListener { listener, ready: true });
        }
        let wake = std::sync::Arc::clone(&parts.waker);
        let wake = move || drop(wake.wake());
        let (interval, progress) = (parts.notifier.report_interval(), parts.pool.progress());
        let health = Health::start(interval, progress, wake, parts.logger.clone())?;
        let session_log = SessionLog::new(parts.logger.clone());
        let files = std::mem::take(&mut parts.control_files);
        let reload = Reload::new(parts.arguments.clone(), files, std::sync::Arc::clone(&parts.waker));
        Ok(Reactor {
            parts,
            started,
            clients: Clients::new(CLIENTS, LINGERING),
            listeners,
            accept_paused_until: 0,
            polled_at: CLOCK_ORIGIN,
            full_polls: 0,
            verifying: 0,
            session_log,
            health,
            reload,
            status: String::new(),
            stop_at: NEVER,
            handing_over: false,
        })
    }

    /// The connection to the service manager.
    pub fn notifier(&self) -> &Notifier {
        &self.parts.notifier
    }

    /// Serves until a signal stops the daemon.
    ///
    /// # Errors
    /// [`ExitCode::System`]: the store or the poll has failed; [`ExitCode::DamagedStore`]: somebody changed the store's
    /// files.
    pub fn run(mut self) -> Result<(), Fatal> {
        let mut events = Events::with_capacity(EVENTS_MAX);
        let result = loop {
            let timeout = self.timeout();
            self.polled_at = self.now();
            match self.parts.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => break Err(Fatal::new(ExitCode::System, format!("cannot wait for events: {error}"))),
            }
            match self.iterate(&events) {
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
        let last = close_store_within(self.parts.store, patience)
            .iter()
            .find_map(|result| fatal_outcome(result, queued, &self.parts.arguments));
        self.parts.notifier.finish(Duration::from_millis(200));
        result.and(last.map_or(Ok(()), Err))
    }

    /// Milliseconds since the start, plus [`CLOCK_ORIGIN`].
    fn now(&self) -> Millis {
        CLOCK_ORIGIN + Millis::try_from(self.started.elapsed().as_millis()).unwrap_or(Millis::MAX - CLOCK_ORIGIN)
    }

    /// Reads both clocks and passes the times on before anything else is done: messages are stamped with them.
    fn read_clocks(&mut self) -> Millis {
        let now = self.now();
        let wall = wall_clock();
        self.parts.engine.set_wall_clock(wall.as_secs());
        self.parts.operators.set_clock(now, wall);
        now
    }

    /// How long the next poll may wait; `None`: without end.
    fn timeout(&self) -> Option<Duration> {
        let accepts = self.listeners.iter().any(|l| l.ready) && self.stop_at == NEVER;
        if (self.clients.has_turns() && !self.handing_over) || (accepts && self.accept_paused_until == 0) {
            return Some(Duration::ZERO);
        }
        let next = [
            if self.handing_over { NEVER } else { self.parts.engine.next_deadline() },
            self.clients.next_deadline(),
            self.parts.operators.next_deadline(),
            self.session_log.next_deadline(),
            self.health.next_deadline(),
            self.stop_at,
            if accepts { self.accept_paused_until } else { NEVER },
        ];
        let next = next.into_iter().min().filter(|next| *next != NEVER)?;
        Some(Duration::from_millis(next.saturating_sub(self.now())))
    }

    /// One iteration of the loop: everything that is ready gets its turn. Returns `true` once the daemon has stopped.
    fn iterate(&mut self, events: &Events) -> Result<bool, Fatal> {
        let now = self.read_clocks();
        for event in events {
            match event.token() {
                WAKER => {}
                SIGNALS => self.handle_signals(now),
                Token(LISTENERS..OPERATORS) => {
                    if let Some(listening) = self.listeners.get_mut(event.token().0 - LISTENERS) {
                        listening.ready = true;
                    }
                }
                Token(OPERATORS..CLIENTS) => self.parts.operators.handle_event(event, self.parts.poll.registry()),
                _ => self.clients.handle_event(event, &mut self.parts.engine, self.parts.poll.registry(), now),
            }
        }
        self.handle_results(now)?;
        self.accept(now);
        if !self.handing_over {
            self.clients.take_turns(&mut self.parts.engine, now);
        }
        self.submit(now)?;
        if !self.handing_over && self.has_seen_all(events) {
            // Not `now`: the process may have stood still since the poll, and input that came meanwhile is not among
            // its events.
            self.parts.engine.expire(self.polled_at);
        }
        self.clients.expire(now);
        self.parts.operators.turn(&mut self.parts.engine, &self.parts.pool, &self.clients, self.parts.poll.registry());
        self.log_events(now);
        self.flush(now);
        self.submit(now)?;
        self.start_verifications(now);
        self.log_and_notify(now);
        let stopped = self.has_stopped(now);
        if stopped {
            self.session_log.flush_all(now);
        }
        Ok(stopped)
    }

    /// Whether everything that was ready has been looked at. Input that arrived while the process or the machine stood
    /// still counts, although timers have run out meanwhile: it is read before they are applied.
    fn has_seen_all(&mut self, events: &Events) -> bool {
        self.full_polls = if events.iter().count() < EVENTS_MAX { 0 } else { self.full_polls + 1 };
        // New events queue behind earlier ones: after this many full polls, all that was ready before has been seen.
        let full_polls_max = self.parts.engine.connections() as usize / EVENTS_MAX + 1;
        if self.full_polls > full_polls_max {
            self.full_polls = 0;
        }
        self.full_polls == 0
    }

    /// Handles the results of the store, of the verifiers and of a reload, and a store that stops or resumes answering.
    fn handle_results(&mut self, now: Millis) -> Result<(), Fatal> {
        while let Some(result) = self.parts.store.try_recv() {
            if let Some(fatal) = fatal_outcome(&result, self.parts.engine.queued_messages(), &self.parts.arguments) {
                return Err(fatal);
            }
            self.parts.engine.from_store(result, now);
        }
        while let Some(done) = self.parts.pool.try_next() {
            match done {
                JobResult::Verified { token, ok, rehash, problem } => {
                    self.verifying = self.verifying.saturating_sub(1);
                    if let Some(problem) = problem {
                        self.parts.logger.error(LogLine::new("password not verified").field("cause", problem));
                    }
                    self.parts.engine.verified(token, ok, rehash, now);
                }
                JobResult::Hashed { request, phc } => {
                    self.parts.operators.password_hashed(request, phc, &mut self.parts.engine)
                }
            }
        }
        if let Some(stalled) = self.health.on_loop_iteration(self.parts.store.progress()) {
            self.parts.logger.error(store_stall_line(stalled));
            self.parts.engine.set_store_stalled(stalled, now);
        }
        if let Some(loaded) = self.reload.take_result() {
            self.reconfigure(loaded);
        }
        if self.reload.take_repeat_request() && !self.reload.begin(&self.parts.logger) {
            self.parts.notifier.send(Notice::Ready);
        }
        Ok(())
    }

    fn submit(&mut self, now: Millis) -> Result<(), Fatal> {
        while let Some(batch) = self.parts.engine.next_batch(now) {
            if !self.parts.store.submit(batch) {
                // The reason may be among its results.
                while let Some(result) = self.parts.store.try_recv() {
                    if let Some(fatal) =
                        fatal_outcome(&result, self.parts.engine.queued_messages(), &self.parts.arguments)
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

    /// Keeps the verifiers busy, with few passwords waiting in front of them: the engine decides the order of the
    /// others.
    fn start_verifications(&mut self, now: Millis) {
        while self.verifying < 2 * self.parts.verifiers {
            let Some(Verification { session, password, hash }) = self.parts.engine.next_verification(now) else {
                return;
            };
            let against = hash.map_or(VerifyAgainst::Dummy, VerifyAgainst::Stored);
            match self.parts.pool.try_submit(Job::Verify { token: session, password, against }) {
                Ok(()) => self.verifying += 1,
                // The pool's queue is full, of operators' passwords for example. The login fails: nobody gets in
                // unverified.
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
            for _ in 0..ACCEPTS_PER_ITERATION {
                if !listening.ready {
                    break;
                }
                match listening.listener.socket.accept() {
                    Ok((stream, peer)) => {
                        let (engine, registry) = (&mut self.parts.engine, self.parts.poll.registry());
                        let (stream, peer) = (Stream::Tcp(stream), Peer::Ip(peer));
                        let kind = listening.listener.kind;
                        if let Err(error) = self.clients.add(stream, peer, kind, engine, registry, now) {
                            self.session_log.accept_failed(&error, now);
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => listening.ready = false,
                    // The client has gone again, or it is an earlier error of the network.
                    Err(error) if concerns_one_connection(&error) => {}
                    // No descriptor or memory is left, or it is another error that will not go away at once.
                    Err(error) => {
                        self.accept_paused_until = now + ACCEPT_PAUSE_MS;
                        self.session_log.accept_failed(&error, now);
                        return;
                    }
                }
            }
        }
    }

    fn handle_signals(&mut self, now: Millis) {
        let pending: Vec<i32> = self.parts.signals.pending().collect();
        for signal in pending {
            match signal {
                SIGTERM | SIGINT => self.stop(signal, now),
                SIGHUP if self.parts.config.hangup_stops => self.stop(signal, now),
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
        self.parts.logger.info(LogLine::new("stopping").field("signal", name));
        self.parts.notifier.send(Notice::Stopping);
        self.stop_at = now + STOP_MS;
        for listening in &mut self.listeners {
            let _ = self.parts.poll.registry().deregister(&mut listening.listener.socket);
        }
        self.parts.operators.stop(self.parts.poll.registry());
        // Only a service manager can keep the connections for a successor.
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

    /// Logs the engine's events; before [`Self::flush`], since a line needs the address of a client that may be closed
    /// there.
    fn log_events(&mut self, now: Millis) {
        while let Some(event) = self.parts.engine.next_event() {
            self.session_log.log_event(&event, &self.clients, now);
        }
    }

    /// Writes log lines, and sends the service manager the status and the watchdog's keep-alive.
    fn log_and_notify(&mut self, now: Millis) {
        self.log_events(now);
        let settled = self.session_log.flush_suppressed(now);
        let due = self.health.take_due(now);
        if due && self.health.verifiers_make_progress(&self.parts.pool.progress()) {
            self.parts.notifier.send(Notice::Watchdog);
        }
        if (settled || due) && self.parts.notifier.is_active() {
            self.send_status();
        }
    }

    /// Sends the status line that `systemctl status` shows, if it has changed.
    fn send_status(&mut self) {
        let (connections, messages) = (self.parts.engine.connections(), self.parts.engine.queued_messages());
        let status = format!("connections: {connections}, queued messages: {messages}");
        if status != self.status && self.parts.notifier.send(Notice::Status(status.clone())) {
            self.status = status;
        }
    }
}

/// Closes the store and returns its last results; gives up after `patience`, as the disk may hang and nothing is lost.
fn close_store_within(store: Box<dyn StorePort>, patience: Duration) -> Vec<FromStore> {
    let (sender, closed) = sync_channel(1);
    // The receiver is gone if it took too long.
    let close = move || drop(sender.send(store.close()));
    match std::thread::Builder::new().name("close".to_string()).spawn(close) {
        Ok(_) => closed.recv_timeout(patience).unwrap_or_default(),
        Err(_) => Vec::new(),
    }
}

/// Whether an error of accept(2) concerns one connection only, and is gone with it.
fn concerns_one_connection(error: &io::Error) -> bool {
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
