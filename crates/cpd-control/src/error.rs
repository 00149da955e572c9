//! The reason why a request was refused: a code for programs and a message for users.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($variant:ident $name:literal $meaning:literal,)*) => {
        /// The reason for a refusal as a code. The names are stable; new ones may be added.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum ErrorCode {
            $(#[doc = $meaning] $variant,)*
        }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &[ErrorCode] = &[$(ErrorCode::$variant,)*];

            /// The code as it appears in an answer.
            pub fn as_str(self) -> &'static str {
                match self { $(ErrorCode::$variant => $name,)* }
            }

            /// The meaning of the code in a few words.
            pub fn meaning(self) -> &'static str {
                match self { $(ErrorCode::$variant => $meaning,)* }
            }
        }
    };
}

codes! {
    BadJson "bad_json" "the line is not one JSON object",
    NotUtf8 "not_utf8" "the line is not UTF-8",
    TooLong "too_long" "the line is over 64 KiB",
    TooDeep "too_deep" "the JSON is nested too deeply",
    UnknownVersion "unknown_version" "the daemon does not speak this version",
    UnknownCommand "unknown_command" "there is no such command",
    UnknownField "unknown_field" "the command has no such field",
    MissingField "missing_field" "the command needs a field that is not there",
    DuplicateField "duplicate_field" "a field is there twice",
    BadValue "bad_value" "a field's value is of the wrong kind or out of range",
    BadName "bad_name" "no user can have this name",
    BadPassword "bad_password" "no user can have this password",
    UserExists "user_exists" "there is such a user already",
    NoSuchUser "no_such_user" "there is no such user",
    NoSuchSession "no_such_session" "there is no such session",
    NoSuchMessage "no_such_message" "there is no such message",
    NoSuchBackup "no_such_backup" "there is no such backup, or no longer",
    Busy "busy" "the daemon has too much to do, or another backup is under way: try again",
    TooManyConnections "too_many_connections" "too many control connections of this user are open",
    NotPermitted "not_permitted" "the peer may not do this",
    StoreFailed "store_failed" "the store could not do it",
    Stopping "stopping" "the daemon is stopping",
    Unavailable "unavailable" "the daemon cannot run; the message says why",
    Internal "internal" "a fault in the daemon; its log says more",
}

impl ErrorCode {
    /// The code with this name, or `None` if this version does not know it.
    pub fn parse(name: &str) -> Option<ErrorCode> {
        ErrorCode::ALL.iter().copied().find(|code| code.as_str() == name)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A refusal. Its message may quote names from the request, but never a password or another value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ControlError {
    pub code: ErrorCode,
    pub message: String,
}

impl ControlError {
    /// A refusal with this code and this message.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> ControlError {
        ControlError { code, message: message.into() }
    }

    /// The answer to send: one line with its newline.
    pub fn encode(&self) -> Vec<u8> {
        encode_error(self.code, &self.message)
    }
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for ControlError {}

/// The part that all answers share: whether the request succeeded, and the error if it did not. The other fields depend
/// on the command and have a type of their own.
#[derive(Serialize, Deserialize, Debug)]
pub struct Envelope {
    pub ok: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
}

/// The reason for a refusal. `code` is text, not an [`ErrorCode`], so that a client can also read codes that are newer
/// than itself.
#[derive(Serialize, Deserialize, Debug)]
pub struct ErrorBody {
    pub code: String,
    pub message: String,
}

/// The answer to a request that was refused: one line with its newline.
pub fn encode_error(code: ErrorCode, message: &str) -> Vec<u8> {
    let refusal = ErrorBody { code: code.as_str().to_owned(), message: message.to_owned() };
    let envelope = Envelope { ok: false, error: Some(refusal) };
    // Encoding text and a boolean cannot fail. If it did, the client would not take the empty line for a success.
    let mut line = serde_json::to_vec(&envelope).unwrap_or_default();
    line.push(b'\n');
    line
}
