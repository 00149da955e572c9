//! A control socket that accepts, and what it does where no descriptor is left.

use std::fs::File;
use std::io;

use mio::net::UnixListener;
use mio::{Interest, Registry, Token};
use nix::errno::Errno;

use super::{ACCEPT_PAUSE_MS, Hub};
use crate::proto::types::Millis;

#[derive(Debug)]
pub struct Listener {
    pub socket: UnixListener,
    pub accepting: Accepting,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Accepting {
    /// Nobody waits, as far as is known.
    Blocked,
    /// Somebody may wait.
    Ready,
    /// Not before this time.
    Paused(Millis),
}

impl Listener {
    pub fn pause(&mut self, now: Millis) {
        self.accepting = Accepting::Paused(now.saturating_add(ACCEPT_PAUSE_MS));
    }

    /// What it paused for may be there again.
    pub fn wake(&mut self) {
        if matches!(self.accepting, Accepting::Paused(_)) {
            self.accepting = Accepting::Ready;
        }
    }
}

impl Hub {
    /// `socket` takes the place of the first listener, to which nobody can come any more; who is connected stays.
    ///
    /// # Errors
    /// What the registry says; the old listener stays.
    pub fn renew(&mut self, mut socket: UnixListener, registry: &Registry, now: Millis) -> io::Result<()> {
        // Who came while they could.
        self.accept(0, registry, now);
        let Some(listener) = self.listeners.first_mut() else { return Ok(()) };
        registry.register(&mut socket, Token(self.first_token), Interest::READABLE)?;
        // The old one goes out of the poll when it is closed.
        *listener = Listener { socket, accepting: Accepting::Blocked };
        Ok(())
    }
}

/// A descriptor that is given up where there is no other left, so that one operator at a time is served.
#[derive(Debug, Default)]
pub struct Spare {
    file: Option<File>,
    /// A connection has it, and it is not there again.
    lent: bool,
}

impl Spare {
    pub fn new() -> Spare {
        let mut spare = Spare::default();
        spare.refill();
        spare
    }

    /// To be called when a descriptor may have become free. Whether it is there.
    pub fn refill(&mut self) -> bool {
        if self.file.is_none() {
            self.file = File::open("/dev/null").ok();
        }
        self.lent &= self.file.is_none();
        self.file.is_some()
    }

    /// Whether there is room now for what failed for want of a descriptor.
    pub fn makes_room(&mut self, failure: &io::Error) -> bool {
        let exhausted =
            [Errno::EMFILE, Errno::ENFILE].iter().any(|errno| failure.raw_os_error() == Some(*errno as i32));
        exhausted && self.file.take().is_some()
    }

    /// To be called when a connection was accepted. Whether one more can be.
    pub fn refill_or_lend(&mut self) -> bool {
        self.lent = !self.refill();
        !self.lent
    }

    /// Whether an operator is served by it: accepting fails meanwhile, even where nobody else waits.
    pub fn is_lent(&self) -> bool {
        self.lent
    }
}
