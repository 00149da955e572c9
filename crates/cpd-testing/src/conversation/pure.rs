//! The engine with its sessions and a store in memory: no socket, no thread, no disk, and time that passes only when
//! it is told to.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use cp_proto::reply::{BadCommandCause, Reply, ReplyStage};
use cp_proto::values::{Password, Username};
use cpd::daemon::config::{Arguments, Config};
use cpd_core::dfa::Dialect;
use cpd_core::engine::port::{AddressKey, RequestId, SessionId};
use cpd_core::engine::requests::{AdminResult, PurgeFilter, Request};
use cpd_core::engine::settings::Settings;
use cpd_core::engine::{Engine, Verification};
use cpd_core::session::Closing;
use cpd_core::time::{Millis, NEVER};

use super::parser::{Listener, Script, Setting};
use super::runner::{Got, Peer};
use crate::memory_store::MemoryStore;

const WALL: u64 = 1_700_000_000;
/// As much as one read of the daemon takes.
const READ_MAX_BYTES: usize = 8 * 1024;
/// Virtual time after which nothing is expected to come any more.
const PATIENCE: Millis = 3 * 24 * 3600 * 1000;
/// Bytes after which a flood counts as endless.
const FLOOD_MAX_BYTES: usize = 4 << 20;

#[derive(Default)]
struct Connection {
    id: Option<SessionId>,
    /// On the way to the server.
    input: Vec<u8>,
    fin: bool,
    /// On the way to the client.
    output: Vec<u8>,
    closed: bool,
    /// The client takes nothing.
    deaf: bool,
}

/// An engine and all that is around it.
pub struct Pure {
    engine: Engine,
    store: MemoryStore,
    dialect: Dialect,
    now: Millis,
    requests: u64,
    connections: HashMap<usize, Connection>,
    settings: Settings,
    /// Another engine takes over before each step.
    restarting: bool,
    restarts: u64,
}

impl Pure {
    /// An engine as `script` wants it, with its users.
    pub fn start(script: &Script) -> Result<Pure, String> {
        let settings = settings(&script.settings)?;
        let mut engine = Engine::new(settings, 1, 0);
        engine.set_wall_clock(WALL);
        let mut store = MemoryStore::default();
        for user in &script.users {
            let name = name(&user.name)?;
            store.add_user(name, user.password.clone());
            engine.load_user(name);
        }
        let dialect = match script.listener {
            Listener::Cp => Dialect::Cp,
            Listener::Classic => Dialect::Classic,
        };
        Ok(Pure {
            engine,
            store,
            dialect,
            now: 0,
            requests: 0,
            connections: HashMap::new(),
            settings,
            restarting: false,
            restarts: 0,
        })
    }

    /// The same, but a successor takes every session over before each step.
    pub fn start_with_restarts(script: &Script) -> Result<Pure, String> {
        Ok(Pure { restarting: true, ..Pure::start(script)? })
    }

    /// All that lives on is the store, and what the old engine wrote down of its sessions.
    fn restart(&mut self) -> Result<(), String> {
        if !self.restarting {
            return Ok(());
        }
        self.engine.pause();
        self.pump();
        if !self.engine.is_idle() {
            return Err("the engine does not come to rest".into());
        }
        self.restarts += 1;
        let mut next = Engine::new(self.settings, self.restarts << 20, self.now);
        next.set_wall_clock(WALL);
        self.store.load(&mut next);
        let mut successors = HashMap::new();
        for id in self.engine.handover_order() {
            let record = self.engine.freeze(id, self.now).ok_or("a session could not be frozen")?;
            successors.insert(id, next.thaw(&record, from(), self.now).ok_or("a session could not be thawed")?);
        }
        for connection in self.connections.values_mut() {
            connection.id = connection.id.and_then(|id| successors.get(&id).copied());
        }
        next.thaw_common(&self.engine.freeze_common(self.now), self.now).ok_or("no failures could be thawed")?;
        next.finish_handover(self.now);
        self.engine = next;
        self.pump();
        Ok(())
    }

    fn connection(&mut self, number: usize) -> Result<&mut Connection, String> {
        self.connections.get_mut(&number).ok_or(format!("connection {number} is not open"))
    }

