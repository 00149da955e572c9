//! How a cpd is started: its program, its folder, its configuration and what is put around it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cpd_core::sabotage::Fault;

use super::{Daemon, loopback_address};
use crate::{programs, sabotaged};

/// Cheap password hashes, and everything else by default.
pub const CHEAP: &str = "auth.memory_kib = 8\nauth.iterations = 1\nauth.threads = 1\n";
/// With `--data` HUP ends cpd, unless it was ignored at its start. Keeps the process's number.
const HUP_IGNORED: [&str; 2] = ["env", "--ignore-signal=HUP"];

/// How a cpd is to be started. Without more it listens on a port of a loopback address of its own that the kernel
/// chooses, has a fresh folder, and rereads its configuration at HUP.
pub struct Setup {
    /// Put before the program's name, as `strace` is.
    pub wrapper: Vec<String>,
    program: PathBuf,
    pub(super) cpctl: PathBuf,
    environment: Vec<(OsString, OsString)>,
    arguments: Vec<String>,
    configuration: String,
    pub(super) listen: SocketAddrV4,
    listen_classic: bool,
    hup_ends: bool,
    folder: Option<tempfile::TempDir>,
    pub(super) data: Option<PathBuf>,
    pub(super) stderr_piped: bool,
}

impl Setup {
    /// One with [`CHEAP`] and `settings`.
    pub fn new(settings: &str) -> Setup {
        Setup::with_configuration(format!("{CHEAP}{settings}"))
    }

    /// One with this configuration; only where it listens is not in it.
    pub fn with_configuration(configuration: String) -> Setup {
        Setup {
            wrapper: Vec::new(),
            program: programs::cpd().into(),
            cpctl: programs::cpctl().into(),
            environment: Vec::new(),
            arguments: Vec::new(),
            configuration,
            listen: SocketAddrV4::new(loopback_address(), 0),
            listen_classic: false,
            hup_ends: false,
            folder: None,
            data: None,
            stderr_piped: false,
        }
    }

    /// Runs these programs.
    pub fn programs(self, cpd: impl Into<PathBuf>, cpctl: impl Into<PathBuf>) -> Setup {
        Setup { program: cpd.into(), cpctl: cpctl.into(), ..self }
    }

    /// Runs the cpd that does `fault` (crates/cpd-core/src/sabotage.rs).
    pub fn sabotaged(self, fault: Fault) -> Setup {
        Setup { program: sabotaged::program(), ..self }.env("CPD_SABOTAGE", fault.name())
    }

    /// Puts these words before the program's name.
    pub fn wrapped(self, words: &[&str]) -> Setup {
        Setup { wrapper: words.iter().map(|word| (*word).to_owned()).collect(), ..self }
    }

    /// Sets a variable of its environment.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Setup {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Adds arguments of cpd.
    pub fn arguments(mut self, more: &[&str]) -> Setup {
        self.arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// Listens here. What the port is cpd itself says, unless it is told.
    pub fn listen(self, address: SocketAddrV4) -> Setup {
        Setup { listen: address, ..self }
    }

    /// Listens for the classic dialect, too.
    pub fn listen_classic(self) -> Setup {
        Setup { listen_classic: true, ..self }
    }

    /// HUP is what it is by default, and nothing runs before the wrapper.
    pub fn hup_ends(self) -> Setup {
        Setup { hup_ends: true, ..self }
    }

    /// Has its configuration, its log and its store in this folder, in which there may be a store already.
    pub fn in_folder(self, folder: tempfile::TempDir) -> Setup {
        Setup { folder: Some(folder), ..self }
    }

    /// Has its store in this folder.
    pub fn data(self, data: impl Into<PathBuf>) -> Setup {
        Setup { data: Some(data.into()), ..self }
    }

    /// Its standard error is a pipe, not a file.
    pub fn stderr_piped(self) -> Setup {
        Setup { stderr_piped: true, ..self }
    }

    /// Starts it and waits until it serves.
    #[track_caller]
    pub fn start(self) -> Daemon {
        self.try_start().unwrap_or_else(|fault| panic!("{fault}"))
    }

    /// As [`Setup::start`]. `Err`: why it does not serve.
    pub fn try_start(self) -> Result<Daemon, String> {
        let mut daemon = self.launch();
        let served = daemon.waits_until_it_serves();
        served.map_err(|status| format!("cpd ended at its start, {status}: {}", daemon.log()))?;
        Ok(daemon)
    }

    /// Starts it and does not wait.
    #[track_caller]
    pub fn launch(mut self) -> Daemon {
        let folder = self.folder.take().unwrap_or_else(|| tempfile::tempdir().expect("a folder"));
        Daemon::launch(self, folder)
    }

    /// Writes the configuration file.
    pub fn write_configuration(&self, file: &Path) -> io::Result<()> {
        self.write(file, &self.configuration)
    }

    /// Writes it with these other keys, but for where cpd listens.
    pub(super) fn write(&self, file: &Path, configuration: &str) -> io::Result<()> {
        let listen = self.listen;
        let classic = format!("listen.classic = [\"{}:0\"]\n", listen.ip());
        let classic = if self.listen_classic { classic } else { String::new() };
        std::fs::write(file, format!("listen.cp = [\"{listen}\"]\n{classic}{configuration}"))
    }

    /// The command, without its standard streams but for the input, which it does not have.
    pub fn command(&self, data: &Path, configuration: &Path) -> Command {
        let launcher = HUP_IGNORED.iter().filter(|_| !self.hup_ends).map(OsStr::new);
        let wrapper = self.wrapper.iter().map(OsStr::new);
        let mut words = launcher.chain(wrapper).chain([self.program.as_os_str()]);
        let mut command = Command::new(words.next().expect("a program"));
        command.args(words).arg("--data").arg(data).arg("--config").arg(configuration).args(&self.arguments);
        // Those of whoever runs the test.
        command.env_remove("NOTIFY_SOCKET").env_remove("LISTEN_FDS");
        command.envs(self.environment.iter().map(|(name, value)| (name, value))).stdin(Stdio::null());
        command
    }
}

/// The address of a listener, `cp` or `classic`, as the line of a log says with which a cpd tells that it serves.
pub fn address_in(log: &str, listener: &str) -> Option<SocketAddrV4> {
    let (_, line) = log.split_once(" info started ")?;
    let (line, _) = line.split_once('\n')?;
    line.split(' ').find_map(|field| field.strip_prefix(listener)?.strip_prefix('=')?.parse().ok())
}
