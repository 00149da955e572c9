//! Counters by key.

use std::collections::HashMap;
use std::hash::Hash;

/// A number for each key. Keys whose number is zero take no memory.
#[derive(Debug)]
pub struct Counts<K>(HashMap<K, u32>);

impl<K> Default for Counts<K> {
    fn default() -> Counts<K> {
        Counts(HashMap::new())
    }
}

impl<K: Copy + Eq + Hash> Counts<K> {
    pub fn get(&self, key: K) -> u32 {
        self.0.get(&key).copied().unwrap_or(0)
    }

    pub fn increment(&mut self, key: K) {
        let count = self.0.entry(key).or_default();
        *count = count.saturating_add(1);
    }

    pub fn decrement(&mut self, key: K) {
        if let Some(count) = self.0.get_mut(&key) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.0.remove(&key);
            }
        }
    }
}
