//! A real cpd as a process, for tests from outside: started with a folder and a loopback address of its own, watched
//! through its stderr, its control socket and its exit code.

pub mod terminal;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long anything may take on a busy machine before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long nothing must happen where nothing is to happen.
pub const QUIET: Duration = Duration::from_millis(300);
const STEP: Duration = Duration::from_millis(5);
/// Not 5035, on which a cpd of this machine may listen on every address.
pub const PORT: u16 = 15037;

/// With `--data` HUP ends cpd, unless it was ignored at its start. Keeps the process's number.
const HUP_REREADS: [&str; 2] = ["env", "--ignore-signal=HUP"];

/// Cheap password hashes, and everything else by default.
pub const CHEAP: &str = "auth.memory_kib = 8\nauth.iterations = 1\nauth.threads = 1\n";

pub fn cpd() -> Command {
    let mut command = Command::new(crate::programs::cpd());
    command.stdin(Stdio::null()).env_remove("NOTIFY_SOCKET").env_remove("LISTEN_FDS");
    command
}

/// A loopback address that no other test of this process uses, nor, most likely, of another.
pub fn next_address() -> SocketAddrV4 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let process = std::process::id().wrapping_add(number / 250).to_le_bytes();
    let last = u8::try_from(number % 250 + 1).unwrap_or(1);
    SocketAddrV4::new(Ipv4Addr::new(127, process[1] % 254 + 1, process[0], last), PORT)
}

/// Waits until `what` is there.
#[track_caller]
pub fn wait_for<T>(whatever: &str, mut what: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = what() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain: {whatever}");
        sleep(STEP);
    }
}

/// Fails, naming what to install, unless `program` is there.
#[track_caller]
pub fn need(program: &str, package: &str) {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths).any(|folder| folder.join(program).is_file());
    assert!(found, "this test needs {program}: install the package {package}");
}

/// What a process that has ended leaves.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }
}

