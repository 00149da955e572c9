//! A cpd that runs, or has ended and can be started again on what it left.

use std::fs::File;
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::setup::address_in;
use super::{CHEAP, Client, PATIENCE, Setup, cpctl_of, run, wait_for};
use crate::open_stores;

/// Between two looks at whether it serves or has ended.
const STEP: Duration = Duration::from_millis(1);
/// Lines of its log that a failure shows.
const SHOWN_LINES: usize = 12;

/// A cpd as a process. Dropping it kills it.
pub struct Daemon {
    pub child: Child,
    /// Where its configuration and its log are, and its store unless that is elsewhere.
    pub folder: tempfile::TempDir,
    /// How it is started the next time.
    pub setup: Setup,
    /// Where its log begins, in bytes, behind those of earlier processes.
    log_begins: usize,
    address: OnceLock<SocketAddrV4>,
}

impl Daemon {
    /// Starts one with [`CHEAP`](super::CHEAP) and `settings`, and waits until it serves.
    #[track_caller]
    pub fn start(settings: &str) -> Daemon {
        Setup::new(settings).start()
    }

    /// As [`Daemon::start`] in a folder that has something in it already.
    #[track_caller]
    pub fn start_in(folder: tempfile::TempDir, settings: &str) -> Daemon {
        Setup::new(settings).in_folder(folder).start()
    }

    #[track_caller]
    pub(super) fn launch(setup: Setup, folder: tempfile::TempDir) -> Daemon {
        setup.write_configuration(&folder.path().join("cpd.toml")).expect("written");
        // What an earlier one wrote is not this one's.
        File::create(folder.path().join("stderr")).expect("a file");
        let child = spawn(&setup, &folder);
        Daemon { child, folder, setup, log_begins: 0, address: OnceLock::new() }
    }

    /// Starts it again and waits until it serves. `Err`: it has ended, which is for the caller to judge.
    #[track_caller]
    pub fn restart(&mut self) -> Result<(), ExitStatus> {
        self.relaunch();
        self.waits_until_it_serves()
    }

    /// Starts it again and does not wait.
    #[track_caller]
    pub fn relaunch(&mut self) {
        assert!(!self.runs(), "it runs");
        self.log_begins = self.log().len();
        self.address = OnceLock::new();
        self.child = spawn(&self.setup, &self.folder);
    }

    /// `Err`: it has ended before.
    #[track_caller]
    pub(super) fn waits_until_it_serves(&mut self) -> Result<(), ExitStatus> {
        let begun = Instant::now();
        loop {
            // In this order: the line may be its last but one.
            let status = self.ended();
            if self.log_of_this_process().contains(" started ") {
                return Ok(());
            }
            if let Some(status) = status {
                return Err(status);
            }
            assert!(begun.elapsed() < PATIENCE, "it does not serve after {PATIENCE:?}: {}", self.log());
            sleep(STEP);
        }
    }

    /// Where it listens for CP: what it was told, or else what it says when it serves.
    #[track_caller]
    pub fn address(&self) -> SocketAddrV4 {
        match self.setup.listen {
            told if told.port() != 0 => told,
            _ => *self.address.get_or_init(|| self.address_of("cp")),
        }
    }

    /// Where it listens for the classic dialect.
    #[track_caller]
    pub fn classic_address(&self) -> SocketAddrV4 {
        self.address_of("classic")
    }

