//! The configuration: turns a file and arguments into a validated [`Config`]. One table, [`KEYS`], holds the range, the
//! default and the meaning of every key.

pub mod addresses;
mod arguments;
pub mod check;
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

pub use arguments::{Arguments, Invocation, StoreTool, command, parse as parse_arguments};
pub use keys::{ConfigKey, KEYS, ValueKind};

use cpd_core::engine::settings::Settings;

use super::exit::{ExitCode, Fatal};
use super::listeners::ListenerKind;
use super::logging::{Level, LogTarget};
use crate::auth::HashParams;

/// The file that is read without `--config` and `--data`, if it exists.
pub const DEFAULT_FILE: &str = "/etc/cpd/cpd.toml";
/// The port of CP (protocol.md section 1).
pub const DEFAULT_PORT: u16 = 5035;
/// Longest configuration file, in bytes.
pub const FILE_MAX_BYTES: u64 = 1024 * 1024;
/// Longest path of a Unix socket, in bytes: `sun_path` without its terminator.
pub const SOCKET_PATH_MAX_BYTES: usize = 107;
/// The name of the store's file in a `--data` directory.
pub const DATA_STORE: &str = "cpd.db";
/// The name of the control socket in a `--data` directory.
pub const DATA_SOCKET: &str = "control.sock";

/// Everything that can be configured. [`Config::default`] applies without a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
    /// The directory of `--data`, as an absolute path. [`make_data_dir`] creates it.
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
    /// `auth`
    pub auth: AuthConfig,
    /// `limits`, `timeouts` and `protocol`.
    pub settings: Settings,
    /// `log.target`
    pub log_target: LogTarget,
    /// `log.level`
    pub log_level: Level,
    /// Warnings about values that are allowed but unusual, to be logged at the start and after a reload.
    pub warnings: Vec<String>,
    /// The keys that the file sets, as `section.key`.
    pub explicit_keys: BTreeSet<String>,
    /// `cp` comes from `--listen`, not from the file.
    pub listen_from_arguments: bool,
    /// SIGHUP stops the daemon instead of reloading the configuration: with `--data` it belongs to a terminal.
    pub hangup_stops: bool,
}

/// The numbers of `[auth]`. Memory and iterations are also checked together, see [`HashParams::new`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AuthConfig {
    /// `auth.memory_kib`
    pub memory_kib: u32,
    /// `auth.iterations`
    pub iterations: u32,
    /// `auth.threads`; 0 means one less than the number of cores, but at least 1.
    pub threads: u32,
}

impl AuthConfig {
    /// The cost of a hash. In a loaded [`Config`] the numbers are within the bounds; otherwise this is the default
    /// cost.
    pub fn hash_params(self) -> HashParams {
        HashParams::new(self.memory_kib, self.iterations).unwrap_or_default()
    }

    /// The number of threads that verify passwords on this machine.
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
            // CP is not encrypted, so by default it is open to this machine only.
            cp: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT))],
            classic: Vec::new(),
            control_socket: PathBuf::from("/run/cpd/control.sock"),
            control_group: String::from("cpd-admin"),
            store_path: PathBuf::from("/var/lib/cpd/cpd.db"),
            auth: AuthConfig { memory_kib: hash.memory_kib(), iterations: hash.iterations(), threads: 0 },
            settings: Settings::default(),
            log_target: LogTarget::Auto,
            log_level: Level::Info,
            warnings: Vec::new(),
            explicit_keys: BTreeSet::new(),
            listen_from_arguments: false,
            hangup_stops: false,
        }
    }
}

impl Config {
    /// The addresses on which listeners of this kind are bound.
    pub fn addresses(&self, kind: ListenerKind) -> &[SocketAddr] {
        match kind {
            ListenerKind::Cp => &self.cp,
            ListenerKind::Classic => &self.classic,
        }
    }

    /// Loads the configuration: `--listen` overrides the file, which overrides the defaults, or those of `--data`. It
    /// creates nothing.
    ///
    /// # Errors
    /// [`ExitCode::Config`], with file, line, key and range where they apply; [`ExitCode::NotPermitted`] for a file
    /// that may not be read.
    pub fn load(arguments: &Arguments) -> Result<Config, Fatal> {
        Config::load_from(arguments, Path::new(DEFAULT_FILE))
    }

