//! The failed logins for one name, by which attempts from addresses that it has not logged in from are judged.

use super::bucket::{Bucket, FillLevel, Headroom, Rate};
use crate::engine::port::AddressKey;
use crate::time::Millis;

/// Addresses whose share in a name's failures is known, at most: those with the largest shares.
pub const SHARES_MAX: usize = 16;
/// The least time between two alerts about a name.
const ALERT_INTERVAL_MS: Millis = 24 * 60 * 60 * 1000;

/// The rates of a name's buckets for a minute and for a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameRates {
    pub minute: Rate,
    pub day: Rate,
}

/// One address's share in a name's failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    pub from: AddressKey,
    pub minute: FillLevel,
    pub day: FillLevel,
}

/// The failures for a name.
#[derive(Debug, Clone, Default)]
pub struct NameFailures {
    pub minute: FillLevel,
    pub day: FillLevel,
    pub under_way: u32,
    pub shares: Vec<Share>,
    /// Failures since `day` was last empty.
    pub failures: u32,
    /// When the last alert was given, on the monotonic clock.
    pub alerted_at: Option<Millis>,
}

impl Bucket for NameFailures {
    fn empty_at(&self) -> Millis {
        self.minute.empty_at.max(self.day.empty_at)
    }

    fn under_way(&mut self) -> &mut u32 {
        &mut self.under_way
    }
}

impl NameFailures {
    pub fn headroom(&self, rates: NameRates, now: Millis) -> Headroom {
        self.minute.headroom(rates.minute, self.under_way, now).max(self.day.headroom(rates.day, self.under_way, now))
    }

    /// Whether the address's share has room for one more failure: it may have half of the name's failures. `under_way`:
    /// the attempts under way from there.
    pub fn share_headroom(&self, from: AddressKey, rates: NameRates, under_way: u32, now: Millis) -> Headroom {
        let Some(share) = self.shares.iter().find(|share| share.from == from) else {
            return FillLevel::default().headroom(rates.minute.half(), under_way, now);
        };
        let day = share.day.headroom(rates.day.half(), under_way, now);
        share.minute.headroom(rates.minute.half(), under_way, now).max(day)
    }

    /// Addresses that have used up their share, with the number of failures that still count and the time when there is
    /// room for one more.
    pub fn full_shares(&self, rates: NameRates, now: Millis) -> impl Iterator<Item = (AddressKey, u32, Millis)> {
        let (minute, day) = (rates.minute.half(), rates.day.half());
        let full = move |share: &&Share| {
            share.minute.headroom(minute, 0, now).max(share.day.headroom(day, 0, now)) == Headroom::Full
        };
        self.shares.iter().filter(full).map(move |share| {
            let until = share.minute.retry_at(minute).max(share.day.retry_at(day));
            (share.from, share.day.failures(day, now), until)
        })
    }

    /// Whether failures from this address are counted.
    pub fn has_share(&self, from: AddressKey) -> bool {
        self.shares.iter().any(|share| share.from == from)
    }

    /// Forgets the failures from this address, as far as its share is known.
    pub fn forget(&mut self, from: AddressKey, now: Millis) {
        if let Some(place) = self.shares.iter().position(|share| share.from == from) {
            let share = self.shares.swap_remove(place);
            self.minute = self.minute.without(share.minute, now);
            self.day = self.day.without(share.day, now);
        }
    }

    /// Adds a failure. `Some`: the name has had as many as a day allows, and there was no alert about it for a day. The
    /// pair is the number of failures and the number of addresses that they came from, as far as it is known.
    pub fn add(&mut self, from: AddressKey, rates: NameRates, now: Millis) -> Option<(u32, usize)> {
        if self.day.empty_at <= now {
            self.failures = 0;
            self.shares.clear();
        }
        self.failures = self.failures.saturating_add(1);
        self.minute.add(rates.minute.cost, now);
        self.day.add(rates.day.cost, now);
        self.add_share(from, rates, now);
        let is_full = self.day.headroom(rates.day, 0, now) == Headroom::Full;
        if !is_full || self.alerted_at.is_some_and(|told| now.saturating_sub(told) < ALERT_INTERVAL_MS) {
            return None;
        }
        self.alerted_at = Some(now);
        Some((self.failures, self.shares.len()))
    }

    fn add_share(&mut self, from: AddressKey, rates: NameRates, now: Millis) {
        let place = match self.shares.iter().position(|share| share.from == from) {
            Some(place) => place,
            None if self.shares.len() < SHARES_MAX => self.shares.len(),
            None => {
                let shares = self.shares.iter().enumerate();
                shares.min_by_key(|(_, share)| share.day.empty_at).map_or(0, |(place, _)| place)
            }
        };
        let new = Share { from, minute: FillLevel::default(), day: FillLevel::default() };
        match self.shares.get_mut(place) {
            None => self.shares.push(new),
            Some(share) if share.from != from => *share = new,
            Some(_) => {}
        }
        if let Some(share) = self.shares.get_mut(place) {
            share.minute.add(rates.minute.cost, now);
            share.day.add(rates.day.cost, now);
        }
    }
}
