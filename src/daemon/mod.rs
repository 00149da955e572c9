//! The shell: everything that touches the world. This file is the order in which the daemon starts and ends.

pub mod admin;
pub mod auth_pool;
pub mod config;
pub mod conn;
pub mod control_conn;
mod doors;
pub mod exit;
pub mod fd;
mod greeting;
mod health;
mod journalist;
pub mod listeners;
pub mod logging;
pub mod notify;
mod operators;
pub mod port;
mod reactor;
mod reload;
mod sandbox;
mod spelling;
pub mod stand_in;
mod store_tools;
pub mod succession;
pub mod wall;

use std::ffi::OsString;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mio::{Poll, Waker};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook_mio::v1_0::Signals;

use self::admin::Details;
use self::auth_pool::AuthPool;
use self::config::{Arguments, Config, Invocation};
use self::control_conn::Hub;
use self::doors::Doors;
use self::exit::{ExitCode, Fatal};
use self::fd::Inherited;
use self::listeners::{ControlListener, Listeners, StreamListener};
use self::logging::{Line, LogThread, Logger};
use self::notify::{Notice, Notifier};
use self::operators::Operators;
use self::port::StorePort;
pub use self::reactor::WAKER;
use self::reactor::{CLOCK_ORIGIN, Parts, Reactor};
use self::succession::Heritage;
use crate::auth::Costs;
use crate::control::answer::{ConfigurationInfo, ListenerInfo};
use crate::control::rfc3339;
use crate::engine::Engine;
use crate::engine::settings::Settings;
use crate::sabotage::{self, Fault};
use crate::store::{OpenError, Opening, Store, StoreEvent};

/// When the first version was released, in seconds since 1970. No machine that runs this has been there before.
const RELEASED: u64 = 1_795_323_600;
/// Descriptors kept for all that is not a session: the store, the log, control connections, those being drained.
const RESERVED_DESCRIPTORS: u64 = 64 + 64 + conn::LINGER_MAX as u64;

/// The daemon's main function: reads the arguments, serves, and gives the code to exit with.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> std::process::ExitCode {
    let inherited = fd::take_inherited();
    exit::end_on_panic();
    let doors = Doors::of(inherited.as_deref().unwrap_or_default());
    let result = match config::parse_arguments(arguments) {
        Ok(Invocation::Print(text)) => {
            let mut stdout = std::io::stdout();
            match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
                // Whoever asked may have closed the pipe.
                Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                    Err(Fatal::new(ExitCode::System, format!("cannot write to standard output: {error}")))
                }
                _ => Ok(()),
            }
        }
        Ok(Invocation::Run(arguments)) if arguments.check => check(&arguments),
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
            doors::last_words(&doors, &fatal);
            code
        }
    }
}

fn check(arguments: &Arguments) -> Result<(), Fatal> {
    let report = config::check::check(arguments, Path::new("/"))?;
    for warning in &report.warnings {
        let _ = writeln!(std::io::stderr(), "cpd: warning: {}", escaped(warning));
    }
    let mut stdout = std::io::stdout().lock();
    for line in &report.lines {
        // Whoever asked may look at the exit code alone.
        let _ = writeln!(stdout, "{}", escaped(line));
    }
    Ok(())
}

/// A line that nothing in a path or a file breaks.
fn escaped(text: &str) -> String {
    let mut line = String::new();
    logging::escape_into(&mut line, text);
    line
}

fn run(arguments: Arguments, inherited: Vec<Inherited>) -> Result<(), Fatal> {
    let mut config = Config::load(&arguments)?;
    if let Some(dir) = &config.data {
        if inherited.is_empty() && !dir.exists() {
            // Nothing is made for a start that has to fail.
            listeners::probe(&config)?;
        }
        config::make_data_dir(dir)?;
        config.hangup_ends = !hangup_is_ignored();
    }
    let (logger, log_thread) = Logger::start(config.log_target, config.log_level)?;
    let result = start(arguments, config, inherited, &logger);
    match &result {
        Ok(()) => logger.info(Line::new("stopped")),
        // On stderr the cause comes by itself, once.
        Err(_) if logger.is_read_with_stderr() => {}
        Err(fatal) => logger.error(Line::new("ended").field("cause", &fatal.message)),
    }
    end_log(log_thread);
    result
}

/// Whether whoever started this process wants it to survive the terminal, as nohup(1) does.
fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(0);
    mask & (1 << (SIGHUP - 1)) != 0
}

/// A log service that hangs does not keep the daemon from ending.
fn end_log(thread: LogThread) {
    thread.finish(Duration::from_secs(1));
}

