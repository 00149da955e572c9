//! TCP sockets that cpd binds itself.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, listen as start_listening, setsockopt,
    socket, sockopt,
};

use crate::daemon::exit::{ExitCode, Fatal};
use crate::daemon::logging::{Level, LogLine};
use crate::daemon::notify;

/// Connections that the kernel keeps for a listener until they are accepted; net.core.somaxconn may lower it.
pub const BACKLOG: u16 = 1024;
/// The drop-in that lets the packaged unit bind addresses itself.
const DROP_IN: &str = "/etc/systemd/system/cpd.service.d/network.conf";

/// Lists the IPv6 addresses of this network namespace; empty or missing if IPv6 is switched off.
const IPV6_ADDRESSES: &str = "/proc/self/net/if_inet6";

/// A line for the log, if there is something to report.
type TcpNote = Option<(Level, LogLine)>;

/// The circumstances that can explain why an address cannot be used.
#[derive(Clone, Copy, Debug)]
struct Environment {
    /// systemd runs cpd, with the restrictions of its unit.
    sandbox: bool,
    /// IPv6 is available, as far as is known.
    ipv6: bool,
}

impl Environment {
    fn detect() -> Environment {
        // If it cannot be read, IPv6 is not blamed.
        let ipv6 = match std::fs::read_to_string(IPV6_ADDRESSES) {
            Ok(addresses) => !addresses.is_empty(),
            Err(error) => error.kind() != std::io::ErrorKind::NotFound,
        };
        Environment { sandbox: notify::started_by_manager(), ipv6 }
    }
}

/// Listens on `address`. `[::]` means both families, or, with a note, IPv4 alone if the kernel has no IPv6.
///
/// # Errors
/// [`ExitCode::Unavailable`], [`ExitCode::NotPermitted`], [`ExitCode::Config`] or [`ExitCode::System`], naming the
/// address.
pub fn listen(address: SocketAddr) -> Result<(TcpListener, TcpNote), Fatal> {
    listen_with(address, bind_to, Environment::detect)
}

fn listen_with<S>(
    address: SocketAddr,
    bind: impl Fn(SocketAddr) -> Result<S, Errno>,
    detect: impl Fn() -> Environment,
) -> Result<(S, TcpNote), Fatal> {
    let error = match bind(address) {
        Ok(socket) => return Ok((socket, None)),
        Err(error) => error,
    };
    let no_ipv6 = matches!(error, Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL | Errno::EPROTONOSUPPORT);
    if !(no_ipv6 && address.is_ipv6() && address.ip().is_unspecified()) {
        return Err(bind_error(address, error, detect()));
    }
    let instead = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port());
    let socket = bind(instead).map_err(|error| bind_error(instead, error, detect()))?;
    let line = LogLine::new("no IPv6").field("address", address).field("using", instead).field("cause", error.desc());
    Ok((socket, Some((Level::Warn, line))))
}

fn bind_to(address: SocketAddr) -> Result<TcpListener, Errno> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(family, SockType::Stream, flags, None)?;
    // Otherwise a restart would fail while old connections are in TIME_WAIT.
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    match address {
        SocketAddr::V4(v4) => bind(socket.as_raw_fd(), &SockaddrIn::from(v4))?,
        SocketAddr::V6(v6) => {
            setsockopt(&socket, sockopt::Ipv6V6Only, &false)?;
            bind(socket.as_raw_fd(), &SockaddrIn6::from(v6))?;
        }
    }
    start_listening(&socket, Backlog::new(BACKLOG)?)?;
    Ok(TcpListener::from(socket))
}

fn bind_error(address: SocketAddr, error: Errno, environment: Environment) -> Fatal {
    let no_address = matches!(error, Errno::EADDRNOTAVAIL | Errno::EAFNOSUPPORT);
    if no_address && address.is_ipv6() && !environment.ipv6 {
        let said = format!("cannot listen on {address}: IPv6 is switched off here; name IPv4 addresses alone");
        return Fatal::new(ExitCode::Config, said);
    }
    let code = match error {
        Errno::EADDRINUSE => ExitCode::Unavailable,
        Errno::EACCES | Errno::EPERM | Errno::EAFNOSUPPORT => ExitCode::NotPermitted,
        _ => ExitCode::System,
    };
    let hint = match error {
        // A network namespace of its own (PrivateNetwork=) does not have the host's addresses.
        Errno::EACCES | Errno::EPERM | Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL if environment.sandbox => {
            drop_in_hint(address)
        }
        Errno::EACCES if is_low(address) => "; a port below 1024 needs CAP_NET_BIND_SERVICE".to_owned(),
        _ => String::new(),
    };
    Fatal::new(code, format!("cannot listen on {address}: {}{hint}", error.desc()))
}

fn is_low(address: SocketAddr) -> bool {
    (1..1024).contains(&address.port())
}

