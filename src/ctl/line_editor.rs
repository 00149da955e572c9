//! Edits a line that is typed without echo. A byte either is an editing key or becomes part of the line, whatever it
//! is. No byte is silently dropped, so that an invalid password is refused and never turned into a different one.

use cp_proto::secret::WipedBytes;

/// The most bytes of a line that are kept. Further bytes are only counted; the line is far too long for a password.
const KEPT_MAX_BYTES: usize = 1024;

/// The keys that edit a line; see stty(1). `None` means that the terminal has no such key.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct EditingKeys {
    /// Deletes the last character.
    pub erase: Option<u8>,
    /// Deletes the whole line.
    pub kill: Option<u8>,
    /// Ends the input if nothing was typed before it.
    pub end_of_input: Option<u8>,
    /// Whether the terminal uses UTF-8, so that `erase` deletes a character of several bytes.
    pub utf8: bool,
}

/// The effect of a byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum KeyEffect {
    /// The line continues.
    Continue,
    /// Enter was typed.
    Complete,
    /// The key for the end of input was typed while the line was empty.
    EndOfInput,
}

/// A line that is being typed.
pub(crate) struct LineEditor {
    line: WipedBytes,
    /// The number of bytes that were typed after `line` was full.
    overflow_bytes: usize,
    keys: EditingKeys,
}

impl LineEditor {
    pub fn new(keys: EditingKeys) -> LineEditor {
        LineEditor { line: WipedBytes::default(), overflow_bytes: 0, keys }
    }

    /// Processes the next byte from the keyboard.
    pub fn press(&mut self, byte: u8) -> KeyEffect {
        let is = |key: Option<u8>| key == Some(byte);
        match byte {
            b'\n' | b'\r' => return KeyEffect::Complete,
            _ if is(self.keys.kill) => self.clear(),
            // Terminals send one or the other for the erase key, and neither can be part of a password.
            0x08 | 0x7f => self.erase(),
            _ if is(self.keys.erase) => self.erase(),
            _ if is(self.keys.end_of_input) && self.line.is_empty() => return KeyEffect::EndOfInput,
            _ if self.line.len() < KEPT_MAX_BYTES => self.line.append(&[byte]),
            _ => self.overflow_bytes = self.overflow_bytes.saturating_add(1),
        }
        KeyEffect::Continue
    }

    /// The bytes that were kept, and the length of the whole line.
    pub fn finish(self) -> (WipedBytes, usize) {
        let length = self.line.len().saturating_add(self.overflow_bytes);
        (self.line, length)
    }

    fn clear(&mut self) {
        self.line = WipedBytes::default();
        self.overflow_bytes = 0;
    }

    /// Deletes the last character, or the last byte if the line does not end in a valid UTF-8 character.
    fn erase(&mut self) {
        if self.overflow_bytes > 0 {
            self.overflow_bytes -= 1;
            return;
        }
        let bytes = &*self.line;
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

    const KEYS: EditingKeys = EditingKeys { erase: Some(0x7f), kill: Some(0x15), end_of_input: Some(4), utf8: true };

    fn typed(keys: EditingKeys, bytes: &[u8]) -> (Vec<u8>, usize, KeyEffect) {
        let mut typed = LineEditor::new(keys);
        let mut last = KeyEffect::Continue;
        for byte in bytes {
            assert_eq!(last, KeyEffect::Continue, "nothing is read behind the end of the line");
            last = typed.press(*byte);
        }
        let (line, length) = typed.finish();
        (line.to_vec(), length, last)
    }

    #[test]
    fn every_byte_but_an_editing_key_is_kept() {
        for line in
            [&b"ab\tcd"[..], b"ab\x1bXcd", b"a\0b", b"\xd6l", b"a\x16b", b"a\x17\x12", b"a\x04b", b"\xff\xfe", b""]
        {
            assert_eq!(typed(KEYS, &[line, b"\n"].concat()), (line.to_vec(), line.len(), KeyEffect::Complete));
            assert_eq!(typed(KEYS, &[line, b"\r"].concat()).2, KeyEffect::Complete);
        }
        assert_eq!(typed(KEYS, b"\x04").2, KeyEffect::EndOfInput);
        assert_eq!(typed(EditingKeys::default(), b"\x04\n"), (b"\x04".to_vec(), 1, KeyEffect::Complete));
    }

    #[test]
    fn erase_deletes_a_character_and_kill_the_line() {
        let left = |keys, bytes: &[u8]| typed(keys, bytes).0;
        assert_eq!(left(KEYS, b"ab\x7fc"), b"ac");
        assert_eq!(left(KEYS, b"ab\x08c"), b"ac");
        assert_eq!(left(KEYS, b"\x7f\x7fa"), b"a");
        assert_eq!(left(KEYS, "a\u{e9}\u{1f512}\u{7f}\u{7f}b".as_bytes()), b"ab");
        assert_eq!(left(KEYS, b"abc\x15d"), b"d");
        assert_eq!(left(EditingKeys { erase: Some(b'#'), ..KEYS }, b"ab#c"), b"ac");
        // A letter of another character set is one byte, even if that byte looks like part of a UTF-8 character.
        assert_eq!(left(KEYS, b"ab\xa3\x7fc"), b"abc");
        assert_eq!(left(KEYS, b"\xd6\x7fc"), b"c");
        assert_eq!(left(EditingKeys { utf8: false, ..KEYS }, "\u{e9}\u{7f}".as_bytes()), b"\xc3");
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
