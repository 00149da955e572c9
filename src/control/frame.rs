//! Lines out of a byte stream, bounded. A line may carry a password, so that what held one is overwritten when freed.

use std::fmt;

use super::error::{ControlError, ErrorCode};
use super::{REQUEST_MAX_BYTES, Request};

/// Overwrites `bytes`, and keeps the compiler from leaving that out.
pub fn wipe(bytes: &mut [u8]) {
    bytes.fill(0);
    std::hint::black_box(bytes);
}

/// The bytes of one line. Never printed; overwritten when dropped.
pub struct Line(Vec<u8>);

impl Line {
    pub(super) fn new(bytes: Vec<u8>) -> Line {
        Line(bytes)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The request in this line, as [`Request::parse`].
    pub fn request(&self) -> Result<Request, ControlError> {
        Request::parse(&self.0)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Line({} bytes)", self.0.len())
    }
}

/// Takes requests apart at their newlines. Holds at most [`REQUEST_MAX_BYTES`] and one byte, and no memory at all while
/// nothing is unfinished.
///
/// The caller pushes what it read and takes lines until there is none. A caller that answers one request before it takes
/// the next reads no more than [`Framer::room`] meanwhile.
#[derive(Default)]
pub struct Framer {
    held: Vec<u8>,
    /// Where the next line begins in `held`; what is before it was taken.
    start: usize,
    /// Up to here, from `start`, there is no newline.
    searched: usize,
    /// An over-long line was reported, and the rest of it is thrown away.
    discarding: bool,
}

impl Framer {
    pub fn new() -> Framer {
        Framer::default()
    }

    /// How many bytes the next [`Framer::push`] takes at most. 0 only while a whole or over-long line waits to be taken.
    pub fn room(&self) -> usize {
        (REQUEST_MAX_BYTES + 1).saturating_sub(self.held.len() - self.start)
    }

    /// Whether nothing is held: no line waits, and none is unfinished.
    pub fn is_empty(&self) -> bool {
        self.held.len() == self.start && !self.discarding
    }

    /// Takes bytes from the front of `bytes` and says how many: all of them, or what there is room for.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        if self.discarding {
            let Some(end) = rest.iter().position(|b| *b == b'\n') else { return bytes.len() };
            rest = rest.get(end + 1..).unwrap_or_default();
            self.discarding = false;
        }
        let skipped = bytes.len() - rest.len();
        let taken = rest.len().min(self.room());
        self.append(rest.get(..taken).unwrap_or_default());
        skipped + taken
    }

    /// The next whole line without its LF or CRLF; `None` when there is none yet. An over-long line is
    /// [`ErrorCode::TooLong`], once; what follows up to its newline is thrown away as it comes.
    pub fn take(&mut self) -> Option<Result<Line, ControlError>> {
        let unseen = self.held.get(self.start + self.searched..).unwrap_or_default();
        if let Some(found) = unseen.iter().position(|b| *b == b'\n') {
            let end = self.start + self.searched + found;
            let line = self.held.get(self.start..end).unwrap_or_default();
            let line = Line(line.strip_suffix(b"\r").unwrap_or(line).to_vec());
            self.start = end + 1;
            self.searched = 0;
            if self.start == self.held.len() {
                self.release();
            }
            return Some(Ok(line));
        }
        self.searched = self.held.len() - self.start;
        if self.searched <= REQUEST_MAX_BYTES {
            return None;
        }
        self.release();
        self.discarding = true;
        let message = format!("a request is one line of at most {REQUEST_MAX_BYTES} bytes");
        Some(Err(ControlError::new(ErrorCode::TooLong, message)))
    }

    /// Appends without leaving an unwiped copy behind, as a growing `Vec` would.
    fn append(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let unfinished = self.held.len() - self.start;
        if self.held.len() + bytes.len() > self.held.capacity() {
            let capacity = (unfinished + bytes.len()).next_power_of_two().min(REQUEST_MAX_BYTES + 1);
            let mut larger = Vec::with_capacity(capacity.max(unfinished + bytes.len()));
            larger.extend_from_slice(self.held.get(self.start..).unwrap_or_default());
            wipe(&mut self.held);
            self.held = larger;
            self.start = 0;
        }
        self.held.extend_from_slice(bytes);
    }

    fn release(&mut self) {
        wipe(&mut self.held);
        self.held = Vec::new();
        self.start = 0;
        self.searched = 0;
    }

    /// Bytes of memory in use, for the tests' bound.
    #[cfg(test)]
    pub(crate) fn memory(&self) -> usize {
        self.held.capacity()
    }
}