fn start(arguments: Arguments, config: Config, inherited: Vec<Inherited>, logger: &Logger) -> Result<(), Fatal> {
    for warning in &config.warnings {
        logger.warn(Line::new("configuration").field("warning", warning));
    }
    let system = |what: &str, e: std::io::Error| Fatal::new(ExitCode::System, format!("{what}: {e}"));
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(|e| system("cannot take signals", e))?;
    // A file that may not grow (RLIMIT_FSIZE) is a write that fails, not the end.
    signal_hook::flag::register(SIGXFSZ, Arc::default()).map_err(|e| system("cannot take signals", e))?;
    // A core file would hold passwords. Where this is refused, the limit was 0 already.
    if !sabotage::is(Fault::CoreAllowed) {
        let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    }
    // A program that cores are piped to (core(5)) gets one whatever the limit: nothing is in it.
    let _ = std::fs::write("/proc/self/coredump_filter", "0");
    let connections_max = raise_file_limit();
    let settings = within_file_limit(config.settings, connections_max, logger);
    let Some(mut store) = open_store(&arguments, &config, &mut signals, logger)? else { return Ok(()) };
    for warning in store.warnings() {
        logger.warn(Line::new("store").field("warning", warning));
    }
    let warned = store.warnings().len();
    let store_error = |error| store_tools::store_error(error, &arguments);
    let engine = load(&mut store, settings).map_err(store_error)?;
    for warning in store.warnings().iter().skip(warned) {
        logger.warn(Line::new("store").field("warning", warning));
    }
    let hashes = store.hashes().map_err(store_error)?;
    let costs = Costs::new(config.auth.params(), hashes.iter().map(String::as_str));
    let (inherited, heritage) = succession::find(inherited);
    let listeners = listeners::open(&config, inherited)?;
    let poll = Poll::new().map_err(|e| system("cannot make an event queue", e))?;
    let waker = Arc::new(Waker::new(poll.registry(), reactor::WAKER).map_err(|e| system("cannot make a waker", e))?);
    // What it reads is not for the sandbox.
    let verifiers = config.auth.worker_threads();
    confine(&arguments, &config, &listeners, logger);
    let port = spawn_store(store, Arc::clone(&waker), logger.clone())?;
    greeting::greet(arguments.data.as_deref(), &config, &listeners, hashes.is_empty());
    serve(
        arguments,
        config,
        listeners,
        Served { engine, costs, port, poll, waker, signals, connections_max, verifiers, heritage },
        logger,
    )
}

/// Before the threads that work are started: they are confined as this one is. The log's was from its start.
fn confine(arguments: &Arguments, config: &Config, listeners: &Listeners, logger: &Logger) {
    if notify::started_by_manager() {
        // Nor does another process of this user look into this one. Whoever starts cpd by hand may do so.
        let _ = nix::sys::prctl::set_dumpable(false);
    }
    let made = listeners.control.iter().find(|one| !one.inherited()).and_then(ControlListener::path);
    if let Err(cause) = sandbox::confine(&sandbox::places(arguments, config, made)) {
        logger.info(Line::new("own sandbox incomplete").field("cause", cause));
    }
}

/// What [`serve`] needs beside sockets and settings.
pub struct Served {
    pub engine: Engine,
    pub costs: Costs,
    pub port: Box<dyn StorePort>,
    pub poll: Poll,
    pub waker: Arc<Waker>,
    pub signals: Signals,
    pub connections_max: u32,
    /// Threads that verify passwords.
    pub verifiers: usize,
    /// What a predecessor left.
    pub heritage: std::io::Result<Option<Heritage>>,
}

