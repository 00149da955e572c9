//! From a stream to lines: NVT commands are taken out, the rest is cut at its terminators. Never holds more than one
//! PDU, and nothing at all between two of them.

mod silence;
mod snapshot;

use super::command::{Line, Verb};
use super::limits::{PASSWORD_MAX_BYTES, PDU_MAX_BYTES, UNTERMINATED_MAX_BYTES, VERB_BYTES};
use super::telnet::{IAC, Nvt, Telnet};

const LF: u8 = b'\n';
const CR: u8 = b'\r';
/// Bytes of a line that tell what becomes of it: no more of an over-long one are copied.
const TELLING_BYTES: usize = PDU_MAX_BYTES + VERB_BYTES;
/// A line of this length never moves in memory: the longest PASS, so that no part of one is left where it was.
const FIRST_BYTES: usize = VERB_BYTES + 1 + PASSWORD_MAX_BYTES;

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
    /// The client has said that nothing more comes; what follows was thrown away.
    End,
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
    /// The unfinished line, or the finished one in `Mode::Whole`; without the CRs at its end.
    held: Vec<u8>,
    /// Bytes that came of a line that is not held, without the CRs at its end.
    total: u32,
    /// CRs behind the line's last byte: of its terminator, if LF follows.
    crs: u32,
    /// The last byte was a CR: a NUL right behind it belongs to it.
    after_cr: bool,
    /// Silence ended a line behind a CR: an LF that comes first belongs to that end.
    owes_lf: bool,
    /// Bytes since the last terminator that are not in the line: erased, of subnegotiations, the NUL of CR NUL.
    swallowed: u32,
    /// Bytes of an unfinished line came; NVT commands are none.
    touched: bool,
    /// An unfinished line was erased as a whole.
    erased: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// A line is being collected, or none has begun.
    #[default]
    Collect,
    /// The line is over-long.
    Overlong { verb: [u8; VERB_BYTES] },
    /// The rest of a line that was answered when it took too long.
    Skip,
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
                _ => {}
            }
        }
        match self.mode {
            Mode::Whole => Found::Line(Line::Whole(&self.held), Token(0)),
            Mode::WholeOverlong { verb } => Found::Line(Line::Overlong(verb), Token(0)),
            Mode::Overlong { .. } | Mode::Skip | Mode::Collect if self.flooded() => Found::Flood,
            Mode::Overlong { .. } | Mode::Skip | Mode::Collect if self.telnet.has_ended() => Found::End,
            Mode::Overlong { .. } | Mode::Skip | Mode::Collect => Found::More,
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
            Mode::Collect => !self.held.is_empty() || self.crs > 0,
            Mode::Overlong { .. } | Mode::Skip => true,
            Mode::Whole | Mode::WholeOverlong { .. } => false,
        }
    }

    /// Whether the time of an unfinished line counts: not once it was answered.
    pub fn collecting(&self) -> bool {
        self.unfinished() && !matches!(self.mode, Mode::Skip)
    }

    /// Whether an unfinished line was erased as a whole since this was last asked: what follows it is another line.
    pub fn take_erased(&mut self) -> bool {
        std::mem::take(&mut self.erased)
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
            Mode::Overlong { .. } | Mode::Skip => None,
            Mode::Whole | Mode::WholeOverlong { .. } => return None,
        };
        let total = u32::try_from(self.held.len()).unwrap_or(u32::MAX);
        let crs = self.crs;
        self.forget();
        (self.crs, self.total, self.mode) = (crs, total, Mode::Skip);
        verb
    }

    /// The unfinished line will never have an end.
    pub fn drop_unfinished(&mut self) {
        if self.unfinished() {
            self.forget();
        }
        self.telnet.close();
    }

    /// The usual case: a whole line without anything special in it stands in the input and is not copied.
    fn peek_in_place<'a>(&self, input: &mut &'a [u8]) -> Option<Found<'a>> {
        if self.mode != Mode::Collect || !self.held.is_empty() || !self.telnet.is_plain() {
            return None;
        }
        if self.crs > 0 || self.owes_lf {
            return None;
        }
        let end = plain_length(input);
        if input.get(end) != Some(&LF) || end + self.swallowed as usize > UNTERMINATED_MAX_BYTES {
            return None;
        }
        let line = without_crs(input.get(..end)?);
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
            let again = *input;
            *input = rest;
            match self.telnet.feed(byte) {
                Nvt::Data(LF) if self.owes_lf => (self.owes_lf, self.after_cr) = (false, false),
                Nvt::Data(LF) => {
                    self.end();
                    if self.finished() {
                        return None;
                    }
                }
                Nvt::Data(0) if self.after_cr => {
                    self.after_cr = false;
                    self.touched |= self.unfinished();
                    self.swallow(1);
                    if self.flooded() {
                        return None;
                    }
                }
                Nvt::Stray => {
                    self.push(&[IAC]);
                    *input = again;
                    if self.flooded() {
                        return None;
                    }
                }
                Nvt::End => {
                    *input = &[];
                    return None;
                }
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

    /// Bytes of the line came. CRs at the end are counted only: they may be its terminator's.
    fn push(&mut self, bytes: &[u8]) {
        self.touched = true;
        self.owes_lf = false;
        let text = without_crs(bytes);
        let crs = u32::try_from(bytes.len() - text.len()).unwrap_or(u32::MAX);
        self.after_cr = crs > 0;
        if text.is_empty() {
            self.crs = self.crs.saturating_add(crs);
            return;
        }
        let before = std::mem::replace(&mut self.crs, crs);
        let more = before.saturating_add(u32::try_from(text.len()).unwrap_or(u32::MAX));
        match self.mode {
            Mode::Overlong { .. } | Mode::Skip => self.total = self.total.saturating_add(more),
            Mode::Collect => {
                if self.held.capacity() == 0 {
                    self.held.reserve(FIRST_BYTES);
                }
                let length = self.held.len() + more as usize;
                let room = |held: &Vec<u8>| TELLING_BYTES.saturating_sub(held.len());
                // The CRs before belong to the line after all.
                self.held.resize(self.held.len() + room(&self.held).min(before as usize), CR);
                self.held.extend_from_slice(text.get(..room(&self.held).min(text.len())).unwrap_or_default());
                if length > PDU_MAX_BYTES {
                    let verb = verb_of(&self.held);
                    self.forget();
                    (self.crs, self.total) = (crs, u32::try_from(length).unwrap_or(u32::MAX));
                    self.mode = Mode::Overlong { verb };
                }
            }
            Mode::Whole | Mode::WholeOverlong { .. } => {}
        }
    }

    fn swallow(&mut self, bytes: usize) {
        self.swallowed = self.swallowed.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    fn flooded(&self) -> bool {
        let in_line = match self.mode {
            Mode::Collect => self.held.len(),
            Mode::Overlong { .. } | Mode::Skip => self.total as usize,
            Mode::Whole | Mode::WholeOverlong { .. } => return false,
        };
        in_line + self.crs as usize + self.swallowed as usize > UNTERMINATED_MAX_BYTES
    }

    /// A terminator came.
    fn end(&mut self) {
        (self.swallowed, self.crs, self.after_cr, self.owes_lf) = (0, 0, false, false);
        match self.mode {
            Mode::Collect => self.mode = Mode::Whole,
            Mode::Overlong { verb } => (self.mode, self.total) = (Mode::WholeOverlong { verb }, 0),
            Mode::Skip => self.forget(),
            Mode::Whole | Mode::WholeOverlong { .. } => {}
        }
    }

    fn erase_character(&mut self) {
        if self.crs > 0 {
            self.crs -= 1;
            self.swallow(1);
        } else if self.mode == Mode::Collect {
            let before = self.held.len();
            while let Some(byte) = self.held.pop() {
                let continues = byte & 0xc0 == 0x80;
                if !continues {
                    break;
                }
            }
            self.swallow(before - self.held.len());
            // Those before it are at the line's end now.
            let text = without_crs(&self.held).len();
            self.crs = u32::try_from(self.held.len() - text).unwrap_or(u32::MAX);
            self.held.truncate(text);
        }
        self.after_cr = false;
        if self.mode == Mode::Collect && !self.unfinished() {
            self.erased = true;
            self.forget();
        }
    }

    fn erase_line(&mut self) {
        let erased = match self.mode {
            Mode::Collect => self.held.len(),
            Mode::Overlong { .. } => self.total as usize,
            Mode::Skip | Mode::Whole | Mode::WholeOverlong { .. } => return,
        };
        self.swallow(erased + self.crs as usize);
        self.after_cr = false;
        self.erased = true;
        self.forget();
    }

    /// Back to the start, without memory; a password does not stay in freed memory.
    fn forget(&mut self) {
        if Verb::of(&self.held) == Verb::Pass {
            self.held.fill(0);
            std::hint::black_box(&self.held);
        }
        self.held = Vec::new();
        self.mode = Mode::Collect;
        (self.crs, self.total) = (0, 0);
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

/// However many stand right before the LF, and also what stood there as CR NUL: tools send CR CR LF and CR NUL CR LF for
/// the end of one line.
fn without_crs(mut line: &[u8]) -> &[u8] {
    while let Some(rest) = line.strip_suffix(&[CR]) {
        line = rest;
    }
    line
}

fn verb_of(line: &[u8]) -> [u8; VERB_BYTES] {
    line.first_chunk().copied().unwrap_or_default()
}

/// How many bytes come before the first that is LF, NUL or IAC.
fn plain_length(bytes: &[u8]) -> usize {
    const STEP: usize = 32;
    let special = |b: &u8| *b == LF || *b == 0 || *b == IAC;
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
