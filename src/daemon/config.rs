//! The configuration: turns a file and arguments into a validated [`Config`]. One table, [`KEYS`], holds the range, the
//! default and the meaning of every key.

pub mod addresses;
mod arguments;
pub mod check;
mod keys;
mod read;
mod values;

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

pub use arguments::{Arguments, Invocation, StoreTool, command, parse as parse_arguments};
pub use keys::{ConfigKey, KEYS, ValueKind};
pub use values::{AuthConfig, Config, DEFAULT_PORT, SOCKET_PATH_MAX_BYTES};

use self::values::check_socket_path;
use super::exit::{ExitCode, Fatal};
use super::logging::levels::LogTarget;

/// The file that is read without `--config` and `--data`, if it exists.
pub const DEFAULT_FILE: &str = "/etc/cpd/cpd.toml";
/// Longest configuration file, in bytes.
pub const FILE_MAX_BYTES: u64 = 1024 * 1024;
/// The name of the store's file in a `--data` directory.
pub const DATA_STORE: &str = "cpd.db";
/// The name of the control socket in a `--data` directory.
pub const DATA_SOCKET: &str = "control.sock";

impl Config {
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
