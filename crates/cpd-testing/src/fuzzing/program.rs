//! What clients, time and the store do in one run, decoded from a fuzzer's bytes. Most bytes are what a client sends;
//! [`MARK`] begins everything else, so that a conversation's text and a dictionary's words stay readable in an input.

use cpd_core::dfa::Dialect;
use cpd_core::engine::settings::{Limits, Settings};
use cpd_core::session::settings::{SessionSettings, Timeouts};
use cpd_core::time::Millis;

/// Begins a command; twice, it is itself.
pub const MARK: u8 = 1;
/// Clients of one run.
pub const CLIENTS: usize = 3;
/// What one run sends at most, in bytes, and does at most, in steps.
const SENT_MAX_BYTES: usize = 256 * 1024;
const STEPS_MAX: usize = 300;
/// What can pass between two steps, in milliseconds: all times are whole ticks of the timer wheel, so that a successor's
/// wheel rounds nothing another way.
pub const TIMES: [Millis; 12] = [8, 48, 96, 304, 504, 1000, 10_000, 29_992, 30_000, 60_000, 300_000, 1_800_000];

/// The first byte's bits.
pub const CLASSIC: u8 = 1;
pub const ALLOW_COLON: u8 = 2;
pub const TIGHT: u8 = 4;
pub const SHORT: u8 = 8;

/// The first byte of an input for `thaw`: which kind of record follows.
pub const SESSION: u8 = 0;
pub const COMMON: u8 = 1;
/// Everything else is one, too.
pub const FILE: u8 = 2;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// One segment of a client.
    Send(usize, Vec<u8>),
    /// The client connects, giving up the connection that it had.
    Open(usize),
    Fin(usize),
    Time(Millis),
    /// The next commit with a message in it fails.
    FailStore,
    /// Whether the store and the verifiers answer.
    Store(bool),
    Logins(bool),
    /// Whether the client takes what the server sends.
    Hears(usize, bool),
    /// The client takes so many bytes, though it hears nothing else.
    Take(usize, usize),
    Purge(usize),
    /// A successor may take over.
    Restart,
}

pub struct Program {
    pub dialect: Dialect,
    pub settings: Settings,
    pub steps: Vec<Step>,
}

impl Program {
    pub fn decode(data: &[u8]) -> Program {
        let (flags, rest) = data.split_first().map_or((0, data), |(flags, rest)| (*flags, rest));
        let mut parser = Parser { steps: Vec::new(), client: 0, segment: Vec::new(), sent: 0 };
        parser.run(rest);
        let dialect = if flags & CLASSIC == 0 { Dialect::Cp } else { Dialect::Classic };
        Program { dialect, settings: settings(flags), steps: parser.steps }
    }

    /// Before this no time-out can have passed.
    pub fn first_timeout(&self) -> Millis {
        let Timeouts { pdu, login, ack, recover, idle, write } = self.settings.session.timeouts;
        let quiet = if self.dialect == Dialect::Classic { self.settings.session.classic_quiet } else { pdu };
        pdu.min(login).min(ack).min(recover).min(idle).min(write).min(quiet)
    }

    pub fn has(&self, which: impl Fn(&Step) -> bool) -> bool {
        self.steps.iter().any(which)
    }
}

struct Parser {
    steps: Vec<Step>,
    client: usize,
    segment: Vec<u8>,
    sent: usize,
}

impl Parser {
    fn run(&mut self, data: &[u8]) {
        let mut bytes = data.iter().copied();
        while let Some(byte) = bytes.next() {
            if byte != MARK {
                self.segment.push(byte);
                continue;
            }
            let Some(command) = bytes.next() else { break };
            if command == MARK {
                self.segment.push(MARK);
                continue;
            }
            let times = if command == b'*' { usize::from(bytes.next().unwrap_or(1)) } else { 1 };
            self.end_segment(times);
            if self.steps.len() >= STEPS_MAX {
                return;
            }
            let client = self.client;
            match command {
                b'C' | b'D' | b'E' => self.client = usize::from(command - b'C') % CLIENTS,
                b'O' => self.steps.push(Step::Open(client)),
                b'F' => self.steps.push(Step::Fin(client)),
                b'T' => self.steps.push(Step::Time(TIMES[usize::from(bytes.next().unwrap_or(0)) % TIMES.len()])),
                b'X' => self.steps.push(Step::FailStore),
                b'H' | b'h' => self.steps.push(Step::Store(command == b'h')),
                b'V' | b'v' => self.steps.push(Step::Logins(command == b'v')),
                b'N' | b'n' => self.steps.push(Step::Hears(client, command == b'n')),
                b'K' => self.steps.push(Step::Take(client, (usize::from(bytes.next().unwrap_or(0)) + 1) * 64)),
                b'P' => self.steps.push(Step::Purge(client)),
                b'Z' => self.steps.push(Step::Restart),
                _ => {}
            }
        }
        self.end_segment(1);
    }

    fn end_segment(&mut self, times: usize) {
        let segment = std::mem::take(&mut self.segment);
        if segment.is_empty() || times == 0 {
            return;
        }
        let room = SENT_MAX_BYTES - self.sent;
        let whole: Vec<u8> = segment.iter().copied().cycle().take((segment.len() * times).min(room)).collect();
        self.sent += whole.len();
        if !whole.is_empty() {
            self.steps.push(Step::Send(self.client, whole));
        }
    }
}

fn settings(flags: u8) -> Settings {
    let limits = match flags & TIGHT {
        0 => Limits::default(),
        _ => Limits {
            connections_per_address: 2,
            queue_messages: 3,
            queue_messages_per_sender: 2,
            failures_per_address: 2,
            failures_per_user: 2,
            store_bytes: 40,
            ..Limits::default()
        },
    };
    let timeouts = match flags & SHORT {
        0 => Timeouts::default(),
        _ => Timeouts { pdu: 304, login: 1000, ack: 504, recover: 800, idle: 1504, write: 504 },
    };
    let session = SessionSettings { allow_colon: flags & ALLOW_COLON != 0, classic_quiet: 48, timeouts };
    Settings { session, limits }
}