    #[track_caller]
    fn address_of(&self, listener: &str) -> SocketAddrV4 {
        self.waits_for_log(" started ");
        wait_for("the address of a listener", || address_in(&self.log_of_this_process(), listener))
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The folder of its store.
    pub fn data(&self) -> PathBuf {
        self.setup.data.clone().unwrap_or_else(|| self.folder.path().join("data"))
    }

    pub fn socket(&self) -> PathBuf {
        self.data().join("control.sock")
    }

    pub fn store(&self) -> PathBuf {
        self.data().join("cpd.db")
    }

    pub fn configuration(&self) -> PathBuf {
        self.folder.path().join("cpd.toml")
    }

    /// Writes the configuration file anew, with other settings.
    pub fn configure(&self, settings: &str) {
        self.setup.write(&self.configuration(), &format!("{CHEAP}{settings}")).expect("written");
    }

    /// What it wrote to stderr so far, with what earlier processes did.
    pub fn log(&self) -> String {
        std::fs::read(self.folder.path().join("stderr"))
            .map(|log| String::from_utf8_lossy(&log).into_owned())
            .unwrap_or_default()
    }

    fn log_of_this_process(&self) -> String {
        self.log().get(self.log_begins..).unwrap_or_default().to_owned()
    }

    /// The last of its log, for people.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().rev().take(SHOWN_LINES).collect();
        let lines: String = lines.iter().rev().map(|line| format!("\n      | {line}")).collect();
        format!("its log:{lines}")
    }

    #[track_caller]
    pub fn waits_for_log(&self, text: &str) {
        wait_for(text, || {
            let log = self.log_of_this_process();
            let ended = log.contains(" error ended ") || log.contains("\ncpd: ") || log.starts_with("cpd: ");
            assert!(log.contains(text) || !ended, "no {text:?}, and it has ended: {log}");
            log.contains(text).then_some(())
        });
    }

    /// cpctl's text, and that it succeeded.
    #[track_caller]
    pub fn cpctl(&self, arguments: &[&str], stdin: &str) -> String {
        self.try_cpctl(arguments, stdin).unwrap_or_else(|fault| panic!("{fault}"))
    }

    /// As [`Daemon::cpctl`]. `Err`: what it said, for people.
    pub fn try_cpctl(&self, arguments: &[&str], stdin: &str) -> Result<String, String> {
        let ended = run(&mut cpctl_of(&self.setup.cpctl, &self.socket(), arguments), stdin);
        let fault = || format!("cpctl {arguments:?}: {ended:?}; {}", self.log_tail());
        if ended.status.success() { Ok(ended.stdout) } else { Err(fault()) }
    }

    #[track_caller]
    pub fn add_user(&self, name: &str, password: &str) {
        self.cpctl(&["user", "add", name, "--password-stdin"], &format!("{password}\n"));
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

    #[track_caller]
    pub fn connect(&self) -> Client {
        Client::connect(self.address())
    }

    /// Sends a signal and does not wait.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("it runs");
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.ended().is_none()
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child")
    }

    /// Waits for its end.
    #[track_caller]
    pub fn ends(&mut self) -> ExitStatus {
        let status = self.ends_within(PATIENCE);
        status.unwrap_or_else(|| panic!("it runs after {PATIENCE:?}: {}", self.log_tail()))
    }

    /// Waits for its end by itself; `None`: it still runs after that time.
    pub fn ends_within(&mut self, time: Duration) -> Option<ExitStatus> {
        let begun = Instant::now();
        loop {
            let ended = self.ended();
            if ended.is_some() || begun.elapsed() >= time {
                return ended;
            }
            sleep(STEP);
        }
    }

    /// Ends it with KILL.
    #[track_caller]
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.ends();
    }

    /// Stops it with TERM, which must work, and gives its folder for another one.
    #[track_caller]
    pub fn stop(mut self) -> tempfile::TempDir {
        self.signal(Signal::TERM);
        let status = self.ends();
        assert_eq!(status.code(), Some(0), "{}", self.log());
        self.into_folder()
    }

    /// Kills it if it runs, and gives its folder for another one.
    pub fn into_folder(mut self) -> tempfile::TempDir {
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

#[track_caller]
fn spawn(setup: &Setup, folder: &tempfile::TempDir) -> Child {
    let data = setup.data.clone().unwrap_or_else(|| folder.path().join("data"));
    let mut command = setup.command(&data, &folder.path().join("cpd.toml"));
    let log = File::options().append(true).open(folder.path().join("stderr")).expect("the log");
    command.stdout(Stdio::null()).stderr(if setup.stderr_piped { Stdio::piped() } else { log.into() });
    open_stores::spawn(&mut command).unwrap_or_else(|error| panic!("{command:?}: {error}"))
}
