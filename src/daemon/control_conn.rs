//! The connections of the control socket: from bytes to requests, from answers to bytes. It must never read from a peer
//! whose credentials the kernel did not give, never hold more of a peer than one request and one answer, and never let
//! one user's connections keep another's out, least of all root's.
//!
//! It owns no poll and no clock. Readiness is edge-triggered, so that what is not taken up at once is remembered; as
//! long as there is such, [`Hub::next_deadline`] is 0 and [`Hub::expire`] goes on with it.

mod connection;
mod listener;

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::mem;
use std::ops::Range;

use mio::event::Event;
use mio::net::{UnixListener, UnixStream};
use mio::{Interest, Registry, Token};

use self::connection::{Connection, Turn};
pub use self::connection::{READ_MAX_BYTES, TURN_MAX_STEPS};
use self::listener::{Accepting, Listener, Spare};
use super::logging::Repeated;
use crate::control::frame::wipe;
use crate::control::{ErrorCode, Request, encode_error};
use crate::engine::port::RequestId;
use crate::proto::session::NEVER;
use crate::proto::types::Millis;

/// Control sockets that are listened on.
pub const LISTENERS_MAX: usize = 8;
/// Control connections at a time.
pub const CONNECTIONS_MAX: usize = 64;
/// Of these, the ones that only root may have.
pub const CONNECTIONS_FOR_ROOT: usize = 8;
/// Control connections at a time of one uid.
pub const CONNECTIONS_PER_UID_MAX: usize = 16;
/// Tokens that the hub needs.
pub const TOKENS: usize = LISTENERS_MAX + CONNECTIONS_MAX;
/// Without a complete request. A connection that waits for its answer is not idle.
pub const IDLE_TIMEOUT_MS: Millis = 60_000;
/// Without taking a byte of its answer.
pub const WRITE_TIMEOUT_MS: Millis = 30_000;
/// After an accept that failed, for want of a descriptor for example.
pub const ACCEPT_PAUSE_MS: Millis = 1_000;
/// Accepted from one socket before it is another one's turn.
pub const ACCEPTS_PER_TURN: usize = 16;
/// How long refusals and failures to accept are only counted, once one was told.
pub const QUIET_MS: Millis = 60_000;
/// Events that wait for [`Hub::next_event`]; more are left out, but for those that somebody has to act on.
pub const EVENTS_MAX: usize = 64;

const _: () = assert!(CONNECTIONS_FOR_ROOT < CONNECTIONS_MAX && CONNECTIONS_PER_UID_MAX < CONNECTIONS_MAX);

/// The kernel's word on who is at the other end (SO_PEERCRED), from when it connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer {
    pub uid: u32,
    pub pid: i32,
}

/// A request that is to be answered by [`Hub::answer`].
#[derive(Debug)]
pub struct Incoming {
    pub id: RequestId,
    pub request: Request,
    pub peer: Peer,
}

/// Something to act on, or for the log. Of what may come in floods, the first in [`QUIET_MS`] is told, then its number.
#[derive(Debug)]
pub enum HubEvent {
    /// A connection was refused.
    Refused { peer: Peer, limit: HubLimit },
    /// So many more were refused.
    MoreRefused(u64),
    /// A connection was dropped because the kernel does not say whose it is.
    NoCredentials(io::Error),
    /// Nothing is accepted for [`ACCEPT_PAUSE_MS`].
    AcceptFailed(io::Error),
    /// So many more times accepting failed.
    MoreAcceptsFailed(u64),
    /// The connection that this copy of the store was for is gone: it is to be ended.
    BackupAbandoned(u64),
}

impl fmt::Display for HubEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HubEvent::Refused { peer, limit } => {
                write!(f, "connection refused, uid {}, pid {}: limit of {}", peer.uid, peer.pid, limit.name())
            }
            HubEvent::MoreRefused(count) => write!(f, "{count} more connections refused"),
            HubEvent::NoCredentials(error) => write!(f, "connection dropped, its user is not known: {error}"),
            HubEvent::AcceptFailed(error) => write!(f, "cannot accept, trying again: {error}"),
            HubEvent::MoreAcceptsFailed(count) => write!(f, "accepting failed {count} more times"),
            HubEvent::BackupAbandoned(backup) => write!(f, "backup {backup} abandoned by its connection"),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HubLimit {
    /// [`CONNECTIONS_PER_UID_MAX`]
    PerUid,
    /// [`CONNECTIONS_MAX`], less [`CONNECTIONS_FOR_ROOT`] for others than root.
    All,
}

