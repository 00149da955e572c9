//! What honest logins wait for while thousands of addresses flood cpd with wrong passwords: one by an owner from an
//! address that has logged in before, one from an address that is new, again and again.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt};

use crate::lab::Lab;
use crate::login;
use crate::server::{Hashing, PASSWORD, Server, user_name};
use crate::table::{Unit, shown};
use crate::targets;

/// Addresses that flood, each in an IPv4 /24 of its own, and what all of them send in a second.
const ATTACKERS: usize = 6000;
const ATTACKERS_QUICK: usize = 60;
const BYTES_PER_SECOND: usize = 5000;
/// Bytes of an attempt: `USER` and `PASS` with names of this flood and their ends.
const ATTEMPT_BYTES: usize = 26;
/// Honest attempts of each kind, and the time between them.
const TRIES: usize = 200;
const TRIES_QUICK: usize = 4;
const EVERY: Duration = Duration::from_millis(500);
/// From an attempt on, after which it counts as one that was never answered.
const GIVEN_UP: Duration = Duration::from_secs(90);
const TURN: Duration = Duration::from_millis(2);
const EVENTS_MAX: usize = 1024;
const OWNER: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// What honest logins waited for, sorted; that of an attempt that was ended or given up is the time until then.
pub struct Waits {
    pub owner: Vec<Duration>,
    pub newcomer: Vec<Duration>,
    /// Attempts that were not let in.
    refused: usize,
}

impl Waits {
    /// Of a hundred all but one were in by then.
    pub fn p99(sorted: &[Duration]) -> f64 {
        let index = (sorted.len() * 99 / 100).saturating_sub(1);
        sorted.get(index).map_or(f64::NAN, Duration::as_secs_f64)
    }
}

pub fn run(lab: &mut Lab) -> Result<(), String> {
    let (mut owners, mut newcomers, mut notes) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..lab.options.rounds {
        let cpd = lab.cpd(Hashing::Default)?;
        let waits = waits(lab, &cpd)?;
        owners.push(Waits::p99(&waits.owner));
        newcomers.push(Waits::p99(&waits.newcomer));
        notes.push(waits.told());
    }
    let note = notes.join("; ");
    lab.value_row("login under a flood, p99 of an owner", Unit::Seconds, owners, targets::FLOOD_OWNER, &note);
    lab.value_row("login under a flood, p99 of a new address", Unit::Seconds, newcomers, targets::FLOOD_NEWCOMER, "");
    Ok(())
}

impl Waits {
    pub fn told(&self) -> String {
        let [owner, newcomer] = [&self.owner, &self.newcomer].map(|waits| {
            let at = |index: usize| waits.get(index).map_or(f64::NAN, Duration::as_secs_f64);
            format!(
                "p50 {}, worst {}",
                shown(at(waits.len() / 2), Unit::Seconds),
                shown(at(waits.len().saturating_sub(1)), Unit::Seconds)
            )
        });
        format!("{} tries each, {} not let in; owner {owner}; new address {newcomer}", self.owner.len(), self.refused)
    }
}

/// Floods a server and tries to log in meanwhile, from the moment on at which each address of the flood has come once.
pub fn waits(lab: &Lab, server: &Server) -> Result<Waits, String> {
    // The owner's address is known from here on.
    drop(login::log_in(server.address, 0)?);
    let attackers = lab.options.size(ATTACKERS, ATTACKERS_QUICK);
    let tries = lab.options.size(TRIES, TRIES_QUICK);
    let mut flood = Flood::new(server.address, attackers)?;
    let first_wave = flood.pace * attackers as u32;
    let begun = Instant::now();
    let mut tried = 0;
    while tried < tries || flood.honest.iter().any(|try_| try_.waited.is_none()) {
        flood.attack(begun.elapsed())?;
        if tried < tries && begun.elapsed() >= first_wave + EVERY * (tried as u32) {
            flood.try_to_log_in(OWNER)?;
            flood.try_to_log_in(newcomer(tried))?;
            tried += 1;
        }
        flood.turn()?;
    }
    Ok(flood.waits())
}

/// The address of an attacker.
fn attacker(number: usize) -> Ipv4Addr {
    address(64, number)
}

fn newcomer(number: usize) -> Ipv4Addr {
    address(192, number)
}

/// The first address of a loopback /24 of that number.
fn address(from: u8, number: usize) -> Ipv4Addr {
    let [.., high, low] = number.to_be_bytes();
    Ipv4Addr::new(127, from.saturating_add(high), low, 1)
}

/// One connection of the flood, or of an honest client.
struct Peer {
    stream: TcpStream,
    unsent: Vec<u8>,
    /// An attempt is not answered yet.
    waits: bool,
    tail: Vec<u8>,
}

struct Try {
    from: Ipv4Addr,
    peer: Option<Peer>,
    begun: Instant,
    waited: Option<Duration>,
    let_in: bool,
}

struct Flood {
    server: SocketAddr,
    poll: Poll,
    attackers: Vec<Option<Peer>>,
    honest: Vec<Try>,
    /// Between two attempts of the flood.
    pace: Duration,
    attempts: u32,
}

