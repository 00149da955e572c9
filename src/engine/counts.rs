//! How many there are of each.

use std::collections::HashMap;
use std::hash::Hash;

/// Numbers by key, of which those that are zero take no room.
#[derive(Debug)]
pub struct Counts<K>(HashMap<K, u32>);

impl<K> Default for Counts<K> {
    fn default() -> Counts<K> {
        Counts(HashMap::new())
    }
}

impl<K: Copy + Eq + Hash> Counts<K> {
    pub fn of(&self, key: K) -> u32 {
        self.0.get(&key).copied().unwrap_or(0)
    }

    pub fn add(&mut self, key: K) {
        let count = self.0.entry(key).or_default();
        *count = count.saturating_add(1);
    }

    pub fn take(&mut self, key: K) {
        if let Some(count) = self.0.get_mut(&key) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.0.remove(&key);
            }
        }
    }
}
