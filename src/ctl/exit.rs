//! The errors and exit codes of cpctl.

use cpd_control::ErrorCode;

/// The exit codes and their meanings; cpctl(8) has the same list.
pub const EXIT_CODES: &[(u8, &str)] = &[
    (0, "done"),
    (1, "refused, or not done"),
    (2, "usage"),
    (69, "the daemon cannot be reached"),
    (77, "not permitted"),
];

/// The reason why cpctl fails. It determines the exit code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ExitStatus {
    /// The daemon refused, the user declined, or something on this machine failed, such as writing a file.
    Refused,
    /// The command line, or the password that was entered, is invalid, or a required terminal is missing. The daemon
    /// was not asked to change anything.
    Usage,
    /// No daemon answers, or its answer cannot be understood.
    Unreachable,
    /// This user may not use the socket, or the program that listens on it cannot be trusted.
    NotPermitted,
}

impl ExitStatus {
    /// The exit code; see [`EXIT_CODES`].
    pub fn code(self) -> u8 {
        match self {
            ExitStatus::Refused => 1,
            ExitStatus::Usage => 2,
            ExitStatus::Unreachable => 69,
            ExitStatus::NotPermitted => 77,
        }
    }
}

/// An error of cpctl.
#[derive(Debug)]
pub(crate) struct Failure {
    pub exit: ExitStatus,
    /// One line, which is printed on stderr.
    pub message: String,
    /// The code in the JSON document that is printed with `--json`; `None` if no document is printed.
    pub json_code: Option<&'static str>,
    /// The code of the daemon's refusal; `None` if the error is not a refusal or its code is not known.
    pub daemon_code: Option<ErrorCode>,
}

impl Failure {
    /// A failure without codes.
    pub fn new(exit: ExitStatus, message: impl Into<String>) -> Failure {
        Failure { exit, message: message.into(), json_code: None, daemon_code: None }
    }

    /// Adds the code for `--json`.
    pub fn with_json_code(self, code: &'static str) -> Failure {
        Failure { json_code: Some(code), ..self }
    }
}
