//! How clients' addresses are written, in the log and in the list of sessions alike.

use std::net::{IpAddr, SocketAddr};

/// The address without its port. An IPv4 address that arrived on an IPv6 socket is written as IPv4; a link-local
/// address has its zone, without which it is ambiguous.
pub fn format_host(peer: SocketAddr) -> String {
    match peer.ip().to_canonical() {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => match peer {
            SocketAddr::V6(peer) if peer.scope_id() != 0 => format!("{v6}%{}", peer.scope_id()),
            SocketAddr::V6(_) | SocketAddr::V4(_) => v6.to_string(),
        },
    }
}

/// The address with its port, otherwise as in [`format_host`].
pub fn format_with_port(peer: SocketAddr) -> String {
    match peer.ip().to_canonical() {
        IpAddr::V4(v4) => format!("{v4}:{}", peer.port()),
        IpAddr::V6(_) => format!("[{}]:{}", format_host(peer), peer.port()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddrV6;

    use super::*;

    #[test]
    fn an_address_is_always_written_the_same_way() {
        for (peer, host, with_port) in [
            ("127.0.0.1:47910", "127.0.0.1", "127.0.0.1:47910"),
            ("[::ffff:127.0.0.1]:47910", "127.0.0.1", "127.0.0.1:47910"),
            ("[::1]:5035", "::1", "[::1]:5035"),
            ("[2001:DB8:0:0::1]:5035", "2001:db8::1", "[2001:db8::1]:5035"),
            ("[64:ff9b::192.0.2.1]:5035", "64:ff9b::c000:201", "[64:ff9b::c000:201]:5035"),
            ("[fe80::1%3]:5035", "fe80::1%3", "[fe80::1%3]:5035"),
        ] {
            let peer: SocketAddr = peer.parse().expect("an address");
            assert_eq!((format_host(peer).as_str(), format_with_port(peer).as_str()), (host, with_port));
        }
        let mapped = SocketAddrV6::new("::ffff:10.0.0.1".parse().expect("an address"), 1, 0, 7);
        assert_eq!(format_with_port(SocketAddr::V6(mapped)), "10.0.0.1:1");
    }
}
