//! What can be configured, and what holds without a file.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZero;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use cpd_core::engine::settings::Settings;

use crate::auth::HashParams;
use crate::daemon::listeners::kind::ListenerKind;
use crate::daemon::logging::levels::{Level, LogTarget};

/// The port of CP (protocol.md section 1).
pub const DEFAULT_PORT: u16 = 5035;
/// Longest path of a Unix socket, in bytes: `sun_path` without its terminator.
pub const SOCKET_PATH_MAX_BYTES: usize = 107;

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
}

/// Fails if `path` is too long for the address of a Unix socket.
pub(super) fn check_socket_path(path: &Path) -> Result<(), String> {
    let length = path.as_os_str().as_bytes().len();
    if length > SOCKET_PATH_MAX_BYTES {
        return Err(format!(
            "{} has {length} bytes, the path of a socket may have {SOCKET_PATH_MAX_BYTES}",
            path.display()
        ));
    }
    Ok(())
}
