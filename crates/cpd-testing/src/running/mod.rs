//! A real cpd as a process, for tests from outside: started with a folder and a loopback address of its own, watched
//! through its stderr, its control socket and its exit code.

mod client;
mod daemon;
mod setup;
pub mod terminal;

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

pub use client::Client;
pub use daemon::Daemon;
pub use setup::{CHEAP, Setup, address_in};

use crate::open_stores;

/// How long anything may take on a busy machine before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long nothing must happen where nothing is to happen.
pub const QUIET: Duration = Duration::from_millis(300);
const STEP: Duration = Duration::from_millis(5);
/// For a cpd that has to be told one. Not 5035, on which a cpd of this machine may listen on every address.
pub const PORT: u16 = 15037;

pub fn cpd() -> Command {
    let mut command = Command::new(crate::programs::cpd());
    command.stdin(Stdio::null()).env_remove("NOTIFY_SOCKET").env_remove("LISTEN_FDS");
    command
}

/// A loopback address that no other test of this process uses, nor, most likely, of another.
pub fn loopback_address() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let process = std::process::id().wrapping_add(number / 250).to_le_bytes();
    Ipv4Addr::new(127, process[1] % 254 + 1, process[0], u8::try_from(number % 250 + 1).unwrap_or(1))
}

/// An address for a cpd that has to be told its port: one that nobody starts, or whose log nobody can read.
pub fn next_address() -> SocketAddrV4 {
    SocketAddrV4::new(loopback_address(), PORT)
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
    let mut child = open_stores::spawn(piped).unwrap_or_else(|error| panic!("{command:?}: {error}"));
    // A process that does not read its input is no fault.
    let _ = child.stdin.take().expect("a pipe").write_all(stdin.as_bytes());
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ended { status: output.status, stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

pub fn cpctl(socket: &Path, arguments: &[&str]) -> Command {
    cpctl_of(Path::new(crate::programs::cpctl()), socket, arguments)
}

/// As [`cpctl`], of another build.
pub fn cpctl_of(program: &Path, socket: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.arg("--socket").arg(socket).args(arguments);
    command
}

/// Whether somebody listens on the control socket.
pub fn answers(socket: &Path) -> bool {
    UnixStream::connect(socket).is_ok()
}
