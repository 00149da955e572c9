//! Guessing is slow (docs/protocol.md section 7): failed logins of an address, for a name, and for a name from an address.
//!
//! Nobody learns from another's fate whether there is a user of some name: what an attempt counts in, and whether it waits
//! for the outcome of those before it, depends on these three alone. Whether the name has logged in from the address before
//! decides only which of them judges the attempt: the third, which nobody elsewhere can fill, or else the other two.

mod admin;
mod bucket;
mod guessed;
mod succession;

pub use self::admin::{Subject, Throttled};
use self::bucket::{Failures, Level, Rate, Room, Table};
use self::guessed::{Guessed, Rates};
use super::port::AddressKey;
use super::settings::Limits;
use crate::proto::types::{Millis, Username};
use crate::sabotage::{self, Fault};

/// Buckets kept at most: of addresses, of names from an address, and of names.
const ADDRESSES_MAX: usize = 65_536;
const PAIRS_MAX: usize = 65_536;
const NAMES_MAX: usize = 32_768;
const MINUTE_MS: Millis = 60_000;
const DAY_MS: Millis = 24 * 60 * MINUTE_MS;

/// How fast each kind of bucket empties.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct AllRates {
    address: Rate,
    pair: Rate,
    name: Rates,
}

impl AllRates {
    fn of(limits: &Limits) -> AllRates {
        let minute = Rate::of(limits.failures_per_user, MINUTE_MS);
        // Half of them at once and the other half over a day: never more in any day.
        let day = Rate::of(limits.failures_per_user_day.div_ceil(2), DAY_MS);
        let address = Rate::of(limits.failures_per_address, MINUTE_MS);
        AllRates { address, pair: minute, name: Rates { minute, day } }
    }
}

/// An attempt that has begun: where its failure counts. What a stranger is judged by counts what a stranger is tried for, and
/// nothing more: who tries on while that is throttled is not kept out by that.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    name: Username,
    from: AddressKey,
    rates: AllRates,
    in_pair: bool,
    /// In the address's bucket and the name's.
    as_stranger: bool,
    /// To be tried.
    allowed: bool,
}

impl Attempt {
    /// Whether its password was looked at.
    pub fn was_tried(&self) -> bool {
        self.allowed
    }
}

/// Whose failures are too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooMany {
    /// The address's.
    Address,
    /// Those for the name.
    Name,
}

/// What may become of an attempt. In either of the first two cases its outcome goes to [`Throttle::end`].
#[derive(Debug)]
pub enum Verdict {
    /// To be tried.
    Allowed(Attempt),
    /// To be answered like a wrong password.
    Throttled(Attempt, TooMany),
    /// It depends on attempts that are under way: ask again when one of them has ended.
    Undecided,
}

/// What the failures of a name came to, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guessing {
    pub name: Username,
    pub failures: u32,
    pub addresses: usize,
}

/// The failed logins.
#[derive(Debug)]
pub struct Throttle {
    addresses: Table<AddressKey, Failures>,
    pairs: Table<(Username, AddressKey), Failures>,
    names: Table<Username, Guessed>,
}

impl Default for Throttle {
    fn default() -> Throttle {
        Throttle { addresses: Table::new(ADDRESSES_MAX), pairs: Table::new(PAIRS_MAX), names: Table::new(NAMES_MAX) }
    }
}

impl Throttle {
    /// Begins an attempt to log in as `name`; `known`: it has succeeded from this address before.
    pub fn begin(&mut self, name: Username, from: AddressKey, known: bool, limits: &Limits, now: Millis) -> Verdict {
        let rates = AllRates::of(limits);
        let of_pair = self.pairs.get((name, from)).copied().unwrap_or_default();
        let pair = of_pair.level.room(rates.pair, of_pair.under_way, now);
        let of_address = self.addresses.get(from).copied().unwrap_or_default();
        let address = of_address.level.room(rates.address, of_address.under_way, now);
        let none = Guessed::default();
        let guessed = self.names.get(name).unwrap_or(&none);
        let of_name = guessed.room(rates.name, now).max(guessed.share(from, rates.name, of_pair.under_way, now));
        let mut stranger = address.max(of_name);
        if known && sabotage::is(Fault::OwnBucket) {
            stranger = Room::Full;
        }
        if pair == Room::Unsure || stranger == Room::Unsure {
            return Verdict::Undecided;
        }
        let (in_pair, as_stranger) = (pair == Room::Free, stranger == Room::Free);
        let allowed = if known { in_pair } else { as_stranger };
        let attempt = Attempt { name, from, rates, in_pair, as_stranger, allowed };
        self.count(attempt, now);
        match (allowed, !known && address == Room::Full) {
            (true, _) => Verdict::Allowed(attempt),
            (false, true) => Verdict::Throttled(attempt, TooMany::Address),
            (false, false) => Verdict::Throttled(attempt, TooMany::Name),
        }
    }

    fn count(&mut self, attempt: Attempt, now: Millis) {
        let Attempt { name, from, .. } = attempt;
        if attempt.in_pair {
            self.pairs.begin((name, from), now);
        }
        if attempt.as_stranger {
            self.addresses.begin(from, now);
            self.names.begin(name, now);
        }
    }

    /// An attempt has ended. `Some`: from now on strangers who try this name are throttled for longer than a minute.
    pub fn end(&mut self, attempt: Attempt, failed: bool, now: Millis) -> Option<Guessing> {
        let Attempt { name, from, rates, .. } = attempt;
        let add = |bucket: &mut Failures, rate: Rate| {
            if failed {
                bucket.level.add(rate.cost, now);
            }
        };
        if attempt.in_pair {
            self.pairs.end((name, from), now, |bucket| add(bucket, rates.pair));
        }
        if !attempt.as_stranger {
            return None;
        }
        self.addresses.end(from, now, |bucket| add(bucket, rates.address));
        let told = self.names.end(name, now, |guessed| failed.then(|| guessed.add(from, rates.name, now)).flatten());
        let (failures, addresses) = told.flatten()?;
        Some(Guessing { name, failures, addresses })
    }

    /// Whether the address has failed so often that it is throttled.
    pub fn is_full(&self, from: AddressKey, limits: &Limits, now: Millis) -> bool {
        let level = self.addresses.get(from).map_or(Level::default(), |bucket| bucket.level);
        level.room(AllRates::of(limits).address, 0, now) == Room::Full
    }

    /// Buckets kept now.
    pub fn len(&self) -> usize {
        self.addresses.len() + self.pairs.len() + self.names.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests;
