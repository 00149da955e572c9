//! What an address counts as in limits and throttles (docs/protocol.md section 5).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What an address counts as: an IPv4 address, an IPv6 /64, or a local user.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum AddressKey {
    V4(u32),
    V6(u64),
    Local(u32),
}

/// The first 96 bits of an address that NAT64 makes of an IPv4 address: 64:ff9b::/96.
const NAT64: u128 = 0x0064_ff9b_0000_0000_0000_0000;
/// The first 16 bits of a 6to4 address, which contains an IPv4 address: 2002::/16.
const SIX_TO_FOUR: u64 = 0x2002;

impl AddressKey {
    /// The key of `address`. If it contains an IPv4 address, that one counts: all clients of a NAT64 share one /64,
    /// while with 6to4 anybody who has an IPv4 address has 65,536 of them.
    pub fn of(address: IpAddr) -> AddressKey {
        match address.to_canonical() {
            IpAddr::V4(v4) => AddressKey::V4(v4.to_bits()),
            IpAddr::V6(v6) if v6.to_bits() >> 32 == NAT64 => AddressKey::V4(v6.to_bits() as u32),
            IpAddr::V6(v6) => AddressKey::of_prefix(prefix(v6)),
        }
    }

    /// The key of an IPv6 /64, given by its 64 bits.
    pub fn of_prefix(prefix: u64) -> AddressKey {
        match prefix >> 48 == SIX_TO_FOUR {
            true => AddressKey::V4((prefix >> 16) as u32),
            false => AddressKey::V6(prefix),
        }
    }
}

impl fmt::Display for AddressKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AddressKey::V4(bits) => Ipv4Addr::from_bits(*bits).fmt(f),
            AddressKey::V6(bits) => write!(f, "{}/64", Ipv6Addr::from_bits(u128::from(*bits) << 64)),
            AddressKey::Local(uid) => write!(f, "uid {uid}"),
        }
    }
}

/// Where a client comes from: what its address counts as, and what it counted as in 0.1.0, if that was something else.
/// A store may still hold logins that 0.1.0 recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Origin {
    pub key: AddressKey,
    pub former_key: Option<AddressKey>,
}

impl Origin {
    /// The origin of a client with this address.
    pub fn of(address: IpAddr) -> Origin {
        let key = AddressKey::of(address);
        let former_key = match address.to_canonical() {
            IpAddr::V4(_) => None,
            IpAddr::V6(v6) => Some(AddressKey::V6(prefix(v6))).filter(|former_key| *former_key != key),
        };
        Origin { key, former_key }
    }
}

impl From<AddressKey> for Origin {
    fn from(key: AddressKey) -> Origin {
        Origin { key, former_key: None }
    }
}

fn prefix(address: Ipv6Addr) -> u64 {
    (address.to_bits() >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Origin {
        Origin::of(text.parse().expect("an address"))
    }

    #[test]
    fn an_address_counts_as_the_ipv4_address_in_it_or_as_its_64() {
        let v4 = AddressKey::V4(0xc000_0201);
        for (text, key) in [
            ("192.0.2.1", v4),
            ("::ffff:192.0.2.1", v4),
            ("64:ff9b::192.0.2.1", v4),
            ("2002:c000:201::", v4),
            ("2002:c000:201:ffff:1:2:3:4", v4),
            ("2001:db8::1", AddressKey::V6(0x2001_0db8_0000_0000)),
            ("2001:db8::ffff:ffff:ffff:ffff", AddressKey::V6(0x2001_0db8_0000_0000)),
            ("2001:db8:0:1::1", AddressKey::V6(0x2001_0db8_0000_0001)),
            // Just outside of the two prefixes.
            ("64:ff9b::1:192.0.2.1", AddressKey::V6(0x0064_ff9b_0000_0000)),
            ("64:ff9b:1::192.0.2.1", AddressKey::V6(0x0064_ff9b_0001_0000)),
            ("2003:c000:201::", AddressKey::V6(0x2003_c000_0201_0000)),
            ("::192.0.2.1", AddressKey::V6(0)),
            ("::1", AddressKey::V6(0)),
        ] {
            assert_eq!(of(text).key, key, "{text}");
        }
    }

    #[test]
    fn what_an_address_counted_as_before_is_known_where_it_was_something_else() {
        for (text, former_key) in [
            ("64:ff9b::192.0.2.1", Some(AddressKey::V6(0x0064_ff9b_0000_0000))),
            ("2002:c000:201:7::1", Some(AddressKey::V6(0x2002_c000_0201_0007))),
            ("192.0.2.1", None),
            ("::ffff:192.0.2.1", None),
            ("2001:db8::1", None),
        ] {
            assert_eq!(of(text).former_key, former_key, "{text}");
        }
    }
}
