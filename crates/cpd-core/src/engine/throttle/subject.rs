//! What can be throttled, and a throttle as operators see it.

use cp_proto::values::Username;

use crate::engine::port::AddressKey;
use crate::time::Millis;

/// What is throttled: all attempts from an address, attempts on a name from addresses that it has not logged in from,
/// or attempts on a name from one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    Address(AddressKey),
    Name(Username),
    NameAt(Username, AddressKey),
}

/// A throttle in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Throttled {
    pub subject: Subject,
    pub failures: u32,
    /// The number of addresses that they came from, as far as it is known.
    pub addresses: u32,
    /// When an attempt is tried again, if no other fails until then.
    pub until: Millis,
}
