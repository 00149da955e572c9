//! cpd's own event loop over a store that is memory and nothing else: what the loop and the protocol alone allow.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use cp_proto::values::{Password, Username};
use cpd::auth::Hasher;
use cpd::daemon::config::{Arguments, AuthConfig, Config};
use cpd::daemon::logging::{Level, LogTarget, Logger};
use cpd::daemon::port::StorePort;
use cpd::daemon::{ServerParts, WAKER, listeners, serve as run_loop};
use cpd_core::engine::Engine;
use cpd_core::engine::port::{Batch, FromStore};
use cpd_core::engine::settings::{Limits, Settings};
use mio::{Poll, Waker};
use signal_hook::consts::signal::SIGTERM;
use signal_hook_mio::v1_0::Signals;

use crate::memory_store::MemoryStore;
use crate::server::{PASSWORD, USERS, user_name};

/// As `server::configuration` has it.
const CONNECTIONS: u32 = 15_000;
const QUEUE: u32 = 1 << 31;

/// Answers at once, in the next round of the loop.
struct MemoryPort {
    store: MemoryStore,
    results: VecDeque<FromStore>,
    waker: Arc<Waker>,
}

impl StorePort for MemoryPort {
    fn submit(&mut self, batch: Batch) -> bool {
        self.results.extend(self.store.execute(batch));
        self.waker.wake().is_ok()
    }

    fn try_recv(&mut self) -> Option<FromStore> {
        self.results.pop_front()
    }

    fn progress(&self) -> (u64, u64) {
        (0, 0)
    }

    fn close(self: Box<Self>) -> Vec<FromStore> {
        Vec::new()
    }
}

/// Serves until the process ends.
pub fn serve(announce: impl FnOnce(u16)) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let settings = Settings {
        limits: Limits {
            connections: CONNECTIONS,
            connections_per_address: CONNECTIONS,
            queue_messages: QUEUE,
            queue_messages_per_sender: QUEUE,
            messages_per_sender: QUEUE,
            messages_per_sender_minute: QUEUE,
            sessions_per_user: CONNECTIONS,
            ..Limits::default()
        },
        ..Settings::default()
    };
    let config = Config {
        cp: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))],
        control_socket: folder.path().join("control.sock"),
        control_group: String::new(),
        auth: AuthConfig { memory_kib: 8, iterations: 1, threads: 0 },
        settings,
        ..Config::default()
    };
    let (engine, store) = filled(settings, &config)?;
    let io = |e: io::Error| e.to_string();
    let poll = Poll::new().map_err(io)?;
    let waker = Arc::new(Waker::new(poll.registry(), WAKER).map_err(io)?);
    let signals = Signals::new([SIGTERM]).map_err(io)?;
    let (logger, _log) = Logger::start(LogTarget::Stderr, Level::Error).map_err(|e| e.message)?;
    let listeners = listeners::open(&config, Vec::new()).map_err(|e| e.message)?;
    announce(listeners.streams.first().map_or(0, |stream| stream.address.port()));
    let port = Box::new(MemoryPort { store, results: VecDeque::new(), waker: Arc::clone(&waker) });
    let costs = config.auth.hash_params().into();
    let (connections_max, verifiers, handover_fds) = (CONNECTIONS, config.auth.worker_threads(), Ok(None));
    let served = ServerParts { engine, costs, port, poll, waker, signals, connections_max, verifiers, handover_fds };
    run_loop(Arguments::default(), config, listeners, served, &logger).map_err(|e| e.message)
}

fn filled(settings: Settings, config: &Config) -> Result<(Engine, MemoryStore), String> {
    let (mut engine, mut store) = (Engine::new(settings, 1, 0), MemoryStore::default());
    let password = Password::parse(PASSWORD.as_bytes()).ok_or("no password")?;
    let hash = Hasher::new(config.auth.hash_params()).hash(&password).map_err(|e| e.to_string())?;
    for n in 0..USERS {
        let name = Username::parse(user_name(n).as_bytes()).ok_or("no name")?;
        engine.load_user(name);
        store.add_user(name, hash.clone());
    }
    Ok((engine, store))
}
