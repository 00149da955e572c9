//! The server's side of the control socket: turns bytes into requests and answers into bytes. It must never read from a
//! peer whose credentials the kernel did not give, never hold more of a peer than one request and one answer, and never
//! let one user's connections keep another's out, least of all root's.
//!
//! It owns no poll and no clock. Readiness is edge-triggered, so work that is left over is remembered: while there is
//! any, [`Hub::next_deadline`] is 0, and [`Hub::expire`] continues with it.

mod connection;
mod listener;

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::mem;
use std::ops::Range;

use cp_proto::secret::wipe;
use cpd_control::{ErrorCode, Request, encode_error};
use cpd_core::engine::port::RequestId;
use cpd_core::time::{Millis, NEVER};
use mio::event::Event;
use mio::net::{UnixListener, UnixStream};
use mio::{Interest, Registry, Token};

pub use self::connection::{Caller, IDLE_TIMEOUT_MS, READ_MAX_BYTES, TURN_MAX_STEPS, WRITE_TIMEOUT_MS};
use self::connection::{Connection, Turn};
pub use self::listener::ACCEPT_PAUSE_MS;
use self::listener::{Accepting, Listener, SpareDescriptor};
use super::logging::RepeatSuppressor;

/// Control sockets that are listened on.
pub const LISTENERS_MAX: usize = 8;
/// Control connections at a time.
pub const CONNECTIONS_MAX: usize = 64;
/// Control connections among these that only root may have.
pub const CONNECTIONS_FOR_ROOT: usize = 8;
/// Control connections at a time of one uid.
pub const CONNECTIONS_PER_UID_MAX: usize = 16;
/// Tokens that the hub needs.
pub const TOKENS: usize = LISTENERS_MAX + CONNECTIONS_MAX;
/// Connections accepted from one socket before it is another one's turn.
pub const ACCEPTS_PER_TURN: usize = 16;
/// How long further refusals and failures to accept are only counted after one was reported.
pub const REPORT_INTERVAL_MS: Millis = 60_000;
/// Events that may wait for [`Hub::next_event`]. Further ones are dropped, except those that need an action.
pub const EVENTS_MAX: usize = 64;

const _: () = assert!(CONNECTIONS_FOR_ROOT < CONNECTIONS_MAX && CONNECTIONS_PER_UID_MAX < CONNECTIONS_MAX);

/// A request that [`Hub::answer`] has to answer.
#[derive(Debug)]
pub struct IncomingRequest {
    pub id: RequestId,
    pub request: Request,
    pub peer: Caller,
}

/// Something to act on or to log. Of a flood, the first event is reported, and later the number of the others.
#[derive(Debug)]
pub enum HubEvent {
    /// A connection was refused.
    Refused { peer: Caller, limit: HubLimit },
    /// This many more connections were refused.
    MoreRefused(u64),
    /// A connection was dropped because the kernel does not say who connected.
    NoCredentials(io::Error),
    /// A connection could not be accepted, and accepting pauses for [`ACCEPT_PAUSE_MS`], or it could not be registered.
    AcceptFailed(io::Error),
    /// This many more times accepting failed.
    MoreAcceptsFailed(u64),
    /// The connection that this backup of the store belonged to is gone: the backup has to be ended.
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

/// The limit for which a connection is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HubLimit {
    /// At most [`CONNECTIONS_PER_UID_MAX`] of one user.
    PerUid,
    /// At most [`CONNECTIONS_MAX`] in all, [`CONNECTIONS_FOR_ROOT`] fewer for others than root.
    All,
}

