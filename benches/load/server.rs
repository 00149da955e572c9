//! The servers that are measured: cpd as it is shipped, and the yardsticks, each in a process of its own.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cp_proto::client::Client;
use cp_proto::values::{Password, Username};
use cpd_testing::running::{PATIENCE, Setup, address_in, cpctl_of, run};

use crate::filtered::FILTERED;
use crate::process::Guard;

/// The password of every user.
pub const PASSWORD: &str = "correct horse";
/// Users that every store of `Hashing::Cheap` knows.
pub const USERS: usize = 200;
/// The first argument of a yardstick's process.
pub const CHILD: &str = "--child";
const START_STEP: Duration = Duration::from_millis(1);
/// Where a daemon's standard error goes, beside its store.
const LOG: &str = "cpd.log";
const CONTROL: &str = "control.sock";

/// The name of user `n`.
pub fn user_name(n: usize) -> String {
    format!("u{n:04}")
}

/// The client of a connection on which user `n` is about to log in.
pub fn log_in(n: usize) -> Client {
    let mut client = Client::new();
    let (name, password) = (user(n), Password::parse(PASSWORD.as_bytes()).expect("a password"));
    client.log_in(name, &password);
    client
}

/// User `n`.
pub fn user(n: usize) -> Username {
    Username::parse(user_name(n).as_bytes()).expect("a name")
}

/// A running server.
pub struct Server {
    process: Guard,
    pub address: SocketAddr,
    /// From its start to its first answer.
    pub start_seconds: f64,
    folder: Option<PathBuf>,
}

impl Server {
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Ends it in the orderly way and keeps its folder.
    pub fn stop(mut self) -> Result<(), String> {
        self.folder = None;
        self.process.stop().map_err(|e| format!("stopping the server: {e}"))
    }

    /// Its folder goes with it.
    fn owning(mut self, folder: PathBuf) -> Server {
        self.folder = Some(folder);
        self
    }
}

/// The programs of one build.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Build {
    cpd: PathBuf,
    cpctl: PathBuf,
    /// Started under a filter of system calls.
    filtered: bool,
}

impl Build {
    /// This one.
    pub fn own() -> Build {
        Build { cpd: env!("CARGO_BIN_EXE_cpd").into(), cpctl: env!("CARGO_BIN_EXE_cpctl").into(), filtered: false }
    }

    /// The one to which that cpd belongs.
    pub fn of(cpd: &Path) -> Build {
        Build { cpd: cpd.to_path_buf(), cpctl: cpd.with_file_name("cpctl"), filtered: false }
    }

    /// The same, started under a filter of system calls or not.
    pub fn filtered(self, filtered: bool) -> Build {
        Build { filtered, ..self }
    }

    /// What is put before its program's name.
    fn launcher(&self) -> Result<Vec<String>, String> {
        if !self.filtered {
            return Ok(Vec::new());
        }
        let program = std::env::current_exe().map_err(|e| e.to_string())?;
        Ok(vec![program.to_string_lossy().into_owned(), CHILD.to_owned(), FILTERED.to_owned()])
    }

    /// Whether it knows every key of that file.
    fn takes(&self, config: &Path) -> bool {
        let mut check = Command::new(&self.cpd);
        check.arg("--check").arg("--config").arg(config).stdin(Stdio::null());
        check.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    }
}

/// How expensive a password is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hashing {
    /// The least that cpd allows, so that logging in thousands of connections takes no time.
    Cheap,
    Default,
}

