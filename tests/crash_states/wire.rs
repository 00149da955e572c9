//! The ledger of what the server itself was told and has said, in the order in which it did: with it every moment of a
//! recording has its account of what is owed. What is read comes before anything that the server makes of it, and what
//! is sent before anybody has it, so that the ledger's rules hold as they are.

use std::collections::BTreeMap;

use super::recording::Event;
use crate::ledger::{Answer, End, Ledger, Parting, SessionNo};

#[derive(Default)]
struct Peer {
    user: String,
    session: Option<SessionNo>,
    /// Bytes of lines that are not whole.
    read: Vec<u8>,
    sent: Vec<u8>,
}

#[derive(Default)]
pub struct Wire {
    pub ledger: Ledger,
    peers: BTreeMap<String, Peer>,
    /// 240s so far.
    pub kept: u64,
}

impl Wire {
    pub fn note(&mut self, event: &Event) {
        match event {
            Event::Received { socket, bytes } if bytes.starts_with(b"USER") || self.peers.contains_key(socket) => {
                let peer = self.peers.entry(socket.clone()).or_default();
                if let (Some(session), true) = (peer.session, bytes.is_empty()) {
                    // What it has not acknowledged may be given to others from here on.
                    self.ledger.stopping(session);
                }
                peer.read.extend_from_slice(bytes);
                while let Some(line) = take_line(&mut peer.read) {
                    heard(&mut self.ledger, peer, &line);
                }
            }
            Event::Sent { socket, bytes } => {
                let Some(peer) = self.peers.get_mut(socket) else { return };
                peer.sent.extend_from_slice(bytes);
                while let Some(line) = take_line(&mut peer.sent) {
                    self.kept += u64::from(line.starts_with(b"240"));
                    said(&mut self.ledger, peer, &line);
                }
            }
            Event::Left { socket } => {
                if let Some(session) = self.peers.remove(socket).and_then(|peer| peer.session) {
                    self.ledger.closed(session, Parting::Torn);
                }
            }
            Event::Ended => self.ledger = self.after_the_end(),
            _ => {}
        }
        if matches!(event, Event::Ended) {
            self.peers.clear();
        }
    }

    /// The ledger, if the server ends now.
    pub fn after_the_end(&self) -> Ledger {
        let mut ledger = self.ledger.clone();
        for session in self.peers.values().filter_map(|peer| peer.session) {
            ledger.closed(session, Parting::Torn);
        }
        ledger.next_life(Parting::Torn);
        ledger
    }
}

fn take_line(bytes: &mut Vec<u8>) -> Option<Vec<u8>> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let mut line: Vec<u8> = bytes.drain(..=end).collect();
    line.truncate(line.len().saturating_sub(2));
    Some(line)
}

/// Splits `name:body`.
fn halves(text: &[u8]) -> (String, &[u8]) {
    let colon = text.iter().position(|byte| *byte == b':').expect("a colon");
    (String::from_utf8_lossy(&text[..colon]).into_owned(), &text[colon + 1..])
}

fn heard(ledger: &mut Ledger, peer: &mut Peer, line: &[u8]) {
    let argument = || String::from_utf8_lossy(&line[4..]).into_owned();
    match (peer.session, line.get(..4).unwrap_or(line)) {
        (None, b"USER") => peer.user = argument(),
        (Some(session), b"SMSG") => {
            let (recipient, body) = halves(&line[4..]);
            ledger.sending(session, &recipient, body);
        }
        (Some(session), b"RMSG") => ledger.downloading(session, argument().parse().unwrap_or(1)),
        (Some(session), b"WMSG") => ledger.downloading(session, 1),
        (Some(session), b"250" | b"250 ") => ledger.acknowledging(session),
        (Some(session), b"550") => ledger.stopping(session),
        (None, b"PASS") | (_, b"201") => {}
        (session, _) => panic!("{:?} in {session:?} is not understood", String::from_utf8_lossy(line)),
    }
}

fn said(ledger: &mut Ledger, peer: &mut Peer, line: &[u8]) {
    let code = line.get(..3).unwrap_or(line);
    let session = match (peer.session, code) {
        (None, b"220" | b"565") => return,
        (None, b"230") => return peer.session = Some(ledger.session(&peer.user)),
        (session, _) => session.expect("somebody is logged in"),
    };
    match code {
        b"RMS" => {
            let (sender, body) = halves(&line[4..]);
            ledger.received(session, &sender, body);
        }
        b"240" => ledger.answered(session, Answer::Kept),
        b"540" => ledger.answered(session, Answer::Unknown),
        b"500" | b"545" | b"546" => ledger.answered(session, Answer::NotStored),
        b"255" => ledger.ended(session, End::All),
        b"256" => ledger.ended(session, End::Nothing),
        b"550" => ledger.ended(session, End::Failed),
        b"201" => ledger.recovered(session),
        _ => panic!("{:?} is not understood", String::from_utf8_lossy(line)),
    }
}
