//! The line decoder against one that could not be simpler: a byte at a time, keeping whatever comes.

use cp_proto::command::Line;
use cp_proto::line::{Decoder, Found};

use super::Twin;

const LF: u8 = b'\n';
const CR: u8 = b'\r';
const PDU_MAX: usize = 1024;
const FLOOD: usize = 64 * 1024;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Piece {
    Line(Vec<u8>),
    /// Over-long, with its first four bytes.
    Overlong([u8; 4]),
    Refusal([u8; 3]),
    AreYouThere,
}

/// What `stream` is made of. The second value: it went on for so long that nothing is promised any more.
pub fn pieces(stream: &[u8]) -> (Vec<Piece>, bool) {
    let mut simple = Simple::default();
    stream.iter().for_each(|byte| simple.feed(*byte));
    (simple.pieces, simple.flood)
}

/// Whether the client's end is in `stream`, as telnet has it.
pub fn ends(stream: &[u8]) -> bool {
    let mut simple = Simple::default();
    stream.iter().for_each(|byte| simple.feed(*byte));
    simple.ended
}

#[derive(Default)]
struct Simple {
    pieces: Vec<Piece>,
    telnet: Vec<u8>,
    line: Vec<u8>,
    overlong: bool,
    /// The last byte of data was a CR.
    after_cr: bool,
    /// The client's end came.
    ended: bool,
    /// Bytes since the last terminator.
    since: usize,
    flood: bool,
}

impl Simple {
    fn feed(&mut self, byte: u8) {
        if self.ended {
            return;
        }
        self.since += 1;
        self.flood |= self.since >= FLOOD;
        let before = std::mem::take(&mut self.telnet);
        match (before.as_slice(), byte) {
            ([], 255) => self.telnet = vec![255],
            ([], data) => self.data(data),
            ([255], 255) => self.data(255),
            ([255], 0..236) => {
                self.data(255);
                self.data(byte);
            }
            ([255], 236) => self.ended = true,
            ([255], 250..=254) => self.telnet = vec![255, byte],
            ([255], 246) => self.pieces.push(Piece::AreYouThere),
            ([255], 247) => self.erase_character(),
            ([255], 244 | 248) => self.erase_line(),
            ([255], _) => {}
            ([255, 251], option) => self.pieces.push(Piece::Refusal([255, 254, option])),
            ([255, 253], option) => self.pieces.push(Piece::Refusal([255, 252, option])),
            ([255, 252 | 254], _) => {}
            ([255, 250, 255], 240) => {}
            ([255, 250], 255) => self.telnet = vec![255, 250, 255],
            _ => self.telnet = vec![255, 250],
        }
    }

    fn data(&mut self, byte: u8) {
        if byte == LF {
            return self.end();
        }
        if byte != 0 || !self.after_cr {
            self.line.push(byte);
        }
        self.after_cr = byte == CR;
        self.overlong |= self.text().len() > PDU_MAX;
    }

    /// The line without the CRs at its end.
    fn text(&self) -> &[u8] {
        let crs = self.line.iter().rev().take_while(|byte| **byte == CR).count();
        &self.line[..self.line.len() - crs]
    }

    fn end(&mut self) {
        let line = self.text().to_vec();
        let verb = line.first_chunk().copied().unwrap_or_default();
        let piece = if self.overlong { Piece::Overlong(verb) } else { Piece::Line(line) };
        self.pieces.push(piece);
        self.line.clear();
        (self.overlong, self.after_cr, self.since) = (false, false, 0);
    }

    fn erase_character(&mut self) {
        self.after_cr = false;
        if self.line.last() == Some(&CR) {
            self.line.pop();
        } else if !self.overlong {
            while self.line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
        }
    }

    fn erase_line(&mut self) {
        self.line.clear();
        (self.overlong, self.after_cr) = (false, false);
    }
}

/// Whether the decoder makes the same of these segments as the simple one makes of the whole.
pub fn check(segments: &[&[u8]], twin: Twin) -> Result<(), String> {
    let (expected, flood) = pieces(&segments.concat());
    if flood {
        return Ok(());
    }
    let (mut decoder, mut found) = (Decoder::default(), Vec::new());
    for segment in segments {
        let mut rest = *segment;
        loop {
            let (piece, token) = match decoder.peek(&mut rest) {
                Found::Line(Line::Whole(line), token) => (Piece::Line(line.to_vec()), Some(token)),
                Found::Line(Line::Overlong(verb), token) => (Piece::Overlong(verb), Some(token)),
                Found::Refuse(bytes) => (Piece::Refusal(bytes), None),
                Found::AreYouThere => (Piece::AreYouThere, None),
                Found::NeedInput | Found::End => break,
                Found::Flood => return Err("a flood where there is none".into()),
            };
            if let Some(token) = token {
                decoder.take_line(token, &mut rest);
            }
            if !(twin == Twin::SkippedLine && piece == Piece::Line(Vec::new())) {
                found.push(piece);
            }
        }
        if !rest.is_empty() {
            return Err(format!("{} bytes are left though no line stands in them", rest.len()));
        }
    }
    let at = found.iter().zip(&expected).position(|(a, b)| a != b).unwrap_or(found.len().min(expected.len()));
    match found == expected {
        true => Ok(()),
        false => Err(format!("piece {at} is {:?}, expected {:?}", found.get(at), expected.get(at))),
    }
}
