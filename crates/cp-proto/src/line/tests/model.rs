//! A second, as plain as possible implementation of the decoder, which reads one byte after the other.

use super::super::*;

/// What comes out of a stream.
#[derive(Debug, PartialEq, Eq, Clone)]
pub(super) enum Out {
    Whole(Vec<u8>),
    Overlong(Vec<u8>),
    Refuse([u8; 3]),
    AreYouThere,
    Flood,
    /// The line took too long: its verb, or `None` if it was over-long already.
    GaveUp(Option<Verb>),
}

/// What happens after a piece of the stream has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interruption {
    Nothing,
    GiveUp,
    Silence,
}

#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
enum Stage {
    #[default]
    Data,
    Command,
    Option(u8),
    Inside,
    InsideCommand,
    Ended,
}

/// The state of the model, which keeps every byte of a line.
#[derive(Default)]
struct Model {
    stage: Stage,
    line: Vec<u8>,
    over: bool,
    skipping: bool,
    flooded: bool,
    /// How many bytes the line has in all, also if it is over-long or skipped.
    count: usize,
    /// How many CRs are at the end of the line.
    trail: usize,
    /// How many bytes since the last terminator are in no line: erased ones, those of subnegotiations, NULs of CR NUL.
    lost: usize,
    /// The last byte of data was a CR.
    after_cr: bool,
    /// Silence ended a line after a CR.
    skip_next_lf: bool,
    out: Vec<Out>,
}

impl Model {
    fn feed(&mut self, byte: u8) {
        if self.flooded {
            return;
        }
        self.stage = match (self.stage, byte) {
            (Stage::Ended, _) => Stage::Ended,
            (Stage::Data, 255) => Stage::Command,
            (Stage::Data, byte) => return self.data(byte),
            (Stage::Command, 255) => {
                self.stage = Stage::Data;
                return self.data(255);
            }
            (Stage::Command, 0..236) => {
                self.stage = Stage::Data;
                self.data(255);
                return self.feed(byte);
            }
            (Stage::Command, 236) => Stage::Ended,
            (Stage::Command, 250) => Stage::Inside,
            (Stage::Command, 251..=254) => Stage::Option(byte),
            (Stage::Command, command) => {
                match command {
                    246 => self.out.push(Out::AreYouThere),
                    247 => self.erase_character(),
                    248 | 244 => self.erase_line(),
                    _ => {}
                }
                Stage::Data
            }
            (Stage::Option(verb), option) => {
                match verb {
                    251 => self.out.push(Out::Refuse([255, 254, option])),
                    253 => self.out.push(Out::Refuse([255, 252, option])),
                    _ => {}
                }
                Stage::Data
            }
            (Stage::Inside, 255) => Stage::InsideCommand,
            (Stage::Inside, _) => Stage::Inside,
            (Stage::InsideCommand, 240) => Stage::Data,
            (Stage::InsideCommand, _) => Stage::Inside,
        };
        if matches!(self.stage, Stage::Inside | Stage::InsideCommand) {
            self.lost += 1;
            self.check_flood();
        }
    }

    fn check_flood(&mut self) {
        if !self.flooded && self.count + self.lost > 65_536 {
            self.flooded = true;
            self.out.push(Out::Flood);
        }
    }

    fn data(&mut self, byte: u8) {
        match byte {
            b'\n' if self.skip_next_lf => (self.skip_next_lf, self.after_cr) = (false, false),
            b'\n' => self.end(),
            0 if self.after_cr => {
                self.after_cr = false;
                self.lost += 1;
                self.check_flood();
            }
            byte => {
                self.after_cr = byte == b'\r';
                self.skip_next_lf = false;
                self.count += 1;
                self.trail = if byte == b'\r' { self.trail + 1 } else { 0 };
                if !self.skipping {
                    self.line.push(byte);
                    self.over |= self.line.len() - self.trail > 1024;
                }
                self.check_flood();
            }
        }
    }

    fn end(&mut self) {
        if !self.skipping {
            let line = self.line[..self.line.len() - self.trail].to_vec();
            self.out.push(if self.over { Out::Overlong(line[..4].to_vec()) } else { Out::Whole(line) });
        }
        self.clear();
        self.lost = 0;
    }

    fn clear(&mut self) {
        self.line.clear();
        (self.over, self.skipping, self.count, self.trail) = (false, false, 0, 0);
        (self.after_cr, self.skip_next_lf) = (false, false);
    }

    fn erase_character(&mut self) {
        self.after_cr = false;
        let before = self.count;
        if self.trail > 0 {
            self.trail -= 1;
            self.count -= 1;
            self.line.pop();
        } else if !self.over && !self.skipping {
            // A character of UTF-8 is a byte that is not a continuation byte, and the continuation bytes after it.
            while self.line.last().is_some_and(|b| (0x80..0xc0).contains(b)) {
                self.line.pop();
            }
            self.line.pop();
            self.count = self.line.len();
            self.trail = self.line.iter().rev().take_while(|b| **b == b'\r').count();
        }
        self.lost += before - self.count;
    }

    fn erase_line(&mut self) {
        if !self.skipping {
            self.lost += self.count;
            let skip_next_lf = self.skip_next_lf;
            self.clear();
            self.skip_next_lf = skip_next_lf;
        }
    }

    fn has_unfinished_line(&self) -> bool {
        !self.flooded && (!self.line.is_empty() || self.skipping || self.over)
    }

    fn interrupt(&mut self, what: Interruption) {
        if what == Interruption::Silence && self.stage == Stage::Command && !self.flooded {
            self.stage = Stage::Data;
            self.data(255);
        }
        if !self.has_unfinished_line() {
            return;
        }
        match what {
            Interruption::Nothing => {}
            Interruption::Silence => {
                let (behind_cr, after_cr) = (self.trail > 0, self.after_cr);
                self.end();
                (self.skip_next_lf, self.after_cr) = (behind_cr, after_cr);
            }
            Interruption::GiveUp => {
                let verb = (!self.over && !self.skipping).then(|| Verb::of(&self.line));
                self.out.push(Out::GaveUp(verb));
                self.count = if verb.is_some() { self.count } else { self.trail };
                self.line.clear();
                (self.over, self.skipping) = (false, true);
            }
        }
    }
}

pub(super) fn model(pieces: &[(Vec<u8>, Interruption)]) -> Vec<Out> {
    let mut model = Model::default();
    for (bytes, then) in pieces {
        bytes.iter().for_each(|byte| model.feed(*byte));
        model.interrupt(*then);
    }
    model.out
}
