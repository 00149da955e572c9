//! From a client's line to what it means (docs/protocol.md sections 1 to 3).

use super::limits::{MESSAGE_MAX_BYTES, VERB_BYTES, WAIT_MAX_SECONDS, WINDOW_MAX_MESSAGES};
use super::types::{Password, Username, is_message};

/// A client's line without its terminator, or what is left of one that was too long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Line<'a> {
    Whole(&'a [u8]),
    /// Over `PDU_MAX_BYTES`; only the verb was kept.
    Overlong([u8; VERB_BYTES]),
}

/// The verbs whose malformed PDUs have a code of their own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    User,
    Pass,
    Smsg,
    Other,
}

impl Verb {
    /// The verb that `bytes` begin with, in either case.
    pub fn of(bytes: &[u8]) -> Verb {
        match bytes.first_chunk::<VERB_BYTES>().map(|v| v.map(|b| b.to_ascii_uppercase())) {
            Some([b'U', b'S', b'E', b'R']) => Verb::User,
            Some([b'P', b'A', b'S', b'S']) => Verb::Pass,
            Some([b'S', b'M', b'S', b'G']) => Verb::Smsg,
            _ => Verb::Other,
        }
    }
}

/// What is wrong with an SMSG, as far as its bytes tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SendFault {
    NoColon,
    EmptySide,
    TooManyColons,
    /// The PDU or its message.
    TooLong,
    NotUtf8,
    ControlCharacter,
    /// A recipient that no user can be called.
    ImpossibleName,
}

/// What is wrong with a line for which no other code than 500 is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    UnknownVerb,
    Empty,
    Overlong,
    /// RMSG's number.
    Window,
    /// WMSG's number.
    Seconds,
}

/// A client PDU.
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
    /// RMSG: up to `window` messages ahead of their acknowledgements.
    Receive {
        window: u16,
    },
    Wait {
        seconds: u16,
    },
    /// 250
    Acknowledge,
    /// 550
    Reject,
    /// 201
    Recover,
    Help,
    Terminate,
    Bad(Fault),
}

impl<'a> Command<'a> {
    /// What `line` means. With `allow_colon` a message may hold further colons.
    pub fn parse(line: Line<'a>, allow_colon: bool) -> Command<'a> {
        let bytes = match line {
            Line::Whole(bytes) => bytes,
            Line::Overlong(verb) => {
                return match Verb::of(&verb) {
                    Verb::User => Command::BadUser,
                    Verb::Pass => Command::BadPass,
                    Verb::Smsg => Command::BadSend(SendFault::TooLong),
                    Verb::Other => Command::Bad(Fault::Overlong),
                };
            }
        };
        let Some((verb, rest)) = bytes.split_first_chunk::<VERB_BYTES>() else {
            return code(bytes);
        };
        let argument = rest.strip_prefix(b" ").unwrap_or(rest);
        match &verb.map(|b| b.to_ascii_uppercase()) {
            b"SMSG" => send(argument, allow_colon),
            b"USER" => Username::parse(argument).map_or(Command::BadUser, Command::User),
            b"PASS" => Password::parse(argument).map_or(Command::BadPass, Command::Pass),
            b"RMSG" if argument.is_empty() => Command::Receive { window: 1 },
            b"RMSG" => match number(argument, WINDOW_MAX_MESSAGES) {
                Some(window) => Command::Receive { window },
                None => Command::Bad(Fault::Window),
            },
            b"WMSG" => match number(argument, WAIT_MAX_SECONDS) {
                Some(seconds) => Command::Wait { seconds },
                None => Command::Bad(Fault::Seconds),
            },
            b"HELP" => Command::Help,
            b"TERM" => Command::Terminate,
            _ => code(bytes),
        }
    }
}

/// A code: three digits and then the end or a space.
fn code<'a>(bytes: &[u8]) -> Command<'a> {
    let Some((digits, rest)) = bytes.split_first_chunk::<3>() else {
        return Command::Bad(if bytes.is_empty() { Fault::Empty } else { Fault::UnknownVerb });
    };
    match (digits, rest.first()) {
        (b"250", None | Some(b' ')) => Command::Acknowledge,
        (b"550", None | Some(b' ')) => Command::Reject,
        (b"201", None | Some(b' ')) => Command::Recover,
        _ => Command::Bad(Fault::UnknownVerb),
    }
}

fn send(argument: &[u8], allow_colon: bool) -> Command<'_> {
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
    if !is_message(body) {
        return Command::BadSend(fault_of(body));
    }
    match Username::parse(recipient) {
        Some(recipient) => Command::Send { recipient, body },
        None => Command::BadSend(SendFault::ImpossibleName),
    }
}

/// Why `body` is no message.
fn fault_of(body: &[u8]) -> SendFault {
    if body.len() > MESSAGE_MAX_BYTES {
        SendFault::TooLong
    } else if std::str::from_utf8(body).is_err() {
        SendFault::NotUtf8
    } else {
        SendFault::ControlCharacter
    }
}

/// Decimal digits alone, from 1 to `max`.
fn number(digits: &[u8], max: u16) -> Option<u16> {
    let mut value: u32 = 0;
    for digit in digits {
        let digit = char::from(*digit).to_digit(10)?;
        value = value.saturating_mul(10).saturating_add(digit);
    }
    u16::try_from(value).ok().filter(|v| (1..=max).contains(v) && !digits.is_empty())
}

#[cfg(test)]
mod tests;