fn drop_in_hint(address: SocketAddr) -> String {
    let low = if is_low(address) {
        ", AmbientCapabilities=CAP_NET_BIND_SERVICE and CapabilityBoundingSet=CAP_NET_BIND_SERVICE for a port below 1024"
    } else {
        ""
    };
    format!(
        "; if the sandbox of cpd.service forbids it, allow it in {DROP_IN} with [Service] PrivateNetwork=no, \
         RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6, IPAddressDeny= and IPAddressAllow=any{low}"
    )
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    const SANDBOX: Environment = Environment { sandbox: true, ipv6: true };
    const OUTSIDE: Environment = Environment { sandbox: false, ipv6: true };

    fn refusal(at: &str, error: Errno, environment: Environment) -> Fatal {
        listen_with(address(at), |_| Err::<(), _>(error), || environment).unwrap_err()
    }

    #[test]
    fn without_ipv6_the_wildcard_is_ipv4() {
        for missing in [Errno::EAFNOSUPPORT, Errno::EADDRNOTAVAIL] {
            let only_v4 = |at: SocketAddr| if at.is_ipv4() { Ok(at) } else { Err(missing) };
            let (bound, note) = listen_with(address("[::]:5035"), only_v4, || SANDBOX).unwrap();
            assert_eq!(bound, address("0.0.0.0:5035"));
            assert!(note.unwrap().1.into_text().starts_with("no IPv6 address=[::]:5035 using=0.0.0.0:5035"));
            let fatal = listen_with(address("[::1]:5035"), only_v4, || SANDBOX).unwrap_err();
            assert!(fatal.message.contains("[::1]:5035"), "an address that was asked for is not replaced");
        }
    }

    #[test]
    fn errors_name_the_address_and_in_a_sandbox_the_remedy() {
        let fatal = refusal("[::]:5035", Errno::EADDRINUSE, SANDBOX);
        assert_eq!(fatal.code, ExitCode::Unavailable);
        assert!(fatal.message.contains("[::]:5035") && !fatal.message.contains("sandbox"));
        for error in [Errno::EPERM, Errno::EACCES, Errno::EAFNOSUPPORT] {
            let fatal = refusal("[::]:5035", error, SANDBOX);
            assert_eq!(fatal.code, ExitCode::NotPermitted);
            assert!(fatal.message.contains(DROP_IN) && !fatal.message.contains("CAP_NET"), "{fatal}");
        }
        let low = refusal("0.0.0.0:35", Errno::EACCES, SANDBOX);
        assert!(low.message.contains("CapabilityBoundingSet=CAP_NET_BIND_SERVICE"));
        assert_eq!(refusal("[::]:5035", Errno::ENOBUFS, SANDBOX).code, ExitCode::System);
    }

    #[test]
    fn without_a_sandbox_none_is_blamed() {
        for at in ["[2001:db8::1]:5035", "192.0.2.1:5035", "192.0.2.1:35"] {
            for error in [Errno::EPERM, Errno::EACCES, Errno::EAFNOSUPPORT, Errno::EADDRNOTAVAIL] {
                let fatal = refusal(at, error, OUTSIDE);
                assert!(fatal.message.contains(at) && fatal.message.contains(error.desc()), "{fatal}");
                assert!(!fatal.message.contains("sandbox") && !fatal.message.contains(DROP_IN), "{fatal}");
                assert_eq!(fatal.code, refusal(at, error, SANDBOX).code, "{fatal}");
            }
        }
        let low = refusal("0.0.0.0:35", Errno::EACCES, OUTSIDE);
        assert!(low.message.ends_with("; a port below 1024 needs CAP_NET_BIND_SERVICE"), "{low}");
    }

    #[test]
    fn where_ipv6_is_off_that_is_the_cause() {
        for error in [Errno::EAFNOSUPPORT, Errno::EADDRNOTAVAIL] {
            for sandbox in [true, false] {
                let off = Environment { sandbox, ipv6: false };
                let fatal = refusal("[::1]:5035", error, off);
                assert_eq!(fatal.code, ExitCode::Config, "no restart brings it back");
                assert!(fatal.message.contains("[::1]:5035: IPv6 is switched off here"), "{fatal}");
                assert!(!fatal.message.contains("sandbox"), "{fatal}");
                // Other errors have other causes.
                assert!(!refusal("192.0.2.1:5035", error, off).message.contains("IPv6"));
                assert!(!refusal("[::1]:5035", Errno::EACCES, off).message.contains("IPv6"));
            }
        }
        // On this machine, too: if an IPv6 address can be bound, IPv6 counts as available.
        let bound = bind_to(address("[::1]:0")).is_ok();
        assert!(!bound || Environment::detect().ipv6);
    }

    #[test]
    fn a_bound_socket_accepts_and_does_not_block() {
        let (listener, note) = listen(address("127.0.0.1:0")).unwrap();
        assert!(note.is_none());
        assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        let taken = listener.local_addr().unwrap();
        let _client = TcpStream::connect(taken).unwrap();
        let fatal = listen(taken).unwrap_err();
        assert_eq!(fatal.code, ExitCode::Unavailable);
        assert!(fatal.message.contains(&taken.to_string()), "{fatal}");
    }

    #[test]
    fn the_ipv6_wildcard_takes_ipv4_as_well() {
        let (listener, note) = listen(address("[::]:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(TcpStream::connect(("127.0.0.1", port)).is_ok(), "with IPv6 or without: {note:?}");
    }
}