impl HubLimit {
    /// Its name in the log.
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

/// The control sockets and all connections to them.
#[derive(Debug)]
pub struct Hub {
    first_token: usize,
    listeners: Vec<Listener>,
    spare: SpareDescriptor,
    slots: Vec<Option<Connection>>,
    /// Slots with something left to do, each at most once.
    runnable: VecDeque<usize>,
    /// Requests that were not handed out yet, at most one for each connection.
    incoming: VecDeque<IncomingRequest>,
    events: VecDeque<HubEvent>,
    refusals: RepeatSuppressor,
    accept_failures: RepeatSuppressor,
    /// When to report the number of refusals and failures that were only counted; [`NEVER`] if there are none.
    count_report_at: Millis,
    last_id: u64,
    scratch: Vec<u8>,
    stopping: bool,
}

impl Hub {
    /// Registers the listeners, which must be non-blocking. The first [`LISTENERS_MAX`] of `tokens` are for listeners,
    /// the others for connections.
    ///
    /// # Errors
    /// There are more than [`LISTENERS_MAX`] listeners or fewer than [`TOKENS`] tokens, or a socket cannot be
    /// registered.
    pub fn new(listeners: Vec<UnixListener>, registry: &Registry, tokens: Range<usize>) -> io::Result<Hub> {
        if listeners.len() > LISTENERS_MAX || tokens.len() < TOKENS {
            let what = format!("{} control sockets, {} tokens", listeners.len(), tokens.len());
            return Err(io::Error::new(ErrorKind::InvalidInput, what));
        }
        let mut registered = Vec::with_capacity(listeners.len());
        for (index, mut socket) in listeners.into_iter().enumerate() {
            registry.register(&mut socket, Token(tokens.start + index), Interest::READABLE)?;
            registered.push(Listener { socket, accepting: Accepting::Blocked });
        }
        Ok(Hub {
            first_token: tokens.start,
            listeners: registered,
            spare: SpareDescriptor::new(),
            slots: (0..CONNECTIONS_MAX).map(|_| None).collect(),
            runnable: VecDeque::new(),
            incoming: VecDeque::new(),
            events: VecDeque::new(),
            refusals: RepeatSuppressor::new(REPORT_INTERVAL_MS),
            accept_failures: RepeatSuppressor::new(REPORT_INTERVAL_MS),
            count_report_at: NEVER,
            last_id: 0,
            scratch: vec![0; READ_MAX_BYTES],
            stopping: false,
        })
    }

    /// Handles an event of a listener or a connection.
    pub fn handle_event(&mut self, event: &Event, registry: &Registry, now: Millis) {
        let Some(index) = event.token().0.checked_sub(self.first_token) else { return };
        if let Some(listener) = self.listeners.get_mut(index) {
            if listener.accepting == Accepting::Blocked {
                listener.accepting = Accepting::Ready;
                self.accept(index, registry, now);
            }
            return;
        }
        let Some(index) = index.checked_sub(LISTENERS_MAX) else { return };
        let Some(connection) = self.slots.get_mut(index).and_then(Option::as_mut) else { return };
        if (event.is_write_closed() || event.is_error()) && connection.is_hung_up() {
            return self.close_hung_up(index);
        }
        if event.is_readable() || event.is_read_closed() {
            connection.note_readable();
        }
        self.turn(index, now);
    }

    /// The next request. While one waits, [`Hub::next_deadline`] is 0.
    pub fn next_request(&mut self) -> Option<IncomingRequest> {
        let incoming = self.incoming.pop_front()?;
        if let Request::StoreBackupEnd { backup } = incoming.request {
            // The backup is being ended, so no connection has to do it when it closes.
            for connection in self.slots.iter_mut().flatten() {
                connection.backup.take_if(|held| *held == backup);
            }
        }
        Some(incoming)
    }

    /// Sends `line` as the answer to the request `id`, if its connection still exists, and continues to read from it.
    pub fn answer(&mut self, id: RequestId, line: Vec<u8>, now: Millis) {
        let Some(index) = self.slot_of(id) else { return };
        if let Some(connection) = self.slots.get_mut(index).and_then(Option::as_mut) {
            connection.answer(line, now);
            self.turn(index, now);
        }
    }

    /// Ties `backup`, which the request `id` began, to the request's connection. Call this before answering the
    /// request.
    pub fn attach_backup(&mut self, id: RequestId, backup: u64) {
        let index = self.slot_of(id);
        match index.and_then(|index| self.slots.get_mut(index)).and_then(Option::as_mut) {
            // The store keeps one backup at a time: an earlier one is over, and ending it again is harmless.
            Some(connection) => self.events.extend(connection.backup.replace(backup).map(HubEvent::BackupAbandoned)),
            None => self.events.push_back(HubEvent::BackupAbandoned(backup)),
        }
    }

    /// When to call [`Hub::expire`] at the latest; 0 if there is work left over.
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
        accepting.chain(connections).min().unwrap_or(NEVER).min(self.count_report_at)
    }

