//! The daemon: everything that deals with the operating system. This file holds the order in which it starts and ends.

pub mod auth_pool;
pub mod clients;
mod clock;
pub mod config;
pub mod control_hub;
pub mod exit;
pub mod fd;
pub mod fd_store;
mod health;
pub mod listeners;
pub mod logging;
mod next_steps;
pub mod notify;
pub mod operator_log;
mod operators;
mod panics;
pub mod port;
mod reactor;
mod reload;
mod sandbox;
mod session_log;
pub mod stand_in;
mod store_tools;
pub mod transport;
mod unserved;
mod wall_time;

use std::ffi::OsString;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cpd_control::answer::StatusDetails;
use cpd_control::answer::{ConfigurationInfo, ListenerInfo};
use cpd_control::rfc3339;
use cpd_core::engine::Engine;
use cpd_core::engine::settings::Settings;
use cpd_core::sabotage::{self, Fault};
use cpd_store::{OpenError, Store, StoreEvent, StoreOptions};
use mio::{Poll, Waker};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook_mio::v1_0::Signals;

use self::auth_pool::AuthPool;
use self::config::{Arguments, Config, Invocation};
use self::control_hub::Hub;
use self::exit::{ExitCode, Fatal};
use self::fd::Inherited;
use self::fd_store::HandoverFds;
use self::listeners::{ControlListener, Listeners, StreamListener};
use self::logging::{LogLine, LogThread, Logger};
use self::notify::{Notice, Notifier};
use self::operators::Operators;
use self::port::StorePort;
pub use self::reactor::WAKER;
use self::reactor::{CLOCK_ORIGIN, Reactor, ReactorParts};
use self::unserved::UnservedSockets;
use crate::auth::Costs;

/// When the first version was released, in seconds since 1970. A wall clock that shows an earlier time is wrong.
const FIRST_RELEASE_SECONDS: u64 = 1_795_323_600;
/// Descriptors reserved for everything but sessions: the store, the log, control connections, and connections that are
/// being drained.
const RESERVED_DESCRIPTORS: u64 = 64 + 64 + clients::LINGER_MAX as u64;

/// The daemon's main function: parses the arguments, does what they ask for, and returns the exit code.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> std::process::ExitCode {
    let inherited = fd::take_inherited();
    panics::exit_on_panic();
    let sockets = UnservedSockets::duplicates_of(inherited.as_deref().unwrap_or_default());
    let result = match config::parse_arguments(arguments) {
        Ok(Invocation::Print(text)) => {
            let mut stdout = std::io::stdout();
            match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
                // A reader that has closed the pipe is not an error.
                Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                    Err(Fatal::new(ExitCode::System, format!("cannot write to standard output: {error}")))
                }
                _ => Ok(()),
            }
        }
        Ok(Invocation::Run(arguments)) if arguments.check => check_configuration(&arguments),
        Ok(Invocation::Run(arguments)) if arguments.tool.is_some() => store_tools::run(&arguments),
        Ok(Invocation::Run(arguments)) => inherited
            .map_err(|e| Fatal::new(ExitCode::System, format!("cannot take over the sockets of systemd: {e}")))
            .and_then(|inherited| run(arguments, inherited)),
        Err(fatal) => Err(fatal),
    };
    match result {
        Ok(()) => ExitCode::Ok.into(),
        Err(fatal) => {
            let code = fatal.report();
            unserved::report_and_turn_away(&sockets, &fatal);
            code
        }
    }
}

fn check_configuration(arguments: &Arguments) -> Result<(), Fatal> {
    let report = config::check::check(arguments, Path::new("/"))?;
    for warning in &report.warnings {
        let _ = writeln!(std::io::stderr(), "cpd: warning: {}", escaped(warning));
    }
    let mut stdout = std::io::stdout().lock();
    for line in &report.lines {
        // A failed write is ignored: the caller may be interested in the exit code only.
        let _ = writeln!(stdout, "{}", escaped(line));
    }
    Ok(())
}

/// `text` as one line that is safe to print, whatever a path or a file put into it.
fn escaped(text: &str) -> String {
    let mut line = String::new();
    cp_proto::printable::escape_into(&mut line, text);
    line
}

