//! Bytes that were received and cannot be taken up yet. Passwords may be among them: wherever they were, they are wiped.

use std::ops::Deref;

#[derive(Debug, Default)]
pub struct Waiting(Vec<u8>);

impl Waiting {
    /// These bytes, one part behind the other.
    pub fn of(parts: &[&[u8]]) -> Waiting {
        let mut bytes = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
        parts.iter().for_each(|part| bytes.extend_from_slice(part));
        Waiting(bytes)
    }

    pub fn append(&mut self, bytes: &[u8]) {
        self.make_room(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    /// Puts `byte` in front of the one at `place`.
    pub fn insert(&mut self, place: usize, byte: u8) {
        self.make_room(1);
        self.0.insert(place.min(self.0.len()), byte);
    }

    /// The first `count` were taken up.
    pub fn consume(&mut self, count: usize) {
        if count >= self.0.len() {
            *self = Waiting::default();
        } else {
            self.0.drain(..count);
        }
    }

    /// A vector that grows by itself leaves a copy behind.
    fn make_room(&mut self, more: usize) {
        if self.0.capacity() - self.0.len() < more {
            let mut larger = Vec::with_capacity(2 * self.0.len() + more);
            larger.extend_from_slice(&self.0);
            *self = Waiting(larger);
        }
    }
}

impl Deref for Waiting {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.clear();
        self.0.resize(self.0.capacity(), 0);
        std::hint::black_box(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_stay_in_order_whatever_is_done() {
        let mut waiting = Waiting::of(&[b"US", b"", b"ER"]);
        assert_eq!(&*waiting, b"USER");
        waiting.append(b"bob!");
        waiting.insert(7, b'\n');
        assert_eq!(&*waiting, b"USERbob\n!");
        waiting.insert(99, b'?');
        waiting.consume(4);
        assert_eq!(&*waiting, b"bob\n!?");
        waiting.append(&[b'x'; 5000]);
        waiting.consume(6);
        assert_eq!(&*waiting, &[b'x'; 5000]);
        waiting.consume(5000);
        assert!(waiting.is_empty());
        waiting.consume(1);
        waiting.append(b"y");
        assert_eq!(&*waiting, b"y");
    }

    #[test]
    fn nothing_grows_without_being_moved_by_hand() {
        let mut waiting = Waiting::of(&[b"PASSsecret"]);
        for length in 11..2000 {
            let before = waiting.0.capacity();
            waiting.append(b"x");
            // A vector by itself would take twice what it had.
            let after = waiting.0.capacity();
            assert!(waiting.len() == length && (after == before || after > 2 * before), "{before} to {after}");
        }
    }
}
