//! Clients' connections: bytes between sockets and sessions, one bounded turn each, and the orderly end.

use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};

use mio::event::{Event, Source};
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use super::listeners::bound_buffers;
use crate::control::frame::wipe;
use crate::engine::Engine;
use crate::engine::port::{Origin, SessionId};
use crate::proto::dfa::Dialect;
use crate::proto::reply::{Reply, Stage, Why};
use crate::proto::session::{Closing, NEVER};
use crate::proto::types::Millis;

/// Bytes read from one connection in one turn.
pub const TURN_READ_BYTES: usize = 8 * 1024;
/// How long a connection is drained after the server's last byte.
pub const LINGER_MS: Millis = 2000;
/// Connections drained at once; beyond, the oldest is dropped.
pub const LINGER_MAX: usize = 256;
/// Of them those that were refused; beyond, they are dropped at once. They do not displace those that had a session.
pub const LINGER_REFUSED_MAX: usize = 64;
/// Bytes drained of one connection in one turn.
const DRAIN_TURN_BYTES: usize = 64 * 1024;

/// One client.
#[derive(Debug)]
struct Client {
    stream: TcpStream,
    peer: SocketAddr,
    id: SessionId,
    dialect: Dialect,
    /// There may be something to read, or the end.
    readable: bool,
    /// The peer has shut down its sending side; there may be bytes before that.
    read_closed: bool,
    /// The end was read.
    ended: bool,
    /// Urgent data came: a read stops at its mark, and less than asked for does not mean that the socket is empty.
    urgent: bool,
    /// In the list of those whose turn comes.
    queued: bool,
}

/// A connection without a session, until the peer has seen the end.
#[derive(Debug)]
struct Lingering {
    stream: TcpStream,
    until: Millis,
    refused: bool,
}

/// All clients' connections.
#[derive(Debug)]
pub struct Clients {
    first_token: usize,
    clients: Vec<Option<Client>>,
    turns: VecDeque<u32>,
    lingering: HashMap<usize, Lingering>,
    /// Numbers in the order of their ends, those included that have ended early.
    linger_order: VecDeque<usize>,
    linger_numbers: usize,
    lingering_refused: usize,
    /// Numbers of those that had more than one turn's bytes.
    drains: VecDeque<usize>,
    linger_token: usize,
    scratch: Box<[u8]>,
}

impl Clients {
    /// Sessions have tokens from `first_token` to below `linger_token`, connections being drained from there on.
    pub fn new(first_token: usize, linger_token: usize) -> Clients {
        Clients {
            first_token,
            clients: Vec::new(),
            turns: VecDeque::new(),
            lingering: HashMap::new(),
            linger_order: VecDeque::new(),
            linger_numbers: 0,
            lingering_refused: 0,
            drains: VecDeque::new(),
            linger_token,
            scratch: vec![0; TURN_READ_BYTES].into_boxed_slice(),
        }
    }

    /// A connection was accepted. Over a limit it is told 500 and closed.
    ///
    /// # Errors
    /// The kernel's, when it cannot be watched.
    pub fn add(
        &mut self,
        stream: TcpStream,
        peer: SocketAddr,
        dialect: Dialect,
        engine: &mut Engine,
        registry: &Registry,
        now: Millis,
    ) -> io::Result<()> {
        let Ok(id) = engine.open(Origin::of(peer.ip()), dialect, now) else {
            let (mut stream, mut reply) = (stream, Vec::new());
            Reply::BadCommand(Stage::Idle, Why::Crowded).write(false, &mut reply);
            // A fresh connection has room for one line; if not, the peer learns it from the end alone.
            let _ = stream.write(&reply);
            if self.lingering_refused < LINGER_REFUSED_MAX {
                self.linger(stream, true, registry, now);
            }
            return Ok(());
        };
        self.watch(stream, peer, id, dialect, engine, registry, now)
    }

    #[allow(clippy::too_many_arguments, reason = "each is a different thing, and both callers have them all")]
    fn watch(
        &mut self,
        mut stream: TcpStream,
        peer: SocketAddr,
        id: SessionId,
        dialect: Dialect,
        engine: &mut Engine,
        registry: &Registry,
        now: Millis,
    ) -> io::Result<()> {
        // Its listener has them already, but not from the beginning: it may be older than this process, as may the connection.
        let _ = bound_buffers(&stream);
        let token = Token(self.first_token + id.slot as usize);
        if let Err(error) =
            stream.register(registry, token, Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY)
        {
            engine.close(id, now);
            return Err(error);
        }
        let client = Client {
            stream,
            peer,
            id,
            dialect,
            readable: true,
            read_closed: false,
            ended: false,
            urgent: false,
            queued: false,
        };
        let place = id.slot as usize;
        if self.clients.len() <= place {
            self.clients.resize_with(place + 1, || None);
        }
        if let Some(slot) = self.clients.get_mut(place) {
            *slot = Some(client);
        }
        self.queue(id.slot);
        Ok(())
    }

