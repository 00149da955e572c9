//! The event loop's part of a hand-over: passes every connection with its session on to a successor, and resumes those
//! of a predecessor.

use std::os::fd::OwnedFd;

use cpd_core::time::Millis;

use super::Reactor;
use crate::daemon::fd_store::{self, HandoverFds};
use crate::daemon::logging::{Level, LogLine};
use crate::daemon::transport::Stream;

/// The result of resuming one connection.
enum ResumeOutcome {
    /// Its session was resumed.
    Resumed,
    /// The client has reset the connection meanwhile.
    Gone,
    /// The session could not be resumed, and the connection was closed.
    Closed,
}

impl Reactor {
    /// Resumes the connections that a predecessor handed over, with their sessions.
    pub fn resume_connections(&mut self, handover_fds: HandoverFds) {
        let now = self.read_clocks();
        let connections_max = usize::try_from(self.parts.connections_max).unwrap_or(usize::MAX);
        let handover = match fd_store::read_handover(handover_fds, connections_max) {
            Ok(handover) => handover,
            Err(cause) => {
                let line = LogLine::new("connections of the predecessor closed").field("cause", cause);
                return self.parts.logger.error(line);
            }
        };
        let (mut taken, mut gone, mut closed) = (0, 0, handover.left_out);
        if handover.left_out > 0 {
            let line = LogLine::new("connections of the predecessor closed").field("closed", handover.left_out);
            self.parts.logger.warn(line.field("cause", "the limit of open files (LimitNOFILE=)"));
        }
        if self.parts.engine.thaw_common(&handover.common, now).is_none() {
            self.parts.logger.warn(LogLine::new("failed logins and clock of the predecessor forgotten"));
        }
        for (stream, record) in handover.sessions {
            match self.resume_connection(stream, &record, now) {
                ResumeOutcome::Resumed => taken += 1,
                ResumeOutcome::Gone => gone += 1,
                ResumeOutcome::Closed => closed += 1,
            }
        }
        self.parts.engine.finish_handover(now);
        let line =
            LogLine::new("connections taken over").field("taken", taken).field("gone", gone).field("closed", closed);
        self.parts.logger.log(if closed > 0 { Level::Warn } else { Level::Info }, line);
    }

    fn resume_connection(&mut self, fd: OwnedFd, record: &[u8], now: Millis) -> ResumeOutcome {
        let Ok((stream, peer)) = Stream::adopt(fd) else {
            return ResumeOutcome::Gone;
        };
        let Some(id) = self.parts.engine.thaw(record, peer.origin(), now) else {
            let line = LogLine::new("connection of the predecessor closed").field("addr", peer.host());
            self.parts.logger.warn(line.field("cause", "its session cannot be resumed"));
            return ResumeOutcome::Closed;
        };
        let (engine, registry) = (&mut self.parts.engine, self.parts.poll.registry());
        match self.clients.adopt(stream, peer, id, engine, registry, now) {
            Ok(()) => ResumeOutcome::Resumed,
            Err(_) => ResumeOutcome::Closed,
        }
    }

    /// Hands the connections over to a successor. Those that cannot be handed over are closed later.
    pub(super) fn hand_over(&mut self, now: Millis) {
        let mut sessions = Vec::new();
        let mut closed = 0;
        for id in self.parts.engine.handover_order() {
            let frozen = self.parts.engine.freeze(id, now);
            let stream = frozen.is_some().then(|| self.clients.release(id, self.parts.poll.registry())).flatten();
            match frozen.zip(stream) {
                Some((record, stream)) => sessions.push((OwnedFd::from(stream), record)),
                None => closed += 1,
            }
        }
        match fd_store::store_handover(&self.parts.engine.freeze_common(now), &sessions) {
            Ok(left) => {
                let closed = closed + sessions.len() - left;
                let line = LogLine::new("connections handed over").field("left", left).field("closed", closed);
                self.parts.logger.info(line);
            }
            Err(cause) => {
                let line = LogLine::new("connections closed").field("closed", closed + sessions.len());
                self.parts.logger.warn(line.field("cause", cause));
            }
        }
    }
}
