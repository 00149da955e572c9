//! Clients' connections: carries bytes between sockets and sessions, a bounded number in each turn, and closes
//! connections in such a way that the last reply arrives.

use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;

use cp_proto::reply::{BadCommandCause, Reply, ReplyStage};
use cp_proto::secret::wipe;
use cpd_core::engine::Engine;
use cpd_core::engine::port::SessionId;
use cpd_core::sabotage::{self, Fault};
use cpd_core::session::Closing;
use cpd_core::time::{Millis, NEVER};
use mio::event::{Event, Source};
use mio::{Interest, Registry, Token};

use super::listeners::{ListenerKind, limit_kernel_buffers};
use super::transport::{Peer, Stream};

/// Bytes read from one connection in one turn.
pub const TURN_READ_BYTES: usize = 8 * 1024;
/// How long a connection is drained after the server's last byte.
pub const LINGER_MS: Millis = 2000;
/// Connections that are drained at a time. For one more, the oldest is dropped.
pub const LINGER_MAX: usize = 256;
/// Refused connections among them; one more is closed at once, without being drained.
pub const LINGER_REFUSED_MAX: usize = 64;
/// Bytes drained of one connection in one turn.
const DRAIN_TURN_BYTES: usize = 64 * 1024;

/// One client's connection.
#[derive(Debug)]
struct ClientConnection {
    stream: Stream,
    peer: Peer,
    /// The session. Its slot is also the index in [`Clients`].
    id: SessionId,
    kind: ListenerKind,
    /// There may be bytes to read, or the end of input.
    readable: bool,
    /// The peer has shut down its sending side; bytes that it sent before may still be unread.
    read_closed: bool,
    /// The end of input was read.
    end_read: bool,
    /// Urgent data has come: a read stops at its mark, so a short read does not mean that the socket is empty.
    urgent: bool,
    /// It is in `turns`.
    turn_queued: bool,
}

/// A connection without a session, drained until the peer has closed its side.
#[derive(Debug)]
struct Lingering {
    stream: Stream,
    /// When it is dropped at the latest.
    until: Millis,
    /// It never had a session.
    refused: bool,
}

/// All clients' connections.
#[derive(Debug)]
pub struct Clients {
    first_token: usize,
    clients: Vec<Option<ClientConnection>>,
    /// Slots of the clients that wait for their turn to be read.
    turns: VecDeque<u32>,
    lingering: HashMap<usize, Lingering>,
    /// Numbers of lingering connections, the oldest first, including some that have ended already.
    linger_order: VecDeque<usize>,
    /// The last number given to a lingering connection.
    last_linger_number: usize,
    lingering_refused: usize,
    /// Numbers of lingering connections that have more to drain than the bytes of one turn.
    drain_turns: VecDeque<usize>,
    linger_token: usize,
    scratch: Box<[u8]>,
}

impl Clients {
    /// Sessions get the tokens from `first_token` to below `linger_token`, connections that are drained those above it.
    pub fn new(first_token: usize, linger_token: usize) -> Clients {
        Clients {
            first_token,
            clients: Vec::new(),
            turns: VecDeque::new(),
            lingering: HashMap::new(),
            linger_order: VecDeque::new(),
            last_linger_number: 0,
            lingering_refused: 0,
            drain_turns: VecDeque::new(),
            linger_token,
            scratch: vec![0; TURN_READ_BYTES].into_boxed_slice(),
        }
    }

    /// Adds a connection that was accepted. Over a limit it is answered with 500 and closed.
    ///
    /// # Errors
    /// The kernel's, when the socket cannot be registered.
    pub fn add(
        &mut self,
        stream: Stream,
        peer: Peer,
        kind: ListenerKind,
        engine: &mut Engine,
        registry: &Registry,
        now: Millis,
    ) -> io::Result<()> {
        let Ok(id) = engine.open(peer.origin(), kind.dialect(), now) else {
            let (mut stream, mut reply) = (stream, Vec::new());
            Reply::BadCommand(ReplyStage::Idle, BadCommandCause::TooManyConnections).write(false, &mut reply);
            // A new connection has room for one line. If it does not, the peer learns from the end alone that it was
            // refused.
            let _ = stream.write(&reply);
            if self.lingering_refused < LINGER_REFUSED_MAX {
                self.linger(stream, true, registry, now);
            }
            return Ok(());
        };
        self.register_client(stream, peer, id, kind, engine, registry, now)
    }