    /// Continues with the work left over, and closes connections whose deadline has passed.
    pub fn expire(&mut self, registry: &Registry, now: Millis) {
        for index in 0..self.listeners.len() {
            let Some(listener) = self.listeners.get_mut(index) else { continue };
            match listener.accepting {
                Accepting::Paused(until) if until > now => continue,
                Accepting::Blocked => continue,
                Accepting::Paused(_) | Accepting::Ready => {}
            }
            listener.accepting = Accepting::Ready;
            self.accept(index, registry, now);
        }
        for index in mem::take(&mut self.runnable) {
            self.turn(index, now);
        }
        for index in 0..self.slots.len() {
            if self.slots.get(index).and_then(Option::as_ref).is_some_and(|c| c.deadline <= now) {
                self.close(index);
            }
        }
        if self.count_report_at <= now {
            self.count_report_at = NEVER;
            let refused = self.refusals.take_suppressed(now).map(HubEvent::MoreRefused);
            let failed = self.accept_failures.take_suppressed(now).map(HubEvent::MoreAcceptsFailed);
            refused.into_iter().chain(failed).for_each(|event| self.push_event(event));
        }
    }

    /// The next event.
    pub fn next_event(&mut self) -> Option<HubEvent> {
        self.events.pop_front()
    }

    /// Returns the listeners, refuses requests that were not handed out, and closes the connections without a request.
    /// The others close after their answers, or with [`Hub::finish`].
    pub fn stop(&mut self, registry: &Registry, now: Millis) -> Vec<UnixListener> {
        self.stopping = true;
        let untaken: Vec<RequestId> = mem::take(&mut self.incoming).into_iter().map(|i| i.id).collect();
        for connection in self.slots.iter_mut().flatten() {
            connection.stop();
        }
        for id in untaken {
            self.answer(id, stopping_answer(), now);
        }
        for index in 0..self.slots.len() {
            self.turn(index, now);
        }
        let mut sockets = Vec::with_capacity(self.listeners.len());
        for mut listener in mem::take(&mut self.listeners) {
            // If this fails, closing the socket removes it from the poll.
            let _ = registry.deregister(&mut listener.socket);
            sockets.push(listener.socket);
        }
        sockets
    }

    /// Whether no connection is left; after [`Hub::stop`] there will be none.
    pub fn is_drained(&self) -> bool {
        self.slots.iter().all(Option::is_none)
    }

    /// Refuses the requests under way, as far as their sockets take the answer at once, and closes all connections.
    pub fn finish(&mut self, now: Millis) {
        let waiting: Vec<RequestId> = self.slots.iter().flatten().filter_map(Connection::awaited_request).collect();
        for id in waiting {
            self.answer(id, stopping_answer(), now);
        }
        for index in 0..self.slots.len() {
            self.close(index);
        }
    }

    /// Replaces the first listener, to which nobody can connect any more, by `socket`. Existing connections stay.
    ///
    /// # Errors
    /// `socket` cannot be registered; the old listener stays.
    pub fn replace_listener(&mut self, mut socket: UnixListener, registry: &Registry, now: Millis) -> io::Result<()> {
        // Connections that were made to the old socket.
        self.accept(0, registry, now);
        let Some(listener) = self.listeners.first_mut() else { return Ok(()) };
        registry.register(&mut socket, Token(self.first_token), Interest::READABLE)?;
        // Closing the old socket removes it from the poll.
        *listener = Listener { socket, accepting: Accepting::Blocked };
        Ok(())
    }