    /// Does everything that can be done without time passing.
    fn pump(&mut self) {
        loop {
            let mut moved = self.deliver_input();
            while let Some(batch) = self.engine.next_batch(self.now) {
                moved = true;
                for result in self.store.execute(batch) {
                    self.engine.from_store(result, self.now);
                }
            }
            while let Some(Verification { session, password, hash }) = self.engine.next_verification(self.now) {
                moved = true;
                let ok = hash.is_some_and(|hash| hash.as_bytes() == password.as_bytes());
                self.engine.verified(session, ok, None, self.now);
            }
            while let Some(id) = self.engine.next_dirty() {
                moved = true;
                self.flush(id);
            }
            if !moved {
                return;
            }
        }
    }

    fn deliver_input(&mut self) -> bool {
        let mut moved = false;
        for connection in self.connections.values_mut() {
            let Some(id) = connection.id else { continue };
            while !connection.input.is_empty() && self.engine.wants_input(id) {
                let rest = connection.input.split_off(connection.input.len().min(READ_MAX_BYTES));
                let bytes = std::mem::replace(&mut connection.input, rest);
                self.engine.receive(id, &bytes, self.now);
                moved = true;
            }
            if connection.fin && connection.input.is_empty() && self.engine.wants_input(id) {
                connection.fin = false;
                self.engine.end_of_input(id, self.now);
                moved = true;
            }
        }
        moved
    }

    fn flush(&mut self, id: SessionId) {
        let Some(connection) = self.connections.values_mut().find(|c| c.id == Some(id)) else {
            return;
        };
        if !connection.deaf {
            while !self.engine.output(id).is_empty() {
                let count = self.engine.output(id).len();
                connection.output.extend_from_slice(self.engine.output(id));
                self.engine.sent(id, count, self.now);
            }
        }
        match self.engine.next_close_step(id) {
            Closing::Now | Closing::Flush => {
                connection.closed = true;
                connection.id = None;
                self.engine.close(id, self.now);
            }
            Closing::Open | Closing::Stopping | Closing::Paused => self.engine.arm(id),
        }
    }

    /// Moves the clock to the next deadline. `false`: there is none before `end`.
    fn step_until(&mut self, end: Millis) -> bool {
        let next = self.engine.next_deadline();
        if next == NEVER || next > end {
            return false;
        }
        self.now = self.now.max(next);
        self.engine.expire(self.now);
        self.pump();
        true
    }

    fn take(&mut self, number: usize) -> Result<Got, String> {
        let connection = self.connection(number)?;
        Ok(if !connection.output.is_empty() {
            Got::Bytes(std::mem::take(&mut connection.output))
        } else if connection.closed {
            Got::Closed
        } else {
            Got::Nothing
        })
    }

    fn ask(&mut self, request: Request) -> Result<AdminResult, String> {
        self.requests += 1;
        self.engine.admin(RequestId(self.requests), request, self.now);
        self.pump();
        match self.engine.next_result() {
            Some((_, result)) => Ok(result),
            None => Err("no answer".into()),
        }
    }

    fn session_of(&mut self, user: &str) -> Result<u64, String> {
        let AdminResult::Sessions { rows, .. } = self.ask(Request::SessionList { after: 0, limit: 100 })? else {
            return Err("no list of sessions".into());
        };
        let found = rows.iter().find(|row| row.user.is_some_and(|name| name.as_str() == user));
        found.map(|row| row.id.serial).ok_or(format!("{user} is in no session"))
    }

    fn request(&mut self, words: &[&str], stdin: Option<&str>) -> Result<Request, String> {
        let password = || stdin.map(|line| line.trim_end_matches('\n').to_string()).ok_or("no password");
        let checked = || {
            let text = password()?;
            Password::parse(text.as_bytes()).map(|_| text).ok_or("a bad password")
        };
        Ok(match words {
            ["user", "add", user, ..] => Request::UserAdd { name: name(user)?, password: checked()? },
            ["user", "passwd", user, rest @ ..] => {
                let keep_sessions = rest.contains(&"--keep-sessions");
                Request::UserPasswd { name: name(user)?, password: checked()?, keep_sessions }
            }
            ["user", "lock", user] => Request::UserLock { name: name(user)? },
            ["user", "unlock", user] => Request::UserUnlock { name: name(user)? },
            ["user", "remove", user, ..] => Request::UserRemove { name: name(user)? },
            ["queue", "purge", user, rest @ ..] => {
                let value = |option: &str| {
                    rest.iter().position(|word| *word == option).and_then(|place| rest.get(place + 1).copied())
                };
                let which = PurgeFilter {
                    id: value("--id").map(str::parse).transpose().map_err(|_| "a bad id")?,
                    from: value("--from").map(name).transpose()?,
                    older_than_seconds: None,
                };
                Request::QueuePurge { user: name(user)?, which }
            }
            ["session", "close", who] => match who.strip_prefix('@') {
                Some(user) => Request::SessionClose { id: self.session_of(user)? },
                None => Request::SessionClose { id: who.parse().map_err(|_| "a bad session")? },
            },
            _ => return Err(format!("not known here: cpctl {}", words.join(" "))),
        })
    }
}

