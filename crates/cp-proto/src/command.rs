//! Parses a client's line into a command (docs/protocol.md sections 1 to 3).

use crate::limits::{MESSAGE_MAX_BYTES, VERB_BYTES, WAIT_MAX_SECONDS, WINDOW_MAX_MESSAGES};
use crate::values::{Password, Username, is_valid_message};

/// A client's line without its terminator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Line<'a> {
    Whole(&'a [u8]),
    /// A line of more than [`PDU_MAX_BYTES`](crate::limits::PDU_MAX_BYTES), of which only the verb was kept.
    Overlong([u8; VERB_BYTES]),
}

/// The verb of a PDU, as far as the reply to a malformed PDU depends on it: these three have reply codes of their own,
/// all others get 500.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    User,
    Pass,
    Smsg,
    Other,
}

impl Verb {
    /// The verb at the beginning of `bytes`, in upper or lower case.
    pub fn of(bytes: &[u8]) -> Verb {
        match bytes.first_chunk::<VERB_BYTES>().map(|v| v.map(|b| b.to_ascii_uppercase())) {
            Some([b'U', b'S', b'E', b'R']) => Verb::User,
            Some([b'P', b'A', b'S', b'S']) => Verb::Pass,
            Some([b'S', b'M', b'S', b'G']) => Verb::Smsg,
            _ => Verb::Other,
        }
    }
}

/// What is wrong with the form of an SMSG. Whether its recipient exists and its quotas allow it is not part of this.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SendFault {
    NoColon,
    EmptySide,
    TooManyColons,
    /// The PDU or its message is too long.
    TooLong,
    NotUtf8,
    ControlCharacter,
    /// The recipient is not a valid user name.
    ImpossibleName,
}

/// What is wrong with a line that has no reply code but 500.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PduFault {
    UnknownVerb,
    Empty,
    Overlong,
    /// The number of an RMSG is malformed or out of range.
    Window,
    /// The number of a WMSG is malformed, missing or out of range.
    Seconds,
}

/// A client PDU after parsing. The `Bad` variants are malformed PDUs.
#[derive(Debug)]
pub enum Command<'a> {
    User(Username),
    BadUser,
    Pass(Password),
    BadPass,
    Send {
        recipient: Username,
        body: &'a [u8],
    },
    BadSend(SendFault),
    /// RMSG, with up to `window` messages sent and not yet acknowledged.
    Receive {
        window: u16,
    },
    /// WMSG, waiting up to `seconds` for a message.
    Wait {
        seconds: u16,
    },
    /// 250.
    Acknowledge,
    /// 550.
    Reject,
    /// 201.
    Recover,
    Help,
    Terminate,
    Bad(PduFault),
}

impl<'a> Command<'a> {
    /// Parses `line`. With `allow_colon` the message of an SMSG may contain colons (section 8).
    pub fn parse(line: Line<'a>, allow_colon: bool) -> Command<'a> {
        let bytes = match line {
            Line::Whole(bytes) => bytes,
            Line::Overlong(verb) => {
                return match Verb::of(&verb) {
                    Verb::User => Command::BadUser,
                    Verb::Pass => Command::BadPass,
                    Verb::Smsg => Command::BadSend(SendFault::TooLong),
                    Verb::Other => Command::Bad(PduFault::Overlong),
                };
            }
        };
        let Some((verb, rest)) = bytes.split_first_chunk::<VERB_BYTES>() else {
            return parse_code(bytes);
        };
        let argument = rest.strip_prefix(b" ").unwrap_or(rest);
        match &verb.map(|b| b.to_ascii_uppercase()) {
            b"SMSG" => parse_send(argument, allow_colon),
            b"USER" => Username::parse(argument).map_or(Command::BadUser, Command::User),
            b"PASS" => Password::parse(argument).map_or(Command::BadPass, Command::Pass),
            b"RMSG" if argument.is_empty() => Command::Receive { window: 1 },
            b"RMSG" => match parse_number(argument, WINDOW_MAX_MESSAGES) {
                Some(window) => Command::Receive { window },
                None => Command::Bad(PduFault::Window),
            },
            b"WMSG" => match parse_number(argument, WAIT_MAX_SECONDS) {
                Some(seconds) => Command::Wait { seconds },
                None => Command::Bad(PduFault::Seconds),
            },
            b"HELP" => Command::Help,
            b"TERM" => Command::Terminate,
            _ => parse_code(bytes),
        }
    }
}

/// Parses a client's reply code: three digits, followed by a space or by the end of the line.
fn parse_code<'a>(bytes: &[u8]) -> Command<'a> {
    let Some((digits, rest)) = bytes.split_first_chunk::<3>() else {
        return Command::Bad(if bytes.is_empty() { PduFault::Empty } else { PduFault::UnknownVerb });
    };
    match (digits, rest.first()) {
        (b"250", None | Some(b' ')) => Command::Acknowledge,
        (b"550", None | Some(b' ')) => Command::Reject,
        (b"201", None | Some(b' ')) => Command::Recover,
        _ => Command::Bad(PduFault::UnknownVerb),
    }
}

/// Parses the argument of an SMSG, and checks it in the order that section 2 prescribes.
fn parse_send(argument: &[u8], allow_colon: bool) -> Command<'_> {
    let Some(colon) = argument.iter().position(|b| *b == b':') else {
        return Command::BadSend(SendFault::NoColon);
    };
    let (recipient, body) = argument.split_at(colon);
    let body = body.get(1..).unwrap_or_default();
    if recipient.is_empty() || body.is_empty() {
        return Command::BadSend(SendFault::EmptySide);
    }
    if !allow_colon && body.contains(&b':') {
        return Command::BadSend(SendFault::TooManyColons);
    }
    if !is_valid_message(body) {
        return Command::BadSend(message_fault(body));
    }
    match Username::parse(recipient) {
        Some(recipient) => Command::Send { recipient, body },
        None => Command::BadSend(SendFault::ImpossibleName),
    }
}

/// Why `body` is not a valid message. It must not be empty.
fn message_fault(body: &[u8]) -> SendFault {
    if body.len() > MESSAGE_MAX_BYTES {
        SendFault::TooLong
    } else if std::str::from_utf8(body).is_err() {
        SendFault::NotUtf8
    } else {
        SendFault::ControlCharacter
    }
}

/// Parses a number from 1 to `max` that consists of decimal digits alone.
fn parse_number(digits: &[u8], max: u16) -> Option<u16> {
    let mut value: u32 = 0;
    for digit in digits {
        let digit = char::from(*digit).to_digit(10)?;
        value = value.saturating_mul(10).saturating_add(digit);
    }
    u16::try_from(value).ok().filter(|v| (1..=max).contains(v) && !digits.is_empty())
}

#[cfg(test)]
mod tests;
