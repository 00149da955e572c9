//! What an administrator sees of the throttle, and lifts.

use std::cmp::Reverse;
use std::collections::HashMap;

use super::bucket::Room;
use super::{AllRates, Throttle};
use crate::engine::port::AddressKey;
use crate::engine::settings::Limits;
use crate::proto::types::{Millis, Username};

/// What is throttled: every login from an address, a name for everybody who has not logged in from where they are, or a
/// name at one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    Address(AddressKey),
    Name(Username),
    NameAt(Username, AddressKey),
}

/// A throttle that is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Throttled {
    pub subject: Subject,
    pub failures: u32,
    /// Addresses that they came from, as far as those are counted.
    pub addresses: u32,
    /// When the next login is tried, if no other fails meanwhile.
    pub until: Millis,
}

impl Throttle {
    /// Up to `max` throttles in force, those that last longest first, and whether there are more.
    pub fn list(&self, limits: &Limits, max: usize, now: Millis) -> (Vec<Throttled>, bool) {
        let rates = AllRates::of(limits);
        let addresses = self.addresses.iter().filter_map(|(from, bucket)| {
            let full = bucket.level.room(rates.address, 0, now) == Room::Full;
            full.then(|| Throttled {
                subject: Subject::Address(*from),
                failures: bucket.level.failures(rates.address, now),
                addresses: 1,
                until: bucket.level.open_at(rates.address),
            })
        });
        let pairs = self.pairs.iter().filter_map(|((name, from), bucket)| {
            let full = bucket.level.room(rates.pair, 0, now) == Room::Full;
            full.then(|| Throttled {
                subject: Subject::NameAt(*name, *from),
                failures: bucket.level.failures(rates.pair, now),
                addresses: 1,
                until: bucket.level.open_at(rates.pair),
            })
        });
        let names = self.names.iter().filter_map(|(name, _)| self.of_name(*name, limits, now));
        let mut all: Vec<Throttled> = addresses.chain(names).collect();
        // Where a name's owner is throttled, and who is none, one line tells of both.
        let mut there: HashMap<Subject, Throttled> = pairs.map(|one| (one.subject, one)).collect();
        for (name, guessed) in self.names.iter() {
            for (from, failures, until) in guessed.full_shares(rates.name, now) {
                let subject = Subject::NameAt(*name, from);
                let one = there.entry(subject).or_insert(Throttled { subject, failures, addresses: 1, until });
                one.until = one.until.max(until);
            }
        }
        all.extend(there.into_values());
        let last = |one: &Throttled| (Reverse(one.until), one.subject);
        let more = all.len() > max;
        if more {
            all.select_nth_unstable_by_key(max, last);
            all.truncate(max);
        }
        all.sort_by_key(last);
        (all, more)
    }

    /// The throttle of a name, if it is in force.
    pub fn of_name(&self, name: Username, limits: &Limits, now: Millis) -> Option<Throttled> {
        let (rates, guessed) = (AllRates::of(limits).name, self.names.get(name)?);
        let full = guessed.minute.room(rates.minute, 0, now).max(guessed.day.room(rates.day, 0, now)) == Room::Full;
        full.then(|| Throttled {
            subject: Subject::Name(name),
            failures: guessed.failures,
            addresses: u32::try_from(guessed.shares.len()).unwrap_or(u32::MAX),
            until: guessed.minute.open_at(rates.minute).max(guessed.day.open_at(rates.day)),
        })
    }

    /// Forgets every failure of an address, also what it has of those for names. Of how many buckets that was some.
    pub fn clear_address(&mut self, from: AddressKey, now: Millis) -> u64 {
        let shared: Vec<Username> =
            self.names.iter().filter(|(_, guessed)| guessed.has_share(from)).map(|(name, _)| *name).collect();
        for name in &shared {
            self.names.alter(*name, now, |guessed| guessed.forget(from, now));
        }
        let pairs = self.pairs.remove_if(|(_, address)| *address == from);
        u64::from(self.addresses.remove(from)) + shared.len() as u64 + pairs
    }

    /// Forgets every failure for a name. Of how many buckets that was all.
    pub fn clear_name(&mut self, name: Username) -> u64 {
        u64::from(self.names.remove(name)) + self.pairs.remove_if(|(one, _)| *one == name)
    }

    /// Forgets all failures, and says how many buckets there were.
    pub fn clear(&mut self) -> u64 {
        let count = self.len() as u64;
        *self = Throttle::default();
        count
    }
}
