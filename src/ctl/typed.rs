//! A line as it is typed without echo: which bytes are keys that edit it, and which belong to it. Nothing is dropped: a
//! byte that edits nothing is kept, whatever it is, so that what cannot be a password is refused and never changed.

use crate::control::frame::wipe;

/// Bytes of a line that are kept. A longer one is only counted: it is far too long for a password.
const KEPT_MAX_BYTES: usize = 1024;

/// Bytes that are overwritten when dropped.
pub(crate) struct Secret(Vec<u8>);

impl Secret {
    /// An empty one, with room for so many bytes: one that outgrew its memory would leave a copy behind.
    pub fn with_room(bytes: usize) -> Secret {
        Secret(Vec::with_capacity(bytes))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Adds a byte if there is room.
    pub fn push(&mut self, byte: u8) -> bool {
        let room = self.0.len() < self.0.capacity();
        if room {
            self.0.push(byte);
        }
        room
    }

    pub fn pop(&mut self) -> Option<u8> {
        self.0.pop()
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

/// The keys that edit a line, as stty(1) lists them; `None` where there is none.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Keys {
    pub erase: Option<u8>,
    pub kill: Option<u8>,
    pub end: Option<u8>,
    /// Whether the terminal is one of UTF-8, so that erasing takes a whole character.
    pub utf8: bool,
}

/// What a byte did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    More,
    /// Enter.
    Complete,
    /// The key for the end of input, with nothing typed before it.
    End,
}

/// A line that is being typed.
pub(crate) struct Typed {
    line: Secret,
    /// Bytes behind those that are kept.
    beyond: usize,
    keys: Keys,
}

impl Typed {
    pub fn new(keys: Keys) -> Typed {
        Typed { line: Secret::with_room(KEPT_MAX_BYTES), beyond: 0, keys }
    }

    /// The next byte from the keyboard.
    pub fn key(&mut self, byte: u8) -> Step {
        let is = |key: Option<u8>| key == Some(byte);
        match byte {
            b'\n' | b'\r' => return Step::Complete,
            _ if is(self.keys.kill) => self.clear(),
            // Terminals disagree about which of the two the key sends, and neither can be part of a password.
            0x08 | 0x7f => self.erase(),
            _ if is(self.keys.erase) => self.erase(),
            _ if is(self.keys.end) && self.line.as_bytes().is_empty() => return Step::End,
            _ if self.line.push(byte) => {}
            _ => self.beyond = self.beyond.saturating_add(1),
        }
        Step::More
    }

    /// What was typed, and how many bytes that is where it is more than was kept.
    pub fn finish(self) -> (Secret, usize) {
        let length = self.line.as_bytes().len().saturating_add(self.beyond);
        (self.line, length)
    }

    fn clear(&mut self) {
        while self.line.pop().is_some() {}
        self.beyond = 0;
    }

    /// Takes the last character back: the last byte where it is not the end of a character of UTF-8.
    fn erase(&mut self) {
        if self.beyond > 0 {
            self.beyond -= 1;
            return;
        }
        let bytes = self.line.as_bytes();
        let longest = if self.keys.utf8 { 4 } else { 1 };
        let is_one = |length: &usize| {
            let tail = bytes.len().checked_sub(*length).and_then(|start| bytes.get(start..));
            tail.is_some_and(|tail| std::str::from_utf8(tail).is_ok_and(|text| text.chars().count() == 1))
        };
        let length = (2..=longest).find(is_one).unwrap_or(1);
        for _ in 0..length {
            self.line.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: Keys = Keys { erase: Some(0x7f), kill: Some(0x15), end: Some(4), utf8: true };

    fn typed(keys: Keys, bytes: &[u8]) -> (Vec<u8>, usize, Step) {
        let mut typed = Typed::new(keys);
        let mut last = Step::More;
        for byte in bytes {
            assert_eq!(last, Step::More, "nothing is read behind the end of the line");
            last = typed.key(*byte);
        }
        let (line, length) = typed.finish();
        (line.as_bytes().to_vec(), length, last)
    }

    #[test]
    fn what_is_typed_is_what_counts_byte_by_byte() {
        for line in
            [&b"ab\tcd"[..], b"ab\x1bXcd", b"a\0b", b"\xd6l", b"a\x16b", b"a\x17\x12", b"a\x04b", b"\xff\xfe", b""]
        {
            assert_eq!(typed(KEYS, &[line, b"\n"].concat()), (line.to_vec(), line.len(), Step::Complete));
            assert_eq!(typed(KEYS, &[line, b"\r"].concat()).2, Step::Complete);
        }
        assert_eq!(typed(KEYS, b"\x04").2, Step::End);
        assert_eq!(typed(Keys::default(), b"\x04\n"), (b"\x04".to_vec(), 1, Step::Complete));
    }

    #[test]
    fn erasing_takes_a_character_and_killing_the_line() {
        let left = |keys, bytes: &[u8]| typed(keys, bytes).0;
        assert_eq!(left(KEYS, b"ab\x7fc"), b"ac");
        assert_eq!(left(KEYS, b"ab\x08c"), b"ac");
        assert_eq!(left(KEYS, b"\x7f\x7fa"), b"a");
        assert_eq!(left(KEYS, "a\u{e9}\u{1f512}\u{7f}\u{7f}b".as_bytes()), b"ab");
        assert_eq!(left(KEYS, b"abc\x15d"), b"d");
        assert_eq!(left(Keys { erase: Some(b'#'), ..KEYS }, b"ab#c"), b"ac");
        // A letter of another character set is one byte, even where that looks like the rest of a character.
        assert_eq!(left(KEYS, b"ab\xa3\x7fc"), b"abc");
        assert_eq!(left(KEYS, b"\xd6\x7fc"), b"c");
        assert_eq!(left(Keys { utf8: false, ..KEYS }, "\u{e9}\u{7f}".as_bytes()), b"\xc3");
    }

    #[test]
    fn a_line_without_end_is_counted_and_not_kept() {
        let (line, length, _) = typed(KEYS, &vec![b'x'; 10_000]);
        assert_eq!((line.len(), length), (KEPT_MAX_BYTES, 10_000));
        let (line, length, _) = typed(KEYS, &[vec![b'x'; 2000], vec![0x7f; 1999]].concat());
        assert_eq!((line.len(), length), (1, 1));
        let (line, length, _) = typed(KEYS, &[&vec![b'x'; 2000][..], b"\x15ab"].concat());
        assert_eq!((line.as_slice(), length), (&b"ab"[..], 2));
    }
}
