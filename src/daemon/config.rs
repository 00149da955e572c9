//! The configuration: file and arguments in, a validated [`Config`] out. What a key may hold, what it is without the
//! file, and what it means stands in one table, [`KEYS`].

pub mod addresses;
mod arguments;
pub mod check;
mod duration;
mod keys;
mod read;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZero;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

pub use arguments::{Arguments, Invocation, Tool, command, parse as parse_arguments};
pub use duration::{parse as parse_duration, show as show_duration};
pub use keys::{KEYS, Key, Kind};

use super::exit::{ExitCode, Fatal};
use super::logging::{Level, LogTarget};
use crate::auth::HashParams;
use crate::engine::settings::Settings;

/// Read without `--config` and `--data`, if it is there.
pub const DEFAULT_FILE: &str = "/etc/cpd/cpd.toml";
/// Port of CP, from docs/protocol.md section 1.
pub const DEFAULT_PORT: u16 = 5035;
/// Longest configuration file, in bytes.
pub const FILE_MAX_BYTES: u64 = 1024 * 1024;
/// Longest path of a Unix socket, in bytes: `sun_path` without its terminator.
pub const SOCKET_PATH_MAX_BYTES: usize = 107;
/// Names of the files in a `--data` directory.
pub const DATA_STORE: &str = "cpd.db";
pub const DATA_SOCKET: &str = "control.sock";

/// Everything that the operator decides. [`Config::default`] is what holds without a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The file that was read.
    pub file: Option<PathBuf>,
    /// The directory of `--data`, which [`make_data_dir`] makes.
    pub data: Option<PathBuf>,
    /// `listen.cp`
    pub cp: Vec<SocketAddr>,
    /// `listen.classic`
    pub classic: Vec<SocketAddr>,
    /// `control.socket`, absolute and short enough for a socket's address.
    pub control_socket: PathBuf,
    /// `control.group`; empty: no group.
    pub control_group: String,
    /// `store.path`, absolute.
    pub store_path: PathBuf,
    pub auth: Auth,
    /// `limits`, `timeouts` and `protocol`.
    pub settings: Settings,
    /// `log.target`
    pub log_target: LogTarget,
    /// `log.level`
    pub log_level: Level,
    /// Values that are possible but unusual; to be logged at the start.
    pub warnings: Vec<String>,
    /// The keys that the file names, as `section.key`: what it does not name is nobody's wish.
    pub named: BTreeSet<String>,
    /// The addresses of `--listen` stand in `cp`, whatever the file says.
    pub listen_given: bool,
    /// HUP ends the daemon: it belongs to the terminal of whoever tries it.
    pub hangup_ends: bool,
}

/// `[auth]`: the numbers as they were read; checked together, see [`Auth::params`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Auth {
    pub memory_kib: u32,
    pub iterations: u32,
    /// 0: one less than the cores, at least 1.
    pub threads: u32,
}

impl Auth {
    /// The cost of a hash. A [`Config`] that was loaded has numbers within its bounds.
    pub fn params(self) -> HashParams {
        HashParams::new(self.memory_kib, self.iterations).unwrap_or_default()
    }

    /// Threads that verify passwords, on this machine.
    pub fn worker_threads(self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        match usize::try_from(self.threads) {
            Ok(0) | Err(_) => cores.saturating_sub(1).max(1),
            Ok(threads) => threads,
        }
    }
}

impl Default for Config {
    fn default() -> Config {
        let hash = HashParams::default();
        Config {
            file: None,
            data: None,
            // Everything here is sent as it is typed: only this machine, until somebody says otherwise.
            cp: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT))],
            classic: Vec::new(),
            control_socket: PathBuf::from("/run/cpd/control.sock"),
            control_group: String::from("cpd-admin"),
            store_path: PathBuf::from("/var/lib/cpd/cpd.db"),
            auth: Auth { memory_kib: hash.memory_kib(), iterations: hash.iterations(), threads: 0 },
            settings: Settings::default(),
            log_target: LogTarget::Auto,
            log_level: Level::Info,
            warnings: Vec::new(),
            named: BTreeSet::new(),
            listen_given: false,
            hangup_ends: false,
        }
    }
}

impl Config {
    /// What the arguments ask for: `--listen` over the configuration file over the defaults, or over those of `--data`.
    /// Creates nothing. Errors: [`ExitCode::Config`] with file, line, key and range; [`ExitCode::NotPermitted`] for a
    /// file that may not be read.
    pub fn load(arguments: &Arguments) -> Result<Config, Fatal> {
        Config::load_from(arguments, Path::new(DEFAULT_FILE))
    }

