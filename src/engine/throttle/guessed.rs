//! What is known of the failed logins for one name from addresses that it has not logged in from.

use super::bucket::{Bucket, Level, Rate, Room};
use crate::engine::port::AddressKey;
use crate::proto::types::Millis;

/// Addresses of which it is known how much of a name's failures are theirs, those with most.
pub const SHARES_MAX: usize = 16;
/// How long a line about a name is enough.
const TOLD_MS: Millis = 24 * 60 * 60 * 1000;

/// The rates of a name, in a minute and in a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    pub minute: Rate,
    pub day: Rate,
}

/// What one address has of a name's failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    pub from: AddressKey,
    pub minute: Level,
    pub day: Level,
}

/// The failures for a name.
#[derive(Debug, Clone, Default)]
pub struct Guessed {
    pub minute: Level,
    pub day: Level,
    pub under_way: u32,
    pub shares: Vec<Share>,
    /// Failures since `day` was last empty.
    pub failures: u32,
    /// When that became too many last.
    pub told_at: Option<Millis>,
}

impl Bucket for Guessed {
    fn empty_at(&self) -> Millis {
        self.minute.empty_at.max(self.day.empty_at)
    }

    fn under_way(&mut self) -> &mut u32 {
        &mut self.under_way
    }
}

impl Guessed {
    pub fn room(&self, rates: Rates, now: Millis) -> Room {
        self.minute.room(rates.minute, self.under_way, now).max(self.day.room(rates.day, self.under_way, now))
    }

    /// Whether one more failure from there goes into what one address may have: half. `under_way`: attempts from there.
    pub fn share(&self, from: AddressKey, rates: Rates, under_way: u32, now: Millis) -> Room {
        let Some(share) = self.shares.iter().find(|share| share.from == from) else {
            return Level::default().room(rates.minute.half(), under_way, now);
        };
        let day = share.day.room(rates.day.half(), under_way, now);
        share.minute.room(rates.minute.half(), under_way, now).max(day)
    }

    /// Addresses that have all that one may have, with the number of failures that still count and when one more does.
    pub fn full_shares(&self, rates: Rates, now: Millis) -> impl Iterator<Item = (AddressKey, u32, Millis)> {
        let (minute, day) = (rates.minute.half(), rates.day.half());
        let full =
            move |share: &&Share| share.minute.room(minute, 0, now).max(share.day.room(day, 0, now)) == Room::Full;
        self.shares.iter().filter(full).map(move |share| {
            let until = share.minute.open_at(minute).max(share.day.open_at(day));
            (share.from, share.day.failures(day, now), until)
        })
    }

    /// Whether some failures are from there.
    pub fn has_share(&self, from: AddressKey) -> bool {
        self.shares.iter().any(|share| share.from == from)
    }

    /// Forgets them.
    pub fn forget(&mut self, from: AddressKey, now: Millis) {
        if let Some(place) = self.shares.iter().position(|share| share.from == from) {
            let share = self.shares.swap_remove(place);
            self.minute = self.minute.without(share.minute, now);
            self.day = self.day.without(share.day, now);
        }
    }

    /// One more failure. `Some`: the name has had as many as a day allows, which nobody was told for a day; the failures
    /// and the number of addresses, as far as those are counted.
    pub fn add(&mut self, from: AddressKey, rates: Rates, now: Millis) -> Option<(u32, usize)> {
        if self.day.empty_at <= now {
            self.failures = 0;
            self.shares.clear();
        }
        self.failures = self.failures.saturating_add(1);
        self.minute.add(rates.minute.cost, now);
        self.day.add(rates.day.cost, now);
        self.add_share(from, rates, now);
        let is_full = self.day.room(rates.day, 0, now) == Room::Full;
        if !is_full || self.told_at.is_some_and(|told| now.saturating_sub(told) < TOLD_MS) {
            return None;
        }
        self.told_at = Some(now);
        Some((self.failures, self.shares.len()))
    }

    fn add_share(&mut self, from: AddressKey, rates: Rates, now: Millis) {
        let place = match self.shares.iter().position(|share| share.from == from) {
            Some(place) => place,
            None if self.shares.len() < SHARES_MAX => self.shares.len(),
            None => {
                let shares = self.shares.iter().enumerate();
                shares.min_by_key(|(_, share)| share.day.empty_at).map_or(0, |(place, _)| place)
            }
        };
        let new = Share { from, minute: Level::default(), day: Level::default() };
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
