//! A real cpd, one for each conversation, on a loopback address of its own, and real sockets.
//!
//! `CPD` and `CPCTL` in the environment name other binaries than the ones just built, such as the installed ones.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddrV4, TcpStream};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use super::parser::{Listener, Script, Setting};
use super::runner::{Got, Peer};
use crate::programs;
use crate::running::{self, PATIENCE, Setup};

/// How long nothing must come for `<quiet>`.
const QUIET: Duration = Duration::from_millis(30);

/// A running cpd with the clients' ends of its connections.
pub struct Daemon {
    cpd: running::Daemon,
    address: SocketAddrV4,
    connections: HashMap<usize, TcpStream>,
    started: Instant,
}

impl Daemon {
    /// Starts a daemon as `script` wants it, with its users.
    pub fn start(script: &Script) -> Result<Daemon, String> {
        let setup = Setup::with_configuration(configuration(&script.settings)?).listen_classic();
        let setup = setup.programs(binary("CPD", programs::cpd()), binary("CPCTL", programs::cpctl()));
        let cpd = setup.try_start()?;
        for user in &script.users {
            let add = ["user", "add", &user.name, "--password-stdin"];
            cpd.try_cpctl(&add, &format!("{}\n", user.password))?;
        }
        let classic = script.listener == Listener::Classic;
        let address = if classic { cpd.classic_address() } else { cpd.address() };
        Ok(Daemon { cpd, address, connections: HashMap::new(), started: Instant::now() })
    }

    /// The last of what cpd wrote to stderr.
    pub fn log(&self) -> String {
        self.cpd.log_tail()
    }

    /// The number of the session in which `name` is logged in.
    fn session_of(&self, name: &str) -> Result<String, String> {
        let list = self.cpd.try_cpctl(&["--json", "session", "list"], "")?;
        let document = serde_json::from_str(&list).map_err(|e| format!("session list: {e}: {list}"))?;
        find_session(&document, name).ok_or(format!("{name} is in no session: {list}"))
    }

    fn stream(&self, connection: usize) -> Result<&TcpStream, String> {
        self.connections.get(&connection).ok_or(format!("connection {connection} is not open"))
    }

    fn read_within(&self, connection: usize, time: Duration) -> Result<Got, String> {
        let mut stream = self.stream(connection)?;
        stream.set_read_timeout(Some(time)).map_err(|e| e.to_string())?;
        let mut buffer = vec![0; 64 * 1024];
        match stream.read(&mut buffer) {
            Ok(0) => Ok(Got::Closed),
            Ok(count) => {
                buffer.truncate(count);
                Ok(Got::Bytes(buffer))
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(Got::Nothing),
            Err(e) if e.kind() == ErrorKind::ConnectionReset => Ok(Got::Reset),
            Err(e) => Err(e.to_string()),
        }
    }
}

impl Peer for Daemon {
    fn open(&mut self, connection: usize) -> Result<(), String> {
        let connected = TcpStream::connect(self.address);
        let stream = connected.map_err(|e| format!("{}: {e}; {}", self.address, self.log()))?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(|e| e.to_string())?;
        self.connections.insert(connection, stream);
        Ok(())
    }

    fn send(&mut self, connection: usize, bytes: &[u8]) -> Result<(), String> {
        self.stream(connection)?.write_all(bytes).map_err(|e| format!("sending: {e}"))
    }

    fn fin(&mut self, connection: usize) -> Result<(), String> {
        self.stream(connection)?.shutdown(Shutdown::Write).map_err(|e| format!("sending FIN: {e}"))
    }

    fn drop_connection(&mut self, connection: usize, reset: bool) -> Result<(), String> {
        if reset {
            let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
            setsockopt(self.stream(connection)?, sockopt::Linger, &linger).map_err(|e| e.to_string())?;
        }
        self.connections.remove(&connection);
        Ok(())
    }

    fn flood(&mut self, connection: usize, bytes: &[u8]) -> Result<(), String> {
        let stream = self.connections.remove(&connection).ok_or("not open")?;
        let chunk = bytes.repeat(64 * 1024 / bytes.len().max(1));
        let begun = Instant::now();
        stream.set_write_timeout(Some(Duration::from_millis(100))).map_err(|e| e.to_string())?;
        while begun.elapsed() < 2 * PATIENCE {
            match (&stream).write(&chunk) {
                Ok(_) => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(e) if matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => return Ok(()),
                Err(e) => return Err(e.to_string()),
            }
        }
        Err(format!("the server has not closed after {:?}; {}", 2 * PATIENCE, self.log()))
    }

    fn read(&mut self, connection: usize) -> Result<Got, String> {
        self.read_within(connection, PATIENCE)
    }

    fn poll(&mut self, connection: usize) -> Result<Got, String> {
        self.read_within(connection, QUIET)
    }

    fn wait(&mut self, time: Duration) -> Result<(), String> {
        sleep(time);
        Ok(())
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn is_virtual(&self) -> bool {
        false
    }

    fn admin(&mut self, arguments: &[String], stdin: Option<&str>) -> Result<(), String> {
        let named = |argument: &String| match argument.strip_prefix('@') {
            Some(name) => self.session_of(name),
            None => Ok(argument.clone()),
        };
        let arguments = arguments.iter().map(named).collect::<Result<Vec<_>, _>>()?;
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.cpd.try_cpctl(&arguments, stdin.unwrap_or_default()).map(drop)
    }

    fn finish(&mut self) -> Result<(), String> {
        match self.cpd.ended() {
            Some(status) => Err(format!("cpd has ended, {status}: {}", self.log())),
            None => Ok(()),
        }
    }
}

fn binary(variable: &str, built: &str) -> PathBuf {
    std::env::var_os(variable).unwrap_or_else(|| built.into()).into()
}

/// The configuration: cheap hashes and the script's own settings.
fn configuration(settings: &[Setting]) -> Result<String, String> {
    let fixed = format!("{}log.target = \"stderr\"\n", running::CHEAP);
    let mut table: toml::Table = toml::from_str(&fixed).map_err(|e| e.to_string())?;
    for Setting { key, value } in settings {
        let (section, name) = key.split_once('.').ok_or(format!("a key is section.name: {key}"))?;
        let entry = table.entry(section).or_insert_with(|| toml::Table::new().into());
        entry.as_table_mut().ok_or(format!("no section: {section}"))?.insert(name.to_string(), value.clone());
    }
    toml::to_string(&table).map_err(|e| e.to_string())
}

/// The `id` of the object, anywhere in `document`, one of whose fields is `name`.
fn find_session(document: &serde_json::Value, name: &str) -> Option<String> {
    match document {
        serde_json::Value::Array(items) => items.iter().find_map(|item| find_session(item, name)),
        serde_json::Value::Object(fields) => match fields.get("id") {
            Some(id) if fields.values().any(|field| field == name) => {
                Some(id.as_str().map_or_else(|| id.to_string(), String::from))
            }
            _ => fields.values().find_map(|field| find_session(field, name)),
        },
        _ => None,
    }
}