    /// As [`Config::load`] with another place of the default file.
    pub fn load_from(arguments: &Arguments, default_file: &Path) -> Result<Config, Fatal> {
        let base = match &arguments.data {
            Some(dir) => Config::for_data(dir)?,
            None => Config::default(),
        };
        let mut config = match (&arguments.config, &arguments.data) {
            (Some(file), _) => base.with_file(file, read_file(file)?),
            (None, Some(_)) => Ok(base),
            (None, None) => match read_file_if_there(default_file)? {
                Some(text) => base.with_file(default_file, text),
                None => Ok(base),
            },
        }?;
        if !arguments.listen.is_empty() {
            config.cp.clone_from(&arguments.listen);
            config.listen_given = true;
            if let Some(clash) = addresses::clash(&config) {
                return Err(Fatal::new(ExitCode::Config, format!("--listen: {clash}")));
            }
        }
        // A file's path was checked with its line; this is for the one that `--data` makes.
        check_socket_path(&config.control_socket)
            .map_err(|problem| Fatal::new(ExitCode::Config, format!("control.socket: {problem}")))?;
        Ok(config)
    }

    /// What `text` says over the defaults; `file` is its name in faults. Reads no file.
    pub fn parse(file: &Path, text: &str) -> Result<Config, Fatal> {
        read::apply(Config { file: Some(file.to_owned()), ..Config::default() }, file, text)
    }

    /// The first try without root: everything in `dir`, reachable from this machine only.
    fn for_data(dir: &Path) -> Result<Config, Fatal> {
        let dir = std::path::absolute(dir)
            .map_err(|e| Fatal::new(ExitCode::Config, format!("--data {}: {e}", dir.display())))?;
        Ok(Config {
            control_socket: dir.join(DATA_SOCKET),
            // The group belongs to an installed cpd; here the socket is its owner's alone.
            control_group: String::new(),
            store_path: dir.join(DATA_STORE),
            log_target: LogTarget::Stderr,
            data: Some(dir),
            ..Config::default()
        })
    }

    fn with_file(mut self, file: &Path, text: String) -> Result<Config, Fatal> {
        self.file = Some(file.to_owned());
        read::apply(self, file, &text)
    }

    /// Whether somebody asked for what this key holds, instead of leaving it to the default.
    pub fn asks_for(&self, key: &str) -> bool {
        self.named.contains(key)
            || (self.listen_given && key == "listen.cp")
            || (self.data.is_some() && ["control.socket", "store.path"].contains(&key))
    }

    /// The keys, as `section.key`, that differ in `new` and cannot change without a restart.
    pub fn needs_restart(&self, new: &Config) -> Vec<String> {
        let differs = |key: &&Key| key.restart && key.show(self) != key.show(new);
        KEYS.iter().filter(differs).map(Key::name).collect()
    }

    /// What holds after a reload: `new`, but the keys that need a restart as they are. Also gives the names of those
    /// that would have changed.
    pub fn reloaded(&self, mut new: Config) -> (Config, Vec<String>) {
        let kept = self.needs_restart(&new);
        let mut old = self.clone();
        for key in KEYS.iter().filter(|key| key.restart) {
            key.copy(&mut old, &mut new);
        }
        (new, kept)
    }
}

/// Makes the directory of `--data` if it is missing, for its owner alone. Errors: [`ExitCode::CannotCreate`] with the
/// path.
pub fn make_data_dir(dir: &Path) -> Result<(), Fatal> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| Fatal::new(ExitCode::CannotCreate, format!("cannot create {}: {e}", dir.display())))
}

/// What is wrong with `path` as the address of a socket.
fn check_socket_path(path: &Path) -> Result<(), String> {
    let length = path.as_os_str().as_bytes().len();
    if length > SOCKET_PATH_MAX_BYTES {
        return Err(format!(
            "{} has {length} bytes, the path of a socket may have {SOCKET_PATH_MAX_BYTES}",
            path.display()
        ));
    }
    Ok(())
}

fn read_file(file: &Path) -> Result<String, Fatal> {
    read_text(file).map_err(|error| {
        let code = match error.kind() {
            io::ErrorKind::PermissionDenied => ExitCode::NotPermitted,
            _ => ExitCode::Config,
        };
        Fatal::new(code, format!("cannot read {}: {error}", file.display()))
    })
}

fn read_file_if_there(file: &Path) -> Result<Option<String>, Fatal> {
    match std::fs::symlink_metadata(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Ok(_) | Err(_) => read_file(file).map(Some),
    }
}

fn read_text(file: &Path) -> io::Result<String> {
    // One that nobody writes to would be waited for without end; what a shell hands over lies below /dev.
    let found = std::fs::metadata(file)?;
    if !found.is_file() && !found.is_dir() && !file.starts_with("/dev") && !file.starts_with("/proc") {
        return Err(io::Error::other("is not a file"));
    }
    let mut bytes = Vec::new();
    File::open(file)?.take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_MAX_BYTES {
        return Err(io::Error::other(format!("longer than {FILE_MAX_BYTES} bytes")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let line = read::line_of_bytes(error.as_bytes(), error.utf8_error().valid_up_to());
        io::Error::other(format!("line {line} is not UTF-8"))
    })
}

#[cfg(test)]
mod tests;