    fn accept(&mut self, index: usize, registry: &Registry, now: Millis) {
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(listener) = self.listeners.get_mut(index) else { return };
            match listener.socket.accept() {
                Ok((stream, _)) => {
                    self.admit(stream, registry, now);
                    if !self.spare.refill_or_lend()
                        && let Some(listener) = self.listeners.get_mut(index)
                    {
                        return listener.pause(now);
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    listener.accepting = Accepting::Blocked;
                    // accept(2) reports a full table of descriptors even if nobody waits, so the spare may have been
                    // closed in vain.
                    self.spare.refill();
                    return;
                }
                Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                Err(e) if self.spare.close_if_exhausted(&e) => {}
                Err(e) => {
                    // No descriptor or memory is left, in this process or the system: connections wait in the backlog.
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
        match self.accept_failures.note(now) {
            None => self.schedule_count_report(now),
            Some(more) => {
                self.push_event(HubEvent::AcceptFailed(error));
                self.push_count(more, HubEvent::MoreAcceptsFailed);
            }
        }
    }

    fn admit(&mut self, mut stream: UnixStream, registry: &Registry, now: Millis) {
        let peer = match peer_credentials(&stream) {
            Ok(peer) => peer,
            Err(e) => return self.push_event(HubEvent::NoCredentials(e)),
        };
        let open = self.slots.iter().flatten().count();
        let of_uid = self.slots.iter().flatten().filter(|c| c.peer.uid == peer.uid).count();
        if let Some(limit) = limit_reached(peer.uid, of_uid, open) {
            // A new socket has room for one line, or its peer is gone and misses nothing.
            let _ = stream.write(&limit.refusal());
            return match self.refusals.note(now) {
                None => self.schedule_count_report(now),
                Some(more) => {
                    self.push_event(HubEvent::Refused { peer, limit });
                    self.push_count(more, HubEvent::MoreRefused);
                }
            };
        }
        let Some(index) = self.slots.iter().position(Option::is_none) else { return };
        let token = Token(self.first_token + LISTENERS_MAX + index);
        if let Err(e) = registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE) {
            return self.accept_failed(e, now);
        }
        if let Some(slot) = self.slots.get_mut(index) {
            *slot = Some(Connection::new(stream, peer, now));
        }
    }

    fn turn(&mut self, index: usize, now: Millis) {
        let Some(connection) = self.slots.get_mut(index).and_then(Option::as_mut) else { return };
        match connection.turn(&mut self.scratch, now) {
            Turn::Blocked => {}
            Turn::More => {
                if !self.runnable.contains(&index) {
                    self.runnable.push_back(index);
                }
            }
            Turn::Request(request) => {
                self.last_id += 1;
                let id = RequestId(self.last_id);
                connection.begin_waiting(id, now);
                let peer = connection.peer;
                self.incoming.push_back(IncomingRequest { id, request, peer });
            }
            Turn::Over => self.close(index),
        }
    }

    /// The peer has gone and will not read an answer. A request that was handed out keeps its slot until its answer
    /// cannot be written: otherwise peers that leave could have more requests under way than there are slots.
    fn close_hung_up(&mut self, index: usize) {
        let request = self.slots.get(index).and_then(Option::as_ref).and_then(Connection::awaited_request);
        if request.is_none_or(|id| self.incoming.iter().any(|incoming| incoming.id == id)) {
            self.close(index);
        }
    }

    /// Closes a connection, which removes it from the poll. A request that was not handed out yet is dropped.
    fn close(&mut self, index: usize) {
        let Some(connection) = self.slots.get_mut(index).and_then(Option::take) else { return };
        self.runnable.retain(|other| *other != index);
        if let Some(id) = connection.awaited_request() {
            self.incoming.retain(|incoming| incoming.id != id);
        }
        // Never dropped for want of room, or the backup would stay; there is at most one for each connection.
        self.events.extend(connection.backup.map(HubEvent::BackupAbandoned));
        drop(connection);
        if self.spare.refill() {
            self.listeners.iter_mut().for_each(Listener::resume);
        }
    }

    /// The slot whose connection waits for the answer to `id`. Ids are never reused.
    fn slot_of(&self, id: RequestId) -> Option<usize> {
        self.slots.iter().position(|slot| slot.as_ref().is_some_and(|c| c.awaited_request() == Some(id)))
    }

    fn schedule_count_report(&mut self, now: Millis) {
        if self.count_report_at == NEVER {
            self.count_report_at = now.saturating_add(REPORT_INTERVAL_MS);
        }
    }

    fn push_count(&mut self, count: u64, event: fn(u64) -> HubEvent) {
        if count > 0 {
            self.push_event(event(count));
        }
    }

    fn push_event(&mut self, event: HubEvent) {
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

fn stopping_answer() -> Vec<u8> {
    encode_error(ErrorCode::Stopping, ErrorCode::Stopping.meaning())
}

fn peer_credentials(stream: &UnixStream) -> io::Result<Caller> {
    use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
    let found = getsockopt(stream, PeerCredentials)?;
    // The kernel's value for an unknown peer.
    if found.uid() == u32::MAX {
        return Err(io::Error::new(ErrorKind::InvalidData, "the kernel does not say who connected"));
    }
    Ok(Caller { uid: found.uid(), pid: found.pid() })
}

/// The limit that refuses a further connection of `uid`, which has `of_uid` of the `open` ones. `None`: it is admitted.
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
