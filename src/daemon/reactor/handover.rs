//! The event loop's part of a succession: every connection with its session, out of one loop and into the next.

use std::os::fd::OwnedFd;

use super::Reactor;
use crate::daemon::logging::{Level, Line};
use crate::daemon::spelling;
use crate::daemon::succession::{self, Heritage};
use crate::engine::port::Origin;
use crate::proto::types::Millis;

/// What became of one connection.
enum Fate {
    Taken,
    /// The client has reset it meanwhile.
    Gone,
    Closed,
}

impl Reactor {
    /// Takes up what a predecessor left: its connections go on where they were.
    pub fn take_up(&mut self, heritage: Heritage) {
        let now = self.read_clocks();
        let connections_max = usize::try_from(self.parts.connections_max).unwrap_or(usize::MAX);
        let estate = match succession::read(heritage, connections_max) {
            Ok(estate) => estate,
            Err(cause) => {
                let line = Line::new("connections of the predecessor closed").field("cause", cause);
                return self.parts.logger.error(line);
            }
        };
        let (mut taken, mut gone, mut closed) = (0, 0, estate.left_out);
        if estate.left_out > 0 {
            let line = Line::new("connections of the predecessor closed").field("closed", estate.left_out);
            self.parts.logger.warn(line.field("cause", "the limit of open files (LimitNOFILE=)"));
        }
        if self.parts.engine.thaw_common(&estate.common, now).is_none() {
            self.parts.logger.warn(Line::new("failed logins and clock of the predecessor forgotten"));
        }
        for (stream, record) in estate.sessions {
            match self.take_up_one(stream, &record, now) {
                Fate::Taken => taken += 1,
                Fate::Gone => gone += 1,
                Fate::Closed => closed += 1,
            }
        }
        self.parts.engine.succeeded(now);
        let line = Line::new("connections taken up").field("taken", taken).field("gone", gone).field("closed", closed);
        self.parts.logger.log(if closed > 0 { Level::Warn } else { Level::Info }, line);
    }

    fn take_up_one(&mut self, stream: std::net::TcpStream, record: &[u8], now: Millis) -> Fate {
        let Ok(peer) = stream.peer_addr() else {
            return Fate::Gone;
        };
        if stream.set_nonblocking(true).is_err() {
            return Fate::Closed;
        }
        let Some(id) = self.parts.engine.thaw(record, Origin::of(peer.ip()), now) else {
            let line = Line::new("connection of the predecessor closed").field("addr", spelling::of_host(peer));
            self.parts.logger.warn(line.field("cause", "its record cannot be read"));
            return Fate::Closed;
        };
        let (engine, registry) = (&mut self.parts.engine, self.parts.poll.registry());
        match self.clients.adopt(mio::net::TcpStream::from_std(stream), peer, id, engine, registry, now) {
            Ok(()) => Fate::Taken,
            Err(_) => Fate::Closed,
        }
    }

    /// Leaves the connections to a successor.
    pub(super) fn hand_over(&mut self, now: Millis) {
        let mut sessions = Vec::new();
        let mut closed = 0;
        for id in self.parts.engine.succession() {
            let frozen = self.parts.engine.freeze(id, now);
            let stream = frozen.is_some().then(|| self.clients.release(id, self.parts.poll.registry())).flatten();
            match frozen.zip(stream) {
                Some((record, stream)) => sessions.push((std::net::TcpStream::from(OwnedFd::from(stream)), record)),
                None => closed += 1,
            }
        }
        let line = match succession::leave(&self.parts.engine.freeze_common(now), &sessions) {
            Ok(left) => {
                Line::new("connections left").field("left", left).field("closed", closed + sessions.len() - left)
            }
            Err(cause) => Line::new("connections closed").field("closed", sessions.len()).field("cause", cause),
        };
        self.parts.logger.info(line);
    }
}
