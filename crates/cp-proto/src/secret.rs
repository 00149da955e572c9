//! Memory that may hold a password, and is overwritten before it is freed.

use std::fmt;
use std::ops::Deref;

/// Overwrites `bytes` with zeros, in a way that the compiler does not leave out although nothing reads them again.
pub fn wipe(bytes: &mut [u8]) {
    bytes.fill(0);
    std::hint::black_box(bytes);
}

/// A byte queue that overwrites its memory whenever it frees it: when it is dropped, emptied or has to grow.
#[derive(Default)]
pub struct WipedBytes(Vec<u8>);

impl fmt::Debug for WipedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WipedBytes({} bytes)", self.0.len())
    }
}

impl WipedBytes {
    /// Concatenates `parts`.
    pub fn concat(parts: &[&[u8]]) -> WipedBytes {
        let mut bytes = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
        parts.iter().for_each(|part| bytes.extend_from_slice(part));
        WipedBytes(bytes)
    }

    /// Appends `bytes`.
    pub fn append(&mut self, bytes: &[u8]) {
        self.reserve_wiping(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    /// Inserts `byte` before the one at `index`, or at the end if there is none.
    pub fn insert(&mut self, index: usize, byte: u8) {
        self.reserve_wiping(1);
        self.0.insert(index.min(self.0.len()), byte);
    }

    /// Removes the first `count` bytes, or all if there are fewer. If none are left, the memory is freed.
    pub fn consume(&mut self, count: usize) {
        if count >= self.0.len() {
            *self = WipedBytes::default();
        } else {
            self.0.drain(..count);
        }
    }

    /// Removes the last byte.
    pub fn pop(&mut self) {
        if let Some(last) = self.0.last_mut() {
            wipe(std::slice::from_mut(last));
            self.0.pop();
        }
    }

    /// Makes room for `more` bytes. A vector that grows by itself frees its old memory without overwriting it, so the
    /// bytes are copied to a new one here.
    fn reserve_wiping(&mut self, more: usize) {
        if self.0.capacity() - self.0.len() < more {
            let mut larger = Vec::with_capacity(2 * self.0.len() + more);
            larger.extend_from_slice(&self.0);
            *self = WipedBytes(larger);
        }
    }
}

impl From<Vec<u8>> for WipedBytes {
    fn from(bytes: Vec<u8>) -> WipedBytes {
        WipedBytes(bytes)
    }
}

impl Deref for WipedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for WipedBytes {
    fn drop(&mut self) {
        // What was removed from the end lies behind the length.
        self.0.resize(self.0.capacity(), 0);
        wipe(&mut self.0);
    }
}

/// Text that is overwritten when it is dropped.
pub struct WipedText(String);

impl From<String> for WipedText {
    fn from(text: String) -> WipedText {
        WipedText(text)
    }
}

impl Deref for WipedText {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for WipedText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WipedText({} bytes)", self.0.len())
    }
}

impl Drop for WipedText {
    fn drop(&mut self) {
        wipe(&mut std::mem::take(&mut self.0).into_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_stay_in_order_whatever_is_done() {
        let mut unread = WipedBytes::concat(&[b"US", b"", b"ER"]);
        assert_eq!(&*unread, b"USER");
        unread.append(b"bob!");
        unread.insert(7, b'\n');
        assert_eq!(&*unread, b"USERbob\n!");
        unread.insert(99, b'?');
        unread.consume(4);
        assert_eq!(&*unread, b"bob\n!?");
        unread.append(&[b'x'; 5000]);
        unread.consume(6);
        assert_eq!(&*unread, &[b'x'; 5000]);
        unread.consume(5000);
        assert!(unread.is_empty());
        unread.consume(1);
        unread.append(b"y");
        assert_eq!(&*unread, b"y");
    }

    #[test]
    fn what_is_popped_is_overwritten_and_nothing_is_shown() {
        let mut secret = WipedBytes::from(b"secret".to_vec());
        secret.pop();
        assert_eq!(&*secret, b"secre");
        assert_eq!(format!("{secret:?}"), "WipedBytes(5 bytes)");
        (0..9).for_each(|_| secret.pop());
        assert!(secret.is_empty());
        let text = WipedText::from("secret".to_owned());
        assert_eq!((&*text, format!("{text:?}").as_str()), ("secret", "WipedText(6 bytes)"));
    }

    #[test]
    fn memory_never_grows_by_itself() {
        let mut unread = WipedBytes::concat(&[b"PASSsecret"]);
        for length in 11..2000 {
            let before = unread.0.capacity();
            unread.append(b"x");
            // A vector that grew by itself would have exactly doubled its capacity.
            let after = unread.0.capacity();
            assert!(unread.len() == length && (after == before || after > 2 * before), "{before} to {after}");
        }
    }
}