/// Runs the event loop over what was opened, until a signal ends it. Errors: as cpd(8) lists them.
pub fn serve(
    arguments: Arguments,
    config: Config,
    listeners: Listeners,
    served: Served,
    logger: &Logger,
) -> Result<(), Fatal> {
    let Listeners { streams, control, notes } = listeners;
    for (level, line) in notes {
        logger.log(level, line);
    }
    let Served { engine, costs, port, poll, waker, signals, connections_max, verifiers, heritage } = served;
    let wake = Arc::clone(&waker);
    // A full event counter wakes as well.
    let wake_for_passwords = Arc::new(move || drop(wake.wake()));
    let pool = AuthPool::start(verifiers, costs, wake_for_passwords)?;
    let notifier = Notifier::start(logger)?;
    let mut line = Line::new("started").field("version", env!("CARGO_PKG_VERSION"));
    for stream in &streams {
        line = line.field(stream.dialect.name(), stream.address);
    }
    for socket in &control {
        line = line.field("control", socket.name());
    }
    logger.info(line.field("store", config.store_path.display()));
    let details = details(&config, &streams, &control);
    let (sockets, control_files): (Vec<_>, Vec<_>) = control.into_iter().map(|c| (c.socket, c.file)).unzip();
    let hub = Hub::new(sockets, poll.registry(), Reactor::OPERATOR_TOKENS)
        .map_err(|e| Fatal::new(ExitCode::System, format!("cannot watch the control socket: {e}")))?;
    let operators = Operators::new(hub, logger.clone(), CLOCK_ORIGIN, details);
    let parts = Parts {
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
    match heritage {
        Ok(None) => {}
        Ok(Some(heritage)) => reactor.take_up(heritage),
        Err(cause) => logger.error(Line::new("connections of the predecessor closed").field("cause", cause)),
    }
    reactor.notifier().send(Notice::Ready);
    reactor.run()
}

/// What a status tells beside numbers.
fn details(config: &Config, streams: &[StreamListener], control: &[ControlListener]) -> Details {
    let listener = |name: &str, address: String, inherited: bool| ListenerInfo {
        listener: name.to_owned(),
        address,
        opened_by: if inherited { "systemd" } else { "cpd" }.to_owned(),
    };
    let clients = streams.iter().map(|one| listener(one.dialect.name(), one.address.to_string(), one.inherited));
    let operators = control.iter().map(|one| listener("control", one.name(), one.inherited()));
    Details {
        listeners: clients.chain(operators).collect(),
        configuration: ConfigurationInfo {
            file: config.file.as_ref().map(|file| file.display().to_string()),
            read_at: rfc3339(wall_clock().as_secs()),
            ..ConfigurationInfo::default()
        },
    }
}

/// The time since 1970.
fn wall_clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Allows as many descriptors as the system does: the number of sessions that this makes.
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

/// The settings with as many connections as the limit of descriptors allows; if that is fewer, it is said.
fn within_file_limit(mut settings: Settings, connections_max: u32, logger: &Logger) -> Settings {
    let configured = settings.limits.connections;
    if connections_max < configured {
        let line = Line::new("limits.connections lowered").field("to", connections_max);
        logger.warn(line.field("configured", configured).field("cause", "the limit of open files"));
        settings.limits.connections = connections_max;
    }
    settings
}

/// Opens the store; `None` when cpd is to stop while it waits for a tool that works on the store.
fn open_store(
    arguments: &Arguments,
    config: &Config,
    signals: &mut Signals,
    logger: &Logger,
) -> Result<Option<Store>, Fatal> {
    let (mut waits, mut stops) = (false, false);
    let mut ask = || {
        if !waits {
            logger.warn(Line::new("store").field("event", "waiting for cpd --restore, --salvage or --check-store"));
        }
        waits = true;
        stops |= signals.pending().any(|signal| signal != SIGHUP);
        !stops
    };
    let opened = Store::open_as(&config.store_path, Opening { anew: config.data.is_some(), waits: &mut ask });
    if stops {
        return Ok(None);
    }
    let store = opened.map_err(|error| store_tools::store_error(error, arguments))?;
    if store.was_made() {
        logger.info(Line::new("store made").field("path", config.store_path.display()));
    }
    Ok(Some(store))
}

/// The engine with everything that the store holds.
fn load(store: &mut Store, settings: Settings) -> Result<Engine, OpenError> {
    let mut engine = Engine::new(settings, 0, CLOCK_ORIGIN);
    let engine_cell = std::cell::RefCell::new(&mut engine);
    let loaded = store.load(
        |name| engine_cell.borrow_mut().load_user(name),
        |message| engine_cell.borrow_mut().load_message(&message),
    )?;
    loaded.known_addresses.iter().for_each(|address| engine.load_known_address(*address));
    engine.set_next_message(loaded.next_id);
    engine.set_epoch(RELEASED);
    Ok(engine)
}

fn spawn_store(store: Store, waker: Arc<Waker>, logger: Logger) -> Result<Box<dyn StorePort>, Fatal> {
    let wake = move || drop(waker.wake());
    let on_event = move |event: StoreEvent| logger.log(level_of(&event), Line::new("store").field("event", event));
    let writer = store
        .spawn(wake, on_event)
        .map_err(|e| Fatal::new(ExitCode::System, format!("cannot start the store's thread: {e}")))?;
    Ok(Box::new(writer))
}

fn level_of(event: &StoreEvent) -> logging::Level {
    match event {
        StoreEvent::Recovered | StoreEvent::DiskOk => logging::Level::Info,
        StoreEvent::NoReserve(_) => logging::Level::Warn,
        StoreEvent::CommitFailed(_)
        | StoreEvent::DiskLow { .. }
        | StoreEvent::DeletesPending { .. }
        | StoreEvent::DamagedRow(_)
        | StoreEvent::CheckpointFailed(_)
        | StoreEvent::ReadFailed(_)
        | StoreEvent::Unseen(_) => logging::Level::Error,
    }
}
