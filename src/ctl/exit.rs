//! How cpctl ends.

use crate::control::ErrorCode;

/// The exit codes there are, with what they mean; cpctl(8) has the same list.
pub const EXITS: &[(u8, &str)] = &[
    (0, "done"),
    (1, "refused, or not done"),
    (2, "usage"),
    (69, "the daemon cannot be reached"),
    (77, "not permitted"),
];

/// Why it ends without having done what it was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exit {
    /// The daemon, the person at the terminal or this machine's file system said no.
    Refused,
    /// The command line, or a name or password in it, is not what it must be. Nothing was asked.
    Usage,
    /// No daemon answers, or not in a way that can be understood.
    Unreachable,
    /// The socket is not for this user, or who listens at it is none to be told anything.
    NotPermitted,
}

impl Exit {
    pub fn code(self) -> u8 {
        match self {
            Exit::Refused => 1,
            Exit::Usage => 2,
            Exit::Unreachable => 69,
            Exit::NotPermitted => 77,
        }
    }
}

/// An error as people see it, one line.
#[derive(Debug)]
pub(crate) struct Failure {
    pub exit: Exit,
    pub message: String,
    /// For programs, which get it in a JSON document with `--json`.
    pub code: Option<&'static str>,
    /// As the daemon said it.
    pub refusal: Option<ErrorCode>,
}

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure { exit, message: message.into(), code: None, refusal: None }
    }

    pub fn with_code(self, code: &'static str) -> Failure {
        Failure { code: Some(code), ..self }
    }
}
