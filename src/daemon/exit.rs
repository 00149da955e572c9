//! How the daemon ends: exit codes as in sysexits.h, and one line on stderr that gives the reason.

use std::fmt;
use std::io::Write;

use cp_proto::printable::escape_into;

use super::logging::levels::Level;
use super::logging::sinks::stderr_is_a_journal;

/// Exit codes (cpd(8)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ExitCode {
    /// Success (EX_OK).
    Ok = 0,
    /// The arguments are wrong (EX_USAGE).
    Usage = 64,
    /// The store is damaged, missing, from a later cpd, or does not belong with the log next to it (EX_DATAERR).
    DamagedStore = 65,
    /// The file given to `--restore` or `--check-store` does not exist or cannot be one (EX_NOINPUT).
    NoInput = 66,
    /// An address is in use, or another process holds the store (EX_UNAVAILABLE).
    Unavailable = 69,
    /// A bug in cpd, or a part of it is stuck (EX_SOFTWARE).
    Internal = 70,
    /// The system refused something that should work (EX_OSERR).
    System = 71,
    /// A file, directory or socket cannot be created (EX_CANTCREAT).
    CannotCreate = 73,
    /// Not permitted (EX_NOPERM).
    NotPermitted = 77,
    /// The configuration is wrong (EX_CONFIG).
    Config = 78,
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> std::process::ExitCode {
        std::process::ExitCode::from(code as u8)
    }
}

/// Why the daemon cannot continue: the exit code, and a message that names the file, key, address or path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fatal {
    pub code: ExitCode,
    pub message: String,
}

impl Fatal {
    pub fn new(code: ExitCode, message: impl Into<String>) -> Fatal {
        Fatal { code, message: message.into() }
    }

    /// Writes `cpd: <message>` as exactly one line to stderr and returns the exit code. If stderr goes to the journal,
    /// the line is marked as an error. A failed write is ignored: the exit code stays the same.
    pub fn report(&self) -> std::process::ExitCode {
        let level = if stderr_is_a_journal() { format!("<{}>", Level::Error.priority()) } else { String::new() };
        let _ = std::io::stderr().lock().write_all(format!("{level}{self}\n").as_bytes());
        self.code.into()
    }
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = String::from("cpd: ");
        escape_into(&mut line, &self.message);
        f.write_str(&line)
    }
}

impl std::error::Error for Fatal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_sysexits() {
        let codes = [
            (ExitCode::Ok, 0),
            (ExitCode::Usage, 64),
            (ExitCode::DamagedStore, 65),
            (ExitCode::NoInput, 66),
            (ExitCode::Unavailable, 69),
            (ExitCode::Internal, 70),
            (ExitCode::System, 71),
            (ExitCode::CannotCreate, 73),
            (ExitCode::NotPermitted, 77),
            (ExitCode::Config, 78),
        ];
        for (code, number) in codes {
            assert_eq!(code as u8, number);
        }
    }

    #[test]
    fn a_cause_is_one_line_whatever_it_holds() {
        let fatal = Fatal::new(ExitCode::Config, "a\nb\u{1b}[2J \u{202e}c é");
        assert_eq!(fatal.to_string(), "cpd: a\\nb\\u{1b}[2J \\u{202e}c é");
    }
}
