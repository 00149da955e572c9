//! A real cpd, one for each conversation, on a loopback address of its own, and real sockets.
//!
//! `CPD` and `CPCTL` in the environment name other binaries than the ones just built, such as the installed ones.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use super::parser::{Listener, Script, Setting};
use super::runner::{Got, Peer};
use super::text::readable;
use crate::programs;

/// How long an answer may take on a busy machine.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// How long nothing must come for `<quiet>`.
const QUIET: Duration = Duration::from_millis(30);
/// How long a start or a connect may take.
const START_MAX: Duration = Duration::from_secs(20);
/// Addresses that are tried before a start is given up.
const ADDRESSES_MAX: u32 = 5;
/// Not 5035: a cpd that listens there on every address is nobody's business here.
const PORT: u16 = 15035;
const CLASSIC_PORT: u16 = 15036;
/// cpd's exit code for an address in use.
const EX_UNAVAILABLE: i32 = 69;

/// A running cpd with the clients' ends of its connections.
pub struct Daemon {
    child: Child,
    folder: tempfile::TempDir,
    address: SocketAddrV4,
    connections: HashMap<usize, TcpStream>,
    started: Instant,
}

impl Daemon {
    /// Starts a daemon as `script` wants it, with its users.
    pub fn start(script: &Script) -> Result<Daemon, String> {
        for _ in 0..ADDRESSES_MAX {
            if let Some(mut daemon) = Daemon::launch(script)? {
                for user in &script.users {
                    let add = ["user", "add", &user.name, "--password-stdin"].map(String::from);
                    daemon.admin(&add, Some(&format!("{}\n", user.password)))?;
                }
                return Ok(daemon);
            }
        }
        Err("no free loopback address".into())
    }

    /// `None` when somebody else has the address.
    fn launch(script: &Script) -> Result<Option<Daemon>, String> {
        let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
        let ip = next_address();
        let configuration = configuration(&script.settings, ip)?;
        std::fs::write(folder.path().join("cpd.toml"), configuration).map_err(|e| e.to_string())?;
        let log = File::create(folder.path().join("stderr")).map_err(|e| e.to_string())?;
        let mut command = Command::new(binary("CPD", programs::cpd()));
        command.arg("--data").arg(folder.path().join("data")).arg("--config").arg(folder.path().join("cpd.toml"));
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().map_err(|e| e.to_string())?;
        let port = if script.listener == Listener::Classic { CLASSIC_PORT } else { PORT };
        let address = SocketAddrV4::new(ip, port);
        let mut daemon = Daemon { child, folder, address, connections: HashMap::new(), started: Instant::now() };
        let control = daemon.control_socket();
        while UnixStream::connect(&control).is_err() {
            match daemon.child.try_wait().map_err(|e| e.to_string())? {
                Some(status) if status.code() == Some(EX_UNAVAILABLE) => return Ok(None),
                Some(status) => return Err(format!("cpd ended at its start, {status}: {}", daemon.log())),
                None if daemon.started.elapsed() > START_MAX => {
                    return Err(format!("no control socket after {START_MAX:?}: {}", daemon.log()));
                }
                None => sleep(Duration::from_millis(2)),
            }
        }
        Ok(Some(daemon))
    }

    fn control_socket(&self) -> PathBuf {
        self.folder.path().join("data/control.sock")
    }

    /// What cpd wrote to stderr.
    pub fn log(&self) -> String {
        std::fs::read(self.folder.path().join("stderr")).map(|log| log_tail(&log)).unwrap_or_default()
    }

    fn cpctl(&self, arguments: &[String], stdin: Option<&str>) -> Result<String, String> {
        let mut command = Command::new(binary("CPCTL", programs::cpctl()));
        command.arg("--socket").arg(self.control_socket()).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| e.to_string())?;
        if let Some(mut input) = child.stdin.take() {
            // A cpctl that does not read its input is no fault.
            let _ = input.write_all(stdin.unwrap_or_default().as_bytes());
        }
        let output = child.wait_with_output().map_err(|e| e.to_string())?;
        if !output.status.success() {
            let error = readable(&output.stderr);
            return Err(format!("cpctl {}: {}: {error}; {}", arguments.join(" "), output.status, self.log()));
        }
        String::from_utf8(output.stdout).map_err(|e| e.to_string())
    }

    /// The number of the session in which `name` is logged in.
    fn session_of(&self, name: &str) -> Result<String, String> {
        let list = self.cpctl(&["--json", "session", "list"].map(String::from), None)?;
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
    /// The control socket may be there before the listeners are: a refused connection is tried again.
    fn open(&mut self, connection: usize) -> Result<(), String> {
        let begun = Instant::now();
        let stream = loop {
            match TcpStream::connect(self.address) {
                Ok(stream) => break stream,
                Err(e) if e.kind() == ErrorKind::ConnectionRefused && begun.elapsed() < START_MAX => {
                    self.finish()?;
                    sleep(Duration::from_millis(2));
                }
                Err(e) => return Err(format!("{}: {e}; {}", self.address, self.log())),
            }
        };
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        stream.set_write_timeout(Some(ANSWER_MAX)).map_err(|e| e.to_string())?;
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
        while begun.elapsed() < 2 * ANSWER_MAX {
            match (&stream).write(&chunk) {
                Ok(_) => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(e) if matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => return Ok(()),
                Err(e) => return Err(e.to_string()),
            }
        }
        Err(format!("the server has not closed after {:?}; {}", 2 * ANSWER_MAX, self.log()))
    }

    fn read(&mut self, connection: usize) -> Result<Got, String> {
        self.read_within(connection, ANSWER_MAX)
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
        self.cpctl(&arguments, stdin).map(|_| ())
    }

    fn finish(&mut self) -> Result<(), String> {
        match self.child.try_wait().map_err(|e| e.to_string())? {
            Some(status) => Err(format!("cpd has ended, {status}: {}", self.log())),
            None => Ok(()),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail only when it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn binary(variable: &str, built: &str) -> OsString {
    std::env::var_os(variable).unwrap_or_else(|| built.into())
}

/// A loopback address that no other conversation of this process uses, nor, most likely, of another.
fn next_address() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let process = std::process::id().wrapping_add(number / 250).to_le_bytes();
    Ipv4Addr::new(127, process[1] % 254 + 1, process[0], u8::try_from(number % 250 + 1).unwrap_or(1))
}

/// The configuration file: cheap hashes, both listeners at `ip`, and the script's own settings.
fn configuration(settings: &[Setting], ip: Ipv4Addr) -> Result<String, String> {
    let fixed = format!(
        "listen.cp = [\"{ip}:{PORT}\"]\nlisten.classic = [\"{ip}:{CLASSIC_PORT}\"]\n\
         auth.memory_kib = 8\nauth.iterations = 1\nauth.threads = 1\nlog.target = \"stderr\"\n"
    );
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

/// The end of a log, line by line.
fn log_tail(log: &[u8]) -> String {
    let lines: Vec<&[u8]> = log.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    let last = lines.iter().rev().take(12).rev().map(|line| format!("\n      | {}", readable(line)));
    format!("its log:{}", last.collect::<String>())
}
