//! Leaky buckets that count failures, and bounded tables of them.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

use crate::time::Millis;

/// What one failure adds to a bucket, and how much the bucket holds. Both are in milliseconds: a bucket loses one in
/// each millisecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub cost: Millis,
    pub capacity: Millis,
}

impl Rate {
    /// Allows `failures` at once, and as many in each `window` after that.
    pub fn of(failures: u32, window: Millis) -> Rate {
        Rate { cost: window / Millis::from(failures).clamp(1, window), capacity: window }
    }

    /// Half the capacity, but room for one failure at least. What leaks away in a given time stays the same.
    pub fn half(self) -> Rate {
        Rate { capacity: (self.capacity / 2).max(self.cost), ..self }
    }
}

/// Whether a bucket has room for one more failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Headroom {
    Free,
    /// It depends on the outcome of attempts that are under way.
    Undetermined,
    Full,
}

/// How full a bucket is, given by the time when it will be empty.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FillLevel {
    pub empty_at: Millis,
}

impl FillLevel {
    /// Whether there is room for one more failure while `under_way` other attempts may still fail.
    pub fn headroom(self, rate: Rate, under_way: u32, now: Millis) -> Headroom {
        let failed = self.empty_at.saturating_sub(now);
        if failed.saturating_add(rate.cost) > rate.capacity {
            return Headroom::Full;
        }
        let perhaps = rate.cost.saturating_mul(Millis::from(under_way).saturating_add(1));
        if failed.saturating_add(perhaps) > rate.capacity { Headroom::Undetermined } else { Headroom::Free }
    }

    /// Adds a failure.
    pub fn add(&mut self, cost: Millis, now: Millis) {
        self.empty_at = self.empty_at.max(now).saturating_add(cost);
    }

    /// The fuller one of two levels.
    pub fn fuller(self, other: FillLevel) -> FillLevel {
        FillLevel { empty_at: self.empty_at.max(other.empty_at) }
    }

    /// The level without what `part` holds.
    pub fn without(self, part: FillLevel, now: Millis) -> FillLevel {
        FillLevel { empty_at: self.empty_at.saturating_sub(part.empty_at.saturating_sub(now)) }
    }

    /// The number of failures that it holds.
    pub fn failures(self, rate: Rate, now: Millis) -> u32 {
        u32::try_from(self.empty_at.saturating_sub(now).div_ceil(rate.cost.max(1))).unwrap_or(u32::MAX)
    }

    /// When there is room for one more failure, if none is added until then.
    pub fn retry_at(self, rate: Rate) -> Millis {
        self.empty_at.saturating_sub(rate.capacity.saturating_sub(rate.cost))
    }
}

/// A bucket that a [`BucketTable`] can hold.
pub trait Bucket: Default {
    /// When the bucket will be empty.
    fn empty_at(&self) -> Millis;

    /// The number of attempts under way whose failure would count here.
    fn under_way(&mut self) -> &mut u32;
}

/// The failures from one address, or for one pair of a name and an address.
#[derive(Debug, Clone, Copy, Default)]
pub struct Failures {
    pub level: FillLevel,
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

/// Buckets by key, at most `max`, apart from those with attempts under way, which always stay. A new bucket takes the
/// place of the emptiest, so that nobody can push out a full one, nor lock anybody out by filling the table.
#[derive(Debug)]
pub struct BucketTable<K, B> {
    buckets: HashMap<K, B>,
    /// Buckets without an attempt under way, the emptiest first.
    idle: BTreeSet<(Millis, K)>,
    max: usize,
}

impl<K: Copy + Eq + Hash + Ord, B: Bucket> BucketTable<K, B> {
    pub fn new(max: usize) -> BucketTable<K, B> {
        BucketTable { buckets: HashMap::new(), idle: BTreeSet::new(), max }
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

    /// Notes that an attempt begins whose failure would count there.
    pub fn begin(&mut self, key: K, now: Millis) {
        self.make_room(key, now);
        let bucket = self.buckets.entry(key).or_default();
        self.idle.remove(&(bucket.empty_at(), key));
        let under_way = bucket.under_way();
        *under_way = under_way.saturating_add(1);
    }

    /// Notes that such an attempt has ended; `change` adds its failure to the bucket. Returns the result of `change`.
    /// `None`: there is no such bucket.
    pub fn end<T>(&mut self, key: K, now: Millis, change: impl FnOnce(&mut B) -> T) -> Option<T> {
        let bucket = self.buckets.get_mut(&key)?;
        let said = change(bucket);
        let under_way = bucket.under_way();
        *under_way = under_way.saturating_sub(1);
        if *under_way == 0 {
            self.keep_or_remove(key, now);
        }
        Some(said)
    }

    /// Changes a bucket, which is created if it is not there.
    pub fn update_or_insert(&mut self, key: K, now: Millis, change: impl FnOnce(&mut B)) {
        self.make_room(key, now);
        let bucket = self.buckets.entry(key).or_default();
        self.idle.remove(&(bucket.empty_at(), key));
        change(bucket);
        if *bucket.under_way() == 0 {
            self.keep_or_remove(key, now);
        }
    }

    /// Removes a bucket. Returns whether it was there.
    pub fn remove(&mut self, key: K) -> bool {
        let Some(bucket) = self.buckets.remove(&key) else { return false };
        self.idle.remove(&(bucket.empty_at(), key));
        true
    }

    /// Removes the buckets for whose keys `which` is true. Returns their number.
    pub fn remove_if(&mut self, which: impl Fn(&K) -> bool) -> u64 {
        let before = self.buckets.len();
        self.buckets.retain(|key, _| !which(key));
        self.idle.retain(|(_, key)| !which(key));
        (before - self.buckets.len()) as u64
    }

    /// Keeps a bucket that has no attempt under way, or removes it if it is empty.
    fn keep_or_remove(&mut self, key: K, now: Millis) {
        let Some(empty_at) = self.buckets.get(&key).map(Bucket::empty_at) else { return };
        if empty_at <= now {
            self.buckets.remove(&key);
        } else {
            self.idle.insert((empty_at, key));
        }
    }

    /// Removes up to two buckets that are empty by now and, if `key` needs a new one and the table is full, the
    /// emptiest one.
    fn make_room(&mut self, key: K, now: Millis) {
        for _ in 0..2 {
            let Some((_, emptiest)) = self.idle.first().copied().filter(|(empty_at, _)| *empty_at <= now) else {
                break;
            };
            self.forget_first(emptiest);
        }
        if self.buckets.len() >= self.max
            && !self.buckets.contains_key(&key)
            && let Some((_, emptiest)) = self.idle.first().copied()
        {
            self.forget_first(emptiest);
        }
    }

    fn forget_first(&mut self, key: K) {
        self.idle.pop_first();
        self.buckets.remove(&key);
    }
}
