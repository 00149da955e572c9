//! Silence as the end of a line (the classic dialect, docs/protocol.md section 8), also for lines that wait unread behind
//! a PDU that is being worked on.

use super::{Decoder, FIRST_BYTES, Found, LF};

impl Decoder {
    /// Whether `bytes`, which come behind `waiting`, hold bytes of an unfinished line. NVT commands are none.
    pub fn sounds(&self, waiting: &[u8], bytes: &[u8]) -> bool {
        let mut ahead = self.copied();
        ahead.use_up(waiting);
        ahead.touched = false;
        ahead.use_up(bytes);
        let sounds = ahead.touched && ahead.unfinished();
        ahead.forget();
        sounds
    }

    /// Whether a line without an end stands behind all that is in here and in `waiting`.
    pub fn unfinished_behind(&self, waiting: &[u8]) -> bool {
        if waiting.is_empty() {
            return self.unfinished();
        }
        let mut ahead = self.copied();
        ahead.use_up(waiting);
        let unfinished = ahead.unfinished();
        ahead.forget();
        unfinished
    }

    /// Silence ends the unfinished line, be it in here or at the end of `waiting`.
    pub fn end_by_silence(&mut self, waiting: &mut Vec<u8>) {
        if !self.unfinished_behind(waiting) {
            return;
        }
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
            Some(end) if !waiting.is_empty() => waiting.insert(end, LF),
            Some(_) | None => self.end(),
        }
    }

    fn copied(&self) -> Decoder {
        let mut held = Vec::with_capacity(FIRST_BYTES.max(self.held.len()));
        held.extend_from_slice(&self.held);
        Decoder { held, ..*self }
    }

    /// Goes through all lines of `input`, up to a flood.
    fn use_up(&mut self, mut input: &[u8]) {
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
