//! What the server says. The only home of reply codes and their texts (docs/protocol.md section 4).

use super::types::Username;

/// A server PDU other than a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply {
    Recovered,
    UserReceived,
    Authenticated,
    Sent,
    End,
    NoMessages,
    BadCommand,
    SendError,
    NoSuchUser,
    TooManyColons,
    DownloadError,
    UserError,
    AuthError,
}

/// Every reply, in the order of the codes.
pub const ALL: [Reply; 13] = [
    Reply::Recovered,
    Reply::UserReceived,
    Reply::Authenticated,
    Reply::Sent,
    Reply::End,
    Reply::NoMessages,
    Reply::BadCommand,
    Reply::SendError,
    Reply::NoSuchUser,
    Reply::TooManyColons,
    Reply::DownloadError,
    Reply::UserError,
    Reply::AuthError,
];

impl Reply {
    /// The PDU without its CRLF: the code, a space and a text for people.
    pub const fn text(self) -> &'static str {
        match self {
            Reply::Recovered => "201 recovered from error",
            Reply::UserReceived => "220 received username successfully",
            Reply::Authenticated => "230 user authenticated successfully",
            Reply::Sent => "240 message successfully sent",
            Reply::End => "255 end of messages",
            Reply::NoMessages => "256 no new messages",
            Reply::BadCommand => "500 bad command",
            Reply::SendError => "540 error sending message",
            Reply::NoSuchUser => "545 receiver user does not exist",
            Reply::TooManyColons => "546 too many : characters found in PDU",
            Reply::DownloadError => "550 error downloading message",
            Reply::UserError => "560 error sending username",
            Reply::AuthError => "565 error authenticating user",
        }
    }

    /// The three digits.
    pub fn code(self) -> &'static str {
        self.text().get(..3).unwrap_or_default()
    }

    /// Appends the PDU. `into_error` adds, for people, how to leave Error Processing.
    pub fn write(self, into_error: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(self.text().as_bytes());
        if into_error {
            out.extend_from_slice(b"; send 201 to go on, TERM to end");
        }
        out.extend_from_slice(b"\r\n");
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
