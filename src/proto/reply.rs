//! What the server says. The only home of reply codes and their texts (docs/protocol.md section 4): programs read the
//! code, people the text, which tells them why and what to do now. No text has anything of a client in it.

use super::types::Username;

/// Longest reply in bytes, without its CRLF: a line of a terminal.
pub const TEXT_MAX_BYTES: usize = 78;

/// A server PDU other than a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply {
    Recovered,
    Help(Stage),
    UserReceived,
    Authenticated,
    Sent,
    End,
    NoMessages,
    BadCommand(Stage, Why),
    SendError(NotSent),
    NoSuchUser,
    TooManyColons,
    DownloadError(Stopped),
    UserError,
    AuthError,
}

/// What a client may send next: the states that answer, as far as texts tell them apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    Idle,
    UserValidated,
    ProcessCommand,
    ReceivingMessage,
    ErrorProcessing,
}

/// Why a PDU is a bad command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// The verb is known, and not accepted in this state.
    OutOfOrder,
    /// 250 or 550 where no message was sent.
    NothingToAcknowledge,
    /// 201 where no error was.
    NothingToRecoverFrom,
    UnknownVerb,
    Empty,
    Overlong,
    Late,
    /// RMSG's number.
    Window,
    /// WMSG's number.
    Seconds,
    /// A browser's request.
    Http,
    /// There are too many connections.
    Crowded,
    /// The user has as many sessions as it may have.
    TooManySessions,
}

/// Why a message was not sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotSent {
    NoColon,
    EmptySide,
    TooLong,
    NotUtf8,
    ControlCharacter,
    Late,
    QueueFull,
    SenderFull,
    /// In all queues, or in a minute.
    SenderLimit,
    NoRoom,
    /// The store does not answer; it was not even asked.
    Stalled,
    /// A retry may double it.
    Unknown,
}

/// Why a download was broken off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stopped {
    NotAcknowledged,
    StoreFailed,
}

/// One reply of each code, in the order of the codes.
pub const ALL: [Reply; 14] = [
    Reply::Recovered,
    Reply::Help(Stage::Idle),
    Reply::UserReceived,
    Reply::Authenticated,
    Reply::Sent,
    Reply::End,
    Reply::NoMessages,
    Reply::BadCommand(Stage::Idle, Why::OutOfOrder),
    Reply::SendError(NotSent::NoColon),
    Reply::NoSuchUser,
    Reply::TooManyColons,
    Reply::DownloadError(Stopped::NotAcknowledged),
    Reply::UserError,
    Reply::AuthError,
];

/// How to leave Error Processing: the first of these for which there is room.
const RECOVERIES: [&str; 3] = ["; send 201 to go on, TERM to end", "; send 201 to go on", "; send 201"];

impl Reply {
    /// The code, a space, and what every reply of this code begins with.
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

    /// The three digits.
    pub fn code(self) -> &'static str {
        self.heading().get(..3).unwrap_or_default()
    }

    /// Whether it tells that what the client wanted has failed, and leads to Error Processing where there is one.
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

    /// Appends the PDU. `recover` adds how to leave Error Processing.
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
        if recover && let Some(text) = RECOVERIES.iter().find(|text| text.len() <= room) {
            out.extend_from_slice(text.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }

    /// What follows the heading: the cause, and what to do now.
    fn details(self) -> [&'static str; 2] {
        match self {
            Reply::Help(stage) => [stage.verbs(), ""],
            Reply::BadCommand(stage, why) => why.details(stage),
            Reply::SendError(cause) => [cause.text(), ""],
            Reply::TooManyColons => ["this server takes one colon", ""],
            Reply::DownloadError(Stopped::NotAcknowledged) => ["no 250 came in time", ""],
            Reply::DownloadError(Stopped::StoreFailed) => ["the store failed", ""],
            Reply::Recovered
            | Reply::UserReceived
            | Reply::Authenticated
            | Reply::Sent
            | Reply::End
            | Reply::NoMessages
            | Reply::NoSuchUser
            // These two never vary: whatever the cause, whoever the user.
            | Reply::UserError
            | Reply::AuthError => ["", ""],
        }
    }
}

impl Stage {
    /// The verbs that are accepted.
    const fn verbs(self) -> &'static str {
        match self {
            Stage::Idle => "log in with USER and your name; or HELP, TERM",
            Stage::UserValidated => "go on with PASS and your password; or HELP, TERM",
            Stage::ProcessCommand => "SMSG name:text, RMSG, RMSG 1-256, WMSG 1-300, HELP, TERM",
            Stage::ReceivingMessage => "250 you have the message, 550 you do not; or HELP, TERM",
            Stage::ErrorProcessing => "go on with 201; or HELP, TERM",
        }
    }

    /// What has to come next.
    const fn advice(self) -> &'static str {
        match self {
            Stage::Idle => "log in with USER first",
            Stage::UserValidated => "send PASS first",
            Stage::ProcessCommand => "HELP tells what works",
            Stage::ReceivingMessage => "answer with 250 or 550 first",
            Stage::ErrorProcessing => "send 201 first",
        }
    }
}

impl Why {
    const fn details(self, stage: Stage) -> [&'static str; 2] {
        let closing = "this connection closes";
        let cause = match (self, stage) {
            (Why::OutOfOrder, Stage::ProcessCommand) => "you are logged in",
            (Why::OutOfOrder, _) => "",
            (Why::NothingToAcknowledge, _) => "nothing to acknowledge",
            (Why::NothingToRecoverFrom, _) => "nothing to recover from",
            (Why::UnknownVerb, _) => "unknown verb",
            (Why::Empty, _) => "an empty line",
            (Why::Overlong, Stage::Idle | Stage::UserValidated) => return ["a line over 1024 bytes", closing],
            (Why::Overlong, _) => "a line over 1024 bytes",
            (Why::Late, _) => "the line took too long",
            // As everything else about these commands is right.
            (Why::Window, _) => return ["RMSG takes a number from 1 to 256", ""],
            (Why::Seconds, _) => return ["WMSG takes a number from 1 to 300", ""],
            (Why::Http, _) => return ["this is no web server", closing],
            (Why::Crowded, _) => return ["too many connections; try again later", closing],
            (Why::TooManySessions, _) => return ["too many sessions of this user", closing],
        };
        [cause, stage.advice()]
    }
}

impl NotSent {
    const fn text(self) -> &'static str {
        match self {
            NotSent::NoColon => "no colon between name and text",
            NotSent::EmptySide => "the name or the text is empty",
            NotSent::TooLong => "too long, over 1009 bytes",
            NotSent::NotUtf8 => "the text is not UTF-8",
            NotSent::ControlCharacter => "a control character in the text",
            NotSent::Late => "the line took too long",
            NotSent::QueueFull => "that queue is full",
            NotSent::SenderFull => "your share of that queue is used up",
            NotSent::SenderLimit => "you send too much, try again later",
            NotSent::NoRoom => "no room",
            NotSent::Stalled => "not stored, the disk does not answer",
            NotSent::Unknown => "not known to be stored, retry may double",
        }
    }
}

/// Appends the PDU that carries one message.
pub fn write_message(sender: Username, body: &[u8], out: &mut Vec<u8>) {
    out.reserve(body.len() + 4 + 10 + 1 + 2);
    out.extend_from_slice(b"RMSG");
    out.extend_from_slice(sender.as_str().as_bytes());
    out.push(b':');
    out.extend_from_slice(body);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests;
