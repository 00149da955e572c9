//! A client that keeps to the protocol, knows what must come, and writes everything into the ledger: before it does it,
//! after it saw it. It stops now and then where it should not, and goes away in every possible way.

use std::collections::VecDeque;

use cp_proto::reply::{ALL, Reply, ReplyStage};
use cpd_core::time::Millis;

use super::bodies::Bodies;
use super::clocks::is_one_too_many;
use super::plan::{HOSTILE, Plan, USERS, VICTIM};
use super::problem::{Problem, Sort};
use crate::ledger::{Answer, End, Ledger, Parting, SessionNo};
use cpd_testing::random::Random;

/// What it waits for.
#[derive(Debug)]
pub enum Expect {
    User,
    Pass {
        right: bool,
    },
    /// With the body, if the message is not in the ledger.
    Send {
        recipient: &'static str,
        aside: Option<Vec<u8>>,
    },
    Download {
        delivered: u32,
        owed: u32,
    },
    /// The answer to 201; after a 550 of its own with what comes before it.
    Recovered {
        rejected: bool,
    },
    /// 500.
    Bad,
    /// 214 with what the state takes; `named`: between USER and PASS.
    Help {
        named: bool,
    },
    /// This code, once it has let a line unfinished for too long.
    Late(&'static str),
}

/// How it goes away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leave {
    /// Its end is shut down; what comes is still read.
    End,
    Reset,
    /// Nothing is said, and nothing that comes is answered.
    Vanish,
}

/// What it does.
#[derive(Default)]
pub struct Act {
    pub bytes: Vec<u8>,
    pub leave: Option<Leave>,
    /// It has stopped in the middle of a line.
    pub stalls: bool,
    /// It reads nothing for so long.
    pub deaf: Millis,
    /// When it acts again; 0: when it hears something.
    pub pause: Millis,
}

/// What all clients share.
pub struct Shared<'a> {
    pub plan: &'a Plan,
    pub ledger: &'a mut Ledger,
    pub bodies: &'a mut Bodies,
    pub calm: bool,
}

pub struct Client {
    number: usize,
    pub user: &'static str,
    pub random: Random,
    session: Option<SessionNo>,
    expects: VecDeque<Expect>,
    unread: Vec<u8>,
    logged_in: bool,
    in_error: bool,
    /// It said TERM or shut its side down.
    leaving: bool,
    /// The rest of a line that was answered.
    rest: bool,
    /// It takes everything that is there, and leaves.
    drains: bool,
    pub done: bool,
}

impl Client {
    pub fn new(number: usize, user: &'static str, random: Random, drains: bool) -> Client {
        Client {
            number,
            user,
            random,
            session: None,
            expects: VecDeque::new(),
            unread: Vec::new(),
            logged_in: false,
            in_error: false,
            leaving: false,
            rest: false,
            drains,
            done: false,
        }
    }

    pub fn number(&self) -> usize {
        self.number
    }

    pub fn is_draining(&self) -> bool {
        self.drains
    }

    pub fn connected(&mut self, ledger: &mut Ledger) {
        self.session = Some(ledger.session(self.user));
        self.expects.clear();
        self.unread.clear();
        (self.logged_in, self.in_error, self.leaving, self.rest) = (false, false, false, false);
    }

    /// The connection is over for it; `stopped`: as the server stops; `heard_out`: the server had read all that it sent.
    /// What is wrong with that.
    pub fn closed(&mut self, parting: Parting, stopped: bool, heard_out: bool, ledger: &mut Ledger) -> Option<Problem> {
        let session = self.session.take()?;
        let orderly = parting == Parting::Orderly && (self.leaving || stopped);
        ledger.closed(session, if orderly { Parting::Orderly } else { Parting::Torn });
        let answered = orderly && !stopped && heard_out;
        let missing =
            self.expects.front().filter(|e| answered && !matches!(e, Expect::Download { .. } | Expect::Late(_)));
        missing.map(|expect| {
            let text = format!("client {} left in order and had no answer to {expect:?}", self.number);
            Problem::new(Sort::Unanswered, text)
        })
    }

    /// A message leaves the server for it. That is when the ledger learns of it: this one may read it when the server
    /// has long given it to somebody else.
    pub fn is_sent(&self, message: &[u8], ledger: &mut Ledger) {
        let colon = message.iter().position(|byte| *byte == b':').unwrap_or(message.len());
        let sender = String::from_utf8_lossy(&message[..colon]);
        if let Some(session) = self.session {
            ledger.received(session, &sender, message.get(colon + 1..).unwrap_or_default());
        }
    }

