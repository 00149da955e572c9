//! Splits a byte stream into lines of bounded length. A line may contain a password, so memory that held one is
//! overwritten before it is freed.

use std::fmt;

use cp_proto::secret::{WipedBytes, wipe};

use super::error::{ControlError, ErrorCode};
use super::limits::REQUEST_MAX_BYTES;

/// The bytes of one line, which may contain a password. `Debug` shows only their number, and they are overwritten when
/// the line is dropped.
pub struct RequestLine(WipedBytes);

impl RequestLine {
    pub(super) fn new(bytes: Vec<u8>) -> RequestLine {
        RequestLine(bytes.into())
    }

    /// The bytes of the line.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for RequestLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestLine({} bytes)", self.0.len())
    }
}

/// Splits the input into requests at newlines. It buffers at most [`REQUEST_MAX_BYTES`] and one byte, and its buffer is
/// freed whenever it is empty.
///
/// The caller pushes the bytes that it has read, then calls [`Framer::next_line`] until that returns `None`. A caller
/// that answers one request before it takes the next must not read more than [`Framer::free_bytes`] in the meantime.
#[derive(Default)]
pub struct Framer {
    buffer: Vec<u8>,
    /// The offset of the next line in `buffer`; everything before it has been returned.
    start: usize,
    /// The number of bytes from `start` on that are known to contain no newline.
    scanned_bytes: usize,
    /// Whether an over-long line was reported and the rest of it is being discarded.
    discarding: bool,
}

impl Framer {
    /// An empty framer.
    pub fn new() -> Framer {
        Framer::default()
    }

    /// The number of bytes that the next [`Framer::push`] can buffer. It is 0 only while a complete or over-long line
    /// is ready for [`Framer::next_line`].
    pub fn free_bytes(&self) -> usize {
        (REQUEST_MAX_BYTES + 1).saturating_sub(self.buffer.len() - self.start)
    }

    /// Whether there is neither a complete line nor the beginning of one, and nothing is being discarded.
    pub fn is_empty(&self) -> bool {
        self.buffer.len() == self.start && !self.discarding
    }

    /// Consumes bytes from the front of `bytes` and returns how many: all of them, or as many as can be buffered.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        if self.discarding {
            let Some(end) = rest.iter().position(|b| *b == b'\n') else { return bytes.len() };
            rest = rest.get(end + 1..).unwrap_or_default();
            self.discarding = false;
        }
        let skipped = bytes.len() - rest.len();
        let taken = rest.len().min(self.free_bytes());
        self.append(rest.get(..taken).unwrap_or_default());
        skipped + taken
    }

    /// Takes the next complete line, without its LF or CRLF, or `None` if there is none yet. An over-long line is
    /// reported once, as [`ErrorCode::TooLong`]; the rest of it, up to its newline, is discarded as it arrives.
    pub fn next_line(&mut self) -> Option<Result<RequestLine, ControlError>> {
        let unseen = self.buffer.get(self.start + self.scanned_bytes..).unwrap_or_default();
        if let Some(found) = unseen.iter().position(|b| *b == b'\n') {
            let end = self.start + self.scanned_bytes + found;
            let line = self.buffer.get(self.start..end).unwrap_or_default();
            let line = RequestLine::new(line.strip_suffix(b"\r").unwrap_or(line).to_vec());
            self.start = end + 1;
            self.scanned_bytes = 0;
            if self.start == self.buffer.len() {
                self.free_buffer();
            }
            return Some(Ok(line));
        }
        self.scanned_bytes = self.buffer.len() - self.start;
        if self.scanned_bytes <= REQUEST_MAX_BYTES {
            return None;
        }
        self.free_buffer();
        self.discarding = true;
        let message = format!("a request is one line of at most {REQUEST_MAX_BYTES} bytes");
        Some(Err(ControlError::new(ErrorCode::TooLong, message)))
    }

    /// Appends `bytes`. A `Vec` that grows by itself would leave a copy of its content in freed memory.
    fn append(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let unfinished = self.buffer.len() - self.start;
        if self.buffer.len() + bytes.len() > self.buffer.capacity() {
            let capacity = (unfinished + bytes.len()).next_power_of_two().min(REQUEST_MAX_BYTES + 1);
            let mut larger = Vec::with_capacity(capacity.max(unfinished + bytes.len()));
            larger.extend_from_slice(self.buffer.get(self.start..).unwrap_or_default());
            wipe(&mut self.buffer);
            self.buffer = larger;
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Overwrites and frees the buffer.
    fn free_buffer(&mut self) {
        wipe(&mut self.buffer);
        self.buffer = Vec::new();
        self.start = 0;
        self.scanned_bytes = 0;
    }

    /// The memory of an unfinished request, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.buffer.capacity()
    }
}

