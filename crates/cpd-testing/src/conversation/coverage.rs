//! Which cells of the state table (docs/protocol.md section 5) the conversations play: every kind of client PDU in
//! every state. Read off a script alone: the expected replies tell the states.

use std::collections::{BTreeSet, VecDeque};

use cp_proto::values::{Password, Username, is_valid_message};

use super::parser::{Action, Expected, Listener, Script};

/// The seven states of the contract. `Waiting` is Receiving Message while WMSG waits, where other rules hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    Idle,
    UserValidated,
    AuthenticationValidated,
    ProcessCommand,
    SendingMessage,
    ReceivingMessage,
    Waiting,
    ErrorProcessing,
}

pub const STATES: [State; 8] = [
    State::Idle,
    State::UserValidated,
    State::AuthenticationValidated,
    State::ProcessCommand,
    State::SendingMessage,
    State::ReceivingMessage,
    State::Waiting,
    State::ErrorProcessing,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    User,
    UserMalformed,
    Pass,
    PassMalformed,
    Smsg,
    SmsgMalformed,
    SmsgSecondColon,
    SmsgUnknownRecipient,
    SmsgOverLong,
    Rmsg,
    RmsgWindow,
    RmsgBad,
    Wmsg,
    WmsgBad,
    Acknowledge,
    Refuse,
    Recovered,
    Help,
    Term,
    Unknown,
    Empty,
}

pub const KINDS: [Kind; 21] = [
    Kind::User,
    Kind::UserMalformed,
    Kind::Pass,
    Kind::PassMalformed,
    Kind::Smsg,
    Kind::SmsgMalformed,
    Kind::SmsgSecondColon,
    Kind::SmsgUnknownRecipient,
    Kind::SmsgOverLong,
    Kind::Rmsg,
    Kind::RmsgWindow,
    Kind::RmsgBad,
    Kind::Wmsg,
    Kind::WmsgBad,
    Kind::Acknowledge,
    Kind::Refuse,
    Kind::Recovered,
    Kind::Help,
    Kind::Term,
    Kind::Unknown,
    Kind::Empty,
];

/// The cells that `script` plays. Scripts of the classic dialect, with NVT commands, or with PDUs that time out count
/// for none: their lines are not the table's.
pub fn cells(script: &Script) -> BTreeSet<(State, Kind)> {
    let special = script.listener == Listener::Classic || script.settings.iter().any(|s| s.key == "timeouts.pdu");
    let telnet = |action: &Action| matches!(action, Action::Send { bytes, .. } if bytes.contains(&255));
    if special || script.steps.iter().any(|step| telnet(&step.action)) {
        return BTreeSet::new();
    }
    let users: Vec<&str> = script.users.iter().map(|user| user.name.as_str()).collect();
    let numbers: BTreeSet<usize> = script.steps.iter().filter_map(|step| connection_of(&step.action)).collect();
    let mut played = BTreeSet::new();
    for number in numbers {
        let mut track = Track { users: &users, state: State::Idle, sent: Vec::new(), lines: VecDeque::new(), played };
        for step in script.steps.iter().filter(|step| connection_of(&step.action) == Some(number)) {
            track.step(&step.action);
        }
        played = track.played;
    }
    played
}

fn connection_of(action: &Action) -> Option<usize> {
    match action {
        Action::Send { connection, .. } | Action::Expect { connection, .. } => Some(*connection),
        _ => None,
    }
}

/// One connection: the state as far as the replies have told it, and the lines that have none yet.
struct Track<'a> {
    users: &'a [&'a str],
    state: State,
    sent: Vec<u8>,
    lines: VecDeque<Kind>,
    played: BTreeSet<(State, Kind)>,
}

