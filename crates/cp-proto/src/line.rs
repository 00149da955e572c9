//! Cuts a client's stream into lines, after taking NVT commands out of it. The decoder never holds more than one line,
//! and between two lines it holds no memory.

mod silence;
pub mod snapshot;

use crate::command::{Line, Verb};
use crate::limits::{PASSWORD_MAX_BYTES, PDU_MAX_BYTES, UNTERMINATED_MAX_BYTES, VERB_BYTES};
use crate::secret::wipe;
use crate::telnet::{IAC, NvtEvent, NvtParser};

const LF: u8 = b'\n';
const CR: u8 = b'\r';
/// At most this many bytes of a line are copied: enough to see that it is over-long and to know its verb.
const HELD_MAX_BYTES: usize = PDU_MAX_BYTES + VERB_BYTES;
/// The capacity that a held line begins with. It suffices for the longest valid PASS, so that no password is ever moved
/// in memory, which would leave a copy of it behind.
const PASS_CAPACITY_BYTES: usize = VERB_BYTES + 1 + PASSWORD_MAX_BYTES;

/// What comes next in the stream, as [`Decoder::peek`] finds it.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// A line. It stays the next one until [`Decoder::take_line`] is called with this `LineToken`.
    Line(Line<'a>, LineToken),
    /// The client asked for a telnet option or offered one; these bytes refuse it and must be sent.
    Refuse([u8; 3]),
    /// The client sent the telnet command AYT ("are you there").
    AreYouThere,
    /// More than `UNTERMINATED_MAX_BYTES` came without a terminator.
    Flood,
    /// The client has ended its stream by the telnet command EOF. What follows it was thrown away.
    End,
    /// All input was used, and more is needed.
    NeedInput,
}

/// How many bytes of the input a found line and its terminator take up; 0 if the decoder holds the line.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub struct LineToken(usize);

/// The decoder of one connection.
#[derive(Debug, Default)]
pub struct Decoder {
    telnet: NvtParser,
    mode: LineMode,
    /// The unfinished line, or in `LineMode::Whole` the finished one, without the CRs at its end.
    held: Vec<u8>,
    /// How many bytes have come of a line that is over-long or skipped and thus not held, without the CRs at its end.
    dropped_bytes: u32,
    /// How many CRs have come after the last other byte of the line. If an LF follows, they belong to the terminator.
    trailing_crs: u32,
    /// The last byte was a CR, so a NUL right after it belongs to it.
    after_cr: bool,
    /// Silence ended a line after a CR. An LF that comes before any byte of the next line belongs to that end and is
    /// skipped.
    skip_next_lf: bool,
    /// How many bytes since the last terminator are not part of the line: erased ones, those of subnegotiations, and
    /// the NULs of CR NUL.
    removed_bytes: u32,
    /// Bytes of a line have come since [`Decoder::observe`] was last called. Those of NVT commands do not count.
    line_bytes_seen: bool,
    /// An unfinished line was erased as a whole since [`Decoder::take_line_erased`] was last called.
    erased: bool,
}

/// What becomes of the line that the stream is in.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum LineMode {
    /// A line is being collected, or none has begun.
    #[default]
    Collect,
    /// The line is over-long; `verb` is what it began with.
    Overlong { verb: [u8; VERB_BYTES] },
    /// The rest of a line is thrown away, because the line took too long and was answered.
    Skip,
    /// A whole line is held.
    Whole,
    /// An over-long line has ended.
    WholeOverlong { verb: [u8; VERB_BYTES] },
}

impl Decoder {
    /// Finds what comes next, and removes from `input` what it used. A line that is whole in `input` is not copied and
    /// stays there until [`Decoder::take_line`].
    pub fn peek<'a, 'i: 'a>(&'a mut self, input: &mut &'i [u8]) -> Found<'a> {
        if !self.has_finished_line() {
            if let Some(found) = self.peek_in_place(input) {
                return found;
            }
            match self.collect(input) {
                Some(NvtEvent::Refuse(bytes)) => return Found::Refuse(bytes),
                Some(NvtEvent::AreYouThere) => return Found::AreYouThere,
                _ => {}
            }
        }
        match self.mode {
            LineMode::Whole => Found::Line(Line::Whole(&self.held), LineToken(0)),
            LineMode::WholeOverlong { verb } => Found::Line(Line::Overlong(verb), LineToken(0)),
            LineMode::Overlong { .. } | LineMode::Skip | LineMode::Collect if self.flooded() => Found::Flood,
            LineMode::Overlong { .. } | LineMode::Skip | LineMode::Collect if self.telnet.has_ended() => Found::End,
            LineMode::Overlong { .. } | LineMode::Skip | LineMode::Collect => Found::NeedInput,
        }
    }

    /// Removes the line that [`Decoder::peek`] has just found.
    pub fn take_line(&mut self, token: LineToken, input: &mut &[u8]) {
        *input = input.get(token.0..).unwrap_or_default();
        self.removed_bytes = 0;
        if self.has_finished_line() {
            self.reset();
        }
    }