fn run(arguments: Arguments, inherited: Vec<Inherited>) -> Result<(), Fatal> {
    let mut config = Config::load(&arguments)?;
    if let Some(dir) = &config.data {
        if inherited.is_empty() && !dir.exists() {
            // Do not create the directory if the addresses cannot be bound: the start would fail anyway.
            listeners::check_bindable(&config)?;
        }
        config::make_data_dir(dir)?;
        config.hangup_stops = !hangup_is_ignored();
    }
    let (logger, log_thread) = Logger::start(config.log_target, config.log_level)?;
    let result = start(arguments, config, inherited, &logger);
    match &result {
        Ok(()) => logger.info(LogLine::new("stopped")),
        // `main` writes the cause to stderr; whoever reads both would see it twice.
        Err(_) if logger.has_same_reader_as_stderr() => {}
        Err(fatal) => logger.error(LogLine::new("ended").field("cause", &fatal.message)),
    }
    end_log(log_thread);
    result
}

/// Whether this process was started with SIGHUP ignored, as by nohup(1), and so has to outlive its terminal.
fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(0);
    mask & (1 << (SIGHUP - 1)) != 0
}

/// Writes the queued log lines, but waits one second at most: a log service that hangs must not keep the daemon from
/// exiting.
fn end_log(thread: LogThread) {
    thread.finish(Duration::from_secs(1));
}

fn start(arguments: Arguments, config: Config, inherited: Vec<Inherited>, logger: &Logger) -> Result<(), Fatal> {
    for warning in &config.warnings {
        logger.warn(LogLine::new("configuration").field("warning", warning));
    }
    let system = |what: &str, e: std::io::Error| Fatal::new(ExitCode::System, format!("{what}: {e}"));
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(|e| system("cannot take signals", e))?;
    // With a handler, exceeding RLIMIT_FSIZE makes the write fail instead of killing the process.
    signal_hook::flag::register(SIGXFSZ, Arc::default()).map_err(|e| system("cannot take signals", e))?;
    // A core file would contain passwords. Lowering a limit needs no privilege, so a failure is not expected.
    if !sabotage::is_ordered(Fault::CoreAllowed) {
        let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    }
    // A core that is piped to a program (core(5)) ignores the limit; this leaves all memory mappings out of it.
    let _ = std::fs::write("/proc/self/coredump_filter", "0");
    let connections_max = raise_file_limit();
    let settings = cap_connections(config.settings, connections_max, logger);
    let Some(mut store) = open_store(&arguments, &config, &mut signals, logger)? else { return Ok(()) };
    for warning in store.warnings() {
        logger.warn(LogLine::new("store").field("warning", warning));
    }
    let warned = store.warnings().len();
    let store_error = |error| store_tools::store_error(error, &arguments);
    let engine = load_engine(&mut store, settings).map_err(store_error)?;
    for warning in store.warnings().iter().skip(warned) {
        logger.warn(LogLine::new("store").field("warning", warning));
    }
    let hashes = store.password_hashes().map_err(store_error)?;
    let costs = Costs::new(config.auth.hash_params(), hashes.iter().map(String::as_str));
    let (inherited, handover_fds) = fd_store::take_handover_fds(inherited);
    let listeners = listeners::open(&config, inherited)?;
    let poll = Poll::new().map_err(|e| system("cannot make an event queue", e))?;
    let waker = Arc::new(Waker::new(poll.registry(), reactor::WAKER).map_err(|e| system("cannot make a waker", e))?);
    // Before `enter_sandbox`: counting the cores may read files that the sandbox denies.
    let verifiers = config.auth.worker_threads();
    enter_sandbox(&arguments, &config, &listeners, logger);
    let port = spawn_store(store, Arc::clone(&waker), logger.clone())?;
    next_steps::print_next_steps(arguments.data.as_deref(), &config, &listeners, hashes.is_empty());
    serve(
        arguments,
        config,
        listeners,
        ServerParts { engine, costs, port, poll, waker, signals, connections_max, verifiers, handover_fds },
        logger,
    )
}

