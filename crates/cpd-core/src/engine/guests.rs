//! The guests by address: when all connections are in use, one of them is evicted for the next client that connects
//! (docs/protocol.md section 5).

use std::collections::{BTreeSet, HashMap};

use super::port::{AddressKey, SessionId};

/// The sessions that have not logged in.
#[derive(Debug, Default)]
pub struct Guests {
    /// Serial numbers and slots. Serial numbers grow, so the first entry is the oldest session.
    by_address: HashMap<AddressKey, BTreeSet<(u64, u32)>>,
    /// Each address with its number of guests; the last entry has most.
    by_count: BTreeSet<(usize, AddressKey)>,
}

impl Guests {
    /// Adds a guest.
    pub fn insert(&mut self, from: AddressKey, id: SessionId) {
        self.change(from, |guests| guests.insert((id.serial, id.slot)));
    }

    /// Removes a session that has logged in or has left. Nothing happens if it is not there.
    pub fn remove(&mut self, from: AddressKey, id: SessionId) {
        self.change(from, |guests| guests.remove(&(id.serial, id.slot)));
    }

    /// The oldest guest of the address that has most of them.
    pub fn eviction_candidate(&self) -> Option<(AddressKey, SessionId)> {
        let (_, from) = self.by_count.last()?;
        let (serial, slot) = self.by_address.get(from)?.first()?;
        Some((*from, SessionId { serial: *serial, slot: *slot }))
    }

    fn change(&mut self, from: AddressKey, change: impl FnOnce(&mut BTreeSet<(u64, u32)>) -> bool) {
        let guests = self.by_address.entry(from).or_default();
        let before = guests.len();
        change(guests);
        let after = guests.len();
        if after == 0 {
            self.by_address.remove(&from);
        }
        self.by_count.remove(&(before, from));
        if after > 0 {
            self.by_count.insert((after, from));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn id(serial: u64) -> SessionId {
        SessionId { serial, slot: serial as u32 }
    }

    #[test]
    fn the_oldest_of_the_address_that_has_most_goes_first() {
        let mut guests = Guests::default();
        assert_eq!(guests.eviction_candidate(), None);
        let (one, two) = (AddressKey::V4(1), AddressKey::V4(2));
        for (from, serial) in [(two, 1), (one, 2), (one, 3)] {
            guests.insert(from, id(serial));
        }
        assert_eq!(guests.eviction_candidate(), Some((one, id(2))));
        guests.remove(one, id(2));
        guests.insert(two, id(4));
        assert_eq!(guests.eviction_candidate(), Some((two, id(1))));
        // Removing a session that is not there changes nothing.
        guests.remove(two, id(9));
        guests.remove(AddressKey::V4(3), id(1));
        assert_eq!(guests.eviction_candidate(), Some((two, id(1))));
        for (from, serial) in [(two, 1), (two, 4), (one, 3)] {
            guests.remove(from, id(serial));
        }
        assert!(guests.eviction_candidate().is_none() && guests.by_address.is_empty() && guests.by_count.is_empty());
    }
}