    /// What it still waits for.
    pub fn waits_for(&self) -> &VecDeque<Expect> {
        &self.expects
    }

    /// Takes what came. What is wrong with it.
    pub fn hear(&mut self, bytes: &[u8], login_may_fail: bool, world: &mut Shared<'_>) -> Result<(), String> {
        let mut unread = std::mem::take(&mut self.unread);
        unread.extend_from_slice(bytes);
        let mut rest = unread.as_slice();
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line = &rest[..end];
            rest = &rest[end + 1..];
            let line =
                line.strip_suffix(b"\r").filter(|line| (1..=1024).contains(&line.len()) && !line.contains(&b'\r'));
            let heard = match line {
                None => Err("no line of the protocol".to_owned()),
                Some(line) if line.starts_with(b"RMSG") => self.hear_message(),
                Some(line) => self.hear_reply(line, login_may_fail, world),
            };
            let text = || line.unwrap_or(b"?").escape_ascii();
            heard.map_err(|problem| format!("client {}: {problem} on {}", self.number, text()))?;
        }
        self.unread = rest.to_vec();
        Ok(())
    }

    fn hear_message(&mut self) -> Result<(), String> {
        match self.expects.front_mut() {
            Some(Expect::Download { delivered, owed }) => (*delivered, *owed) = (*delivered + 1, *owed + 1),
            Some(Expect::Recovered { rejected: true }) => {}
            _ => return Err(format!("waits for {:?}", self.expects)),
        }
        Ok(())
    }

    fn hear_reply(&mut self, line: &[u8], login_may_fail: bool, world: &mut Shared<'_>) -> Result<(), String> {
        let line = std::str::from_utf8(line).map_err(|_| "not UTF-8")?;
        let known = ALL.iter().find(|reply| line.starts_with(reply.heading())).ok_or("unknown")?;
        let (rest, code) = (&line[known.heading().len()..], known.code());
        let sound = match code {
            "540" | "545" | "546" | "550" => rest.contains("; send 201"),
            "214" | "500" => rest.starts_with(": "),
            _ => rest.is_empty(),
        };
        if !sound || line.len() > 78 {
            return Err("another text".to_owned());
        }
        let session = self.session.ok_or("it is closed")?;
        let ledger = &mut *world.ledger;
        match (self.expects.pop_front(), code) {
            (Some(Expect::User), "220") | (Some(Expect::Bad), "500") | (Some(Expect::Pass { right: false }), "565") => {
            }
            (Some(Expect::Help { named }), "214") if line == self.help(named) => {}
            (Some(Expect::Pass { right: true }), "230") => self.logged_in = true,
            (Some(Expect::Pass { right: true }), "565") if login_may_fail => {}
            (Some(Expect::Pass { right: true }), "500")
                if world.plan.limits_sessions() && is_one_too_many(line.as_bytes()) =>
            {
                self.leaving = true;
            }
            (Some(Expect::Recovered { rejected }), "201") => {
                self.in_error = false;
                if rejected {
                    ledger.recovered(session);
                }
            }
            (Some(Expect::Recovered { rejected: true }), "550") => {
                // The server was first: it has taken no 250 since.
                ledger.ended(session, End::Failed);
                self.expects.push_front(Expect::Recovered { rejected: false });
            }
            (Some(Expect::Late(expected)), _) if expected == code => {
                self.rest = true;
                self.in_error |= code == "540";
            }
            (Some(Expect::Send { recipient, aside }), _) => {
                let answer = match code {
                    "240" if recipient != "nobody" => Answer::Kept,
                    "540" if world.plan.stores_can_fail() => Answer::Unknown,
                    "545" if recipient == "nobody" || recipient == VICTIM => Answer::NotStored,
                    "500" if self.in_error => Answer::NotStored,
                    _ => return Err(format!("is no answer to a message for {recipient}")),
                };
                self.in_error |= code != "240";
                match aside {
                    Some(body) if answer == Answer::Kept => world.bodies.kept(&body),
                    Some(_) => {}
                    None => ledger.answered(session, answer),
                }
            }
            (Some(Expect::Download { delivered: 1.., owed: 0 }), "255") => ledger.ended(session, End::All),
            (Some(Expect::Download { delivered: 0, .. }), "256") => {
                ledger.ended(session, End::Nothing);
                self.done |= self.drains;
            }
            (Some(Expect::Download { .. }), "550") => {
                self.in_error = true;
                ledger.ended(session, End::Failed);
            }
            (Some(Expect::Download { .. }), "500") if self.in_error => ledger.ended(session, End::Failed),
            // A bad PDU that came too late to end a wait.
            (Some(download @ Expect::Download { .. }), "500") if matches!(self.expects.front(), Some(Expect::Bad)) => {
                self.expects[0] = download;
            }
            (expect, _) => return Err(format!("waits for {expect:?}, {:?}", self.expects)),
        }
        Ok(())
    }

    /// What HELP is to be told now, without its CR LF.
    fn help(&self, named: bool) -> String {
        let stage = match (self.in_error, self.logged_in, named) {
            (true, ..) => ReplyStage::ErrorProcessing,
            (_, true, _) => ReplyStage::ProcessCommand,
            (_, _, true) => ReplyStage::UserValidated,
            (..) => ReplyStage::Idle,
        };
        let mut line = Vec::new();
        Reply::Help(stage).write(false, &mut line);
        String::from_utf8_lossy(&line).trim_end().to_owned()
    }

    /// Asks for help now and then.
    fn wonders(&mut self, named: bool, act: &mut Act, world: &Shared<'_>) {
        if !world.calm && !self.drains && self.random.one_in(20) {
            self.say(act, "HELP");
            self.expects.push_back(Expect::Help { named });
        }
    }

    /// Does something, or nothing.
    pub fn act(&mut self, world: &mut Shared<'_>) -> Act {
        let mut act = Act { pause: self.random.between(1, 60), ..Act::default() };
        if self.leaving || self.session.is_none() {
            act.pause = 0;
            return act;
        }
        let hasty = world.calm || self.drains;
        if !hasty && self.stops(&mut act, world) {
            return act;
        }
        if std::mem::take(&mut self.rest) {
            act.bytes.extend_from_slice(b" what is late\r\n");
        }
        match self.expects.front_mut() {
            Some(Expect::Download { delivered: 0, owed: 0 }) => {
                if self.expects.len() == 1 && self.random.one_in(if world.calm { 2 } else { 30 }) {
                    self.say(&mut act, "NOOP");
                    self.expects.push_back(Expect::Bad);
                }
                act.pause = if hasty { 50 } else { self.random.between(100, 40_000) };
            }
            Some(Expect::Download { owed, .. }) if *owed > 0 => {
                let count = if hasty { *owed } else { self.random.between(1, u64::from(*owed)) as u32 };
                *owed -= count;
                self.acknowledge(count, &mut act, world);
            }
            Some(_) => act.pause = 0,
            None if self.in_error => {
                self.wonders(false, &mut act, world);
                let words = if self.random.one_in(2) { "201 recovered" } else { "201" };
                self.say(&mut act, words);
                self.expects.push_back(Expect::Recovered { rejected: false });
            }
            None if !self.logged_in => self.log_in(&mut act, world),
            None if self.drains && !self.done => self.download(&mut act, "RMSG256", 256, world),
            None if hasty => self.terminate(&mut act),
            None => self.task(&mut act, world),
        }
        act
    }

    /// Stops where it should not, or goes. Whether it did.
    fn stops(&mut self, act: &mut Act, world: &mut Shared<'_>) -> bool {
        if self.random.one_in(150) {
            act.leave = Some(*self.random.pick(&[Leave::End, Leave::Reset, Leave::Vanish]));
            self.leaving = true;
            return true;
        }
        if !world.plan.stalls || !self.random.one_in(25) {
            return false;
        }
        let timeouts = world.plan.settings.session.timeouts;
        let times = [timeouts.pdu, timeouts.login, timeouts.ack, timeouts.recover, timeouts.idle, timeouts.write];
        let time = *self.random.pick(&times);
        act.pause = *self.random.pick(&[time / 2, time.saturating_sub(100), time + 100, time * 2]);
        if self.random.one_in(4) {
            act.deaf = act.pause;
        }
        if self.expects.is_empty() && !self.rest && self.random.one_in(2) {
            let (line, code) = *self.random.pick(match (self.logged_in, self.in_error) {
                (false, _) => &[("USERu", "560"), ("USE", "500"), ("SMSGu", "500"), ("x", "500")],
                (true, false) => &[("SMSGu0", "540"), ("smsg", "540"), ("RMSG", "500"), ("2", "500")],
                (true, true) => &[("20", "500"), ("SMSGu0:x", "500")],
            });
            act.bytes.extend_from_slice(line.as_bytes());
            act.stalls = true;
            self.expects.push_back(Expect::Late(code));
        }
        true
    }

    fn say(&mut self, act: &mut Act, line: &str) {
        act.bytes.extend_from_slice(line.as_bytes());
        act.bytes.extend_from_slice(if self.number.is_multiple_of(2) { b"\r\n" } else { b"\n" });
    }

    fn log_in(&mut self, act: &mut Act, world: &Shared<'_>) {
        let user = self.user;
        if !world.calm && !self.drains && !world.plan.throttles() && self.random.one_in(30) {
            self.say(act, &format!("USER {user}"));
            self.say(act, "PASS wrong");
            self.expects.extend([Expect::User, Expect::Pass { right: false }]);
            return;
        }
        self.wonders(false, act, world);
        self.say(act, &format!("USER{user}"));
        self.expects.push_back(Expect::User);
        self.wonders(true, act, world);
        self.say(act, &format!("PASS pw-{user}"));
        self.expects.push_back(Expect::Pass { right: true });
    }

    fn acknowledge(&mut self, count: u32, act: &mut Act, world: &mut Shared<'_>) {
        let Some(session) = self.session else { return };
        let hasty = world.calm || self.drains;
        if !hasty && self.expects.len() == 1 && self.random.one_in(40) {
            world.ledger.stopping(session);
            self.expects.pop_front();
            self.say(act, "550 no");
            self.say(act, "201");
            self.in_error = true;
            self.expects.push_front(Expect::Recovered { rejected: true });
            return;
        }
        for _ in 0..count {
            world.ledger.acknowledging(session);
            self.say(act, "250 message successfully downloaded");
        }
    }

    /// Some SMSGs and at most one download, written at once.
    fn task(&mut self, act: &mut Act, world: &mut Shared<'_>) {
        match self.random.below(24) {
            0 => return self.terminate(act),
            1..4 => {
                let seconds = self.random.between(1, 300);
                return self.download(act, &format!("WMSG{seconds}"), 1, world);
            }
            4..10 => {
                let pause = world.plan.pause;
                act.pause = self.random.between(0, 2 * pause);
                return;
            }
            _ => {}
        }
        for _ in 0..self.random.below(7) {
            self.wonders(false, act, world);
            if self.random.one_in(20) {
                self.say(act, "NOOP");
                self.expects.push_back(Expect::Bad);
            } else {
                self.send(act, world);
            }
        }
        match self.random.below(6) {
            0 => self.download(act, "rmsg", 1, world),
            1 => {
                let window = self.random.between(1, 256) as usize;
                self.download(act, &format!("RMSG{window}"), window, world);
            }
            2 if self.random.one_in(10) => self.terminate(act),
            _ => {}
        }
    }

    fn send(&mut self, act: &mut Act, world: &mut Shared<'_>) {
        let Some(session) = self.session else { return };
        let recipient = match self.random.below(30) {
            0 => "nobody",
            1 => VICTIM,
            2 => *self.random.pick(&HOSTILE),
            _ => *self.random.pick(&USERS[..world.plan.users]),
        };
        let aside =
            (recipient == VICTIM || HOSTILE.contains(&recipient)).then(|| world.bodies.aside(self.user, recipient));
        let body = aside.clone().unwrap_or_else(|| self.body(world));
        if aside.is_none() {
            world.ledger.sending(session, recipient, &body);
        }
        act.bytes.extend_from_slice(format!("SMSG{recipient}:").as_bytes());
        act.bytes.extend_from_slice(&body);
        self.say(act, "");
        self.expects.push_back(Expect::Send { recipient, aside });
    }

    fn body(&mut self, world: &mut Shared<'_>) -> Vec<u8> {
        let mut body = format!("#{}.", world.bodies.number());
        let length = match self.random.below(10) {
            0 => 1009,
            1..3 => self.random.between(1, 1009) as usize,
            _ => 0,
        };
        while body.len() + 4 <= length {
            let piece: &str = self.random.pick::<&str>(&["abcd", " ", "\t", "\u{e9}", "\u{1f426}"]);
            body.push_str(piece);
        }
        body.into_bytes()
    }

    fn download(&mut self, act: &mut Act, line: &str, window: usize, world: &mut Shared<'_>) {
        let Some(session) = self.session else { return };
        world.ledger.downloading(session, window);
        self.say(act, line);
        self.expects.push_back(Expect::Download { delivered: 0, owed: 0 });
    }

    fn terminate(&mut self, act: &mut Act) {
        self.say(act, "TERM");
        self.leaving = true;
    }
}