impl HubLimit {
    /// As the log names it.
    pub fn name(self) -> &'static str {
        match self {
            HubLimit::PerUid => "control connections of one user",
            HubLimit::All => "control connections",
        }
    }

    fn refusal(self) -> Vec<u8> {
        match self {
            HubLimit::PerUid => {
                let message = format!("{CONNECTIONS_PER_UID_MAX} control connections of this user are open");
                encode_error(ErrorCode::TooManyConnections, &message)
            }
            HubLimit::All => encode_error(ErrorCode::Busy, "too many control connections are open: try again"),
        }
    }
}

/// Everything that is connected to the control socket.
#[derive(Debug)]
pub struct Hub {
    first_token: usize,
    listeners: Vec<Listener>,
    spare: Spare,
    slots: Vec<Option<Connection>>,
    /// Slots with something left to do, each at most once.
    runnable: VecDeque<usize>,
    /// At most one for each connection.
    incoming: VecDeque<Incoming>,
    events: VecDeque<HubEvent>,
    refused: Repeated,
    failed: Repeated,
    /// When the numbers of what was not told are looked at.
    settle_at: Millis,
    last_id: u64,
    scratch: Vec<u8>,
    stopping: bool,
}

impl Hub {
    /// Registers the listeners, which must not block. `tokens` begins with those of [`LISTENERS_MAX`] listeners; the
    /// rest is for connections.
    ///
    /// # Errors
    /// More than [`LISTENERS_MAX`] listeners, less than [`TOKENS`] tokens, or what the registry says.
    pub fn new(listeners: Vec<UnixListener>, registry: &Registry, tokens: Range<usize>) -> io::Result<Hub> {
        if listeners.len() > LISTENERS_MAX || tokens.len() < TOKENS {
            let what = format!("{} control sockets, {} tokens", listeners.len(), tokens.len());
            return Err(io::Error::new(ErrorKind::InvalidInput, what));
        }
        let mut registered = Vec::with_capacity(listeners.len());
        for (place, mut socket) in listeners.into_iter().enumerate() {
            registry.register(&mut socket, Token(tokens.start + place), Interest::READABLE)?;
            registered.push(Listener { socket, accepting: Accepting::Blocked });
        }
        Ok(Hub {
            first_token: tokens.start,
            listeners: registered,
            spare: Spare::new(),
            slots: (0..CONNECTIONS_MAX).map(|_| None).collect(),
            runnable: VecDeque::new(),
            incoming: VecDeque::new(),
            events: VecDeque::new(),
            refused: Repeated::new(QUIET_MS),
            failed: Repeated::new(QUIET_MS),
            settle_at: NEVER,
            last_id: 0,
            scratch: vec![0; READ_MAX_BYTES],
            stopping: false,
        })
    }

    /// Takes up an event whose token is one of ours.
    pub fn ready(&mut self, event: &Event, registry: &Registry, now: Millis) {
        let Some(place) = event.token().0.checked_sub(self.first_token) else { return };
        if let Some(listener) = self.listeners.get_mut(place) {
            if listener.accepting == Accepting::Blocked {
                listener.accepting = Accepting::Ready;
                self.accept(place, registry, now);
            }
            return;
        }
        let Some(place) = place.checked_sub(LISTENERS_MAX) else { return };
        let Some(connection) = self.slots.get_mut(place).and_then(Option::as_mut) else { return };
        if (event.is_write_closed() || event.is_error()) && connection.is_hung_up() {
            return self.hang_up(place);
        }
        if event.is_readable() || event.is_read_closed() {
            connection.note_readable();
        }
        self.turn(place, now);
    }

    /// The next request. While there is one, [`Hub::next_deadline`] is 0.
    pub fn next_request(&mut self) -> Option<Incoming> {
        let incoming = self.incoming.pop_front()?;
        if let Request::StoreBackupEnd { backup } = incoming.request {
            // Whichever connection it was for, somebody sees to its end.
            for connection in self.slots.iter_mut().flatten() {
                connection.backup.take_if(|held| *held == backup);
            }
        }
        Some(incoming)
    }

    /// Sends `line` as the answer to the request `id`, if its connection is still there, and goes on reading.
    pub fn answer(&mut self, id: RequestId, line: Vec<u8>, now: Millis) {
        let Some(place) = self.place_of(id) else { return };
        if let Some(connection) = self.slots.get_mut(place).and_then(Option::as_mut) {
            connection.answer(line, now);
            self.turn(place, now);
        }
    }

    /// The request `id` began this backup: its end is the connection's. To be called before the request is answered.
    pub fn holds_backup(&mut self, id: RequestId, backup: u64) {
        let place = self.place_of(id);
        match place.and_then(|place| self.slots.get_mut(place)).and_then(Option::as_mut) {
            // The store holds one backup at a time: if there was another, it is over, and ending it again is harmless.
            Some(connection) => self.events.extend(connection.backup.replace(backup).map(HubEvent::BackupAbandoned)),
            None => self.events.push_back(HubEvent::BackupAbandoned(backup)),
        }
    }