    /// Registers the socket of a session, and gives it its first turn.
    #[allow(clippy::too_many_arguments, reason = "each is a different thing, and both callers have them all")]
    fn register_client(
        &mut self,
        mut stream: Stream,
        peer: Peer,
        id: SessionId,
        kind: ListenerKind,
        engine: &mut Engine,
        registry: &Registry,
        now: Millis,
    ) -> io::Result<()> {
        // The listener has these bounds already, but a connection that is older than that did not inherit them.
        let _ = limit_kernel_buffers(&stream);
        let token = Token(self.first_token + id.slot as usize);
        if let Err(error) =
            stream.register(registry, token, Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY)
        {
            engine.close(id, now);
            return Err(error);
        }
        let client = ClientConnection {
            stream,
            peer,
            id,
            kind,
            readable: true,
            read_closed: false,
            end_read: false,
            urgent: false,
            turn_queued: false,
        };
        let slot = id.slot as usize;
        if self.clients.len() <= slot {
            self.clients.resize_with(slot + 1, || None);
        }
        if let Some(entry) = self.clients.get_mut(slot) {
            *entry = Some(client);
        }
        self.queue_turn(id.slot);
        Ok(())
    }

    /// Adds a connection that a predecessor handed over, with its resumed session.
    ///
    /// # Errors
    /// The kernel's, when the socket cannot be registered.
    pub fn adopt(
        &mut self,
        stream: Stream,
        peer: Peer,
        id: SessionId,
        engine: &mut Engine,
        registry: &Registry,
        now: Millis,
    ) -> io::Result<()> {
        let kind = ListenerKind::of(engine.dialect(id));
        self.register_client(stream, peer, id, kind, engine, registry, now)
    }

    /// Gives a client's connection away without shutting it down. `None` if it is gone or cannot be deregistered.
    pub fn release(&mut self, id: SessionId, registry: &Registry) -> Option<Stream> {
        let entry = self.clients.get_mut(id.slot as usize)?;
        let mut client = entry.take_if(|client| client.id == id)?;
        registry.deregister(&mut client.stream).ok()?;
        Some(client.stream)
    }

    /// The client of a session, and the kind of listener that it came to. `None` if the connection is gone.
    pub fn peer_of(&self, id: SessionId) -> Option<(Peer, ListenerKind)> {
        let client = self.clients.get(id.slot as usize)?.as_ref().filter(|c| c.id == id)?;
        Some((client.peer, client.kind))
    }

    /// Handles an event of a client's socket or of one that is drained.
    pub fn handle_event(&mut self, event: &Event, engine: &mut Engine, registry: &Registry, now: Millis) {
        let token = event.token().0;
        if token >= self.linger_token {
            return self.drain(token - self.linger_token);
        }
        let slot = token - self.first_token;
        let Some(Some(client)) = self.clients.get_mut(slot) else {
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
            self.queue_turn(id.slot);
        }
        if event.is_writable() && !engine.output(id).is_empty() {
            self.flush(id, engine, registry, now);
        }
    }

    /// Whether connections wait for their turn.
    pub fn has_turns(&self) -> bool {
        !self.turns.is_empty() || !self.drain_turns.is_empty()
    }

    /// Gives one turn to each connection that waits for it.
    pub fn take_turns(&mut self, engine: &mut Engine, now: Millis) {
        for _ in 0..self.turns.len() {
            let Some(slot) = self.turns.pop_front() else {
                return;
            };
            if self.read(slot, engine, now) {
                self.queue_turn(slot);
            }
        }
        for _ in 0..self.drain_turns.len() {
            if let Some(number) = self.drain_turns.pop_front() {
                self.drain(number);
            }
        }
    }

