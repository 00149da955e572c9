//! Connections without a login, by address: when all places are taken, one of them makes way for the next that comes
//! (docs/protocol.md section 5).

use std::collections::{BTreeSet, HashMap};

use super::port::{AddressKey, SessionId};

/// The connections without a login.
#[derive(Debug, Default)]
pub struct Guests {
    /// Serial numbers tell who came first.
    by_address: HashMap<AddressKey, BTreeSet<(u64, u32)>>,
    by_number: BTreeSet<(usize, AddressKey)>,
}

impl Guests {
    /// One more connection.
    pub fn insert(&mut self, from: AddressKey, id: SessionId) {
        self.change(from, |guests| guests.insert((id.serial, id.slot)));
    }

    /// It has logged in, or has left.
    pub fn remove(&mut self, from: AddressKey, id: SessionId) {
        self.change(from, |guests| guests.remove(&(id.serial, id.slot)));
    }

    /// The oldest of the address that has most.
    pub fn first_to_go(&self) -> Option<(AddressKey, SessionId)> {
        let (_, from) = self.by_number.last()?;
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
        self.by_number.remove(&(before, from));
        if after > 0 {
            self.by_number.insert((after, from));
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
        assert_eq!(guests.first_to_go(), None);
        let (one, two) = (AddressKey::V4(1), AddressKey::V4(2));
        for (from, serial) in [(two, 1), (one, 2), (one, 3)] {
            guests.insert(from, id(serial));
        }
        assert_eq!(guests.first_to_go(), Some((one, id(2))));
        guests.remove(one, id(2));
        guests.insert(two, id(4));
        assert_eq!(guests.first_to_go(), Some((two, id(1))));
        // Who is not there changes nothing.
        guests.remove(two, id(9));
        guests.remove(AddressKey::V4(3), id(1));
        assert_eq!(guests.first_to_go(), Some((two, id(1))));
        for (from, serial) in [(two, 1), (two, 4), (one, 3)] {
            guests.remove(from, id(serial));
        }
        assert!(guests.first_to_go().is_none() && guests.by_address.is_empty() && guests.by_number.is_empty());
    }
}
