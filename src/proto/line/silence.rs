//! Silence as the end of a line (the classic dialect, docs/protocol.md section 8), also of one that waits unread behind
//! what is being worked on: a second decoder, the tail, is where the first one will be behind all that waits.

use super::{Decoder, Found, LF, held_as};
use crate::proto::waiting::Waiting;

impl Decoder {
    /// The decoder behind `waiting`.
    pub fn tail(&self, waiting: &[u8]) -> Decoder {
        let mut tail = Decoder { held: held_as(&self.held), ..*self };
        tail.pass(waiting);
        tail
    }

    /// Takes the tail past `bytes`. Whether they hold bytes of an unfinished line; NVT commands are none.
    pub fn hears(&mut self, bytes: &[u8]) -> bool {
        self.touched = false;
        self.pass(bytes);
        self.touched && self.waits_for_end()
    }

    /// Whether a line has begun that silence would end.
    pub fn waits_for_end(&self) -> bool {
        self.unfinished() && !self.flooded()
    }

    /// Silence ends the unfinished line.
    pub fn end_by_silence(&mut self) {
        if self.unfinished() {
            self.end();
        }
    }

    /// Silence ends the unfinished line behind `waiting`, where `tail` is.
    pub fn end_tail(&mut self, tail: &mut Decoder, waiting: &mut Waiting) {
        if !tail.waits_for_end() {
            return;
        }
        tail.end();
        tail.pass(&[]);
        // An NVT command that has begun goes on behind the silence.
        let mut telnet = self.telnet;
        let mut end = telnet.is_plain().then_some(0);
        for (index, byte) in waiting.iter().enumerate() {
            telnet.feed(*byte);
            if telnet.is_plain() {
                end = Some(index + 1);
            }
        }
        match end {
            Some(end) => waiting.insert(end, LF),
            None => self.end(),
        }
    }

    /// Goes past all lines of `input`, up to a flood.
    fn pass(&mut self, mut input: &[u8]) {
        loop {
            let token = match self.peek(&mut input) {
                Found::Line(_, token) => token,
                Found::Refuse(_) | Found::AreYouThere => continue,
                Found::More | Found::Flood => return,
            };
            self.take(token, &mut input);
        }
    }
}
