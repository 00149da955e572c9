//! A reset at every byte of a whole conversation.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::thread::sleep;
use std::time::Duration;

use crate::findings::{Findings, Verdict, Wrong, found, messages};
use crate::ledger::{Answer, End, Ledger, Parting, SessionNo};
use crate::rounds::client::{Client, Manner, Site};
use crate::rounds::random::Random;
use crate::running::Daemon;
use crate::wire::{descriptors, reset, waits_for_nobody};

/// Where a conversation is cut.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// The client has sent so many bytes, and heard everything that they ask for.
    Said(usize),
    /// The client has sent so many bytes at once and heard nothing.
    Blindly(usize),
    /// The client has heard so many bytes, and sent what asks for the next.
    Heard(usize),
}

/// Cuts conversations with `daemon` at every byte.
pub fn everywhere(daemon: &Daemon) -> Verdict {
    daemon.add_user("bob", "bob");
    daemon.add_user("alice", "alice");
    let ledger = Mutex::new(Ledger::default());
    let mut said = 0;
    let mut heard = 0;
    // Uncut once: how long it is.
    let whole = Conversation::begin(daemon, &ledger, 0).play(Cut::Said(usize::MAX));
    drain(daemon, &ledger)?;
    let open = at_rest(daemon);
    let mut number = 1;
    let cuts = (0..=whole.said).map(Cut::Said).chain((0..=whole.said).map(Cut::Blindly));
    for cut in cuts.chain((0..=whole.heard).map(Cut::Heard)) {
        let played = Conversation::begin(daemon, &ledger, number).play(cut);
        (said, heard) = (said + played.said, heard + played.heard);
        drain(daemon, &ledger).inspect_err(|_| println!("after {cut:?}"))?;
        number += 1;
    }
    let now = at_rest(daemon);
    if now != open {
        return found(Wrong::Descriptors, format!("{now} descriptors, {open} before"));
    }
    let counts = ledger.into_inner().expect("no panic").counts();
    Ok(format!(
        "{} resets, {said} bytes said, {heard} heard; {} messages sent, {} acknowledged, {} given back, {} stored \
         without a 240; {open} descriptors as before",
        number - 1,
        counts.sent,
        counts.kept,
        counts.given_back,
        counts.unconfirmed
    ))
}

/// Descriptors when nobody is connected. cpctl has just asked who is: its connection may be there a little longer.
fn at_rest(daemon: &Daemon) -> usize {
    let look = |_| {
        sleep(Duration::from_millis(20));
        descriptors(daemon.id())
    };
    (0..50).map(look).min().expect("some")
}

/// Downloads everything with honest clients; nothing may be missing.
fn drain(daemon: &Daemon, ledger: &Mutex<Ledger>) -> Result<(), Findings> {
    // A session that cpd still has would hold the queue.
    waits_for_nobody(daemon);
    let site = Site::new(daemon.address(), ledger);
    for user in ["bob", "alice"] {
        let mut client = Client::login(&site, user).expect("it serves");
        while client.download(&Manner::WHOLE, &mut Random::new(0, 0)).expect("it serves") {}
        client.close(Parting::Torn);
    }
    waits_for_nobody(daemon);
    let mut book = ledger.lock().expect("no panic");
    book.drained();
    messages(&book)
}

/// One that is going to be cut, and how far it has come.
struct Conversation<'a> {
    reader: BufReader<TcpStream>,
    ledger: &'a Mutex<Ledger>,
    session: Option<SessionNo>,
    number: usize,
    said: usize,
    heard: usize,
}

struct Played {
    said: usize,
    heard: usize,
}

impl<'a> Conversation<'a> {
    fn begin(daemon: &Daemon, ledger: &'a Mutex<Ledger>, number: usize) -> Conversation<'a> {
        let stream = TcpStream::connect(daemon.address()).expect("it listens");
        stream.set_read_timeout(Some(crate::running::PATIENCE)).expect("set");
        let reader = BufReader::with_capacity(1, stream);
        Conversation { reader, ledger, session: None, number, said: 0, heard: 0 }
    }

    /// Goes as far as the cut allows, then resets the connection.
    fn play(mut self, cut: Cut) -> Played {
        let (toward_alice, to_self) = (format!("a{:05}", self.number), format!("b{:05}", self.number));
        let lines = [
            "USERbob\r\n".to_owned(),
            "PASSbob\r\n".to_owned(),
            format!("SMSGalice:{toward_alice}\r\n"),
            format!("SMSGbob:{to_self}\r\n"),
            "RMSG\r\n".to_owned(),
            "250\r\n".to_owned(),
            "TERM\r\n".to_owned(),
        ];
        for (step, line) in lines.iter().enumerate() {
            if !self.step(step, line, cut) {
                break;
            }
        }
        if let Some(session) = self.session {
            self.ledger.lock().expect("no panic").closed(session, Parting::Torn);
        }
        reset(self.reader.into_inner());
        Played { said: self.said, heard: self.heard }
    }

    /// One line and its answer; whether the conversation goes on.
    fn step(&mut self, step: usize, line: &str, cut: Cut) -> bool {
        let part = match cut {
            Cut::Said(bytes) | Cut::Blindly(bytes) => line.len().min(bytes - self.said),
            Cut::Heard(_) => line.len(),
        };
        if part == 0 {
            return false;
        }
        self.before(step, line, part == line.len());
        // A server that has closed is a fault that the drain will find.
        let _ = self.reader.get_mut().write_all(&line.as_bytes()[..part]);
        self.said += part;
        if part < line.len() {
            return false;
        }
        match cut {
            Cut::Blindly(_) => true,
            Cut::Said(_) => step == 6 || self.hear(step, usize::MAX),
            Cut::Heard(bytes) => step == 6 || self.hear(step, bytes - self.heard),
        }
    }

    /// What the ledger has to know before a line leaves. Half an SMSG is never one.
    fn before(&mut self, step: usize, line: &str, whole: bool) {
        let mut book = self.ledger.lock().expect("no panic");
        // Blindly the login is not known to succeed, but what follows is in its name.
        if step == 2 {
            self.session = Some(book.session("bob"));
        }
        let Some(session) = self.session else { return };
        if !whole {
            return;
        }
        match step {
            2 | 3 => {
                let (recipient, body) = line[4..].trim_end().split_once(':').expect("an SMSG");
                book.sending(session, recipient, body.as_bytes());
            }
            4 => book.downloading(session, 1),
            5 => book.acknowledging(session),
            _ => {}
        }
    }

    /// Reads one answer, at most `allowed` bytes of it; whether it was all there.
    fn hear(&mut self, step: usize, allowed: usize) -> bool {
        let mut line = Vec::new();
        let limit = u64::try_from(allowed).expect("a size");
        self.reader.by_ref().take(limit).read_until(b'\n', &mut line).expect("an answer");
        self.heard += line.len();
        let text = String::from_utf8(line).expect("text");
        if !text.ends_with("\r\n") {
            return false;
        }
        let expected = ["220 ", "230 ", "240 ", "240 ", "RMSGbob:", "255 "][step];
        assert!(text.starts_with(expected), "{text:?} instead of {expected:?}");
        let mut book = self.ledger.lock().expect("no panic");
        let Some(session) = self.session else { return true };
        match step {
            2 | 3 => book.answered(session, Answer::Kept),
            4 => book.received(session, "bob", text[8..].trim_end().as_bytes()),
            5 => book.ended(session, End::All),
            _ => {}
        }
        true
    }
}