/// Runs `command` to its end.
#[track_caller]
pub fn run(command: &mut Command, stdin: &str) -> Ended {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    // A process that does not read its input is no fault.
    let _ = child.stdin.take().expect("a pipe").write_all(stdin.as_bytes());
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ended { status: output.status, stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// A cpd that runs. Dropping it kills it.
pub struct Daemon {
    pub child: Child,
    pub folder: tempfile::TempDir,
    pub address: SocketAddrV4,
}

impl Daemon {
    /// Starts one with [`CHEAP`] and `settings`, listening on an address of its own, and waits until it serves.
    #[track_caller]
    pub fn start(settings: &str) -> Daemon {
        Daemon::start_in(tempfile::tempdir().expect("a folder"), settings, |_| {})
    }

    /// As [`Daemon::start`] in a folder that has something in it already, `change` having a last word on the command.
    #[track_caller]
    pub fn start_in(folder: tempfile::TempDir, settings: &str, change: impl FnOnce(&mut Command)) -> Daemon {
        let daemon = Daemon::launch(folder, settings, change);
        daemon.waits_for_log(" started ");
        daemon
    }

    /// As [`Daemon::start_in`] without waiting.
    pub fn launch(folder: tempfile::TempDir, settings: &str, change: impl FnOnce(&mut Command)) -> Daemon {
        let address = next_address();
        let own = format!("listen.cp = [\"{address}\"]\n{CHEAP}{settings}");
        std::fs::write(folder.path().join("cpd.toml"), own).expect("written");
        let mut command = Command::new(HUP_REREADS[0]);
        command.args(&HUP_REREADS[1..]).arg(crate::programs::cpd());
        command.stdin(Stdio::null()).env_remove("NOTIFY_SOCKET").env_remove("LISTEN_FDS");
        command.arg("--data").arg(folder.path().join("data")).arg("--config").arg(folder.path().join("cpd.toml"));
        command.stdout(Stdio::null()).stderr(File::create(folder.path().join("stderr")).expect("a file"));
        change(&mut command);
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Daemon { child, folder, address }
    }

    /// Makes `command`, in the hands of [`Daemon::start_in`], run under `wrapper`.
    pub fn under(command: &mut Command, wrapper: &[&str]) {
        Daemon::instead(command, &[wrapper, &[crate::programs::cpd()]].concat());
    }

    /// Makes `command`, in the hands of [`Daemon::start_in`], run these words in the place of cpd.
    pub fn instead(command: &mut Command, words: &[&str]) {
        // Behind what launches it and its own name.
        let arguments: Vec<_> = command.get_args().skip(HUP_REREADS.len()).map(ToOwned::to_owned).collect();
        let file = PathBuf::from(arguments.last().expect("the configuration"));
        let log = File::options().append(true).open(file.with_file_name("stderr")).expect("the log");
        *command = Command::new(HUP_REREADS[0]);
        command.args(&HUP_REREADS[1..]).args(words).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("data/control.sock")
    }

    pub fn store(&self) -> PathBuf {
        self.folder.path().join("data/cpd.db")
    }

    /// Writes the configuration file anew, with other settings.
    pub fn configure(&self, settings: &str) {
        let own = format!("listen.cp = [\"{}\"]\n{CHEAP}{settings}", self.address);
        std::fs::write(self.folder.path().join("cpd.toml"), own).expect("written");
    }

    /// What it wrote to stderr so far.
    pub fn log(&self) -> String {
        std::fs::read(self.folder.path().join("stderr"))
            .map(|log| String::from_utf8_lossy(&log).into_owned())
            .unwrap_or_default()
    }

    #[track_caller]
    pub fn waits_for_log(&self, text: &str) {
        wait_for(text, || {
            let log = self.log();
            let ended = log.contains(" error ended ") || log.contains("\ncpd: ") || log.starts_with("cpd: ");
            assert!(log.contains(text) || !ended, "no {text:?}, and it has ended: {log}");
            log.contains(text).then_some(())
        });
    }

    /// cpctl's text, and that it succeeded.
    #[track_caller]
    pub fn cpctl(&self, arguments: &[&str], stdin: &str) -> String {
        let ended = run(&mut cpctl(&self.socket(), arguments), stdin);
        assert!(ended.status.success(), "cpctl {arguments:?}: {ended:?}; {}", self.log());
        ended.stdout
    }

    #[track_caller]
    pub fn add_user(&self, name: &str, password: &str) {
        self.cpctl(&["user", "add", name, "--password-stdin"], &format!("{password}\n"));
    }

    #[track_caller]
    pub fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("it runs");
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn ends(&mut self) -> ExitStatus {
        wait_for("the end of cpd", || self.child.try_wait().expect("a child"))
    }

    /// Stops it with TERM, which must work, and gives its folder for another one.
    #[track_caller]
    pub fn stop(mut self) -> tempfile::TempDir {
        self.signal(Signal::TERM);
        let status = self.ends();
        assert_eq!(status.code(), Some(0), "{}", self.log());
        std::mem::replace(&mut self.folder, tempfile::tempdir().expect("a folder"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail only when it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn cpctl(socket: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(crate::programs::cpctl());
    command.arg("--socket").arg(socket).args(arguments);
    command
}

/// A client of CP.
pub struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    #[track_caller]
    pub fn connect(address: SocketAddrV4) -> Client {
        let stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("{address}: {error}"));
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        Client { reader: BufReader::new(stream) }
    }

    #[track_caller]
    pub fn send(&mut self, line: &str) {
        self.reader.get_mut().write_all(format!("{line}\r\n").as_bytes()).expect("sent");
    }

    /// Sends a part of a line.
    #[track_caller]
    pub fn begins(&mut self, part: &str) {
        self.reader.get_mut().write_all(part.as_bytes()).expect("sent");
    }

    /// Its own end's port.
    pub fn port(&self) -> u16 {
        self.reader.get_ref().local_addr().expect("connected").port()
    }

    /// The next line without its CRLF; empty at the end of the connection.
    #[track_caller]
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("a line or the end");
        line.trim_end_matches("\r\n").to_owned()
    }

    /// As [`Client::line`], also empty after a reset; `None` when nothing comes for so long.
    pub fn line_within(&mut self, patience: Duration) -> Option<String> {
        self.reader.get_ref().set_read_timeout(Some(patience)).expect("set");
        let mut line = String::new();
        let read = self.reader.read_line(&mut line);
        self.reader.get_ref().set_read_timeout(Some(PATIENCE)).expect("set");
        let late = read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        (!late).then(|| line.trim_end_matches("\r\n").to_owned())
    }

    /// Sends a line to a server that may have closed; whether it could be sent.
    pub fn says(&mut self, line: &str) -> bool {
        self.reader.get_mut().write_all(format!("{line}\r\n").as_bytes()).is_ok()
    }

    /// Sends a line and compares the beginning of the answer.
    #[track_caller]
    pub fn asks(&mut self, line: &str, answer: &str) {
        self.send(line);
        let said = self.line();
        assert!(said.starts_with(answer), "{line}: {said:?} instead of {answer:?}");
    }

    #[track_caller]
    pub fn logs_in(&mut self, name: &str, password: &str) {
        self.asks(&format!("USER {name}"), "220 ");
        self.asks(&format!("PASS {password}"), "230 ");
    }

    /// That the server has closed, having said nothing more.
    #[track_caller]
    pub fn is_closed(&mut self) {
        let mut rest = Vec::new();
        // A reset is an end as well.
        let _ = self.reader.read_to_end(&mut rest);
        assert!(rest.is_empty(), "{:?}", String::from_utf8_lossy(&rest));
    }

    /// That nothing comes for a while.
    #[track_caller]
    pub fn hears_nothing(&mut self) {
        self.reader.get_ref().set_read_timeout(Some(QUIET)).expect("set");
        let heard = self.reader.fill_buf().map(<[u8]>::to_vec);
        assert!(heard.is_err(), "{heard:?}");
        self.reader.get_ref().set_read_timeout(Some(PATIENCE)).expect("set");
    }
}

/// Whether somebody listens on the control socket.
pub fn answers(socket: &Path) -> bool {
    UnixStream::connect(socket).is_ok()
}
