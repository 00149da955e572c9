//! Compares addresses to listen on: two that take the same connections cannot be used together.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::values::Config;

/// Two configured addresses that take the same connections, each with its key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Clash {
    /// The one that is configured first.
    pub first: (&'static str, SocketAddr),
    /// The other one.
    pub second: (&'static str, SocketAddr),
}

impl fmt::Display for Clash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((key, address), (other_key, other)) = (self.first, self.second);
        if address == other && key == other_key {
            return write!(f, "{address} is named twice ({key})");
        }
        if address == other {
            return write!(f, "{address} is named twice ({key} and {other_key})");
        }
        write!(f, "{address} ({key}) and {other} ({other_key}) take the same connections")?;
        match [address, other].into_iter().find(|one| one.ip().is_unspecified() && one.is_ipv6()) {
            Some(all) => write!(f, ": {all} is both families, every address of this machine"),
            None => Ok(()),
        }
    }
}

/// The first two addresses of `config` that cannot be used together.
pub fn clash(config: &Config) -> Option<Clash> {
    let of = |key: &'static str, all: &[SocketAddr]| all.iter().map(move |one| (key, *one)).collect::<Vec<_>>();
    let all = [of("listen.cp", &config.cp), of("listen.classic", &config.classic)].concat();
    let mut seen: Vec<(&'static str, SocketAddr)> = Vec::new();
    for second in all {
        if let Some(first) = seen.iter().find(|first| overlap(first.1, second.1)) {
            return Some(Clash { first: *first, second });
        }
        seen.push(second);
    }
    None
}

/// Whether listeners on both addresses would take the same connections.
pub fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    // Port 0 stands for a different port each time.
    if one.port() != other.port() || one.port() == 0 {
        return false;
    }
    // An IPv4-mapped IPv6 address is the same as the IPv4 address.
    let (a, b) = (one.ip().to_canonical(), other.ip().to_canonical());
    match (a, b) {
        (IpAddr::V6(all), _) | (_, IpAddr::V6(all)) if all.is_unspecified() => true,
        (IpAddr::V4(first), IpAddr::V4(second)) => first.is_unspecified() || second.is_unspecified() || first == second,
        (IpAddr::V6(first), IpAddr::V6(second)) => first == second && scope(one) == scope(other),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

/// Why `address` cannot be listened on, on any machine; `None` if it may be possible.
pub fn listen_obstacle(address: SocketAddr) -> Option<&'static str> {
    match address {
        _ if address.ip().is_multicast() => Some("is a multicast address: no connection leads there"),
        SocketAddr::V4(v4) if v4.ip().is_broadcast() => Some("is a broadcast address: no connection leads there"),
        SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() && v6.scope_id() == 0 => {
            Some("is link-local: add the number of its interface, as [fe80::1%2]:5035")
        }
        SocketAddr::V4(_) | SocketAddr::V6(_) => None,
    }
}

/// The interface of a link-local address; 0 for other addresses.
fn scope(address: SocketAddr) -> u32 {
    match address {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(v6) => v6.scope_id(),
    }
}

/// Whether only this machine can connect to `address`.
pub fn is_local(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_that_cannot_be_listened_on_are_refused() {
        for wrong in ["224.0.0.1:5035", "255.255.255.255:5035", "[ff02::1]:5035", "[fe80::1]:5035"] {
            assert!(listen_obstacle(wrong.parse().unwrap()).is_some(), "{wrong}");
        }
        for right in ["0.0.0.0:5035", "[::]:5035", "127.0.0.1:0", "192.0.2.255:1", "[fe80::1%2]:5035", "[fd00::1]:7"] {
            assert_eq!(listen_obstacle(right.parse().unwrap()), None, "{right}");
        }
    }

    #[test]
    fn overlapping_addresses_are_recognized() {
        for (one, other, both) in [
            ("0.0.0.0:7", "[::]:7", true),
            ("127.0.0.1:7", "0.0.0.0:7", true),
            ("127.0.0.1:7", "[::]:7", true),
            ("[::1]:7", "[::]:7", true),
            ("[::1]:7", "[::1]:7", true),
            ("127.0.0.1:7", "127.0.0.1:7", true),
            ("[::ffff:127.0.0.1]:7", "127.0.0.1:7", true),
            ("[::ffff:127.0.0.1]:7", "0.0.0.0:7", true),
            ("[::ffff:0.0.0.0]:7", "127.0.0.1:7", true),
            ("[fe80::1%2]:7", "[fe80::1%2]:7", true),
            ("[fe80::1%2]:7", "[fe80::1%3]:7", false),
            ("[::1]:7", "0.0.0.0:7", false),
            ("[::1]:7", "127.0.0.1:7", false),
            ("127.0.0.1:7", "127.0.0.2:7", false),
            ("0.0.0.0:7", "[::]:8", false),
            ("[::]:0", "[::]:0", false),
        ] {
            assert_eq!(overlap(address(one), address(other)), both, "{one} {other}");
            assert_eq!(overlap(address(other), address(one)), both, "{other} {one}");
        }
    }

    #[test]
    fn a_clash_names_both_and_their_keys() {
        let said = |cp: &[&str], classic: &[&str]| {
            let all = |texts: &[&str]| texts.iter().map(|text| address(text)).collect::<Vec<_>>();
            let config = Config { cp: all(cp), classic: all(classic), ..Config::default() };
            clash(&config).map(|clash| clash.to_string()).unwrap_or_default()
        };
        assert_eq!(said(&["127.0.0.1:7", "127.0.0.1:8"], &["127.0.0.1:9"]), "");
        assert_eq!(said(&["127.0.0.1:7", "127.0.0.1:7"], &[]), "127.0.0.1:7 is named twice (listen.cp)");
        let two = said(&["127.0.0.1:7"], &["127.0.0.1:7"]);
        assert_eq!(two, "127.0.0.1:7 is named twice (listen.cp and listen.classic)");
        let both = said(&["0.0.0.0:7", "[::]:7"], &[]);
        assert!(both.starts_with("0.0.0.0:7 (listen.cp) and [::]:7 (listen.cp) take the same connections"), "{both}");
        assert!(both.ends_with("[::]:7 is both families, every address of this machine"), "{both}");
        let covered = said(&["127.0.0.1:7"], &["0.0.0.0:7"]);
        assert!(covered.contains("127.0.0.1:7 (listen.cp) and 0.0.0.0:7 (listen.classic)"), "{covered}");
    }
}