    /// Whether a line has begun and not ended.
    pub fn has_unfinished_line(&self) -> bool {
        match self.mode {
            LineMode::Collect => !self.held.is_empty() || self.trailing_crs > 0,
            LineMode::Overlong { .. } | LineMode::Skip => true,
            LineMode::Whole | LineMode::WholeOverlong { .. } => false,
        }
    }

    /// Whether there is an unfinished line whose time is limited. One that was answered already has no limit.
    pub fn has_timed_line(&self) -> bool {
        self.has_unfinished_line() && !matches!(self.mode, LineMode::Skip)
    }

    /// Returns whether an unfinished line was erased as a whole since the last call. What follows it is another line,
    /// with a time limit of its own (section 6).
    pub fn take_line_erased(&mut self) -> bool {
        std::mem::take(&mut self.erased)
    }

    /// Whether the decoder holds a finished line that was not taken.
    pub fn has_finished_line(&self) -> bool {
        matches!(self.mode, LineMode::Whole | LineMode::WholeOverlong { .. })
    }

    /// Gives up the unfinished line because it took too long; the rest of it will be thrown away. Returns its verb, or
    /// `None` if it was over-long already.
    pub fn abandon_line(&mut self) -> Option<Verb> {
        let verb = match self.mode {
            LineMode::Collect => Some(Verb::of(&self.held)),
            LineMode::Overlong { .. } | LineMode::Skip => None,
            LineMode::Whole | LineMode::WholeOverlong { .. } => return None,
        };
        let dropped_bytes = u32::try_from(self.held.len()).unwrap_or(u32::MAX);
        let trailing_crs = self.trailing_crs;
        self.reset();
        (self.trailing_crs, self.dropped_bytes, self.mode) = (trailing_crs, dropped_bytes, LineMode::Skip);
        verb
    }

    /// Drops the unfinished line, because nothing more will come.
    pub fn drop_unfinished_line(&mut self) {
        if self.has_unfinished_line() {
            self.reset();
        }
        self.telnet.end_lone_iac();
    }