    /// Sends the session's output, and closes the connection if the session has ended.
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
        match engine.next_close_step(id) {
            Closing::Now => self.drop_client(id, engine, now),
            Closing::Flush => self.close_gracefully(id, engine, registry, now),
            Closing::Open | Closing::Stopping | Closing::Paused => {
                engine.arm(id);
                if client.readable && engine.wants_input(id) {
                    self.queue_turn(id.slot);
                }
            }
        }
    }

    /// Closes every remaining connection at once.
    pub fn drop_all(&mut self, engine: &mut Engine, now: Millis) {
        let all: Vec<SessionId> = self.clients.iter().flatten().map(|c| c.id).collect();
        for id in all {
            self.drop_client(id, engine, now);
        }
        self.lingering.clear();
        self.linger_order.clear();
        self.lingering_refused = 0;
    }

    /// How many connections are being drained.
    pub fn lingering(&self) -> usize {
        self.lingering.len()
    }

    /// When the next connection is dropped that is being drained.
    pub fn next_deadline(&self) -> Millis {
        self.linger_order.front().and_then(|number| self.lingering.get(number)).map_or(NEVER, |l| l.until)
    }

    /// Drops connections that have been drained for long enough.
    pub fn expire(&mut self, now: Millis) {
        while let Some(number) = self.linger_order.front().copied() {
            if self.lingering.get(&number).is_some_and(|l| l.until > now) {
                return;
            }
            self.linger_order.pop_front();
            self.drop_lingering(number);
        }
    }

    fn queue_turn(&mut self, slot: u32) {
        if let Some(Some(client)) = self.clients.get_mut(slot as usize)
            && !client.turn_queued
        {
            client.turn_queued = true;
            self.turns.push_back(slot);
        }
    }

    /// Reads once. Returns whether there may be more to read at once.
    fn read(&mut self, slot: u32, engine: &mut Engine, now: Millis) -> bool {
        let Some(Some(client)) = self.clients.get_mut(slot as usize) else {
            return false;
        };
        client.turn_queued = false;
        let id = client.id;
        if !client.readable || client.end_read || !engine.wants_input(id) {
            return false;
        }
        match client.stream.read(&mut self.scratch) {
            Ok(0) => {
                client.end_read = true;
                client.readable = false;
                engine.end_of_input(id, now);
                false
            }
            Ok(count) => {
                // A short read means that the socket is empty; further bytes will bring a new event.
                client.readable = count == self.scratch.len() || client.read_closed || client.urgent;
                let more = client.readable;
                let bytes = self.scratch.get_mut(..count).unwrap_or_default();
                engine.receive(id, bytes, now);
                // It may hold a password.
                if !sabotage::is_ordered(Fault::ForgottenWipe) {
                    wipe(bytes);
                }
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

    /// Ends a connection whose output has been sent: shuts down the sending side, then reads and discards input for a
    /// while, so that no reset overtakes the last reply.
    fn close_gracefully(&mut self, id: SessionId, engine: &mut Engine, registry: &Registry, now: Millis) {
        engine.close(id, now);
        if let Some(client) = self.clients.get_mut(id.slot as usize).and_then(Option::take) {
            if client.end_read {
                let _ = client.stream.shutdown(Shutdown::Both);
            } else {
                self.linger(client.stream, false, registry, now);
            }
        }
    }

    fn linger(&mut self, mut stream: Stream, refused: bool, registry: &Registry, now: Millis) {
        if stream.shutdown(Shutdown::Write).is_err() {
            return;
        }
        while self.lingering.len() >= LINGER_MAX {
            let Some(oldest) = self.linger_order.pop_front() else {
                return;
            };
            self.drop_lingering(oldest);
        }
        self.last_linger_number += 1;
        let number = self.last_linger_number;
        let token = Token(self.linger_token + number);
        // A refused connection has not been registered before.
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
                return self.drain_turns.push_back(number);
            }
            match lingering.stream.read(&mut self.scratch) {
                Ok(count) if count > 0 => {
                    drained += count;
                    // It may hold a password.
                    wipe(self.scratch.get_mut(..count).unwrap_or_default());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Ok(_) | Err(_) => break,
            }
        }
        self.drop_lingering(number);
        // Only the head is pruned: an entry that has ended stays behind a live one no longer than that one lives.
        while self.linger_order.front().is_some_and(|first| !self.lingering.contains_key(first)) {
            self.linger_order.pop_front();
        }
    }

    fn drop_lingering(&mut self, number: usize) {
        if self.lingering.remove(&number).is_some_and(|l| l.refused) {
            self.lingering_refused -= 1;
        }
    }

    fn drop_client(&mut self, id: SessionId, engine: &mut Engine, now: Millis) {
        engine.close(id, now);
        if let Some(entry) = self.clients.get_mut(id.slot as usize)
            && entry.as_ref().is_some_and(|c| c.id == id)
            && let Some(client) = entry.take()
        {
            // Closing the descriptor alone would not end the connection if somebody else holds a duplicate of it.
            let _ = client.stream.shutdown(Shutdown::Both);
        }
    }
}
