//! Whether anybody learns who exists (docs/protocol.md section 7): attempts to log in that fail for every cause there
//! is, each from an address of its own, against a real cpd.

pub mod bytes;
pub mod statistics;
pub mod timing;
pub mod together;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt};

use crate::operator::Operator;
use crate::running::{Daemon, PATIENCE, Setup};

/// Of every existing user.
pub const PASSWORD: &str = "hunter2";

/// Why a login fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    Unknown,
    Wrong,
    /// From an address that this user has logged in from.
    WrongAtHome,
    /// With the right password.
    Locked,
    /// Too many failures for the name; with the right password.
    ThrottledName,
    /// Too many failures of the address; with the right password.
    ThrottledAddress,
}

impl Cause {
    pub const ALL: [Cause; 6] = [
        Cause::Unknown,
        Cause::Wrong,
        Cause::WrongAtHome,
        Cause::Locked,
        Cause::ThrottledName,
        Cause::ThrottledAddress,
    ];

    pub fn is_throttled(self) -> bool {
        matches!(self, Cause::ThrottledName | Cause::ThrottledAddress)
    }
}

/// Who tries to log in from where, and with what.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub from: Ipv4Addr,
    pub name: String,
    pub password: &'static str,
}

/// A daemon with everybody whom the attempts are about.
pub struct House {
    pub daemon: Daemon,
    pub operator: Operator,
    addresses: u32,
    names: u32,
    failures_max: u32,
}

impl House {
    /// `failures_max`: how many failures a minute are not too many. `change` has the last word on how it is started.
    #[track_caller]
    pub fn new(failures_max: u32, memory_kib: u32, change: impl FnOnce(Setup) -> Setup) -> House {
        House::with(failures_max, memory_kib, "", change)
    }

    /// The same with more settings.
    #[track_caller]
    pub fn with(failures_max: u32, memory_kib: u32, more: &str, change: impl FnOnce(Setup) -> Setup) -> House {
        House::in_folder(tempfile::tempdir().expect("a folder"), failures_max, memory_kib, more, change)
    }

    /// The same with the same store, when hashes cost something else.
    #[track_caller]
    pub fn again(self, memory_kib: u32, change: impl FnOnce(Setup) -> Setup) -> House {
        let House { daemon, operator, addresses, names, failures_max } = self;
        drop(operator);
        let house = House::in_folder(daemon.stop(), failures_max, memory_kib, "", change);
        House { addresses, names, ..house }
    }

    #[track_caller]
    fn in_folder(
        folder: tempfile::TempDir,
        failures_max: u32,
        memory_kib: u32,
        more: &str,
        change: impl FnOnce(Setup) -> Setup,
    ) -> House {
        let threads = if more.contains("auth.threads") { "" } else { "auth.threads = 1\n" };
        let configuration = format!(
            "auth.memory_kib = {memory_kib}\nauth.iterations = 1\n{threads}limits.failures_per_user = {failures_max}\n\
             limits.failures_per_address = {failures_max}\n{more}"
        );
        let daemon = change(Setup::with_configuration(configuration).in_folder(folder)).start();
        let operator = Operator::connect(&daemon.socket());
        House { daemon, operator, addresses: 0, names: 0, failures_max }
    }

    /// An address that nothing came from yet. Not one of those on which daemons of other tests listen.
    pub fn fresh_address(&mut self) -> Ipv4Addr {
        self.addresses += 1;
        let [_, a, b, c] = (0x00ff_0000 - self.addresses).to_be_bytes();
        Ipv4Addr::new(127, a, b, c)
    }

    /// A name that nobody has, and nobody tried; of the same length as everybody's.
    pub fn fresh_name(&mut self) -> String {
        self.names += 1;
        format!("u{:06}", self.names)
    }

    /// A user.
    pub fn fresh_user(&mut self) -> String {
        let name = self.fresh_name();
        self.operator.add_user(&name, PASSWORD);
        name
    }

    /// A user who cannot log in.
    pub fn fresh_locked_user(&mut self) -> String {
        let name = self.fresh_user();
        self.operator.does(&format!(r#"{{"v":1,"cmd":"user.lock","name":"{name}"}}"#));
        name
    }

    /// An attempt that fails for this cause, as do those after it, up to the number that is too many.
    #[track_caller]
    pub fn prepare(&mut self, cause: Cause) -> Attempt {
        let mut from = self.fresh_address();
        let (name, password) = match cause {
            Cause::Unknown => (self.fresh_name(), PASSWORD),
            Cause::Wrong => (self.fresh_user(), "wrong12"),
            Cause::WrongAtHome => {
                let name = self.fresh_user();
                assert_eq!(self.attempt(from, &name, PASSWORD), "230 user authenticated successfully\r\n");
                (name, "wrong12")
            }
            Cause::Locked => (self.fresh_locked_user(), PASSWORD),
            Cause::ThrottledName => {
                let name = self.fresh_user();
                for _ in 0..self.failures_max {
                    let other = self.fresh_address();
                    self.attempt(other, &name, "wrong12");
                }
                (name, PASSWORD)
            }
            Cause::ThrottledAddress => {
                from = self.fresh_address();
                for _ in 0..self.failures_max {
                    let other = self.fresh_name();
                    self.attempt(from, &other, "wrong12");
                }
                (self.fresh_user(), PASSWORD)
            }
        };
        Attempt { from, name, password }
    }

    /// One attempt over a connection of its own; what was answered to the password.
    #[track_caller]
    pub fn attempt(&self, from: Ipv4Addr, name: &str, password: &str) -> String {
        let mut stream = connect_from(from, self.daemon.address());
        stream.write_all(format!("USER {name}\r\nPASS {password}\r\n").as_bytes()).expect("sent");
        assert!(line(&mut stream).starts_with("220 "));
        line(&mut stream)
    }

    /// How many logins were throttled so far.
    pub fn throttled(&self) -> u64 {
        // Not over our own connection, which may have been idle for too long.
        Operator::connect(&self.daemon.socket()).counter("logins_throttled")
    }
}

/// A connection from a loopback address of choice.
#[track_caller]
pub fn connect_from(from: Ipv4Addr, to: SocketAddrV4) -> TcpStream {
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    setsockopt(&fd, sockopt::ReuseAddr, &true).expect("set");
    bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(from, 0))).unwrap_or_else(|e| panic!("{from}: {e}"));
    connect(fd.as_raw_fd(), &SockaddrIn::from(to)).unwrap_or_else(|e| panic!("{from} to {to}: {e}"));
    let stream = TcpStream::from(fd);
    stream.set_nodelay(true).expect("set");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream
}

/// The next line with its end, byte by byte: nothing behind it is taken.
#[track_caller]
pub fn line(stream: &mut TcpStream) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).expect("a line"), 1, "the end after {line:?}");
        line.extend(byte);
    }
    String::from_utf8(line).expect("text")
}