impl Drop for Framer {
    fn drop(&mut self) {
        wipe(&mut self.buffer);
    }
}

impl fmt::Debug for Framer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Framer({} bytes held, discarding: {})", self.buffer.len() - self.start, self.discarding)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(taken: Option<Result<RequestLine, ControlError>>) -> String {
        String::from_utf8(taken.expect("a line").expect("not too long").as_bytes().to_vec()).expect("text")
    }

    #[test]
    fn lines_are_complete_and_an_empty_buffer_is_freed() {
        let mut framer = Framer::new();
        assert_eq!(framer.push(b"{\"a"), 3);
        assert!(framer.next_line().is_none());
        assert_eq!(framer.push(b"\":1}\r\n\nnext"), 11);
        assert_eq!(text(framer.next_line()), "{\"a\":1}");
        assert_eq!(text(framer.next_line()), "");
        assert!(framer.next_line().is_none());
        assert!(!framer.is_empty());
        framer.push(b"\n");
        assert_eq!(text(framer.next_line()), "next");
        assert!(framer.is_empty());
        assert_eq!(framer.memory_bytes(), 0);
    }

    #[test]
    fn the_longest_line_passes_and_one_byte_more_does_not() {
        let mut framer = Framer::new();
        let mut line = vec![b'x'; REQUEST_MAX_BYTES];
        line.push(b'\n');
        assert_eq!(framer.push(&line), line.len());
        assert_eq!(framer.free_bytes(), 0);
        assert_eq!(text(framer.next_line()).len(), REQUEST_MAX_BYTES);
        line.insert(0, b'x');
        assert_eq!(framer.push(&line), REQUEST_MAX_BYTES + 1);
        let error = framer.next_line().expect("reported").expect_err("too long");
        assert_eq!(error.code, ErrorCode::TooLong);
        assert!(framer.next_line().is_none(), "reported once");
        assert_eq!(framer.push(b"\nnext\n"), 6);
        assert_eq!(text(framer.next_line()), "next");
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
                errors += usize::from(matches!(framer.next_line(), Some(Err(_))));
                assert!(framer.memory_bytes() <= REQUEST_MAX_BYTES + 1);
            }
        }
        assert_eq!(errors, 1);
    }

    #[test]
    fn debug_does_not_show_the_buffer() {
        let mut framer = Framer::new();
        framer.push(b"{\"password\":\"secret");
        assert_eq!(framer.push(b""), 0);
        assert_eq!(format!("{framer:?}"), "Framer(19 bytes held, discarding: false)");
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_the_input_is_split(
            lines in prop::collection::vec("[a-z]{0,40}", 0..20),
            cuts in prop::collection::vec(1usize..50, 1..40),
        ) {
            let stream: String = lines.iter().map(|l| format!("{l}\n")).collect();
            let (mut framer, mut got, mut rest) = (Framer::new(), Vec::new(), stream.as_bytes());
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break }
                let taken = framer.push(&rest[..rest.len().min(*cut)]);
                rest = &rest[taken..];
                while let Some(line) = framer.next_line() {
                    got.push(String::from_utf8(line.expect("short").as_bytes().to_vec()).expect("text"));
                }
            }
            prop_assert_eq!(got, lines);
            prop_assert_eq!(framer.memory_bytes(), 0);
        }
    }
}
