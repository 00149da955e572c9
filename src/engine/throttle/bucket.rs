//! Buckets that leak at a steady rate, and tables of them that have a bound.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

use crate::proto::types::Millis;

/// What one failure adds to a bucket, and how much goes into it. It loses a millisecond in each millisecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub cost: Millis,
    pub capacity: Millis,
}

impl Rate {
    /// `failures` at once, and as many in each `window` after that.
    pub fn of(failures: u32, window: Millis) -> Rate {
        Rate { cost: window / Millis::from(failures).clamp(1, window), capacity: window }
    }

    /// Half of that, and one failure at least, in the time in which the whole of it comes back.
    pub fn half(self) -> Rate {
        Rate { capacity: (self.capacity / 2).max(self.cost), ..self }
    }
}

/// Whether one more failure goes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Room {
    Free,
    /// It depends on the outcome of attempts that are under way.
    Unsure,
    Full,
}

/// How full a bucket is: by when it is empty again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Level {
    pub empty_at: Millis,
}

impl Level {
    pub fn room(self, rate: Rate, under_way: u32, now: Millis) -> Room {
        let failed = self.empty_at.saturating_sub(now);
        if failed.saturating_add(rate.cost) > rate.capacity {
            return Room::Full;
        }
        let perhaps = rate.cost.saturating_mul(Millis::from(under_way).saturating_add(1));
        if failed.saturating_add(perhaps) > rate.capacity { Room::Unsure } else { Room::Free }
    }

    /// One more failure.
    pub fn add(&mut self, cost: Millis, now: Millis) {
        self.empty_at = self.empty_at.max(now).saturating_add(cost);
    }

    /// The fuller one.
    pub fn later(self, other: Level) -> Level {
        Level { empty_at: self.empty_at.max(other.empty_at) }
    }

    /// Without what `part` holds.
    pub fn without(self, part: Level, now: Millis) -> Level {
        Level { empty_at: self.empty_at.saturating_sub(part.empty_at.saturating_sub(now)) }
    }

    /// How many failures it holds.
    pub fn failures(self, rate: Rate, now: Millis) -> u32 {
        u32::try_from(self.empty_at.saturating_sub(now).div_ceil(rate.cost.max(1))).unwrap_or(u32::MAX)
    }

    /// When one more failure goes in, if none comes meanwhile.
    pub fn open_at(self, rate: Rate) -> Millis {
        self.empty_at.saturating_sub(rate.capacity.saturating_sub(rate.cost))
    }
}

/// What a table holds.
pub trait Bucket: Default {
    /// When all of it has leaked.
    fn empty_at(&self) -> Millis;

    /// Attempts whose outcome it waits for.
    fn under_way(&mut self) -> &mut u32;
}

/// The failures of one kind of key.
#[derive(Debug, Clone, Copy, Default)]
pub struct Failures {
    pub level: Level,
    pub under_way: u32,
}

impl Bucket for Failures {
    fn empty_at(&self) -> Millis {
        self.level.empty_at
    }

    fn under_way(&mut self) -> &mut u32 {
        &mut self.under_way
    }
}

/// Buckets by key, `max` at most: for a new one the emptiest makes room, so that nobody can push out what is full, nor
/// lock anybody out by filling the table. A bucket with an attempt under way stays.
#[derive(Debug)]
pub struct Table<K, B> {
    buckets: HashMap<K, B>,
    /// Those without an attempt under way, the emptiest first.
    at_rest: BTreeSet<(Millis, K)>,
    max: usize,
}

impl<K: Copy + Eq + Hash + Ord, B: Bucket> Table<K, B> {
    pub fn new(max: usize) -> Table<K, B> {
        Table { buckets: HashMap::new(), at_rest: BTreeSet::new(), max }
    }

    pub fn len(&self) -> usize {
        self.buckets.len()
    }

    pub fn get(&self, key: K) -> Option<&B> {
        self.buckets.get(&key)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&K, &B)> + Clone {
        self.buckets.iter()
    }

    /// An attempt begins that counts there.
    pub fn begin(&mut self, key: K, now: Millis) {
        self.make_room(key, now);
        let bucket = self.buckets.entry(key).or_default();
        self.at_rest.remove(&(bucket.empty_at(), key));
        let under_way = bucket.under_way();
        *under_way = under_way.saturating_add(1);
    }

    /// It has ended: `change` adds what that means.
    pub fn end<T>(&mut self, key: K, now: Millis, change: impl FnOnce(&mut B) -> T) -> Option<T> {
        let bucket = self.buckets.get_mut(&key)?;
        let said = change(bucket);
        let under_way = bucket.under_way();
        *under_way = under_way.saturating_sub(1);
        if *under_way == 0 {
            self.rest(key, now);
        }
        Some(said)
    }

    /// Changes a bucket, or makes one.
    pub fn alter(&mut self, key: K, now: Millis, change: impl FnOnce(&mut B)) {
        self.make_room(key, now);
        let bucket = self.buckets.entry(key).or_default();
        self.at_rest.remove(&(bucket.empty_at(), key));
        change(bucket);
        if *bucket.under_way() == 0 {
            self.rest(key, now);
        }
    }

    /// Forgets one. Whether it was there.
    pub fn remove(&mut self, key: K) -> bool {
        let Some(bucket) = self.buckets.remove(&key) else { return false };
        self.at_rest.remove(&(bucket.empty_at(), key));
        true
    }

    /// Forgets those for whose keys `which` is true, and says how many.
    pub fn remove_if(&mut self, which: impl Fn(&K) -> bool) -> u64 {
        let before = self.buckets.len();
        self.buckets.retain(|key, _| !which(key));
        self.at_rest.retain(|(_, key)| !which(key));
        (before - self.buckets.len()) as u64
    }

    /// Keeps a bucket for later, unless there is nothing in it.
    fn rest(&mut self, key: K, now: Millis) {
        let Some(empty_at) = self.buckets.get(&key).map(Bucket::empty_at) else { return };
        if empty_at <= now {
            self.buckets.remove(&key);
        } else {
            self.at_rest.insert((empty_at, key));
        }
    }

    /// Forgets some that are empty by now, and, where `key` needs a place and there is none, the emptiest.
    fn make_room(&mut self, key: K, now: Millis) {
        for _ in 0..2 {
            let Some((_, emptiest)) = self.at_rest.first().copied().filter(|(empty_at, _)| *empty_at <= now) else {
                break;
            };
            self.forget_first(emptiest);
        }
        if self.buckets.len() >= self.max
            && !self.buckets.contains_key(&key)
            && let Some((_, emptiest)) = self.at_rest.first().copied()
        {
            self.forget_first(emptiest);
        }
    }

    fn forget_first(&mut self, key: K) {
        self.at_rest.pop_first();
        self.buckets.remove(&key);
    }
}