/// Enters the sandbox. Call this before the worker threads are started, so that they inherit it; the log thread has
/// confined itself already.
fn enter_sandbox(arguments: &Arguments, config: &Config, listeners: &Listeners, logger: &Logger) {
    if notify::started_by_manager() {
        // Other processes of the same user may not inspect this one. A cpd started by hand stays open to debuggers.
        let _ = nix::sys::prctl::set_dumpable(false);
    }
    let made = listeners.control.iter().find(|one| !one.inherited()).and_then(ControlListener::path);
    if let Err(cause) = sandbox::confine(&sandbox::paths::allowed_paths(arguments, config, made)) {
        logger.info(LogLine::new("own sandbox incomplete").field("cause", cause));
    }
}

/// What [`serve`] needs in addition to sockets and settings.
pub struct ServerParts {
    pub engine: Engine,
    pub costs: Costs,
    pub port: Box<dyn StorePort>,
    pub poll: Poll,
    pub waker: Arc<Waker>,
    pub signals: Signals,
    pub connections_max: u32,
    /// The number of threads that verify passwords.
    pub verifiers: usize,
    /// The descriptors that a predecessor handed over; `None` if there was no predecessor.
    pub handover_fds: std::io::Result<Option<HandoverFds>>,
}

/// Starts the remaining threads and runs the event loop until a signal ends it.
///
/// # Errors
/// The exit codes listed in cpd(8).
pub fn serve(
    arguments: Arguments,
    config: Config,
    listeners: Listeners,
    served: ServerParts,
    logger: &Logger,
) -> Result<(), Fatal> {
    let Listeners { streams, control, notes } = listeners;
    for (level, line) in notes {
        logger.log(level, line);
    }
    let ServerParts { engine, costs, port, poll, waker, signals, connections_max, verifiers, handover_fds } = served;
    let wake = Arc::clone(&waker);
    // A failed wake is ignored: if the event counter is full, the loop wakes up anyway.
    let wake_for_passwords = Arc::new(move || drop(wake.wake()));
    let pool = AuthPool::start(verifiers, costs, wake_for_passwords)?;
    let notifier = Notifier::start(logger)?;
    let mut line = LogLine::new("started").field("version", env!("CARGO_PKG_VERSION"));
    for stream in &streams {
        line = line.field(stream.kind.name(), stream.address);
    }
    for socket in &control {
        line = line.field("control", socket.name());
    }
    let line = line.field("store", config.store_path.display());
    let details = status_details(&config, &streams, &control);
    let (sockets, control_files): (Vec<_>, Vec<_>) = control.into_iter().map(|c| (c.socket, c.file)).unzip();
    let hub = Hub::new(sockets, poll.registry(), Reactor::OPERATOR_TOKENS)
        .map_err(|e| Fatal::new(ExitCode::System, format!("cannot watch the control socket: {e}")))?;
    let operators = Operators::new(hub, logger.clone(), CLOCK_ORIGIN, details);
    let parts = ReactorParts {
        poll,
        engine,
        store: port,
        pool,
        verifiers,
        streams,
        operators,
        control_files,
        signals,
        notifier,
        logger: logger.clone(),
        arguments,
        config,
        waker,
        connections_max,
    };
    let mut reactor = Reactor::new(parts, Instant::now())?;
    // Not before: whoever reads it may count on everything being open.
    logger.info(line);
    match handover_fds {
        Ok(None) => {}
        Ok(Some(handover_fds)) => reactor.resume_connections(handover_fds),
        Err(cause) => logger.error(LogLine::new("connections of the predecessor closed").field("cause", cause)),
    }
    reactor.notifier().send(Notice::Ready);
    reactor.run()
}

/// The parts of `cpctl status` that are not counters: listeners and configuration.
fn status_details(config: &Config, streams: &[StreamListener], control: &[ControlListener]) -> StatusDetails {
    let listener = |name: &str, address: String, inherited: bool| ListenerInfo {
        listener: name.to_owned(),
        address,
        opened_by: if inherited { "systemd" } else { "cpd" }.to_owned(),
    };
    let clients = streams.iter().map(|one| listener(one.kind.name(), one.address.to_string(), one.inherited));
    let operators = control.iter().map(|one| listener("control", one.name(), one.inherited()));
    StatusDetails {
        listeners: clients.chain(operators).collect(),
        configuration: ConfigurationInfo {
            file: config.file.as_ref().map(|file| file.display().to_string()),
            read_at: rfc3339(clock::wall_clock().as_secs()),
            ..ConfigurationInfo::default()
        },
    }
}