impl Track<'_> {
    fn step(&mut self, action: &Action) {
        match action {
            Action::Send { bytes, .. } => {
                self.sent.extend(bytes);
                while let Some(end) = self.sent.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = self.sent.drain(..=end).collect();
                    let line = line.strip_suffix(b"\r\n").unwrap_or(&line[..end]);
                    self.lines.push_back(classify(line, self.users));
                }
            }
            Action::Expect { what, .. } => {
                self.silent();
                if matches!(what, Expected::Quiet | Expected::Close) || *what == Expected::Code("256".into()) {
                    self.silent_behind_a_wait();
                }
                match what {
                    Expected::Code(code) => self.reply(code),
                    Expected::Line(line) => self.reply(&String::from_utf8_lossy(&line[..line.len().min(4)])),
                    Expected::Bytes(_) => self.reply("RMSG"),
                    Expected::Close | Expected::Quiet => {}
                }
            }
            _ => {}
        }
    }

    /// What has no reply, at the head of the lines.
    fn silent(&mut self) {
        while let Some(kind) = self.lines.front().copied() {
            match (self.state, kind) {
                (_, Kind::Term) => {}
                (State::Idle | State::UserValidated, _) => return,
                (_, Kind::Acknowledge | Kind::Refuse) => {}
                _ => return,
            }
            self.played.insert((self.state, kind));
            self.lines.pop_front();
            if (self.state, kind) == (State::ReceivingMessage, Kind::Refuse) {
                self.state = State::ErrorProcessing;
            }
        }
    }

    /// The same behind a WMSG that found nothing.
    fn silent_behind_a_wait(&mut self) {
        while self.state == State::ProcessCommand && self.lines.front() == Some(&Kind::Wmsg) {
            match self.lines.get(1).copied() {
                Some(kind @ (Kind::Acknowledge | Kind::Refuse | Kind::Term)) => {
                    self.played.insert((State::Waiting, kind));
                    self.lines.remove(1);
                }
                _ => return,
            }
        }
    }

    fn reply(&mut self, code: &str) {
        match (self.state, code) {
            (State::ReceivingMessage, "RMSG") => return,
            (State::ReceivingMessage, "255") => return self.state = State::ProcessCommand,
            (State::ReceivingMessage, "550") => return self.state = State::ErrorProcessing,
            _ => {}
        }
        let Some(kind) = self.lines.pop_front() else { return };
        self.played.insert((self.state, kind));
        let behind = match (self.state, kind, code) {
            (State::UserValidated, Kind::Pass, _) => Some(State::AuthenticationValidated),
            (State::ProcessCommand, _, "240" | "540" | "545" | "546") => Some(State::SendingMessage),
            _ => None,
        };
        if let Some(state) = behind {
            self.played.extend(self.lines.iter().map(|kind| (state, *kind)));
        }
        if kind == Kind::Wmsg && code == "256" {
            self.played.extend(self.lines.front().map(|kind| (State::Waiting, *kind)));
        }
        self.state = match code {
            "220" => State::UserValidated,
            "565" => State::Idle,
            "230" | "201" => State::ProcessCommand,
            "540" | "545" | "546" => State::ErrorProcessing,
            "RMSG" => State::ReceivingMessage,
            _ => self.state,
        };
    }
}

fn classify(line: &[u8], users: &[&str]) -> Kind {
    let (verb, argument) = line.split_at(line.len().min(4));
    let argument = argument.strip_prefix(b" ").unwrap_or(argument);
    let over_long = line.len() > 1024;
    let number = |most: u32| {
        let text = std::str::from_utf8(argument).unwrap_or_default();
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        digits && text.parse::<u32>().is_ok_and(|number| (1..=most).contains(&number)) && !over_long
    };
    match verb.to_ascii_uppercase().as_slice() {
        b"" => Kind::Empty,
        b"USER" if over_long || Username::parse(argument).is_none() => Kind::UserMalformed,
        b"USER" => Kind::User,
        b"PASS" if over_long || Password::parse(argument).is_none() => Kind::PassMalformed,
        b"PASS" => Kind::Pass,
        b"SMSG" if over_long => Kind::SmsgOverLong,
        b"SMSG" => classify_smsg(argument, users),
        b"RMSG" if argument.is_empty() => Kind::Rmsg,
        b"RMSG" if number(256) => Kind::RmsgWindow,
        b"RMSG" => Kind::RmsgBad,
        b"WMSG" if number(300) => Kind::Wmsg,
        b"WMSG" => Kind::WmsgBad,
        b"HELP" if !over_long => Kind::Help,
        b"TERM" => Kind::Term,
        b"250" | b"250 " if !over_long => Kind::Acknowledge,
        b"550" | b"550 " if !over_long => Kind::Refuse,
        b"201" | b"201 " if !over_long => Kind::Recovered,
        _ => Kind::Unknown,
    }
}

fn classify_smsg(argument: &[u8], users: &[&str]) -> Kind {
    let Some(colon) = argument.iter().position(|byte| *byte == b':') else { return Kind::SmsgMalformed };
    let (recipient, message) = (&argument[..colon], &argument[colon + 1..]);
    if recipient.is_empty() || message.is_empty() {
        Kind::SmsgMalformed
    } else if message.contains(&b':') {
        Kind::SmsgSecondColon
    } else if !is_valid_message(message) {
        Kind::SmsgMalformed
    } else if users.iter().any(|user| user.as_bytes() == recipient) {
        Kind::Smsg
    } else {
        Kind::SmsgUnknownRecipient
    }
}