    /// A connection that a predecessor left, with the session that was thawed for it.
    ///
    /// # Errors
    /// The kernel's, when it cannot be watched.
    pub fn adopt(
        &mut self,
        stream: TcpStream,
        peer: SocketAddr,
        id: SessionId,
        engine: &mut Engine,
        registry: &Registry,
        now: Millis,
    ) -> io::Result<()> {
        let dialect = engine.dialect(id);
        self.watch(stream, peer, id, dialect, engine, registry, now)
    }

    /// Gives a client's connection away. Nothing is shut down.
    pub fn release(&mut self, id: SessionId, registry: &Registry) -> Option<TcpStream> {
        let place = self.clients.get_mut(id.slot as usize)?;
        let mut client = place.take_if(|client| client.id == id)?;
        registry.deregister(&mut client.stream).ok()?;
        Some(client.stream)
    }

    /// Where a session's client is, and what it speaks.
    pub fn peer_of(&self, id: SessionId) -> Option<(SocketAddr, Dialect)> {
        let client = self.clients.get(id.slot as usize)?.as_ref().filter(|c| c.id == id)?;
        Some((client.peer, client.dialect))
    }

    /// The kernel says that something can be done.
    pub fn ready(&mut self, event: &Event, engine: &mut Engine, registry: &Registry, now: Millis) {
        let token = event.token().0;
        if token >= self.linger_token {
            return self.drain(token - self.linger_token);
        }
        let place = token - self.first_token;
        let Some(Some(client)) = self.clients.get_mut(place) else {
            return;
        };
        let id = client.id;
        if event.is_error() || event.is_write_closed() {
            return self.drop_client(id, engine, now);
        }
        if event.is_readable() || event.is_read_closed() || event.is_priority() {
            client.readable = true;
            client.read_closed |= event.is_read_closed();
            client.urgent |= event.is_priority();
            self.queue(id.slot);
        }
        if event.is_writable() && !engine.output(id).is_empty() {
            self.flush(id, engine, registry, now);
        }
    }

    /// Whether connections wait for their turn.
    pub fn has_turns(&self) -> bool {
        !self.turns.is_empty() || !self.drains.is_empty()
    }

    /// Gives each connection that waits for it one turn.
    pub fn take_turns(&mut self, engine: &mut Engine, now: Millis) {
        for _ in 0..self.turns.len() {
            let Some(place) = self.turns.pop_front() else {
                return;
            };
            if self.read(place, engine, now) {
                self.queue(place);
            }
        }
        for _ in 0..self.drains.len() {
            if let Some(number) = self.drains.pop_front() {
                self.drain(number);
            }
        }
    }

