//! What carries a client's connection, and who is at its other end. Whoever reads, writes, polls, hands over or logs a
//! connection does it through these two, so that another carrier is an arm here.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cpd_core::engine::port::Origin;
use mio::event::Source;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

/// A connection; non-blocking.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
}

impl Stream {
    /// A connection that a predecessor has handed over, and its peer.
    ///
    /// # Errors
    /// The connection is gone, or is not one.
    pub fn adopt(fd: OwnedFd) -> io::Result<(Stream, Peer)> {
        let stream = std::net::TcpStream::from(fd);
        let peer = Peer::Ip(stream.peer_addr()?);
        stream.set_nonblocking(true)?;
        Ok((Stream::Tcp(TcpStream::from_std(stream)), peer))
    }

    /// Shuts down one side of the connection, or both.
    ///
    /// # Errors
    /// The kernel's: the connection is gone.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.shutdown(how),
        }
    }

    fn source(&mut self) -> &mut dyn Source {
        match self {
            Stream::Tcp(stream) => stream,
        }
    }
}

impl From<Stream> for OwnedFd {
    fn from(stream: Stream) -> OwnedFd {
        match stream {
            Stream::Tcp(stream) => stream.into(),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Tcp(stream) => stream.as_fd(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.flush(),
        }
    }
}

impl Source for Stream {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.source().register(registry, token, interests)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.source().reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.source().deregister(registry)
    }
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    Ip(SocketAddr),
}

impl Peer {
    /// What the engine counts connections and failed logins by.
    pub fn origin(self) -> Origin {
        match self {
            Peer::Ip(address) => Origin::of(address.ip()),
        }
    }

    /// The port, for the log.
    pub fn port(self) -> u16 {
        match self {
            Peer::Ip(address) => address.port(),
        }
    }

    /// The address without its port. An IPv4 address that arrived on an IPv6 socket is written as IPv4; a link-local
    /// address has its zone, without which it is ambiguous.
    pub fn host(self) -> String {
        let Peer::Ip(address) = self;
        match address.ip().to_canonical() {
            IpAddr::V4(v4) => v4.to_string(),
            IpAddr::V6(v6) => match address {
                SocketAddr::V6(address) if address.scope_id() != 0 => format!("{v6}%{}", address.scope_id()),
                SocketAddr::V6(_) | SocketAddr::V4(_) => v6.to_string(),
            },
        }
    }

    /// The address with its port, otherwise as in [`Peer::host`].
    pub fn host_and_port(self) -> String {
        let Peer::Ip(address) = self;
        match address.ip().to_canonical() {
            IpAddr::V4(v4) => format!("{v4}:{}", address.port()),
            IpAddr::V6(_) => format!("[{}]:{}", self.host(), address.port()),
        }
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
            let peer = Peer::Ip(peer.parse().expect("an address"));
            assert_eq!((peer.host().as_str(), peer.host_and_port().as_str()), (host, with_port));
        }
        let mapped = SocketAddrV6::new("::ffff:10.0.0.1".parse().expect("an address"), 1, 0, 7);
        assert_eq!(Peer::Ip(SocketAddr::V6(mapped)).host_and_port(), "10.0.0.1:1");
    }
}
