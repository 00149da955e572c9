//! A control socket that accepts connections, also when no descriptor is left.

use std::fs::File;
use std::io;

use cpd_core::time::Millis;
use mio::net::UnixListener;
use nix::errno::Errno;

/// How long accepting pauses after it has failed, for want of a descriptor for example.
pub const ACCEPT_PAUSE_MS: Millis = 1_000;

/// A control socket, and whether it is time to accept.
#[derive(Debug)]
pub struct Listener {
    pub socket: UnixListener,
    pub accepting: Accepting,
}

/// Whether to accept connections now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Accepting {
    /// As far as is known, no connection waits.
    Blocked,
    /// A connection may be waiting.
    Ready,
    /// Nothing is accepted before this time.
    Paused(Millis),
}

impl Listener {
    /// Accepts nothing for [`ACCEPT_PAUSE_MS`].
    pub fn pause(&mut self, now: Millis) {
        self.accepting = Accepting::Paused(now.saturating_add(ACCEPT_PAUSE_MS));
    }

    /// Ends a pause: what was lacking may be there again.
    pub fn resume(&mut self) {
        if matches!(self.accepting, Accepting::Paused(_)) {
            self.accepting = Accepting::Ready;
        }
    }
}

/// A descriptor in reserve. When no other is left it is closed, so that one operator at a time can still be served.
#[derive(Debug, Default)]
pub struct SpareDescriptor {
    file: Option<File>,
    /// A connection was accepted in its place, and it could not be opened again.
    lent: bool,
}

impl SpareDescriptor {
    pub fn new() -> SpareDescriptor {
        let mut spare = SpareDescriptor::default();
        spare.refill();
        spare
    }

    /// Opens the spare if it was closed; call this when a descriptor may have become free. Returns whether there is a
    /// spare.
    pub fn refill(&mut self) -> bool {
        if self.file.is_none() {
            self.file = File::open("/dev/null").ok();
        }
        self.lent &= self.file.is_none();
        self.file.is_some()
    }

    /// If `failure` was for want of a descriptor, closes the spare. Returns whether that made room for another attempt.
    pub fn close_if_exhausted(&mut self, failure: &io::Error) -> bool {
        let exhausted =
            [Errno::EMFILE, Errno::ENFILE].iter().any(|errno| failure.raw_os_error() == Some(*errno as i32));
        exhausted && self.file.take().is_some()
    }

    /// Call this after accepting a connection. Returns whether another one can be accepted.
    pub fn refill_or_lend(&mut self) -> bool {
        self.lent = !self.refill();
        !self.lent
    }

    /// Whether a connection was accepted in place of the spare: accepting then fails even if nobody else waits.
    pub fn is_lent(&self) -> bool {
        self.lent
    }
}
