//! One control connection, in one of three states: it reads a request, waits for its answer, or writes the answer.
//! Never two of these at once, so it holds at most one request and one answer.

use std::io::{ErrorKind, Read, Write};

use cp_proto::secret::wipe;
use cpd_control::{ControlError, ErrorCode, Framer, Request};
use cpd_core::engine::port::RequestId;
use cpd_core::time::{Millis, NEVER};
use mio::net::UnixStream;

/// How long a connection may stay without a complete request. One that waits for its answer is not idle.
pub const IDLE_TIMEOUT_MS: Millis = 60_000;
/// How long a peer may take no byte of its answer.
pub const WRITE_TIMEOUT_MS: Millis = 30_000;
/// The most bytes of one read.
pub const READ_MAX_BYTES: usize = 16 * 1024;
/// Reads, writes and requests of one connection before it is another one's turn.
pub const TURN_MAX_STEPS: usize = 16;

/// The process at the other end, as it was when it connected, by the kernel's word (SO_PEERCRED).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller {
    pub uid: u32,
    pub pid: i32,
}

#[derive(Debug)]
enum ConnectionState {
    /// It reads a request.
    Reading,
    /// It waits for the answer to this request, and reads nothing meanwhile.
    Waiting(RequestId),
    /// It writes an answer, of which the first `sent` bytes are sent.
    Writing { line: Vec<u8>, sent: usize },
}

/// The result of a turn.
#[derive(Debug)]
pub(super) enum Turn {
    /// Nothing can be done before the socket is ready again or the daemon answers.
    Blocked,
    /// There is more to do, but it is another connection's turn.
    More,
    /// A request; the caller gives it an id with [`Connection::begin_waiting`].
    Request(Request),
    /// The connection is over and has to be dropped.
    Over,
}

#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    pub(super) peer: Caller,
    framer: Framer,
    state: ConnectionState,
    /// The socket may have unread bytes or its end. Readiness is edge-triggered, so it is remembered.
    readable: bool,
    /// The end of input was read; earlier requests are still answered.
    ended: bool,
    /// The daemon is stopping: further requests are refused.
    stopping: bool,
    /// When the connection is closed unless something happens before.
    pub(super) deadline: Millis,
    /// The backup of the store that ends with this connection. There is one at most, as the store keeps one at a time.
    pub(super) backup: Option<u64>,
}

impl Connection {
    pub(super) fn new(stream: UnixStream, peer: Caller, now: Millis) -> Connection {
        Connection {
            stream,
            peer,
            framer: Framer::new(),
            state: ConnectionState::Reading,
            readable: false,
            ended: false,
            stopping: false,
            deadline: now.saturating_add(IDLE_TIMEOUT_MS),
            backup: None,
        }
    }

    /// The request whose answer it waits for, if any.
    pub(super) fn awaited_request(&self) -> Option<RequestId> {
        match self.state {
            ConnectionState::Waiting(id) => Some(id),
            ConnectionState::Reading | ConnectionState::Writing { .. } => None,
        }
    }

    /// Notes that the socket has something to read.
    pub(super) fn note_readable(&mut self) {
        self.readable = true;
    }

    /// Gives the id `id` to the request that [`Connection::turn`] returned.
    pub(super) fn begin_waiting(&mut self, id: RequestId, now: Millis) {
        self.enter(ConnectionState::Waiting(id), now);
    }

    /// Begins to write the answer `line`.
    pub(super) fn answer(&mut self, line: Vec<u8>, now: Millis) {
        self.enter(ConnectionState::Writing { line, sent: 0 }, now);
    }

    /// The daemon is stopping: from now on requests are refused, and the connection is over when nothing is left to
    /// send.
    pub(super) fn stop(&mut self) {
        self.stopping = true;
        // A request that has come and was not announced by the poll yet is refused with an answer too.
        self.readable = true;
    }

    /// Whether both directions are shut down, so that no answer can arrive. This asks the socket itself: an event may
    /// belong to the connection that had the same token before.
    pub(super) fn is_hung_up(&self) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        use std::os::fd::AsFd;
        let mut fds = [PollFd::new(self.stream.as_fd(), PollFlags::empty())];
        let over = PollFlags::POLLHUP | PollFlags::POLLERR;
        poll(&mut fds, PollTimeout::ZERO).is_ok()
            && fds.iter().any(|fd| fd.revents().is_some_and(|r| r.intersects(over)))
    }

    /// Does what can be done now, up to [`TURN_MAX_STEPS`]. What was read is wiped from `scratch`.
    pub(super) fn turn(&mut self, scratch: &mut [u8], now: Millis) -> Turn {
        for _ in 0..TURN_MAX_STEPS {
            let step = match self.state {
                ConnectionState::Reading => self.parse_or_read(scratch, now),
                ConnectionState::Waiting(_) => Some(Turn::Blocked),
                ConnectionState::Writing { .. } => self.write(now),
            };
            if let Some(turn) = step {
                return turn;
            }
        }
        Turn::More
    }

    /// Takes a request from the bytes that were read, or reads more. `None`: the turn continues.
    fn parse_or_read(&mut self, scratch: &mut [u8], now: Millis) -> Option<Turn> {
        match self.framer.next_line() {
            Some(Ok(line)) => match line.request() {
                Ok(_) if self.stopping => {
                    let stopping = ControlError::new(ErrorCode::Stopping, ErrorCode::Stopping.meaning());
                    self.answer(stopping.encode(), now);
                    None
                }
                Ok(request) => Some(Turn::Request(request)),
                Err(error) => {
                    self.answer(error.encode(), now);
                    None
                }
            },
            // The framer discards the rest of the line as it comes. Closing instead could cost the peer this answer:
            // its next write would fail before it reads.
            Some(Err(error)) => {
                self.answer(error.encode(), now);
                None
            }
            None if self.ended => Some(Turn::Over),
            None if !self.readable => Some(if self.stopping { Turn::Over } else { Turn::Blocked }),
            None => self.read(scratch),
        }
    }

    fn read(&mut self, scratch: &mut [u8]) -> Option<Turn> {
        let room = scratch.len().min(self.framer.free_bytes());
        let space = scratch.get_mut(..room).unwrap_or_default();
        match self.stream.read(space) {
            Ok(0) => self.ended = true,
            Ok(count) => {
                let bytes = space.get_mut(..count).unwrap_or_default();
                self.framer.push(bytes);
                // It may hold a password.
                wipe(bytes);
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => self.readable = false,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Some(Turn::Over),
        }
        None
    }

    fn write(&mut self, now: Millis) -> Option<Turn> {
        let ConnectionState::Writing { line, sent } = &mut self.state else { return None };
        match self.stream.write(line.get(*sent..).unwrap_or_default()) {
            Ok(count) => {
                *sent = sent.saturating_add(count);
                if *sent >= line.len() {
                    self.enter(ConnectionState::Reading, now);
                } else if count > 0 {
                    self.deadline = now.saturating_add(WRITE_TIMEOUT_MS);
                }
                None
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => Some(Turn::Blocked),
            Err(e) if e.kind() == ErrorKind::Interrupted => None,
            Err(_) => Some(Turn::Over),
        }
    }

    fn enter(&mut self, state: ConnectionState, now: Millis) {
        self.deadline = match state {
            ConnectionState::Reading => now.saturating_add(IDLE_TIMEOUT_MS),
            ConnectionState::Waiting(_) => NEVER,
            ConnectionState::Writing { .. } => now.saturating_add(WRITE_TIMEOUT_MS),
        };
        self.state = state;
    }

    /// Bytes held for an unfinished request.
    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.framer.memory_bytes()
    }
}
