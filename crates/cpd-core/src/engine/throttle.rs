//! The limits on guessing passwords (docs/protocol.md section 7): failed logins are counted for each address, for each
//! name, and for each pair of a name and an address.
//!
//! Nobody learns from what happens to other attempts whether a user exists: where an attempt is counted, and whether it
//! waits for the outcome of those before it, depends on these three counts alone. Whether the name has logged in from
//! the address before decides only which of them judge the attempt: the pair's, which nobody at another address can
//! fill, or the other two.

mod admin;
mod bucket;
mod handover;
mod name_failures;
mod subject;

pub use self::subject::{Subject, Throttled};
use cp_proto::values::Username;

use self::bucket::{BucketTable, Failures, FillLevel, Headroom, Rate};
use self::name_failures::{NameFailures, NameRates};
use super::port::AddressKey;
use super::settings::Limits;
use crate::sabotage::{self, Fault};
use crate::time::Millis;

/// Buckets kept, at most: of addresses, of pairs of a name and an address, and of names.
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
    name: NameRates,
}

impl AllRates {
    fn of(limits: &Limits) -> AllRates {
        let minute = Rate::of(limits.failures_per_user, MINUTE_MS);
        // Half of them at once and the other half spread over a day, so that no 24 hours ever see more.
        let day = Rate::of(limits.failures_per_user_day.div_ceil(2), DAY_MS);
        let address = Rate::of(limits.failures_per_address, MINUTE_MS);
        AllRates { address, pair: minute, name: NameRates { minute, day } }
    }
}

/// An attempt that has begun, and the buckets in which its failure counts. A bucket counts an attempt only while it has
/// room for it: further attempts, made while it is full, do not keep it full.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    name: Username,
    from: AddressKey,
    rates: AllRates,
    /// Its failure counts in the bucket of the pair.
    counts_in_pair: bool,
    /// Its failure counts in the address's bucket and in the name's.
    counts_in_address_and_name: bool,
    /// Its password is tried.
    allowed: bool,
}

impl Attempt {
    /// Whether its password was tried.
    pub fn was_tried(&self) -> bool {
        self.allowed
    }
}

/// Which failures are too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThrottleCause {
    /// Those from the address.
    Address,
    /// Those for the name: all of them, or those from this address.
    Name,
}

/// What to do with an attempt. In the first two cases, its outcome must be passed to [`Throttle::end`].
#[derive(Debug)]
pub enum Decision {
    /// Try its password.
    Allowed(Attempt),
    /// Answer it like one with a wrong password.
    Throttled(Attempt, ThrottleCause),
    /// That depends on attempts that are under way. Ask again when one of them has ended.
    Undecided,
}

/// A name with too many failures in a day, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuessingAlert {
    pub name: Username,
    pub failures: u32,
    /// The number of addresses that they came from, as far as it is known.
    pub addresses: usize,
}

/// The failed logins that are counted.
#[derive(Debug)]
pub struct Throttle {
    addresses: BucketTable<AddressKey, Failures>,
    pairs: BucketTable<(Username, AddressKey), Failures>,
    names: BucketTable<Username, NameFailures>,
}

impl Default for Throttle {
    fn default() -> Throttle {
        Throttle {
            addresses: BucketTable::new(ADDRESSES_MAX),
            pairs: BucketTable::new(PAIRS_MAX),
            names: BucketTable::new(NAMES_MAX),
        }
    }
}

impl Throttle {
    /// Begins an attempt to log in as `name`; `known`: that name has logged in from this address before.
    pub fn begin(&mut self, name: Username, from: AddressKey, known: bool, limits: &Limits, now: Millis) -> Decision {
        let rates = AllRates::of(limits);
        let of_pair = self.pairs.get((name, from)).copied().unwrap_or_default();
        let pair = of_pair.level.headroom(rates.pair, of_pair.under_way, now);
        let of_address = self.addresses.get(from).copied().unwrap_or_default();
        let address = of_address.level.headroom(rates.address, of_address.under_way, now);
        let none = NameFailures::default();
        let guessed = self.names.get(name).unwrap_or(&none);
        let of_name =
            guessed.headroom(rates.name, now).max(guessed.share_headroom(from, rates.name, of_pair.under_way, now));
        let mut stranger = address.max(of_name);
        if known && sabotage::is_ordered(Fault::OwnBucket) {
            stranger = Headroom::Full;
        }
        if pair == Headroom::Undetermined || stranger == Headroom::Undetermined {
            return Decision::Undecided;
        }
        let (counts_in_pair, counts_in_address_and_name) = (pair == Headroom::Free, stranger == Headroom::Free);
        let allowed = if known { counts_in_pair } else { counts_in_address_and_name };
        let attempt = Attempt { name, from, rates, counts_in_pair, counts_in_address_and_name, allowed };
        self.count(attempt, now);
        match (allowed, !known && address == Headroom::Full) {
            (true, _) => Decision::Allowed(attempt),
            (false, true) => Decision::Throttled(attempt, ThrottleCause::Address),
            (false, false) => Decision::Throttled(attempt, ThrottleCause::Name),
        }
    }

    fn count(&mut self, attempt: Attempt, now: Millis) {
        let Attempt { name, from, .. } = attempt;
        if attempt.counts_in_pair {
            self.pairs.begin((name, from), now);
        }
        if attempt.counts_in_address_and_name {
            self.addresses.begin(from, now);
            self.names.begin(name, now);
        }
    }

    /// Ends an attempt. `Some`: from now on, attempts on this name from addresses that it has not logged in from are
    /// throttled for longer than a minute; this is returned at most once a day for a name.
    pub fn end(&mut self, attempt: Attempt, failed: bool, now: Millis) -> Option<GuessingAlert> {
        let Attempt { name, from, rates, .. } = attempt;
        let add = |bucket: &mut Failures, rate: Rate| {
            if failed {
                bucket.level.add(rate.cost, now);
            }
        };
        if attempt.counts_in_pair {
            self.pairs.end((name, from), now, |bucket| add(bucket, rates.pair));
        }
        if !attempt.counts_in_address_and_name {
            return None;
        }
        self.addresses.end(from, now, |bucket| add(bucket, rates.address));
        let told = self.names.end(name, now, |guessed| failed.then(|| guessed.add(from, rates.name, now)).flatten());
        let (failures, addresses) = told.flatten()?;
        Some(GuessingAlert { name, failures, addresses })
    }

    /// Whether the address has failed so often that it is throttled.
    pub fn is_throttled(&self, from: AddressKey, limits: &Limits, now: Millis) -> bool {
        let level = self.addresses.get(from).map_or(FillLevel::default(), |bucket| bucket.level);
        level.headroom(AllRates::of(limits).address, 0, now) == Headroom::Full
    }

    /// The number of buckets.
    pub fn len(&self) -> usize {
        self.addresses.len() + self.pairs.len() + self.names.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests;
