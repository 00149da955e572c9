//! The replies of the server. Reply codes and their texts stand here and nowhere else (docs/protocol.md section 4).
//! Programs read the code alone; the text explains the cause to a human reader and what to send next. No text contains
//! anything that a client sent.

use crate::command::SendFault;
use crate::values::Username;

/// Longest reply in bytes, without its CRLF, so that it fits a line of a terminal.
pub const TEXT_MAX_BYTES: usize = 78;

/// A server PDU that begins with a code. Its data select the text only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply {
    Recovered,
    Help(ReplyStage),
    UserReceived,
    Authenticated,
    Sent,
    End,
    NoMessages,
    BadCommand(ReplyStage, BadCommandCause),
    SendError(SendFailure),
    NoSuchUser,
    TooManyColons,
    DownloadError(DownloadFailure),
    UserError,
    AuthError,
}

/// The state of a session as far as the texts of replies distinguish it: which verbs a client may send next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReplyStage {
    Idle,
    UserValidated,
    ProcessCommand,
    ReceivingMessage,
    ErrorProcessing,
}

/// Why a PDU, or a whole connection, is answered 500.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadCommandCause {
    /// The verb is known, but not accepted in this state.
    OutOfOrder,
    /// 250 or 550 although no message was sent.
    NothingToAcknowledge,
    /// 201 although there was no error.
    NothingToRecoverFrom,
    UnknownVerb,
    Empty,
    Overlong,
    TimedOut,
    /// The number of an RMSG is malformed or out of range.
    Window,
    /// The number of a WMSG is malformed, missing or out of range.
    Seconds,
    /// A browser's request.
    Http,
    /// There are too many connections.
    TooManyConnections,
    /// The user has as many sessions as are allowed.
    TooManySessions,
}

/// Why a message was not sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SendFailure {
    NoColon,
    EmptySide,
    TooLong,
    NotUtf8,
    ControlCharacter,
    TimedOut,
    QueueFull,
    SenderFull,
    /// The sender has too many messages in all queues together, or sends too many in a minute.
    SenderLimit,
    NoRoom,
    /// The store does not answer, so it was not given the message.
    Stalled,
    /// It is not known whether the message is stored, so a retry may double it.
    OutcomeUnknown,
}

/// Why a download failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DownloadFailure {
    NotAcknowledged,
    StoreFailed,
}

/// One reply for each code, in the order of the codes.
pub const ALL: [Reply; 14] = [
    Reply::Recovered,
    Reply::Help(ReplyStage::Idle),
    Reply::UserReceived,
    Reply::Authenticated,
    Reply::Sent,
    Reply::End,
    Reply::NoMessages,
    Reply::BadCommand(ReplyStage::Idle, BadCommandCause::OutOfOrder),
    Reply::SendError(SendFailure::NoColon),
    Reply::NoSuchUser,
    Reply::TooManyColons,
    Reply::DownloadError(DownloadFailure::NotAcknowledged),
    Reply::UserError,
    Reply::AuthError,
];

/// How to leave Error Processing, in texts of decreasing length. The first one that fits is appended to a reply.
const RECOVERY_HINTS: [&str; 3] = ["; send 201 to go on, TERM to end", "; send 201 to go on", "; send 201"];

impl Reply {
    /// The code, a space, and the text of section 4, with which every reply of this code begins.
    pub const fn heading(self) -> &'static str {
        match self {
            Reply::Recovered => "201 recovered from error",
            Reply::Help(_) => "214 help",
            Reply::UserReceived => "220 received username successfully",
            Reply::Authenticated => "230 user authenticated successfully",
            Reply::Sent => "240 message successfully sent",
            Reply::End => "255 end of messages",
            Reply::NoMessages => "256 no new messages",
            Reply::BadCommand(..) => "500 bad command",
            Reply::SendError(_) => "540 error sending message",
            Reply::NoSuchUser => "545 receiver user does not exist",
            Reply::TooManyColons => "546 too many : characters found in PDU",
            Reply::DownloadError(_) => "550 error downloading message",
            Reply::UserError => "560 error sending username",
            Reply::AuthError => "565 error authenticating user",
        }
    }

    /// The three digits of the code.
    pub fn code(self) -> &'static str {
        self.heading().get(..3).unwrap_or_default()
    }

    /// Whether the reply leads to Error Processing, or in the classic dialect straight back to Process Command.
    pub fn is_failure(self) -> bool {
        match self {
            Reply::SendError(_) | Reply::NoSuchUser | Reply::TooManyColons | Reply::DownloadError(_) => true,
            Reply::Recovered
            | Reply::Help(_)
            | Reply::UserReceived
            | Reply::Authenticated
            | Reply::Sent
            | Reply::End
            | Reply::NoMessages
            | Reply::BadCommand(..)
            | Reply::UserError
            | Reply::AuthError => false,
        }
    }

    /// Whether the reply says that an SMSG was not stored, or is not known to be.
    pub fn refuses_message(self) -> bool {
        self.is_failure() && !matches!(self, Reply::DownloadError(_))
    }

    /// Appends the PDU to `out`, with `recover` including a hint how to leave Error Processing.
    pub fn write(self, recover: bool, out: &mut Vec<u8>) {
        let begin = out.len();
        out.extend_from_slice(self.heading().as_bytes());
        let mut mark = ": ";
        for detail in self.details() {
            if !detail.is_empty() {
                out.extend_from_slice(mark.as_bytes());
                out.extend_from_slice(detail.as_bytes());
                mark = "; ";
            }
        }
        let room = TEXT_MAX_BYTES.saturating_sub(out.len() - begin);
        if recover && let Some(text) = RECOVERY_HINTS.iter().find(|text| text.len() <= room) {
            out.extend_from_slice(text.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }

    /// The texts after the heading: the cause, and what to do next. An empty one is left out.
    fn details(self) -> [&'static str; 2] {
        match self {
            Reply::Help(stage) => [stage.verbs(), ""],
            Reply::BadCommand(stage, why) => why.details(stage),
            Reply::SendError(cause) => [cause.text(), ""],
            Reply::TooManyColons => ["this server takes one colon", ""],
            Reply::DownloadError(DownloadFailure::NotAcknowledged) => ["no 250 came in time", ""],
            Reply::DownloadError(DownloadFailure::StoreFailed) => ["the store failed", ""],
            Reply::Recovered
            | Reply::UserReceived
            | Reply::Authenticated
            | Reply::Sent
            | Reply::End
            | Reply::NoMessages
            | Reply::NoSuchUser
            // These two never vary, whatever the cause and whoever the user (section 7).
            | Reply::UserError
            | Reply::AuthError => ["", ""],
        }
    }
}

impl ReplyStage {
    /// The verbs that are accepted, for the reply to HELP.
    const fn verbs(self) -> &'static str {
        match self {
            ReplyStage::Idle => "log in with USER and your name; or HELP, TERM",
            ReplyStage::UserValidated => "go on with PASS and your password; or HELP, TERM",
            ReplyStage::ProcessCommand => "SMSG name:text, RMSG, RMSG 1-256, WMSG 1-300, HELP, TERM",
            ReplyStage::ReceivingMessage => "250 you have the message, 550 you do not; or HELP, TERM",
            ReplyStage::ErrorProcessing => "go on with 201; or HELP, TERM",
        }
    }

    /// What to send next, for a reply of 500.
    const fn advice(self) -> &'static str {
        match self {
            ReplyStage::Idle => "log in with USER first",
            ReplyStage::UserValidated => "send PASS first",
            ReplyStage::ProcessCommand => "HELP tells what works",
            ReplyStage::ReceivingMessage => "answer with 250 or 550 first",
            ReplyStage::ErrorProcessing => "send 201 first",
        }
    }
}

