//! cpctl(8), the admin tool: asks the daemon over its control socket and shows what it says.
//!
//! [`table::COMMANDS`] is the one list of commands: parser, help, completion and the check of the man page come from it.
//! The tool knows nothing that the daemon does not tell it, and never touches the store. Results go to stdout, errors to
//! stderr, one line each; nothing that came from the daemon reaches a terminal with its control characters.

pub mod age;
pub mod arguments;
mod backup;
mod client;
pub mod exit;
mod generate;
mod peer;
mod prompt;
mod render;
mod run;
mod service;
mod signals;
mod status;
pub mod table;
mod target;
mod throttle;
mod typed;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;

use exit::{Exit, Failure};
use render::safe;
use service::Manager;
use target::{Origin, Target};

/// Where the daemon listens unless it was told otherwise.
pub const SOCKET_DEFAULT: &str = "/run/cpd/control.sock";
/// The environment variable that stands for `--socket`.
pub const SOCKET_VARIABLE: &str = "CPCTL_SOCKET";
/// The control socket in the folder of a `cpd --data`.
pub const DATA_SOCKET: &str = "control.sock";
/// The longest silence of the daemon, unless `--timeout` says otherwise.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// The group whose members may use the control socket, unless cpd.toml names another.
pub const GROUP_DEFAULT: &str = "cpd-admin";

/// What every command is given.
pub(crate) struct Context {
    pub socket: Target,
    pub json: bool,
}

/// What a command has to show: a text for stdout, and a complaint when what it found is bad.
#[derive(Default)]
pub(crate) struct Output {
    pub text: String,
    pub complaint: Option<Failure>,
    /// What it means that nobody has read the text, where that is more than a list that was not looked at.
    pub unread: Option<&'static str>,
}

impl From<String> for Output {
    fn from(text: String) -> Output {
        Output { text, ..Output::default() }
    }
}

/// The whole program, with the arguments and the environment of the process.
pub fn main() -> ExitCode {
    let socket = std::env::var_os(SOCKET_VARIABLE).filter(|path| !path.is_empty());
    let mut json = false;
    let complaint = match carry_out(std::env::args_os(), socket, &mut json) {
        Ok(output) => show(&output).err().or(output.complaint),
        Err(failure) => Some(failure),
    };
    match complaint {
        None => ExitCode::SUCCESS,
        Some(failure) => {
            if let (true, Some(code)) = (json, failure.code) {
                // Whoever reads no document has the exit code and the line below.
                let _ = std::io::stdout().write_all(render::json_error(code, &failure.message).as_bytes());
            }
            // Nobody is left to tell when stderr is closed too.
            let _ = writeln!(std::io::stderr(), "cpctl: {}", safe(&failure.message));
            ExitCode::from(failure.exit.code())
        }
    }
}

/// `json` becomes whether the command line asks for JSON.
fn carry_out(
    arguments: impl Iterator<Item = OsString>,
    socket: Option<OsString>,
    json: &mut bool,
) -> Result<Output, Failure> {
    let matches = match arguments::cpctl().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            return Ok(error.to_string().into());
        }
        Err(error) => return Err(Failure::new(Exit::Usage, arguments::one_line(&error.to_string()))),
    };
    let (command, arguments) = arguments::chosen(&matches)
        .ok_or_else(|| Failure::new(Exit::Usage, "no such command; see cpctl --help".to_owned()))?;
    *json = matches.get_flag("json");
    let path = |name: &str| matches.get_one::<PathBuf>(name).cloned();
    let (socket, origin) = match (path("data"), path("socket").or(socket.map(PathBuf::from))) {
        (Some(folder), _) => (folder.join(DATA_SOCKET), Origin::Data),
        (None, Some(socket)) => (socket, Origin::Named),
        (None, None) => (PathBuf::from(SOCKET_DEFAULT), Origin::Default),
    };
    let timeout = matches.get_one("timeout").copied().unwrap_or(TIMEOUT_DEFAULT);
    let target = Target { socket, origin, timeout, may_start: !command.asks(), manager: Manager::default() };
    (command.run)(&Context { socket: target, json: *json }, arguments)
}

/// Writes to stdout. A reader that has gone away, as `head` does, is no error where nothing is lost by it.
fn show(output: &Output) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match (out.write_all(output.text.as_bytes()).and_then(|()| out.flush()), output.unread) {
        (Err(error), Some(unread)) => Err(Failure::new(Exit::Refused, format!("standard output: {error}; {unread}"))),
        (Err(error), None) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::Refused, format!("standard output: {error}")))
        }
        (Ok(()) | Err(_), _) => Ok(()),
    }
}
