//! A real cpd over one folder: started, ended in any way, and started again on what it left.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use cpd_core::sabotage::Fault;
use rustix::process::{Pid, Signal, kill_process};

use super::{open_stores, sabotaged_program};

/// How long a start may take on a busy machine.
const START_MAX: Duration = Duration::from_secs(20);
/// How long a line of its log may take on a busy machine.
const LINE_MAX: Duration = Duration::from_secs(20);
const ADDRESSES_MAX: u32 = 5;
const PORT: u16 = 15037;
/// cpd's exit code for an address in use.
const EX_UNAVAILABLE: i32 = 69;

/// Where a cpd comes from and where it keeps its store.
pub struct Recipe {
    pub program: PathBuf,
    /// The fault that a sabotaged cpd is to have.
    pub fault: Option<&'static str>,
    /// The folder of the store, where it is not to be in the daemon's own.
    pub data: Option<PathBuf>,
    /// Put before the program's name, as `strace` is.
    pub wrapper: Vec<String>,
}

impl Recipe {
    pub fn plain() -> Recipe {
        Recipe { program: crate::programs::cpd().into(), fault: None, data: None, wrapper: Vec::new() }
    }

    /// One that does `fault` (crates/cpd-core/src/sabotage.rs).
    pub fn sabotaged(fault: Fault) -> Recipe {
        Recipe { program: sabotaged_program::program(), fault: Some(fault.name()), ..Recipe::plain() }
    }

    pub fn in_folder(self, data: PathBuf) -> Recipe {
        Recipe { data: Some(data), ..self }
    }
}

pub struct Cpd {
    pub recipe: Recipe,
    folder: tempfile::TempDir,
    address: SocketAddrV4,
    child: Option<Child>,
}

impl Cpd {
    /// A running daemon with an empty store, but for `users`; the password of each is its name.
    pub fn with_users(mut recipe: Recipe, users: &[&str]) -> Cpd {
        for _ in 0..ADDRESSES_MAX {
            let folder = tempfile::tempdir().expect("a folder");
            let address = SocketAddrV4::new(next_address(), PORT);
            let configuration = format!(
                "[listen]\ncp = [\"{address}\"]\n[auth]\nmemory_kib = 8\niterations = 1\nthreads = 1\n\
                 [limits]\nqueue_messages = 1000000\nqueue_messages_per_sender = 1000000\nmessages_per_sender = 1000000\nmessages_per_sender_minute = 10000000\n\
                 [log]\ntarget = \"stderr\"\n"
            );
            std::fs::write(folder.path().join("cpd.toml"), configuration).expect("a configuration");
            let mut cpd = Cpd { recipe, folder, address, child: None };
            match cpd.start() {
                Ok(()) => {
                    for user in users {
                        cpd.cpctl(&["user", "add", user, "--password-stdin"], &format!("{user}\n"));
                    }
                    return cpd;
                }
                Err(status) if status.code() == Some(EX_UNAVAILABLE) => recipe = cpd.into_recipe(),
                Err(status) => panic!("cpd ended at its start, {status}: {}", cpd.log()),
            }
        }
        panic!("no free loopback address")
    }

