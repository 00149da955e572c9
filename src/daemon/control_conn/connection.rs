//! One control connection: a byte pump with three states. It reads, or waits for the answer to one request, or writes
//! one answer; never two of these at once, so that what it holds is one request and one answer at the most.

use std::io::{ErrorKind, Read, Write};

use mio::net::UnixStream;

use super::{IDLE_TIMEOUT_MS, Peer, WRITE_TIMEOUT_MS};
use crate::control::frame::wipe;
use crate::control::{ControlError, ErrorCode, Framer, Request};
use crate::engine::port::RequestId;
use crate::proto::session::NEVER;
use crate::proto::types::Millis;

/// Bytes of one read.
pub const READ_MAX_BYTES: usize = 16 * 1024;
/// Reads, writes and requests of one connection before it is another one's turn.
pub const TURN_MAX_STEPS: usize = 16;

#[derive(Debug)]
enum State {
    /// For a request.
    Reading,
    /// For the answer to this one. Nothing is read meanwhile.
    Waiting(RequestId),
    Writing {
        line: Vec<u8>,
        sent: usize,
    },
}

/// What a turn came to.
#[derive(Debug)]
pub(super) enum Turn {
    /// Nothing can be done before the socket or the daemon says more.
    Blocked,
    /// There is more to do: it is another one's turn first.
    More,
    /// To be answered under the id that [`Connection::wait`] is told.
    Request(Request),
    /// It is over; to be dropped.
    Over,
}

#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    pub(super) peer: Peer,
    framer: Framer,
    state: State,
    /// The socket may have bytes, or its end, that were not read: it says so once only.
    readable: bool,
    /// Nothing more will come; what came before is still answered.
    ended: bool,
    /// The daemon stops: no further request is taken.
    stopping: bool,
    pub(super) deadline: Millis,
    /// The copy of the store that goes with this connection. One, because the store holds one at a time.
    pub(super) backup: Option<u64>,
}

impl Connection {
    pub(super) fn new(stream: UnixStream, peer: Peer, now: Millis) -> Connection {
        Connection {
            stream,
            peer,
            framer: Framer::new(),
            state: State::Reading,
            readable: false,
            ended: false,
            stopping: false,
            deadline: now.saturating_add(IDLE_TIMEOUT_MS),
            backup: None,
        }
    }

    /// The request whose answer it waits for.
    pub(super) fn request(&self) -> Option<RequestId> {
        match self.state {
            State::Waiting(id) => Some(id),
            State::Reading | State::Writing { .. } => None,
        }
    }

    /// The socket has something to read.
    pub(super) fn note_readable(&mut self) {
        self.readable = true;
    }

    /// The request that was just taken is `id`.
    pub(super) fn wait(&mut self, id: RequestId, now: Millis) {
        self.enter(State::Waiting(id), now);
    }

    /// Begins to write `line`.
    pub(super) fn answer(&mut self, line: Vec<u8>, now: Millis) {
        self.enter(State::Writing { line, sent: 0 }, now);
    }

    /// From now on a request is refused, and the connection is over when nothing is left to say.
    pub(super) fn stop(&mut self) {
        self.stopping = true;
        // What came and was not announced yet deserves the refusal too.
        self.readable = true;
    }

    /// Whether both directions are shut, so that no answer can arrive. Asked of the socket itself: an event may be
    /// meant for the connection that had the same token before.
    pub(super) fn is_hung_up(&self) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        use std::os::fd::AsFd;
        let mut fds = [PollFd::new(self.stream.as_fd(), PollFlags::empty())];
        let over = PollFlags::POLLHUP | PollFlags::POLLERR;
        poll(&mut fds, PollTimeout::ZERO).is_ok()
            && fds.iter().any(|fd| fd.revents().is_some_and(|r| r.intersects(over)))
    }

    /// Does what can be done now, up to a bound. `scratch` is left without what was read.
    pub(super) fn turn(&mut self, scratch: &mut [u8], now: Millis) -> Turn {
        for _ in 0..TURN_MAX_STEPS {
            let step = match self.state {
                State::Reading => self.take_or_read(scratch, now),
                State::Waiting(_) => Some(Turn::Blocked),
                State::Writing { .. } => self.write(now),
            };
            if let Some(turn) = step {
                return turn;
            }
        }
        Turn::More
    }

    /// `None`: go on.
    fn take_or_read(&mut self, scratch: &mut [u8], now: Millis) -> Option<Turn> {
        match self.framer.take() {
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
            // The framer throws the rest of the line away as it comes. To close instead could cost the peer this
            // answer: its next write would fail before it reads.
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
        let room = scratch.len().min(self.framer.room());
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
        let State::Writing { line, sent } = &mut self.state else { return None };
        match self.stream.write(line.get(*sent..).unwrap_or_default()) {
            Ok(count) => {
                *sent = sent.saturating_add(count);
                if *sent >= line.len() {
                    self.enter(State::Reading, now);
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

    fn enter(&mut self, state: State, now: Millis) {
        self.deadline = match state {
            State::Reading => now.saturating_add(IDLE_TIMEOUT_MS),
            State::Waiting(_) => NEVER,
            State::Writing { .. } => now.saturating_add(WRITE_TIMEOUT_MS),
        };
        self.state = state;
    }

    /// Bytes held for a request that is not whole.
    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.framer.memory()
    }
}