impl BadCommandCause {
    const fn details(self, stage: ReplyStage) -> [&'static str; 2] {
        let closing = "this connection closes";
        let cause = match (self, stage) {
            (BadCommandCause::OutOfOrder, ReplyStage::ProcessCommand) => "you are logged in",
            (BadCommandCause::OutOfOrder, _) => "",
            (BadCommandCause::NothingToAcknowledge, _) => "nothing to acknowledge",
            (BadCommandCause::NothingToRecoverFrom, _) => "nothing to recover from",
            (BadCommandCause::UnknownVerb, _) => "unknown verb",
            (BadCommandCause::Empty, _) => "an empty line",
            (BadCommandCause::Overlong, ReplyStage::Idle | ReplyStage::UserValidated) => {
                return ["a line over 1024 bytes", closing];
            }
            (BadCommandCause::Overlong, _) => "a line over 1024 bytes",
            (BadCommandCause::TimedOut, _) => "the line took too long",
            // Only the number was wrong, so no advice about the state is needed.
            (BadCommandCause::Window, _) => return ["RMSG takes a number from 1 to 256", ""],
            (BadCommandCause::Seconds, _) => return ["WMSG takes a number from 1 to 300", ""],
            (BadCommandCause::Http, _) => return ["this is no web server", closing],
            (BadCommandCause::TooManyConnections, _) => return ["too many connections; try again later", closing],
            (BadCommandCause::TooManySessions, _) => return ["too many sessions of this user", closing],
        };
        [cause, stage.advice()]
    }
}

impl SendFailure {
    const fn text(self) -> &'static str {
        match self {
            SendFailure::NoColon => "no colon between name and text",
            SendFailure::EmptySide => "the name or the text is empty",
            SendFailure::TooLong => "too long, over 1009 bytes",
            SendFailure::NotUtf8 => "the text is not UTF-8",
            SendFailure::ControlCharacter => "a control character in the text",
            SendFailure::TimedOut => "the line took too long",
            SendFailure::QueueFull => "that queue is full",
            SendFailure::SenderFull => "your share of that queue is used up",
            SendFailure::SenderLimit => "you send too much, try again later",
            SendFailure::NoRoom => "no room",
            SendFailure::Stalled => "not stored, the disk does not answer",
            SendFailure::OutcomeUnknown => "not known to be stored, retry may double",
        }
    }
}

/// Appends the PDU that carries one message to `out`.
pub fn write_message(sender: Username, body: &[u8], out: &mut Vec<u8>) {
    out.reserve(body.len() + 4 + 10 + 1 + 2);
    out.extend_from_slice(b"RMSG");
    out.extend_from_slice(sender.as_str().as_bytes());
    out.push(b':');
    out.extend_from_slice(body);
    out.extend_from_slice(b"\r\n");
}

/// The reply to a malformed SMSG (docs/protocol.md section 5).
impl From<SendFault> for Reply {
    fn from(fault: SendFault) -> Reply {
        match fault {
            SendFault::NoColon => Reply::SendError(SendFailure::NoColon),
            SendFault::EmptySide => Reply::SendError(SendFailure::EmptySide),
            SendFault::TooManyColons => Reply::TooManyColons,
            SendFault::TooLong => Reply::SendError(SendFailure::TooLong),
            SendFault::NotUtf8 => Reply::SendError(SendFailure::NotUtf8),
            SendFault::ControlCharacter => Reply::SendError(SendFailure::ControlCharacter),
            SendFault::ImpossibleName => Reply::NoSuchUser,
        }
    }
}

#[cfg(test)]
mod tests;
