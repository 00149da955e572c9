//! cpctl(8), the admin tool: sends requests to the daemon over its control socket and shows the answers.
//!
//! [`table::COMMANDS`] is the single list of commands, from which the parser, the help, the completions and the check
//! of the manual page are made. The tool never opens the store. Results go to stdout and errors to stderr, one line
//! each. Control characters in data from the daemon are escaped before they are printed.

pub mod arguments;
mod backup;
mod client;
mod commands;
mod context;
pub mod defaults;
pub mod exit;
mod generate;
mod line_editor;
mod peer;
mod prompt;
mod render;
mod service;
mod signals;
mod status;
pub mod table;
mod target;
mod throttle;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use context::{CommandOutput, Context};
use cp_proto::printable::escape;
use defaults::{DATA_SOCKET, SOCKET_DEFAULT, SOCKET_VARIABLE, TIMEOUT_DEFAULT};
use exit::{ExitStatus, Failure};
use service::ServiceManager;
use target::{SocketOrigin, Target};

/// Runs cpctl with the arguments and the environment of the process.
pub fn main() -> ExitCode {
    let socket = std::env::var_os(SOCKET_VARIABLE).filter(|path| !path.is_empty());
    let mut json = false;
    let failure = match run_command(std::env::args_os(), socket, &mut json) {
        Ok(output) => write_output(&output).err().or(output.failure),
        Err(failure) => Some(failure),
    };
    match failure {
        None => ExitCode::SUCCESS,
        Some(failure) => {
            if let (true, Some(code)) = (json, failure.json_code) {
                // If this fails, the exit code and the line below still report the error.
                let _ = std::io::stdout().write_all(render::json_error(code, &failure.message).as_bytes());
            }
            // If stderr is closed too, only the exit code is left.
            let _ = writeln!(std::io::stderr(), "cpctl: {}", escape(&failure.message));
            ExitCode::from(failure.exit.code())
        }
    }
}

/// Parses the command line and runs the command. `json` is set if the command line asks for JSON, so that the caller
/// knows it when the command fails.
fn run_command(
    arguments: impl Iterator<Item = OsString>,
    socket: Option<OsString>,
    json: &mut bool,
) -> Result<CommandOutput, Failure> {
    let matches = match arguments::cpctl().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            return Ok(error.to_string().into());
        }
        Err(error) => return Err(Failure::new(ExitStatus::Usage, arguments::one_line_error(&error.to_string()))),
    };
    let (command, arguments) = arguments::matched_command(&matches)
        .ok_or_else(|| Failure::new(ExitStatus::Usage, "no such command; see cpctl --help".to_owned()))?;
    *json = matches.get_flag("json");
    let path = |name: &str| matches.get_one::<PathBuf>(name).cloned();
    let (socket, origin) = match (path("data"), path("socket").or(socket.map(PathBuf::from))) {
        (Some(folder), _) => (folder.join(DATA_SOCKET), SocketOrigin::Data),
        (None, Some(socket)) => (socket, SocketOrigin::Named),
        (None, None) => (PathBuf::from(SOCKET_DEFAULT), SocketOrigin::Default),
    };
    let timeout = matches.get_one("timeout").copied().unwrap_or(TIMEOUT_DEFAULT);
    let target =
        Target { socket, origin, timeout, may_start_service: !command.is_query(), manager: ServiceManager::default() };
    (command.run)(&Context { target, json: *json }, arguments)
}

/// Writes the text to stdout. It is not an error that the reader has closed the pipe, as `head` does, unless the text
/// is needed (see [`CommandOutput::write_failure_note`]).
fn write_output(output: &CommandOutput) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match (out.write_all(output.text.as_bytes()).and_then(|()| out.flush()), output.write_failure_note) {
        (Err(error), Some(write_failure_note)) => {
            Err(Failure::new(ExitStatus::Refused, format!("standard output: {error}; {write_failure_note}")))
        }
        (Err(error), None) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(ExitStatus::Refused, format!("standard output: {error}")))
        }
        (Ok(()) | Err(_), _) => Ok(()),
    }
}