impl Flood {
    fn new(server: SocketAddr, attackers: usize) -> Result<Flood, String> {
        let poll = Poll::new().map_err(|e| format!("epoll: {e}"))?;
        let pace = Duration::from_secs(1) / (BYTES_PER_SECOND / ATTEMPT_BYTES) as u32;
        let attackers = (0..attackers).map(|_| None).collect();
        Ok(Flood { server, poll, attackers, honest: Vec::new(), pace, attempts: 0 })
    }

    /// Sends what the flood owes at this time. An attacker who still waits for an answer passes its turn.
    fn attack(&mut self, elapsed: Duration) -> Result<(), String> {
        while self.pace * self.attempts < elapsed {
            let number = self.attempts as usize % self.attackers.len();
            self.attempts += 1;
            if self.attackers[number].is_none() {
                self.attackers[number] = Some(self.connect(attacker(number), number)?);
            }
            if let Some(peer) = self.attackers[number].as_mut().filter(|peer| !peer.waits) {
                peer.begin(&format!("USERx{number:05}\r\nPASSwrong-{number:04}\r\n"));
            }
        }
        Ok(())
    }

    fn try_to_log_in(&mut self, from: Ipv4Addr) -> Result<(), String> {
        let token = self.attackers.len() + self.honest.len();
        let begun = Instant::now();
        let mut peer = self.connect(from, token)?;
        peer.begin(&format!("USER{}\r\nPASS{PASSWORD}\r\n", user_name(0)));
        self.honest.push(Try { from, peer: Some(peer), begun, waited: None, let_in: false });
        Ok(())
    }

    fn connect(&self, from: Ipv4Addr, token: usize) -> Result<Peer, String> {
        let mut stream = connecting(from, self.server).map_err(|e| format!("a connection from {from}: {e}"))?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut stream, Token(token), interest).map_err(|e| format!("epoll: {e}"))?;
        Ok(Peer { stream, unsent: Vec::new(), waits: false, tail: Vec::new() })
    }

    /// Takes what has come.
    fn turn(&mut self) -> Result<(), String> {
        let mut events = Events::with_capacity(EVENTS_MAX);
        match self.poll.poll(&mut events, Some(TURN)) {
            Err(e) if e.kind() != ErrorKind::Interrupted => return Err(format!("epoll: {e}")),
            _ => {}
        }
        for event in &events {
            let index = event.token().0;
            if let Some(place) = self.attackers.get_mut(index) {
                if place.as_mut().is_some_and(|peer| peer.react() == Said::End) {
                    *place = None;
                }
            } else if let Some(one) = self.honest.get_mut(index - self.attackers.len()) {
                one.react();
            }
        }
        for one in &mut self.honest {
            if one.waited.is_none() && one.begun.elapsed() > GIVEN_UP {
                one.end(false);
            }
        }
        Ok(())
    }

    fn waits(&self) -> Waits {
        let of = |owner: bool| {
            let mut waits: Vec<Duration> =
                self.honest.iter().filter(|one| (one.from == OWNER) == owner).filter_map(|one| one.waited).collect();
            waits.sort();
            waits
        };
        let refused = self.honest.iter().filter(|one| !one.let_in).count();
        Waits { owner: of(true), newcomer: of(false), refused }
    }
}

impl Try {
    fn react(&mut self) {
        match self.peer.as_mut().map(Peer::react) {
            Some(Said::LetIn) => self.end(true),
            Some(Said::Refused | Said::End) => self.end(false),
            Some(Said::Nothing) | None => {}
        }
    }

    fn end(&mut self, let_in: bool) {
        self.waited = Some(self.begun.elapsed());
        self.let_in = let_in;
        self.peer = None;
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Said {
    Nothing,
    LetIn,
    Refused,
    End,
}

impl Peer {
    fn begin(&mut self, attempt: &str) {
        self.waits = true;
        self.unsent.extend_from_slice(attempt.as_bytes());
        self.send();
    }

    fn send(&mut self) {
        if let Ok(count) = self.stream.write(&self.unsent) {
            self.unsent.drain(..count);
        }
    }

    /// What the server has said to the attempt.
    fn react(&mut self) -> Said {
        if !self.unsent.is_empty() {
            self.send();
        }
        let mut said = Said::Nothing;
        let mut bytes = [0; 512];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return if said == Said::Nothing { Said::End } else { said },
                Ok(count) => self.tail.extend_from_slice(&bytes[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => return said,
                Err(_) => return Said::End,
            }
            while let Some(end) = self.tail.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.tail.drain(..=end).collect();
                if line.starts_with(b"230 ") {
                    said = Said::LetIn;
                } else if line.starts_with(b"565 ") || line.starts_with(b"500 ") {
                    (said, self.waits) = (Said::Refused, false);
                }
            }
        }
    }
}

/// A connection from a loopback address of choice, which may not be there yet.
fn connecting(from: Ipv4Addr, to: SocketAddr) -> Result<TcpStream, Errno> {
    let SocketAddr::V4(to) = to else { return Err(Errno::EAFNOSUPPORT) };
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    setsockopt(&fd, sockopt::IpBindAddressNoPort, &true)?;
    bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(from, 0)))?;
    match connect(fd.as_raw_fd(), &SockaddrIn::from(to)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(TcpStream::from_std(fd.into())),
        Err(error) => Err(error),
    }
}
