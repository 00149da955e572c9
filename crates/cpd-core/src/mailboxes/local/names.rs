//! Maps by user name, which are looked up several times for every message.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A hasher for keys that only an operator can choose, such as user names. It is fast, but colliding keys are easy
/// to find.
#[derive(Debug, Default, Clone, Copy)]
pub struct NameHasher(u64);

impl Hasher for NameHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            for (to, from) in word.iter_mut().zip(chunk) {
                *to = *from;
            }
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        // Multiplication spreads bits upwards only; the rotation brings the high bits down to where tables look.
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
}

/// A map whose keys only an operator can choose.
pub(super) type NameMap<K, V> = HashMap<K, V, BuildHasherDefault<NameHasher>>;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::{BuildHasher, BuildHasherDefault};

    use super::*;
    use cp_proto::values::Username;

    #[test]
    fn names_that_differ_little_do_not_collide() {
        let hasher = BuildHasherDefault::<NameHasher>::default();
        let names = (0..20_000).filter_map(|n| Username::parse(format!("u{n}").as_bytes()));
        let hashes: Vec<u64> = names.map(|name| hasher.hash_one(name)).collect();
        let whole: HashSet<u64> = hashes.iter().copied().collect();
        assert_eq!(whole.len(), hashes.len());
        // The bits that a table of 2^15 slots uses: about as many distinct values as with random hashes.
        let low: HashSet<u64> = hashes.iter().map(|hash| hash & 0x7fff).collect();
        assert!(low.len() > 12_000, "{} places for 20,000 names", low.len());
        let tags: HashSet<u64> = hashes.iter().map(|hash| hash >> 57).collect();
        assert_eq!(tags.len(), 128);
    }
}
