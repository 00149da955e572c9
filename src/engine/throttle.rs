//! Guessing is slow (docs/protocol.md section 7): failed logins of an address, and for a name, in a minute. Attempts
//! side by side are no way around it: one that could be too many waits for the outcome of those before it.

mod succession;

use std::collections::HashMap;

use super::port::AddressKey;
use super::settings::Limits;
use crate::proto::types::{Millis, Username};

/// Buckets kept at most in each of the two tables; attempts beyond share one.
const BUCKETS_MAX: usize = 65_536;
/// The time in which a bucket that is full of failures empties.
const WINDOW_MS: Millis = 60_000;

/// What a bucket counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Address(AddressKey),
    Name(Username),
    /// A name from an address that it has logged in from: nobody elsewhere can empty this one.
    Owner(Username, AddressKey),
    /// Everything for which there was no room.
    Overflow,
    /// The same among owners.
    OwnerOverflow,
}

impl Key {
    /// Owners have a table of their own, which only failures at addresses that logged in before can fill: however many
    /// addresses and names are tried, an owner finds room.
    fn is_owners(self) -> bool {
        match self {
            Key::Owner(..) | Key::OwnerOverflow => true,
            Key::Address(_) | Key::Name(_) | Key::Overflow => false,
        }
    }
}

type Table = HashMap<Key, Bucket>;

/// Failures of the last minute, drained at a steady rate, and attempts whose outcome is not known yet.
#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    /// When all failures are forgotten.
    empty_at: Millis,
    under_way: u32,
}

/// The buckets that an attempt counts in, and what a failure adds to each.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    keys: [Option<(Key, Millis)>; 2],
}

/// What may become of an attempt.
#[derive(Debug)]
pub enum Verdict {
    /// To be tried; its outcome goes to [`Throttle::end`].
    Allowed(Attempt),
    /// Too many failures: to be answered like a wrong password.
    Throttled,
    /// It depends on attempts that are under way: ask again when one of them has ended.
    Undecided,
}

/// The failed logins of the last minute.
#[derive(Debug, Default)]
pub struct Throttle {
    strangers: Table,
    owners: Table,
}

impl Throttle {
    /// Begins an attempt to log in as `name`; `known`: it has succeeded from this address before.
    pub fn begin(&mut self, name: Username, from: AddressKey, known: bool, limits: &Limits, now: Millis) -> Verdict {
        let (by_address, by_user) = (limits.failures_per_address, limits.failures_per_user);
        let wanted = if known {
            [Some((Key::Owner(name, from), by_user)), None]
        } else {
            [Some((Key::Address(from), by_address)), Some((Key::Name(name), by_user))]
        };
        let mut attempt = Attempt { keys: [None; 2] };
        let mut undecided = false;
        for ((key, limit), counted) in wanted.into_iter().flatten().zip(attempt.keys.iter_mut()) {
            let cost = WINDOW_MS / Millis::from(limit).clamp(1, WINDOW_MS);
            let key = self.place(key, now);
            let bucket = self.table(key).get(&key).copied().unwrap_or_default();
            let failed = bucket.empty_at.saturating_sub(now);
            if failed + cost > WINDOW_MS {
                return Verdict::Throttled;
            }
            undecided |= failed + cost * (Millis::from(bucket.under_way) + 1) > WINDOW_MS;
            *counted = Some((key, cost));
        }
        if undecided {
            return Verdict::Undecided;
        }
        for (key, _) in attempt.keys.into_iter().flatten() {
            self.table(key).entry(key).or_default().under_way += 1;
        }
        Verdict::Allowed(attempt)
    }

    /// An attempt has ended.
    pub fn end(&mut self, attempt: Attempt, failed: bool, now: Millis) {
        for (key, cost) in attempt.keys.into_iter().flatten() {
            let table = self.table(key);
            if let Some(bucket) = table.get_mut(&key) {
                bucket.under_way = bucket.under_way.saturating_sub(1);
                if failed {
                    bucket.empty_at = bucket.empty_at.max(now) + cost;
                } else if bucket.under_way == 0 && bucket.empty_at <= now {
                    table.remove(&key);
                }
            }
        }
    }

    /// Buckets kept now.
    pub fn len(&self) -> usize {
        self.strangers.len() + self.owners.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn table(&mut self, key: Key) -> &mut Table {
        if key.is_owners() { &mut self.owners } else { &mut self.strangers }
    }

    /// `key`, if it has a bucket or can get one.
    fn place(&mut self, key: Key, now: Millis) -> Key {
        let table = self.table(key);
        if table.len() < BUCKETS_MAX || table.contains_key(&key) {
            return key;
        }
        table.retain(|_, b| b.empty_at > now || b.under_way > 0);
        let overflow = if key.is_owners() { Key::OwnerOverflow } else { Key::Overflow };
        if table.len() < BUCKETS_MAX { key } else { overflow }
    }
}

#[cfg(test)]
mod tests;