impl Peer for Pure {
    fn open(&mut self, number: usize) -> Result<(), String> {
        self.restart()?;
        let connection = match self.engine.open(from(), self.dialect, self.now) {
            Ok(id) => Connection { id: Some(id), ..Connection::default() },
            Err(_) => {
                let mut refused = Connection { closed: true, ..Connection::default() };
                Reply::BadCommand(ReplyStage::Idle, BadCommandCause::TooManyConnections)
                    .write(false, &mut refused.output);
                refused
            }
        };
        self.connections.insert(number, connection);
        Ok(())
    }

    fn send(&mut self, number: usize, bytes: &[u8]) -> Result<(), String> {
        self.restart()?;
        self.connection(number)?.input.extend_from_slice(bytes);
        self.pump();
        Ok(())
    }

    fn fin(&mut self, number: usize) -> Result<(), String> {
        self.restart()?;
        self.connection(number)?.fin = true;
        self.pump();
        Ok(())
    }

    fn drop_connection(&mut self, number: usize, _reset: bool) -> Result<(), String> {
        self.restart()?;
        if let Some(id) = self.connection(number)?.id.take() {
            self.engine.close(id, self.now);
        }
        self.pump();
        Ok(())
    }

    fn flood(&mut self, number: usize, bytes: &[u8]) -> Result<(), String> {
        self.connection(number)?.deaf = true;
        let mut sent = 0;
        while !self.connection(number)?.closed {
            if self.connection(number)?.input.len() < READ_MAX_BYTES {
                sent += bytes.len();
                self.send(number, bytes)?;
            } else if !self.step_until(self.now + PATIENCE) {
                return Err("the server waits for ever".into());
            }
            if sent > FLOOD_MAX_BYTES {
                return Err("the server goes on for ever".into());
            }
        }
        Ok(())
    }

    fn read(&mut self, number: usize) -> Result<Got, String> {
        self.restart()?;
        let end = self.now + PATIENCE;
        loop {
            let got = self.take(number)?;
            if got != Got::Nothing || !self.step_until(end) {
                return Ok(got);
            }
        }
    }

    fn poll(&mut self, number: usize) -> Result<Got, String> {
        self.take(number)
    }

    fn wait(&mut self, time: Duration) -> Result<(), String> {
        self.restart()?;
        let end = self.now + time.as_millis() as Millis;
        while self.step_until(end) {}
        self.now = end;
        Ok(())
    }

    fn now(&self) -> Duration {
        Duration::from_millis(self.now)
    }

    fn is_virtual(&self) -> bool {
        true
    }

    fn admin(&mut self, arguments: &[String], stdin: Option<&str>) -> Result<(), String> {
        self.restart()?;
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let request = self.request(&words, stdin)?;
        match self.ask(request)? {
            AdminResult::Done | AdminResult::SessionsEnded { .. } | AdminResult::Removed { .. } => Ok(()),
            other => Err(format!("refused: {other:?}")),
        }
    }

    fn finish(&mut self) -> Result<(), String> {
        Ok(())
    }
}

fn from() -> AddressKey {
    AddressKey::of(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

fn name(text: &str) -> Result<Username, String> {
    Username::parse(text.as_bytes()).ok_or(format!("{text} is no name"))
}

/// The settings as the daemon's own reader makes them.
fn settings(settings: &[Setting]) -> Result<Settings, String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let file: PathBuf = folder.path().join("cpd.toml");
    let text: String = settings.iter().map(|s| format!("{} = {}\n", s.key, s.value)).collect();
    std::fs::write(&file, text).map_err(|e| e.to_string())?;
    let data = Some(folder.path().to_owned());
    let arguments = Arguments { config: Some(file), data, check: true, ..Arguments::default() };
    Ok(Config::load(&arguments).map_err(|e| e.message)?.settings)
}
