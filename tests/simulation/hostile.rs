//! A client that sends whatever comes to its mind. It expects nothing, except that what it gets is lines of the protocol
//! and messages that somebody has sent to it.

use cp_proto::reply::ALL;
use cpd_core::time::Millis;

use super::bodies::Bodies;
use super::client::{Act, Leave};
use super::plan::{HOSTILE, USERS, VICTIM};
use super::problem::{Problem, Sort};
use cpd_testing::random::Random;

/// Telnet's commands, some of them cut short, and bytes that nobody should send.
const NOISE: [&[u8]; 9] = [
    &[255, 246],
    &[255, 253, 3, 255, 251, 1],
    &[255, 247, 255, 248],
    &[255, 250, 1, 2, 255, 240],
    &[13, 0, 10],
    &[128, 0, 27, 7],
    &[255],
    &[255, 244, 255, 242],
    &[0xf0, 0x9f],
];

pub struct Hostile {
    number: usize,
    pub user: &'static str,
    pub classic: bool,
    pub random: Random,
    unread: Vec<u8>,
}

impl Hostile {
    pub fn new(number: usize, user: &'static str, mut random: Random) -> Hostile {
        Hostile { number, user, classic: random.one_in(3), random, unread: Vec::new() }
    }

    pub fn number(&self) -> usize {
        self.number
    }

    pub fn connected(&mut self) {
        self.unread.clear();
    }

    /// Takes what came. What is wrong with it.
    pub fn hear(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.unread.extend_from_slice(bytes);
        loop {
            if self.unread.first() == Some(&255) {
                if self.unread.len() < 3 {
                    return Ok(());
                }
                let refusal = matches!(self.unread[1], 252 | 254);
                self.unread.drain(..3);
                if !refusal {
                    return Err(format!("client {}: an option that is not refused", self.number));
                }
                continue;
            }
            let Some(end) = self.unread.windows(2).position(|pair| pair == b"\r\n") else { return Ok(()) };
            let line: Vec<u8> = self.unread.drain(..end + 2).take(end).collect();
            Hostile::hear_line(&line)
                .map_err(|problem| format!("client {}: {problem}: {}", self.number, line.escape_ascii()))?;
        }
    }

    /// A message leaves the server for it. What is wrong with that.
    pub fn is_sent(&self, message: &[u8], bodies: &mut Bodies) -> Option<Problem> {
        let colon = message.iter().position(|byte| *byte == b':').unwrap_or(message.len());
        let sender = String::from_utf8_lossy(&message[..colon]);
        let trusted = |name: &str| USERS.contains(&name);
        let problem = bodies.delivered(self.user, &sender, message.get(colon + 1..).unwrap_or_default(), trusted);
        problem.map(|(kind, problem)| Problem::new(Sort::Promise(kind), format!("client {}: {problem}", self.number)))
    }

    fn hear_line(line: &[u8]) -> Result<(), String> {
        if line.len() > 1024 || line.contains(&b'\n') {
            return Err("no line of the protocol".to_owned());
        }
        let text = String::from_utf8_lossy(line);
        let message = line.starts_with(b"RMSG") && line.contains(&b':');
        let known = ALL.iter().any(|reply| {
            let rest = text.strip_prefix(reply.heading());
            rest.is_some_and(|rest| (rest.is_empty() || rest.starts_with([';', ':'])) && line.len() <= 78)
        });
        if known || message || line == b"[yes]" { Ok(()) } else { Err("unknown".to_owned()) }
    }

    pub fn act(&mut self, pause: Millis, bodies: &mut Bodies) -> Act {
        let most = if self.random.one_in(3) { 100 } else { 2 * pause };
        let mut act = Act { pause: self.random.between(1, most), ..Act::default() };
        if self.random.one_in(40) {
            act.leave = Some(*self.random.pick(&[Leave::End, Leave::Reset, Leave::Vanish]));
            return act;
        }
        if self.random.one_in(30) {
            act.pause = self.random.between(1_000, 100_000);
            act.deaf = if self.random.one_in(2) { act.pause } else { 0 };
        }
        for _ in 0..self.random.between(1, 4) {
            self.utter(&mut act.bytes, bodies);
        }
        act
    }

    fn utter(&mut self, bytes: &mut Vec<u8>, bodies: &mut Bodies) {
        let user = self.user;
        let recipient = *self.random.pick(&[HOSTILE[0], HOSTILE[1], VICTIM]);
        let line = match self.random.below(26) {
            0..3 => format!("USER{user}\r\nPASSpw-{user}"),
            3 => format!("USER{user}\r\nPASSwrong"),
            4 => "USERghost\r\nPASSghost".to_owned(),
            5 | 6 => "RMSG7\r\n250\r\n250".to_owned(),
            7 => format!("WMSG{}", self.random.below(400)),
            8..10 => {
                // Whole, whatever came before, for the sake of those who check what they get.
                let body = bodies.aside(user, recipient);
                format!("\r\n\r\nSMSG{recipient}:{}", String::from_utf8_lossy(&body))
            }
            10 => format!("SMSG{recipient}:{}", "w".repeat(self.random.below(1100) as usize)),
            11 => "SMSGbad name:a:b".to_owned(),
            12 | 13 => "201".to_owned(),
            14..17 => "250".to_owned(),
            17 => "550".to_owned(),
            18 => (*self.random.pick(&["TERM", "NOOP", "", "PASS", "USER", "RMSG0", "WMSG999", "2501"])).to_owned(),
            19 => "x".repeat(self.random.below(3000) as usize),
            20 => format!("SMSG{recipient}:without an end"),
            21 => "RMSG256".to_owned(),
            22 if self.random.one_in(20) => "y".repeat(70_000 / self.random.between(1, 3) as usize),
            22 => "NOOP\r\n".repeat(self.random.between(1, 300) as usize),
            _ => {
                let noise: &[u8] = self.random.pick::<&[u8]>(&NOISE);
                bytes.extend_from_slice(noise);
                return;
            }
        };
        bytes.extend_from_slice(line.as_bytes());
        if !self.random.one_in(8) {
            bytes.extend_from_slice(b"\r\n");
        }
    }
}
