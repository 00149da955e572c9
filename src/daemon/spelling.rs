//! One spelling of clients' addresses, wherever people or programs see them: in the log and in the list of sessions.

use std::net::{IpAddr, SocketAddr};

/// The address without its port: an IPv4 address as such, also where it came to an IPv6 socket; a link-local one with its
/// zone, without which it means nothing.
pub fn of_host(peer: SocketAddr) -> String {
    match peer.ip().to_canonical() {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => match peer {
            SocketAddr::V6(peer) if peer.scope_id() != 0 => format!("{v6}%{}", peer.scope_id()),
            SocketAddr::V6(_) | SocketAddr::V4(_) => v6.to_string(),
        },
    }
}

/// The address with its port.
pub fn of_peer(peer: SocketAddr) -> String {
    match peer.ip().to_canonical() {
        IpAddr::V4(v4) => format!("{v4}:{}", peer.port()),
        IpAddr::V6(_) => format!("[{}]:{}", of_host(peer), peer.port()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddrV6;

    use super::*;

    #[test]
    fn an_address_is_spelled_in_one_way() {
        for (peer, host, with_port) in [
            ("127.0.0.1:47910", "127.0.0.1", "127.0.0.1:47910"),
            ("[::ffff:127.0.0.1]:47910", "127.0.0.1", "127.0.0.1:47910"),
            ("[::1]:5035", "::1", "[::1]:5035"),
            ("[2001:DB8:0:0::1]:5035", "2001:db8::1", "[2001:db8::1]:5035"),
            ("[64:ff9b::192.0.2.1]:5035", "64:ff9b::c000:201", "[64:ff9b::c000:201]:5035"),
            ("[fe80::1%3]:5035", "fe80::1%3", "[fe80::1%3]:5035"),
        ] {
            let peer: SocketAddr = peer.parse().expect("an address");
            assert_eq!((of_host(peer).as_str(), of_peer(peer).as_str()), (host, with_port));
        }
        let mapped = SocketAddrV6::new("::ffff:10.0.0.1".parse().expect("an address"), 1, 0, 7);
        assert_eq!(of_peer(SocketAddr::V6(mapped)), "10.0.0.1:1");
    }
}
