//! The throttles that an operator can list and clear.

use std::cmp::Reverse;
use std::collections::HashMap;

use cp_proto::values::Username;

use super::bucket::Headroom;
use super::subject::{Subject, Throttled};
use super::{AllRates, Throttle};
use crate::engine::port::AddressKey;
use crate::engine::settings::Limits;
use crate::time::Millis;

impl Throttle {
    /// Up to `max` throttles in force, in the order of their ends with the last one first, and whether there are more.
    pub fn list(&self, limits: &Limits, max: usize, now: Millis) -> (Vec<Throttled>, bool) {
        let rates = AllRates::of(limits);
        let addresses = self.addresses.iter().filter_map(|(from, bucket)| {
            let full = bucket.level.headroom(rates.address, 0, now) == Headroom::Full;
            full.then(|| Throttled {
                subject: Subject::Address(*from),
                failures: bucket.level.failures(rates.address, now),
                addresses: 1,
                until: bucket.level.retry_at(rates.address),
            })
        });
        let pairs = self.pairs.iter().filter_map(|((name, from), bucket)| {
            let full = bucket.level.headroom(rates.pair, 0, now) == Headroom::Full;
            full.then(|| Throttled {
                subject: Subject::NameAt(*name, *from),
                failures: bucket.level.failures(rates.pair, now),
                addresses: 1,
                until: bucket.level.retry_at(rates.pair),
            })
        });
        let names = self.names.iter().filter_map(|(name, _)| self.name_throttle(*name, limits, now));
        let mut all: Vec<Throttled> = addresses.chain(names).collect();
        // A name can be throttled at one address by its pair's bucket and by the address's share in the name's: one row
        // shows both.
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

    /// The throttle of a name as a whole, if it is in force.
    pub fn name_throttle(&self, name: Username, limits: &Limits, now: Millis) -> Option<Throttled> {
        let (rates, guessed) = (AllRates::of(limits).name, self.names.get(name)?);
        let full = guessed.minute.headroom(rates.minute, 0, now).max(guessed.day.headroom(rates.day, 0, now))
            == Headroom::Full;
        full.then(|| Throttled {
            subject: Subject::Name(name),
            failures: guessed.failures,
            addresses: u32::try_from(guessed.shares.len()).unwrap_or(u32::MAX),
            until: guessed.minute.retry_at(rates.minute).max(guessed.day.retry_at(rates.day)),
        })
    }

    /// Forgets every failure of an address, including its share in those for names. Returns the number of buckets that
    /// changed.
    pub fn clear_address(&mut self, from: AddressKey, now: Millis) -> u64 {
        let shared: Vec<Username> =
            self.names.iter().filter(|(_, guessed)| guessed.has_share(from)).map(|(name, _)| *name).collect();
        for name in &shared {
            self.names.update_or_insert(*name, now, |guessed| guessed.forget(from, now));
        }
        let pairs = self.pairs.remove_if(|(_, address)| *address == from);
        u64::from(self.addresses.remove(from)) + shared.len() as u64 + pairs
    }

    /// Forgets every failure for a name. Returns the number of buckets that were removed.
    pub fn clear_name(&mut self, name: Username) -> u64 {
        u64::from(self.names.remove(name)) + self.pairs.remove_if(|(one, _)| *one == name)
    }

    /// Forgets all failures. Returns the number of buckets that there were.
    pub fn clear(&mut self) -> u64 {
        let count = self.len() as u64;
        *self = Throttle::default();
        count
    }
}