    /// When [`Hub::expire`] is to be called at the latest; 0: there is something left to do.
    pub fn next_deadline(&self) -> Millis {
        if !self.runnable.is_empty() || !self.incoming.is_empty() {
            return 0;
        }
        let accepting = self.listeners.iter().map(|listener| match listener.accepting {
            Accepting::Blocked => NEVER,
            Accepting::Ready => 0,
            Accepting::Paused(until) => until,
        });
        let connections = self.slots.iter().flatten().map(|connection| connection.deadline);
        accepting.chain(connections).min().unwrap_or(NEVER).min(self.settle_at)
    }

    /// Goes on with what was left, and closes connections whose time is over.
    pub fn expire(&mut self, registry: &Registry, now: Millis) {
        for place in 0..self.listeners.len() {
            let Some(listener) = self.listeners.get_mut(place) else { continue };
            match listener.accepting {
                Accepting::Paused(until) if until > now => continue,
                Accepting::Blocked => continue,
                Accepting::Paused(_) | Accepting::Ready => {}
            }
            listener.accepting = Accepting::Ready;
            self.accept(place, registry, now);
        }
        for place in mem::take(&mut self.runnable) {
            self.turn(place, now);
        }
        for place in 0..self.slots.len() {
            if self.slots.get(place).and_then(Option::as_ref).is_some_and(|c| c.deadline <= now) {
                self.close(place);
            }
        }
        if self.settle_at <= now {
            self.settle_at = NEVER;
            let refused = self.refused.settle(now).map(HubEvent::MoreRefused);
            let failed = self.failed.settle(now).map(HubEvent::MoreAcceptsFailed);
            refused.into_iter().chain(failed).for_each(|event| self.tell(event));
        }
    }

    /// The next event.
    pub fn next_event(&mut self) -> Option<HubEvent> {
        self.events.pop_front()
    }

    /// The daemon stops: gives the listeners back, refuses requests that were not handed out, and closes the
    /// connections that wait for nothing. The others are closed with their answers, or by [`Hub::finish`].
    pub fn stop(&mut self, registry: &Registry, now: Millis) -> Vec<UnixListener> {
        self.stopping = true;
        let untaken: Vec<RequestId> = mem::take(&mut self.incoming).into_iter().map(|i| i.id).collect();
        for connection in self.slots.iter_mut().flatten() {
            connection.stop();
        }
        for id in untaken {
            self.answer(id, stopping_line(), now);
        }
        for place in 0..self.slots.len() {
            self.turn(place, now);
        }
        let mut sockets = Vec::with_capacity(self.listeners.len());
        for mut listener in mem::take(&mut self.listeners) {
            // One that cannot be taken out of the poll goes out of it when it is closed.
            let _ = registry.deregister(&mut listener.socket);
            sockets.push(listener.socket);
        }
        sockets
    }

    /// Whether no connection is left, which comes true after [`Hub::stop`].
    pub fn is_drained(&self) -> bool {
        self.slots.iter().all(Option::is_none)
    }

    /// Time is over: whoever still waits is told that the daemon is stopping, as far as the sockets take it at once,
    /// and every connection is closed.
    pub fn finish(&mut self, now: Millis) {
        let waiting: Vec<RequestId> = self.slots.iter().flatten().filter_map(Connection::request).collect();
        for id in waiting {
            self.answer(id, stopping_line(), now);
        }
        for place in 0..self.slots.len() {
            self.close(place);
        }
    }

    fn accept(&mut self, place: usize, registry: &Registry, now: Millis) {
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(listener) = self.listeners.get_mut(place) else { return };
            match listener.socket.accept() {
                Ok((stream, _)) => {
                    self.admit(stream, registry, now);
                    if !self.spare.refill_or_lend()
                        && let Some(listener) = self.listeners.get_mut(place)
                    {
                        return listener.pause(now);
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    listener.accepting = Accepting::Blocked;
                    // It may have gone for nobody: a table that is full is told even where nobody waits.
                    self.spare.refill();
                    return;
                }
                Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                Err(e) if self.spare.makes_room(&e) => {}
                Err(e) => {
                    // No descriptor or memory is left, here or in the system: those who wait do so in the backlog.
                    listener.pause(now);
                    if !self.spare.is_lent() {
                        self.accept_failed(e, now);
                    }
                    return;
                }
            }
        }
        self.spare.refill();
    }

    fn accept_failed(&mut self, error: io::Error, now: Millis) {
        match self.failed.hit(now) {
            None => self.settle_by(now),
            Some(more) => {
                self.tell(HubEvent::AcceptFailed(error));
                self.tell_number(more, HubEvent::MoreAcceptsFailed);
            }
        }
    }

