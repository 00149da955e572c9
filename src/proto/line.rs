//! From a stream to lines: NVT commands are taken out, the rest is cut at its terminators. Never holds more than one
//! PDU, and nothing at all between two of them.

mod silence;
mod snapshot;

use super::command::{Line, Verb};
use super::limits::{PASSWORD_MAX_BYTES, PDU_MAX_BYTES, UNTERMINATED_MAX_BYTES, VERB_BYTES};
use super::telnet::{Nvt, Telnet};

const LF: u8 = b'\n';
const CR: u8 = b'\r';
/// Bytes of a line that tell what becomes of it: no more of an over-long one are copied.
const TELLING_BYTES: usize = PDU_MAX_BYTES + VERB_BYTES;
/// A line of this length never moves in memory: the longest PASS, so that no part of one is left where it was.
const FIRST_BYTES: usize = VERB_BYTES + 1 + PASSWORD_MAX_BYTES + 2;

/// What [`Decoder::peek`] finds next in the stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// A line; it stays the next one until [`Decoder::take`] gets the `Token`.
    Line(Line<'a>, Token),
    /// An option to refuse: these bytes go to the client.
    Refuse([u8; 3]),
    /// The client asks whether anybody is there.
    AreYouThere,
    /// More than `UNTERMINATED_MAX_BYTES` without a terminator.
    Flood,
    /// All input is used up.
    More,
}

/// The bytes of the input that a found line stands for.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub struct Token(usize);

/// The decoder of one connection.
#[derive(Debug, Default)]
pub struct Decoder {
    telnet: Telnet,
    mode: Mode,
    /// The unfinished line, or the finished one in `Mode::Whole`; with a CR at its end if one came.
    held: Vec<u8>,
    /// Bytes since the last terminator that are no longer in the line: erased, or of subnegotiations.
    swallowed: u32,
    /// The CR at the line's end was CR NUL: a byte of the line, and not the half of a terminator.
    data_cr: bool,
    /// Bytes of an unfinished line came; NVT commands are none.
    touched: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// A line is being collected, or none has begun.
    #[default]
    Collect,
    /// The line is over-long; `total` bytes of it came.
    Overlong { verb: [u8; VERB_BYTES], total: u32 },
    /// The rest of a line that was answered when it took too long.
    Skip { total: u32 },
    /// `held` is a whole line.
    Whole,
    /// An over-long line has ended.
    WholeOverlong { verb: [u8; VERB_BYTES] },
}

impl Decoder {
    /// What comes next; uses up `input` but for a line that still stands in it.
    pub fn peek<'a, 'i: 'a>(&'a mut self, input: &mut &'i [u8]) -> Found<'a> {
        if !self.finished() {
            if let Some(found) = self.peek_in_place(input) {
                return found;
            }
            match self.collect(input) {
                Some(Nvt::Refuse(bytes)) => return Found::Refuse(bytes),
                Some(Nvt::AreYouThere) => return Found::AreYouThere,
                Some(Nvt::Nothing | Nvt::Data(_) | Nvt::EraseCharacter | Nvt::EraseLine) | None => {}
            }
        }
        match self.mode {
            Mode::Whole => Found::Line(Line::Whole(without_cr(&self.held)), Token(0)),
            Mode::WholeOverlong { verb } => Found::Line(Line::Overlong(verb), Token(0)),
            Mode::Overlong { .. } | Mode::Skip { .. } | Mode::Collect if self.flooded() => Found::Flood,
            Mode::Overlong { .. } | Mode::Skip { .. } | Mode::Collect => Found::More,
        }
    }

    /// Takes the line that was found last.
    pub fn take(&mut self, token: Token, input: &mut &[u8]) {
        *input = input.get(token.0..).unwrap_or_default();
        self.swallowed = 0;
        if self.finished() {
            self.forget();
        }
    }