/// Starts cpd on `folder`, which is its `--data`.
pub fn cpd(build: &Build, folder: &Path, hashing: Hashing) -> Result<Server, String> {
    let config = folder.join("cpd.toml");
    let setup = |newer| {
        let setup = Setup::with_configuration(configuration(hashing, newer)).programs(&build.cpd, &build.cpctl);
        setup.listen(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).hup_ends()
    };
    let write = |newer| setup(newer).write_configuration(&config);
    let written = write(true).and_then(|()| if build.takes(&config) { Ok(()) } else { write(false) });
    written.map_err(|e| format!("{}: {e}", config.display()))?;
    let log = fs::File::create(folder.join(LOG)).map_err(|e| format!("{LOG}: {e}"))?;
    let begun = Instant::now();
    let launcher = build.launcher()?;
    let wrapped = setup(true).wrapped(&launcher.iter().map(String::as_str).collect::<Vec<_>>());
    let mut process = Guard::spawn(wrapped.command(folder, &config).stdout(Stdio::null()).stderr(log))?;
    while begun.elapsed() < PATIENCE {
        let log = fs::read_to_string(folder.join(LOG)).unwrap_or_default();
        if let Some(address) = address_in(&log, "cp").map(SocketAddr::from).filter(|address| answers(*address)) {
            return Ok(Server { process, address, start_seconds: begun.elapsed().as_secs_f64(), folder: None });
        }
        if let Ok(Some(status)) = process.child().try_wait() {
            return Err(format!("cpd ended with {status}: {}", log.trim_end()));
        }
        std::thread::sleep(START_STEP);
    }
    Err(format!("cpd does not serve after {} s", PATIENCE.as_secs()))
}

/// Starts cpd on a copy of the stopped store in `template`; the copy goes when the server does.
pub fn cpd_from(build: &Build, template: &Path, folder: PathBuf, hashing: Hashing) -> Result<Server, String> {
    copy_store(template, &folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    Ok(cpd(build, &folder, hashing)?.owning(folder))
}

/// Makes the first `users` users on the cpd that runs on `folder`.
pub fn add_users(build: &Build, folder: &Path, users: usize) -> Result<(), String> {
    for name in (0..users).map(user_name) {
        let add = ["user", "add", &name, "--password-stdin"];
        let ended = run(&mut cpctl_of(&build.cpctl, &folder.join(CONTROL), &add), &format!("{PASSWORD}\n"));
        if !ended.status.success() {
            return Err(format!("cpctl user add {name}: {}: {}", ended.status, ended.stderr));
        }
    }
    Ok(())
}

/// Starts this program again as the yardstick that `arguments` name, and learns its port from its first line.
pub fn yardstick(arguments: &[&str], folder: Option<PathBuf>) -> Result<Server, String> {
    start_yardstick(arguments, folder, Stdio::inherit())
}

/// Whether there is such a yardstick. Says nothing of why not.
pub fn has_yardstick(arguments: &[&str]) -> bool {
    start_yardstick(arguments, None, Stdio::null()).is_ok()
}

fn start_yardstick(arguments: &[&str], folder: Option<PathBuf>, stderr: Stdio) -> Result<Server, String> {
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    let begun = Instant::now();
    let mut command = Command::new(program);
    command.arg(CHILD).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr);
    let mut process = Guard::spawn(&mut command)?;
    let mut line = String::new();
    if let Some(stdout) = process.child().stdout.take() {
        BufReader::new(stdout).read_line(&mut line).map_err(|e| e.to_string())?;
    }
    let port: u16 = line.trim().parse().map_err(|_| format!("{} did not start", arguments.join(" ")))?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    Ok(Server { process, address, start_seconds: begun.elapsed().as_secs_f64(), folder })
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(folder) = self.folder.take() {
            // Ended first: it would write into what is being removed.
            let _ = self.process.child().kill();
            let _ = self.process.child().wait();
            let _ = fs::remove_dir_all(folder);
        }
    }
}

/// `newer`: with the keys that 0.2.0 does not know.
fn configuration(hashing: Hashing, newer: bool) -> String {
    let auth = match hashing {
        Hashing::Cheap => "[auth]\nmemory_kib = 8\niterations = 1\n",
        Hashing::Default => "",
    };
    let newer = match newer {
        true => {
            "sessions_per_user = 15000\nmessages_per_sender = 2147483648\nmessages_per_sender_minute = 2147483648\n"
        }
        false => "",
    };
    format!(
        "{auth}[limits]\nconnections = 15000\nconnections_per_address = 15000\n\
         queue_messages = 2147483648\nqueue_messages_per_sender = 2147483648\n{newer}[log]\ntarget = \"stderr\"\n"
    )
}

/// Whether the server answers a PDU that every server must refuse.
fn answers(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(address) else { return false };
    let mut code = [0; 4];
    stream.set_read_timeout(Some(PATIENCE)).is_ok()
        && stream.write_all(b"NOOP\r\n").is_ok()
        && stream.read_exact(&mut code).is_ok()
        && &code == b"500 "
}

fn copy_store(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