impl Drop for Framer {
    fn drop(&mut self) {
        wipe(&mut self.held);
    }
}

impl fmt::Debug for Framer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Framer({} bytes held, discarding: {})", self.held.len() - self.start, self.discarding)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(taken: Option<Result<Line, ControlError>>) -> String {
        String::from_utf8(taken.expect("a line").expect("not too long").as_bytes().to_vec()).expect("text")
    }

    #[test]
    fn lines_come_whole_and_memory_goes_with_the_last() {
        let mut framer = Framer::new();
        assert_eq!(framer.push(b"{\"a"), 3);
        assert!(framer.take().is_none());
        assert_eq!(framer.push(b"\":1}\r\n\nnext"), 11);
        assert_eq!(text(framer.take()), "{\"a\":1}");
        assert_eq!(text(framer.take()), "");
        assert!(framer.take().is_none());
        assert!(!framer.is_empty());
        framer.push(b"\n");
        assert_eq!(text(framer.take()), "next");
        assert!(framer.is_empty());
        assert_eq!(framer.memory(), 0);
    }

    #[test]
    fn the_longest_line_passes_and_one_byte_more_does_not() {
        let mut framer = Framer::new();
        let mut line = vec![b'x'; REQUEST_MAX_BYTES];
        line.push(b'\n');
        assert_eq!(framer.push(&line), line.len());
        assert_eq!(framer.room(), 0);
        assert_eq!(text(framer.take()).len(), REQUEST_MAX_BYTES);
        line.insert(0, b'x');
        assert_eq!(framer.push(&line), REQUEST_MAX_BYTES + 1);
        let error = framer.take().expect("reported").expect_err("too long");
        assert_eq!(error.code, ErrorCode::TooLong);
        assert!(framer.take().is_none(), "reported once");
        assert_eq!(framer.push(b"\nnext\n"), 6);
        assert_eq!(text(framer.take()), "next");
    }

    #[test]
    fn a_gibibyte_without_a_newline_costs_no_more_than_one_line() {
        let mut framer = Framer::new();
        let chunk = vec![b'x'; 1 << 20];
        let mut errors = 0;
        for _ in 0..1024 {
            let mut rest = chunk.as_slice();
            while !rest.is_empty() {
                let taken = framer.push(rest);
                rest = &rest[taken..];
                errors += usize::from(matches!(framer.take(), Some(Err(_))));
                assert!(framer.memory() <= REQUEST_MAX_BYTES + 1);
            }
        }
        assert_eq!(errors, 1);
    }

    #[test]
    fn nothing_that_is_held_is_shown() {
        let mut framer = Framer::new();
        framer.push(b"{\"password\":\"secret");
        assert_eq!(framer.push(b""), 0);
        assert_eq!(format!("{framer:?}"), "Framer(19 bytes held, discarding: false)");
    }

    proptest! {
        #[test]
        fn however_it_is_cut_the_lines_are_the_same(
            lines in prop::collection::vec("[a-z]{0,40}", 0..20),
            cuts in prop::collection::vec(1usize..50, 1..40),
        ) {
            let stream: String = lines.iter().map(|l| format!("{l}\n")).collect();
            let (mut framer, mut got, mut rest) = (Framer::new(), Vec::new(), stream.as_bytes());
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break }
                let taken = framer.push(&rest[..rest.len().min(*cut)]);
                rest = &rest[taken..];
                while let Some(line) = framer.take() {
                    got.push(String::from_utf8(line.expect("short").as_bytes().to_vec()).expect("text"));
                }
            }
            prop_assert_eq!(got, lines);
            prop_assert_eq!(framer.memory(), 0);
        }
    }
}