    /// Handles the usual case without copying: the input begins with a whole line that has no special bytes in it.
    fn peek_in_place<'a>(&self, input: &mut &'a [u8]) -> Option<Found<'a>> {
        if self.mode != LineMode::Collect || !self.held.is_empty() || !self.telnet.is_plain() {
            return None;
        }
        if self.trailing_crs > 0 || self.skip_next_lf {
            return None;
        }
        let end = plain_length(input);
        if input.get(end) != Some(&LF) || end + self.removed_bytes as usize > UNTERMINATED_MAX_BYTES {
            return None;
        }
        let line = without_crs(input.get(..end)?);
        let found = if line.len() <= PDU_MAX_BYTES { Line::Whole(line) } else { Line::Overlong(verb_of(line)) };
        Some(Found::Line(found, LineToken(end + 1)))
    }

    /// Moves input into the line until the line or the input ends, there is a flood, the client ends its stream, or an
    /// NVT command needs an answer, which is returned.
    fn collect(&mut self, input: &mut &[u8]) -> Option<NvtEvent> {
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
                NvtEvent::Data(LF) if self.skip_next_lf => (self.skip_next_lf, self.after_cr) = (false, false),
                NvtEvent::Data(LF) => {
                    self.end_line();
                    if self.has_finished_line() {
                        return None;
                    }
                }
                NvtEvent::Data(0) if self.after_cr => {
                    self.after_cr = false;
                    self.line_bytes_seen |= self.has_unfinished_line();
                    self.count_removed(1);
                    if self.flooded() {
                        return None;
                    }
                }
                NvtEvent::StrayIac => {
                    self.push(&[IAC]);
                    *input = again;
                    if self.flooded() {
                        return None;
                    }
                }
                NvtEvent::End => {
                    *input = &[];
                    return None;
                }
                NvtEvent::Data(byte) => {
                    self.push(&[byte]);
                    if self.flooded() {
                        return None;
                    }
                }
                NvtEvent::EraseCharacter => self.erase_character(),
                NvtEvent::EraseLine => self.erase_line(),
                answer @ (NvtEvent::Refuse(_) | NvtEvent::AreYouThere) => return Some(answer),
                NvtEvent::Nothing => {
                    self.count_removed(usize::from(self.telnet.is_subnegotiation()));
                    if self.flooded() {
                        return None;
                    }
                }
            }
        }
        None
    }

    /// Adds bytes to the line. CRs at the end are only counted, because they may belong to the terminator.
    fn push(&mut self, bytes: &[u8]) {
        self.line_bytes_seen = true;
        self.skip_next_lf = false;
        let text = without_crs(bytes);
        let trailing_crs = u32::try_from(bytes.len() - text.len()).unwrap_or(u32::MAX);
        self.after_cr = trailing_crs > 0;
        if text.is_empty() {
            self.trailing_crs = self.trailing_crs.saturating_add(trailing_crs);
            return;
        }
        let before = std::mem::replace(&mut self.trailing_crs, trailing_crs);
        let more = before.saturating_add(u32::try_from(text.len()).unwrap_or(u32::MAX));
        match self.mode {
            LineMode::Overlong { .. } | LineMode::Skip => self.dropped_bytes = self.dropped_bytes.saturating_add(more),
            LineMode::Collect => {
                if self.held.capacity() == 0 {
                    self.held.reserve(PASS_CAPACITY_BYTES);
                }
                let length = self.held.len() + more as usize;
                let room = |held: &Vec<u8>| HELD_MAX_BYTES.saturating_sub(held.len());
                // The CRs that were counted before turn out to belong to the line.
                self.held.resize(self.held.len() + room(&self.held).min(before as usize), CR);
                self.held.extend_from_slice(text.get(..room(&self.held).min(text.len())).unwrap_or_default());
                if length > PDU_MAX_BYTES {
                    let verb = verb_of(&self.held);
                    self.reset();
                    (self.trailing_crs, self.dropped_bytes) = (trailing_crs, u32::try_from(length).unwrap_or(u32::MAX));
                    self.mode = LineMode::Overlong { verb };
                }
            }
            LineMode::Whole | LineMode::WholeOverlong { .. } => {}
        }
    }

    fn count_removed(&mut self, bytes: usize) {
        self.removed_bytes = self.removed_bytes.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    fn flooded(&self) -> bool {
        let in_line = match self.mode {
            LineMode::Collect => self.held.len(),
            LineMode::Overlong { .. } | LineMode::Skip => self.dropped_bytes as usize,
            LineMode::Whole | LineMode::WholeOverlong { .. } => return false,
        };
        in_line + self.trailing_crs as usize + self.removed_bytes as usize > UNTERMINATED_MAX_BYTES
    }

    /// Ends the line at its terminator.
    fn end_line(&mut self) {
        (self.removed_bytes, self.trailing_crs, self.after_cr, self.skip_next_lf) = (0, 0, false, false);
        match self.mode {
            LineMode::Collect => self.mode = LineMode::Whole,
            LineMode::Overlong { verb } => (self.mode, self.dropped_bytes) = (LineMode::WholeOverlong { verb }, 0),
            LineMode::Skip => self.reset(),
            LineMode::Whole | LineMode::WholeOverlong { .. } => {}
        }
    }

    fn erase_character(&mut self) {
        if self.trailing_crs > 0 {
            self.trailing_crs -= 1;
            self.count_removed(1);
        } else if self.mode == LineMode::Collect {
            let before = self.held.len();
            while let Some(last) = self.held.last_mut() {
                // It may be a password's: what is popped stays in memory.
                let continues = std::mem::take(std::hint::black_box(last)) & 0xc0 == 0x80;
                self.held.pop();
                if !continues {
                    break;
                }
            }
            self.count_removed(before - self.held.len());
            // CRs before the erased character are at the end of the line now.
            let text = without_crs(&self.held).len();
            self.trailing_crs = u32::try_from(self.held.len() - text).unwrap_or(u32::MAX);
            self.held.truncate(text);
        }
        self.after_cr = false;
        if self.mode == LineMode::Collect && !self.has_unfinished_line() {
            self.erased = true;
            self.reset();
        }
    }

    fn erase_line(&mut self) {
        let erased = match self.mode {
            LineMode::Collect => self.held.len(),
            LineMode::Overlong { .. } => self.dropped_bytes as usize,
            LineMode::Skip | LineMode::Whole | LineMode::WholeOverlong { .. } => return,
        };
        self.count_removed(erased + self.trailing_crs as usize);
        self.after_cr = false;
        self.erased = true;
        self.reset();
    }

    /// Forgets the line and frees its memory, overwriting it first if it holds a password.
    fn reset(&mut self) {
        if Verb::of(&self.held) == Verb::Pass {
            wipe(&mut self.held);
        }
        self.held = Vec::new();
        self.mode = LineMode::Collect;
        (self.trailing_crs, self.dropped_bytes) = (0, 0);
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        self.reset();
    }
}

/// A copy of a held line, with enough capacity that a password of which more bytes come is not moved in memory.
fn copy_held(begun: &[u8]) -> Vec<u8> {
    let mut held = Vec::new();
    if !begun.is_empty() {
        held.reserve(PASS_CAPACITY_BYTES.max(begun.len()));
        held.extend_from_slice(begun);
    }
    held
}

/// `line` without the CRs at its end. If an LF follows, all of them belong to the terminator, because some tools end a
/// line with CR CR LF or CR NUL CR LF (section 1).
fn without_crs(mut line: &[u8]) -> &[u8] {
    while let Some(rest) = line.strip_suffix(&[CR]) {
        line = rest;
    }
    line
}

fn verb_of(line: &[u8]) -> [u8; VERB_BYTES] {
    line.first_chunk().copied().unwrap_or_default()
}

/// How many bytes come before the first LF, NUL or IAC.
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