/// Raises the soft limit of open files to the hard one. Returns how many connections that allows.
fn raise_file_limit() -> u32 {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        }
        Ok(hard)
    });
    let files = limit.unwrap_or(1024);
    let possible = files.saturating_sub(RESERVED_DESCRIPTORS).max(files / 2);
    u32::try_from(possible).unwrap_or(u32::MAX)
}

/// Lowers `limits.connections` to what the limit of open files allows, and logs it if that is less than configured.
fn cap_connections(mut settings: Settings, connections_max: u32, logger: &Logger) -> Settings {
    let configured = settings.limits.connections;
    if connections_max < configured {
        let line = LogLine::new("limits.connections lowered").field("to", connections_max);
        logger.warn(line.field("configured", configured).field("cause", "the limit of open files"));
        settings.limits.connections = connections_max;
    }
    settings
}

/// Opens the store. Returns `None` if a signal to stop arrives while cpd waits for a tool that works on the store.
fn open_store(
    arguments: &Arguments,
    config: &Config,
    signals: &mut Signals,
    logger: &Logger,
) -> Result<Option<Store>, Fatal> {
    let (mut waits, mut stops) = (false, false);
    let mut ask = || {
        if !waits {
            logger.warn(LogLine::new("store").field("event", "waiting for cpd --restore, --salvage or --check-store"));
        }
        waits = true;
        stops |= signals.pending().any(|signal| signal != SIGHUP);
        !stops
    };
    let opened = Store::open_with_options(
        &config.store_path,
        StoreOptions { recreate_missing: config.data.is_some(), keep_waiting: &mut ask },
    );
    if stops {
        return Ok(None);
    }
    let store = opened.map_err(|error| store_tools::store_error(error, arguments))?;
    if store.was_created() {
        logger.info(LogLine::new("store made").field("path", config.store_path.display()));
    }
    Ok(Some(store))
}

/// Creates the engine and loads everything that the store holds into it.
fn load_engine(store: &mut Store, settings: Settings) -> Result<Engine, OpenError> {
    let mut engine = Engine::new(settings, 0, CLOCK_ORIGIN);
    let engine_cell = std::cell::RefCell::new(&mut engine);
    let loaded = store.load(
        |name| engine_cell.borrow_mut().load_user(name),
        |message| engine_cell.borrow_mut().load_message(&message),
    )?;
    loaded.known_addresses.iter().for_each(|address| engine.load_known_address(*address));
    engine.set_next_message(loaded.next_id);
    engine.set_earliest_time(FIRST_RELEASE_SECONDS);
    Ok(engine)
}

fn spawn_store(store: Store, waker: Arc<Waker>, logger: Logger) -> Result<Box<dyn StorePort>, Fatal> {
    let wake = move || drop(waker.wake());
    let on_event =
        move |event: StoreEvent| logger.log(store_event_level(&event), LogLine::new("store").field("event", event));
    let writer = store
        .spawn(wake, on_event)
        .map_err(|e| Fatal::new(ExitCode::System, format!("cannot start the store's thread: {e}")))?;
    Ok(Box::new(writer))
}

fn store_event_level(event: &StoreEvent) -> logging::Level {
    match event {
        StoreEvent::Recovered | StoreEvent::DiskOk => logging::Level::Info,
        StoreEvent::LogReserveFailed(_) => logging::Level::Warn,
        StoreEvent::CommitFailed(_)
        | StoreEvent::DiskLow { .. }
        | StoreEvent::DeletesPending { .. }
        | StoreEvent::DamagedRow(_)
        | StoreEvent::CheckpointFailed(_)
        | StoreEvent::ReadFailed(_)
        | StoreEvent::FileCheckFailed(_) => logging::Level::Error,
    }
}