    /// As [`Config::load`], with another path of the default file.
    pub fn load_from(arguments: &Arguments, default_file: &Path) -> Result<Config, Fatal> {
        let base = match &arguments.data {
            Some(dir) => Config::for_data(dir)?,
            None => Config::default(),
        };
        let mut config = match (&arguments.config, &arguments.data) {
            (Some(file), _) => base.apply_file(file, read_file(file)?),
            (None, Some(_)) => Ok(base),
            (None, None) => match read_file_if_there(default_file)? {
                Some(text) => base.apply_file(default_file, text),
                None => Ok(base),
            },
        }?;
        if !arguments.listen.is_empty() {
            config.cp.clone_from(&arguments.listen);
            config.listen_from_arguments = true;
            if let Some(clash) = addresses::clash(&config) {
                return Err(Fatal::new(ExitCode::Config, format!("--listen: {clash}")));
            }
        }
        // A path from a file was checked together with its line; this check is for the path that `--data` leads to.
        check_socket_path(&config.control_socket)
            .map_err(|problem| Fatal::new(ExitCode::Config, format!("control.socket: {problem}")))?;
        Ok(config)
    }

    /// Applies `text` to the defaults. `file` is its name in error messages; it is not read.
    ///
    /// # Errors
    /// [`ExitCode::Config`].
    pub fn parse(file: &Path, text: &str) -> Result<Config, Fatal> {
        read::apply(Config { file: Some(file.to_owned()), ..Config::default() }, file, text)
    }

    /// The defaults with `--data`, for a first try without root: all files are in `dir`.
    fn for_data(dir: &Path) -> Result<Config, Fatal> {
        let dir = std::path::absolute(dir)
            .map_err(|e| Fatal::new(ExitCode::Config, format!("--data {}: {e}", dir.display())))?;
        Ok(Config {
            control_socket: dir.join(DATA_SOCKET),
            // The default group belongs to an installed cpd. Here only the owner may use the socket.
            control_group: String::new(),
            store_path: dir.join(DATA_STORE),
            log_target: LogTarget::Stderr,
            data: Some(dir),
            ..Config::default()
        })
    }

    fn apply_file(mut self, file: &Path, text: String) -> Result<Config, Fatal> {
        self.file = Some(file.to_owned());
        read::apply(self, file, &text)
    }

    /// Whether the value of this key was given by the file or by an argument, and is not merely the default.
    pub fn is_explicit(&self, key: &str) -> bool {
        self.explicit_keys.contains(key)
            || (self.listen_from_arguments && key == "listen.cp")
            || (self.data.is_some() && ["control.socket", "store.path"].contains(&key))
    }

    /// The keys, as `section.key`, that differ in `new` and cannot change without a restart.
    pub fn keys_needing_restart(&self, new: &Config) -> Vec<String> {
        let differs = |key: &&ConfigKey| key.needs_restart && key.show(self) != key.show(new);
        KEYS.iter().filter(differs).map(ConfigKey::name).collect()
    }

    /// The configuration after a reload: `new`, except that keys that need a restart keep their values. Also returns
    /// the names of those keys that would have changed.
    pub fn reloaded(&self, mut new: Config) -> (Config, Vec<String>) {
        let kept = self.keys_needing_restart(&new);
        let mut old = self.clone();
        for key in KEYS.iter().filter(|key| key.needs_restart) {
            key.copy(&mut old, &mut new);
        }
        (new, kept)
    }
}

/// Creates the directory of `--data` if it is missing, accessible to its owner only.
///
/// # Errors
/// [`ExitCode::CannotCreate`] with the path.
pub fn make_data_dir(dir: &Path) -> Result<(), Fatal> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| Fatal::new(ExitCode::CannotCreate, format!("cannot create {}: {e}", dir.display())))
}

/// Fails if `path` is too long for the address of a Unix socket.
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
    // Opening a FIFO without a writer would block. The pipes of a shell's process substitution are below /dev and
    // allowed; reading a directory fails with a clear error of its own.
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