    /// Sends what the session has to say and carries out its end.
    pub fn flush(&mut self, id: SessionId, engine: &mut Engine, registry: &Registry, now: Millis) {
        let Some(client) = self.clients.get_mut(id.slot as usize).and_then(Option::as_mut).filter(|c| c.id == id)
        else {
            return engine.close(id, now);
        };
        loop {
            let output = engine.output(id);
            if output.is_empty() {
                break;
            }
            let length = output.len();
            match client.stream.write(output) {
                Ok(count) => {
                    engine.sent(id, count, now);
                    if count < length {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return self.drop_client(id, engine, now),
            }
        }
        match engine.closing(id) {
            Closing::Now => self.drop_client(id, engine, now),
            Closing::Flush => self.end(id, engine, registry, now),
            Closing::Open | Closing::Stopping | Closing::Paused => {
                engine.arm(id);
                if client.readable && engine.wants_input(id) {
                    self.queue(id.slot);
                }
            }
        }
    }

    /// Ends every connection that is left, at once.
    pub fn drop_all(&mut self, engine: &mut Engine, now: Millis) {
        let all: Vec<SessionId> = self.clients.iter().flatten().map(|c| c.id).collect();
        for id in all {
            self.drop_client(id, engine, now);
        }
        self.lingering.clear();
        self.linger_order.clear();
        self.lingering_refused = 0;
    }

    /// Connections being drained.
    pub fn lingering(&self) -> usize {
        self.lingering.len()
    }

    /// When the next connection has been drained long enough.
    pub fn next_deadline(&self) -> Millis {
        self.linger_order.front().and_then(|number| self.lingering.get(number)).map_or(NEVER, |l| l.until)
    }

    /// Drops connections that were drained long enough.
    pub fn expire(&mut self, now: Millis) {
        while let Some(number) = self.linger_order.front().copied() {
            if self.lingering.get(&number).is_some_and(|l| l.until > now) {
                return;
            }
            self.linger_order.pop_front();
            self.forget(number);
        }
    }

    fn queue(&mut self, place: u32) {
        if let Some(Some(client)) = self.clients.get_mut(place as usize)
            && !client.queued
        {
            client.queued = true;
            self.turns.push_back(place);
        }
    }

    /// One read. Whether there may be more to read at once.
    fn read(&mut self, place: u32, engine: &mut Engine, now: Millis) -> bool {
        let Some(Some(client)) = self.clients.get_mut(place as usize) else {
            return false;
        };
        client.queued = false;
        let id = client.id;
        if !client.readable || client.ended || !engine.wants_input(id) {
            return false;
        }
        match client.stream.read(&mut self.scratch) {
            Ok(0) => {
                client.ended = true;
                client.readable = false;
                engine.end_of_input(id, now);
                false
            }
            Ok(count) => {
                // Less than asked for means that the socket is empty; the next bytes bring a new event.
                client.readable = count == self.scratch.len() || client.read_closed || client.urgent;
                let more = client.readable;
                let bytes = self.scratch.get_mut(..count).unwrap_or_default();
                engine.receive(id, bytes, now);
                // It may hold a password.
                wipe(bytes);
                more && engine.wants_input(id)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                client.readable = false;
                false
            }
            Err(_) => {
                self.drop_client(id, engine, now);
                false
            }
        }
    }

    /// Nothing more will be said: the end is sent, and what still comes is read and thrown away for a while, so that no
    /// reset overtakes the last reply.
    fn end(&mut self, id: SessionId, engine: &mut Engine, registry: &Registry, now: Millis) {
        engine.close(id, now);
        if let Some(client) = self.clients.get_mut(id.slot as usize).and_then(Option::take) {
            if client.ended {
                let _ = client.stream.shutdown(Shutdown::Both);
            } else {
                self.linger(client.stream, false, registry, now);
            }
        }
    }

    fn linger(&mut self, mut stream: TcpStream, refused: bool, registry: &Registry, now: Millis) {
        if stream.shutdown(Shutdown::Write).is_err() {
            return;
        }
        while self.lingering.len() >= LINGER_MAX {
            let Some(oldest) = self.linger_order.pop_front() else {
                return;
            };
            self.forget(oldest);
        }
        self.linger_numbers += 1;
        let number = self.linger_numbers;
        let token = Token(self.linger_token + number);
        // A refused connection was not registered before.
        let watched = if refused {
            stream.register(registry, token, Interest::READABLE)
        } else {
            stream.reregister(registry, token, Interest::READABLE)
        };
        if watched.is_ok() {
            self.lingering.insert(number, Lingering { stream, until: now + LINGER_MS, refused });
            self.linger_order.push_back(number);
            self.lingering_refused += usize::from(refused);
            self.drain(number);
        }
    }

    fn drain(&mut self, number: usize) {
        let Some(lingering) = self.lingering.get_mut(&number) else {
            return;
        };
        let mut drained = 0;
        loop {
            if drained >= DRAIN_TURN_BYTES {
                return self.drains.push_back(number);
            }
            match lingering.stream.read(&mut self.scratch) {
                Ok(count) if count > 0 => drained += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Ok(_) | Err(_) => break,
            }
        }
        self.forget(number);
        // The order is tidied where it begins; what lies behind a living one is bounded by the time that one has.
        while self.linger_order.front().is_some_and(|first| !self.lingering.contains_key(first)) {
            self.linger_order.pop_front();
        }
    }

    fn forget(&mut self, number: usize) {
        if self.lingering.remove(&number).is_some_and(|l| l.refused) {
            self.lingering_refused -= 1;
        }
    }

    fn drop_client(&mut self, id: SessionId, engine: &mut Engine, now: Millis) {
        engine.close(id, now);
        if let Some(place) = self.clients.get_mut(id.slot as usize)
            && place.as_ref().is_some_and(|c| c.id == id)
            && let Some(client) = place.take()
        {
            // Not only dropped: a duplicate of the descriptor may be held elsewhere.
            let _ = client.stream.shutdown(Shutdown::Both);
        }
    }
}