    /// Starts it and waits until it serves. `Err`: it has ended, which is for the caller to judge.
    pub fn start(&mut self) -> Result<(), ExitStatus> {
        let begun = Instant::now();
        self.spawn();
        while UnixStream::connect(self.control_socket()).is_err() {
            let child = self.child.as_mut().expect("a child");
            if let Some(status) = child.try_wait().expect("a child") {
                self.child = None;
                return Err(status);
            }
            assert!(begun.elapsed() < START_MAX, "no control socket after {START_MAX:?}: {}", self.log());
            sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Starts it and does not wait.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "it runs");
        let log = File::options().create(true).append(true).open(self.folder.path().join("stderr")).expect("a log");
        let mut words = self.recipe.wrapper.iter().map(OsStr::new).chain([self.recipe.program.as_os_str()]);
        let mut command = Command::new(words.next().expect("a program"));
        command.args(words).envs(self.recipe.fault.map(|fault| ("CPD_SABOTAGE", fault)));
        command.arg("--data").arg(self.data()).arg("--config").arg(self.folder.path().join("cpd.toml"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = open_stores::spawn(&mut command).expect("cpd");
        self.child = Some(child);
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.as_ref().expect("a child").id()
    }

    /// Sends a signal and does not wait.
    pub fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("a child");
        kill_process(Pid::from_child(child), signal).expect("the daemon is there");
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().expect("a child")?;
        self.child = None;
        Some(status)
    }

    /// Waits for its end by itself; `None`: it still runs after that time.
    pub fn ends_within(&mut self, time: Duration) -> Option<ExitStatus> {
        let begun = Instant::now();
        while begun.elapsed() < time {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            sleep(Duration::from_millis(1));
        }
        None
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.take().expect("a child").wait().expect("a child")
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait();
    }

    /// Standard output of a cpctl command that must succeed.
    pub fn cpctl(&self, arguments: &[&str], stdin: &str) -> String {
        let mut command = Command::new(crate::programs::cpctl());
        command.arg("--socket").arg(self.control_socket()).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = open_stores::spawn(&mut command).expect("cpctl");
        if let Some(mut input) = child.stdin.take() {
            // A cpctl that does not read its input is no fault.
            let _ = input.write_all(stdin.as_bytes());
        }
        let output = child.wait_with_output().expect("cpctl");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "cpctl {arguments:?}: {error}; {}", self.log());
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// How many messages wait for whom, as cpctl says.
    pub fn queues(&self) -> Vec<(String, u64)> {
        let list = self.cpctl(&["--json", "queue", "list"], "");
        let document: serde_json::Value = serde_json::from_str(&list).expect("JSON");
        let rows = document.as_array().or_else(|| document.get("queues")?.as_array()).expect("a list of queues");
        let row =
            |row: &serde_json::Value| Some((row.get("user")?.as_str()?.to_owned(), row.get("messages")?.as_u64()?));
        rows.iter().map(|queue| row(queue).expect("a queue")).collect()
    }

    pub fn address(&self) -> SocketAddrV4 {
        self.address
    }

    /// The folder of the store.
    pub fn data(&self) -> PathBuf {
        self.recipe.data.clone().unwrap_or_else(|| self.folder.path().join("data"))
    }

    /// The folder of its configuration and its log.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn into_recipe(mut self) -> Recipe {
        std::mem::replace(&mut self.recipe, Recipe::plain())
    }

    fn control_socket(&self) -> PathBuf {
        self.data().join("control.sock")
    }

    /// The last of what it wrote to stderr, for people.
    pub fn log(&self) -> String {
        let log = self.whole_log();
        let lines: Vec<&str> = log.lines().rev().take(12).collect();
        let lines: String = lines.iter().rev().map(|line| format!("\n      | {line}")).collect();
        format!("its log:{lines}")
    }

    /// Everything that it wrote to stderr since it was first started.
    pub fn whole_log(&self) -> String {
        let log = std::fs::read(self.folder.path().join("stderr")).expect("a log");
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Waits until its log, whose lines come a little after what they tell of, contains `text`.
    pub fn waits_for_log(&self, text: &str) {
        let begun = Instant::now();
        while !self.whole_log().contains(text) {
            assert!(begun.elapsed() < LINE_MAX, "no line with {text:?}; {}", self.log());
            sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Cpd {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only when it is gone already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A loopback address that no other daemon of this process uses, nor, most likely, of another.
fn next_address() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let process = std::process::id().to_le_bytes();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    Ipv4Addr::new(127, process[1] % 254 + 1, process[0], u8::try_from(number % 250 + 1).unwrap_or(1))
}