    fn admit(&mut self, mut stream: UnixStream, registry: &Registry, now: Millis) {
        let peer = match credentials(&stream) {
            Ok(peer) => peer,
            Err(e) => return self.tell(HubEvent::NoCredentials(e)),
        };
        let open = self.slots.iter().flatten().count();
        let of_uid = self.slots.iter().flatten().filter(|c| c.peer.uid == peer.uid).count();
        if let Some(limit) = limit_reached(peer.uid, of_uid, open) {
            // A fresh socket takes a line at once, or its peer is gone and misses nothing.
            let _ = stream.write(&limit.refusal());
            return match self.refused.hit(now) {
                None => self.settle_by(now),
                Some(more) => {
                    self.tell(HubEvent::Refused { peer, limit });
                    self.tell_number(more, HubEvent::MoreRefused);
                }
            };
        }
        let Some(place) = self.slots.iter().position(Option::is_none) else { return };
        let token = Token(self.first_token + LISTENERS_MAX + place);
        if let Err(e) = registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE) {
            return self.accept_failed(e, now);
        }
        if let Some(slot) = self.slots.get_mut(place) {
            *slot = Some(Connection::new(stream, peer, now));
        }
    }

    fn turn(&mut self, place: usize, now: Millis) {
        let Some(connection) = self.slots.get_mut(place).and_then(Option::as_mut) else { return };
        match connection.turn(&mut self.scratch, now) {
            Turn::Blocked => {}
            Turn::More => {
                if !self.runnable.contains(&place) {
                    self.runnable.push_back(place);
                }
            }
            Turn::Request(request) => {
                self.last_id += 1;
                let id = RequestId(self.last_id);
                connection.wait(id, now);
                let peer = connection.peer;
                self.incoming.push_back(Incoming { id, request, peer });
            }
            Turn::Over => self.close(place),
        }
    }

    /// Nobody is there to read an answer. A request that was handed out keeps its place until its answer fails to be
    /// written: otherwise peers that leave could have more requests under way than there are connections.
    fn hang_up(&mut self, place: usize) {
        let request = self.slots.get(place).and_then(Option::as_ref).and_then(Connection::request);
        if request.is_none_or(|id| self.incoming.iter().any(|incoming| incoming.id == id)) {
            self.close(place);
        }
    }

    /// Closing the only descriptor takes the socket out of the poll. What nobody would read the answer to is not begun.
    fn close(&mut self, place: usize) {
        let Some(connection) = self.slots.get_mut(place).and_then(Option::take) else { return };
        self.runnable.retain(|other| *other != place);
        if let Some(id) = connection.request() {
            self.incoming.retain(|incoming| incoming.id != id);
        }
        // At most one for each connection, and never left out: otherwise the copy would stay.
        self.events.extend(connection.backup.map(HubEvent::BackupAbandoned));
        drop(connection);
        if self.spare.refill() {
            self.listeners.iter_mut().for_each(Listener::wake);
        }
    }

    /// Ids grow for ever, so that one names a connection's present request or none.
    fn place_of(&self, id: RequestId) -> Option<usize> {
        self.slots.iter().position(|slot| slot.as_ref().is_some_and(|c| c.request() == Some(id)))
    }

    fn settle_by(&mut self, now: Millis) {
        if self.settle_at == NEVER {
            self.settle_at = now.saturating_add(QUIET_MS);
        }
    }

    fn tell_number(&mut self, count: u64, event: fn(u64) -> HubEvent) {
        if count > 0 {
            self.tell(event(count));
        }
    }

    fn tell(&mut self, event: HubEvent) {
        if self.events.len() < EVENTS_MAX {
            self.events.push_back(event);
        }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        wipe(&mut self.scratch);
    }
}

fn stopping_line() -> Vec<u8> {
    encode_error(ErrorCode::Stopping, ErrorCode::Stopping.meaning())
}

fn credentials(stream: &UnixStream) -> io::Result<Peer> {
    use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
    let found = getsockopt(stream, PeerCredentials)?;
    // The kernel says so where nobody is known.
    if found.uid() == u32::MAX {
        return Err(io::Error::new(ErrorKind::InvalidData, "the kernel does not say who connected"));
    }
    Ok(Peer { uid: found.uid(), pid: found.pid() })
}

/// The limit that keeps `uid` out when it has `of_uid` of the `open` connections.
fn limit_reached(uid: u32, of_uid: usize, open: usize) -> Option<HubLimit> {
    let all = if uid == 0 { CONNECTIONS_MAX } else { CONNECTIONS_MAX - CONNECTIONS_FOR_ROOT };
    if of_uid >= CONNECTIONS_PER_UID_MAX {
        Some(HubLimit::PerUid)
    } else if open >= all {
        Some(HubLimit::All)
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
