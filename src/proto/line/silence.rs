//! Silence as the end of a line (the classic dialect, docs/protocol.md section 8), also of one that waits unread behind
//! what is being worked on: a second decoder, the tail, is where the first one will be behind all that waits.

use super::{Decoder, Found, LF, held_as};
use crate::proto::telnet::{IAC, Nvt};
use crate::proto::waiting::Waiting;

impl Decoder {
    /// The decoder behind `waiting`.
    pub fn tail(&self, waiting: &[u8]) -> Decoder {
        let mut tail = Decoder { held: held_as(&self.held), ..*self };
        tail.pass(waiting);
        tail
    }

    /// The decoder has come to where `tail` is.
    pub fn catch_up(&mut self, tail: &Decoder) {
        (self.owes_lf, self.after_cr) = (tail.owes_lf, tail.after_cr);
    }

    /// Takes the tail past `bytes`, and puts them behind what waits for `first`, but for the LF of an end that was there
    /// already and that `first` does not know of. Whether they hold bytes of an unfinished line; NVT commands are none.
    pub fn hears_behind(&mut self, first: &Decoder, mut bytes: &[u8], waiting: &mut Waiting) -> bool {
        while let Some(owed) = self.owed_at(bytes).filter(|_| !first.tail(waiting).owes_lf) {
            let (before, behind) = bytes.split_at(owed);
            waiting.append(before);
            self.pass(bytes.get(..=owed).unwrap_or_default());
            bytes = behind.get(1..).unwrap_or_default();
        }
        waiting.append(bytes);
        self.hears(bytes)
    }

    /// Whether an LF that comes first belongs to a line that is over.
    pub fn owes_lf(&self) -> bool {
        self.owes_lf
    }

    /// A predecessor's tail owed an LF.
    pub fn set_owes_lf(&mut self) {
        self.owes_lf = true;
    }

    /// Takes the tail past `bytes`. Whether they hold bytes of an unfinished line; NVT commands are none.
    pub fn hears(&mut self, bytes: &[u8]) -> bool {
        self.touched = false;
        self.pass(bytes);
        self.touched && self.waits_for_end()
    }

    /// Whether a line has begun that silence would end. An IAC with nothing behind it is a byte of one.
    pub fn waits_for_end(&self) -> bool {
        (self.unfinished() || self.telnet.is_open()) && !self.finished() && !self.flooded()
    }

    /// Silence ends the unfinished line.
    pub fn end_by_silence(&mut self) {
        if self.waits_for_end() {
            if self.telnet.close() {
                self.push(&[IAC]);
            }
            self.end_here();
        }
    }

    /// The line ends without an LF; one that comes first behind a CR will be of this end.
    fn end_here(&mut self) {
        let (behind_cr, after_cr) = (self.crs > 0, self.after_cr);
        self.end();
        (self.owes_lf, self.after_cr) = (behind_cr, after_cr);
    }

    /// Silence ends the unfinished line behind `waiting`, where `tail` is.
    pub fn end_tail(&mut self, tail: &mut Decoder, waiting: &mut Waiting) {
        if !tail.waits_for_end() {
            return;
        }
        tail.end_by_silence();
        tail.pass(&[]);
        // An NVT command that has begun goes on behind the silence.
        let mut telnet = self.telnet;
        let mut end = telnet.is_plain().then_some(0);
        for (index, byte) in waiting.iter().enumerate() {
            if telnet.feed(*byte) == Nvt::Stray {
                telnet.feed(*byte);
            }
            if telnet.is_plain() {
                end = Some(index + 1);
            }
        }
        match end {
            // An IAC with nothing behind it has begun none.
            _ if telnet.is_open() => waiting.append(&[LF]),
            Some(end) => waiting.insert(end, LF),
            None => self.end_here(),
        }
    }

    /// Where in `bytes` stands what belongs to an end that was there already: the LF, or the NUL of a CR before it.
    fn owed_at(&self, bytes: &[u8]) -> Option<usize> {
        if !self.owes_lf {
            return None;
        }
        let (mut telnet, mut after_cr) = (self.telnet, self.after_cr);
        for (index, byte) in bytes.iter().enumerate() {
            match telnet.feed(*byte) {
                Nvt::Data(LF) => return Some(index),
                Nvt::Data(0) if after_cr => return Some(index),
                Nvt::Data(_) | Nvt::Stray | Nvt::End => return None,
                Nvt::EraseCharacter | Nvt::EraseLine => after_cr = false,
                Nvt::Nothing | Nvt::Refuse(_) | Nvt::AreYouThere => {}
            }
        }
        None
    }

    /// Goes past all lines of `input`, up to a flood.
    fn pass(&mut self, mut input: &[u8]) {
        loop {
            let token = match self.peek(&mut input) {
                Found::Line(_, token) => token,
                Found::Refuse(_) | Found::AreYouThere => continue,
                Found::More | Found::Flood | Found::End => return,
            };
            self.take(token, &mut input);
        }
    }
}