    /// Whether a line has begun that has no end yet.
    pub fn unfinished(&self) -> bool {
        match self.mode {
            Mode::Collect => !self.held.is_empty(),
            Mode::Overlong { .. } | Mode::Skip { .. } => true,
            Mode::Whole | Mode::WholeOverlong { .. } => false,
        }
    }

    /// Whether the time of an unfinished line counts: not once it was answered.
    pub fn collecting(&self) -> bool {
        self.unfinished() && !matches!(self.mode, Mode::Skip { .. })
    }

    /// Whether a whole line waits in here.
    pub fn finished(&self) -> bool {
        matches!(self.mode, Mode::Whole | Mode::WholeOverlong { .. })
    }

    /// The unfinished line took too long: its verb, and what still comes of it is thrown away. `None`: it was
    /// over-long already.
    pub fn give_up(&mut self) -> Option<Verb> {
        let verb = match self.mode {
            Mode::Collect => Some(Verb::of(&self.held)),
            Mode::Overlong { .. } | Mode::Skip { .. } => None,
            Mode::Whole | Mode::WholeOverlong { .. } => return None,
        };
        let total = u32::try_from(self.held.len()).unwrap_or(u32::MAX);
        self.forget();
        self.mode = Mode::Skip { total };
        verb
    }

    /// The usual case: a whole line without anything special in it stands in the input and is not copied.
    fn peek_in_place<'a>(&self, input: &mut &'a [u8]) -> Option<Found<'a>> {
        if self.mode != Mode::Collect || !self.held.is_empty() || !self.telnet.is_plain() {
            return None;
        }
        let end = plain_length(input);
        if input.get(end) != Some(&LF) || end + self.swallowed as usize > UNTERMINATED_MAX_BYTES {
            return None;
        }
        let line = without_cr(input.get(..end)?);
        let found = if line.len() <= PDU_MAX_BYTES { Line::Whole(line) } else { Line::Overlong(verb_of(line)) };
        Some(Found::Line(found, Token(end + 1)))
    }

    /// Moves input into the line until it ends, the input does, or an NVT command wants an answer.
    fn collect(&mut self, input: &mut &[u8]) -> Option<Nvt> {
        while let Some((&byte, rest)) = input.split_first() {
            if self.telnet.is_plain() {
                let plain = plain_length(input);
                if plain > 0 {
                    let (bytes, rest) = input.split_at(plain);
                    self.push(bytes);
                    *input = rest;
                    if self.flooded() {
                        return None;
                    }
                    continue;
                }
            }
            *input = rest;
            match self.telnet.feed(byte) {
                Nvt::Data(LF) => {
                    self.end();
                    if self.finished() {
                        return None;
                    }
                }
                Nvt::Data(0) if self.held.last() == Some(&CR) && !self.data_cr => self.keep_cr(),
                Nvt::Data(byte) => {
                    self.push(&[byte]);
                    if self.flooded() {
                        return None;
                    }
                }
                Nvt::EraseCharacter => self.erase_character(),
                Nvt::EraseLine => self.erase_line(),
                answer @ (Nvt::Refuse(_) | Nvt::AreYouThere) => return Some(answer),
                Nvt::Nothing => {
                    self.swallow(usize::from(self.telnet.is_subnegotiation()));
                    if self.flooded() {
                        return None;
                    }
                }
            }
        }
        None
    }

    fn push(&mut self, bytes: &[u8]) {
        self.data_cr = false;
        self.touched = true;
        let more = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        match &mut self.mode {
            Mode::Overlong { total, .. } | Mode::Skip { total } => *total = total.saturating_add(more),
            Mode::Collect => {
                if self.held.capacity() == 0 {
                    self.held.reserve(FIRST_BYTES);
                }
                let room = TELLING_BYTES.saturating_sub(self.held.len());
                let length = self.held.len() + bytes.len();
                self.held.extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default());
                if length > PDU_MAX_BYTES + 1 || (length == PDU_MAX_BYTES + 1 && self.held.last() != Some(&CR)) {
                    let verb = verb_of(&self.held);
                    self.forget();
                    self.mode = Mode::Overlong { verb, total: u32::try_from(length).unwrap_or(u32::MAX) };
                }
            }
            Mode::Whole | Mode::WholeOverlong { .. } => {}
        }
    }

    /// The line's CR was followed by NUL.
    fn keep_cr(&mut self) {
        self.data_cr = true;
        self.touched = true;
        if self.held.len() > PDU_MAX_BYTES {
            let (verb, total) = (verb_of(&self.held), u32::try_from(self.held.len()).unwrap_or(u32::MAX));
            self.forget();
            self.mode = Mode::Overlong { verb, total };
        }
    }

    fn swallow(&mut self, bytes: usize) {
        self.swallowed = self.swallowed.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    fn flooded(&self) -> bool {
        let in_line = match self.mode {
            Mode::Collect => self.held.len(),
            Mode::Overlong { total, .. } | Mode::Skip { total } => total as usize,
            Mode::Whole | Mode::WholeOverlong { .. } => return false,
        };
        in_line + self.swallowed as usize > UNTERMINATED_MAX_BYTES
    }

    /// A terminator came.
    fn end(&mut self) {
        self.swallowed = 0;
        match self.mode {
            Mode::Collect => {
                if self.data_cr {
                    // The one that is taken for the terminator's.
                    self.held.push(CR);
                }
                self.mode = Mode::Whole;
            }
            Mode::Overlong { verb, .. } => self.mode = Mode::WholeOverlong { verb },
            Mode::Skip { .. } => self.forget(),
            Mode::Whole | Mode::WholeOverlong { .. } => {}
        }
    }

    fn erase_character(&mut self) {
        if self.mode == Mode::Collect {
            let before = self.held.len();
            self.data_cr = false;
            while let Some(byte) = self.held.pop() {
                let continues = byte & 0xc0 == 0x80;
                if !continues {
                    break;
                }
            }
            self.swallow(before - self.held.len());
            if self.held.is_empty() {
                self.forget();
            }
        }
    }

    fn erase_line(&mut self) {
        match self.mode {
            Mode::Collect => {
                self.swallow(self.held.len());
                self.forget();
            }
            Mode::Overlong { total, .. } => {
                self.swallow(total as usize);
                self.forget();
            }
            Mode::Skip { .. } | Mode::Whole | Mode::WholeOverlong { .. } => {}
        }
    }

    /// Back to the start, without memory; a password does not stay in freed memory.
    fn forget(&mut self) {
        if Verb::of(&self.held) == Verb::Pass {
            self.held.fill(0);
            std::hint::black_box(&self.held);
        }
        self.held = Vec::new();
        self.mode = Mode::Collect;
        self.data_cr = false;
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        self.forget();
    }
}

/// What a decoder holds of a line; a password that goes on to come stays where it is.
fn held_as(begun: &[u8]) -> Vec<u8> {
    let mut held = Vec::new();
    if !begun.is_empty() {
        held.reserve(FIRST_BYTES.max(begun.len()));
        held.extend_from_slice(begun);
    }
    held
}

fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(&[CR]).unwrap_or(line)
}

fn verb_of(line: &[u8]) -> [u8; VERB_BYTES] {
    line.first_chunk().copied().unwrap_or_default()
}

/// How many bytes come before the first that is LF, NUL or IAC.
fn plain_length(bytes: &[u8]) -> usize {
    const STEP: usize = 32;
    let special = |b: &u8| *b == LF || *b == 0 || *b == super::telnet::IAC;
    let mut length = 0;
    let (chunks, _) = bytes.as_chunks::<STEP>();
    for chunk in chunks {
        if chunk.iter().fold(false, |any, b| any | special(b)) {
            break;
        }
        length += STEP;
    }
    let rest = bytes.get(length..).unwrap_or_default();
    length + rest.iter().position(special).unwrap_or(rest.len())
}

#[cfg(test)]
mod tests;
