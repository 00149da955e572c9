//! One connection's side of CP: bytes, events and the time go in; output, deadlines and requests to [`Services`] come
//! out. Nothing here waits, and nothing grows: what is not taken up stays unread.

mod clock;
mod flow;
mod silence;
mod snapshot;
mod stall;

use std::mem;

use super::dfa::{Dialect, Event, Refusal, State};
use super::download::{MessageId, Page};
use super::limits::{CLASSIC_AHEAD_BYTES, OUTPUT_HIGH_WATER_BYTES, OVERLAP_MAX_STORES, WRITE_PROGRESS_BYTES};
use super::line::Decoder;
use super::reply::{Reply, Why};
use super::services::{Context, Services};
use super::settings::SessionSettings;
use super::types::Millis;
use super::waiting::Waiting;

/// How long a session that has to go keeps its place for its last reply.
pub const MAKING_WAY_MS: Millis = 1000;

/// A deadline that is not set.
pub const NEVER: Millis = Millis::MAX;

/// How a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    /// It goes on.
    Open,
    /// The daemon stops, or the session does behind an SMSG: no further PDU is taken, what is being stored is still
    /// answered.
    Stopping,
    /// A successor goes on: no further PDU is taken, and what was not taken is kept.
    Paused,
    /// What was answered is still sent, then the connection is shut down in order.
    Flush,
    /// At once.
    Now,
}

/// The session of one connection.
#[derive(Debug)]
pub struct Session {
    state: State,
    decoder: Decoder,
    /// Bytes received and not taken up: what stands first in it waits for what is under way.
    input: Waiting,
    /// The decoder behind `input`, where silence counts and there is any.
    tail: Option<Box<Decoder>>,
    output: Vec<u8>,
    sent: u16,
    /// Bytes that the client took since `write_deadline` was set.
    progress: u16,
    pdu_deadline: Millis,
    quiet_deadline: Millis,
    /// Login, acknowledgement, recovery or the end of WMSG, as the state has it. While a PASS waits for cpd it stands still.
    state_deadline: Millis,
    idle_deadline: Millis,
    write_deadline: Millis,
    /// When the last complete PDU was taken, or the connection made; when the PASS came that waits for cpd.
    last_pdu: Millis,
    /// SMSGs behind the one of Sending Message that the store has already.
    ahead: u16,
    /// Outcomes to come of SMSGs that were answered 500 because one before them failed.
    void: u16,
    /// Deletes that are not on stable storage yet.
    undeleted: u32,
    downloads: u32,
    failures: u8,
    /// Replies of 500 or 560 before the login.
    bad_pdus: u8,
    /// No line has come yet.
    fresh: bool,
    /// The reply 565 that waits for the work behind it.
    penance: bool,
    ended: bool,
    dialect: Dialect,
    closing: Closing,
}

impl Session {
    /// A connection was made at `now`.
    pub fn new(dialect: Dialect, now: Millis, settings: &SessionSettings) -> Session {
        Session {
            state: State::Idle,
            decoder: Decoder::default(),
            input: Waiting::default(),
            tail: None,
            output: Vec::new(),
            sent: 0,
            progress: 0,
            pdu_deadline: NEVER,
            quiet_deadline: NEVER,
            state_deadline: now.saturating_add(settings.timeouts.login),
            idle_deadline: NEVER,
            write_deadline: NEVER,
            last_pdu: now,
            ahead: 0,
            void: 0,
            undeleted: 0,
            downloads: 0,
            failures: 0,
            bad_pdus: 0,
            fresh: true,
            penance: false,
            ended: false,
            dialect,
            closing: Closing::Open,
        }
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    /// `Flush` once all output is sent that there will be.
    pub fn closing(&self) -> Closing {
        match self.closing {
            Closing::Flush if !self.output.is_empty() => Closing::Stopping,
            Closing::Stopping if self.output.is_empty() && !self.is_storing() => Closing::Flush,
            other => other,
        }
    }

    /// Milliseconds since the last complete PDU, or since the connection was made.
    pub fn idle_for(&self, now: Millis) -> Millis {
        now.saturating_sub(self.last_pdu)
    }

    /// Whether bytes should be read from the peer: none that came before are waiting; in the classic dialect few, as
    /// silence is heard only where reading goes on.
    pub fn wants_input(&self) -> bool {
        let room = match self.dialect {
            Dialect::Cp => self.input.is_empty() && !self.is_full(),
            Dialect::Classic => self.input.len() < CLASSIC_AHEAD_BYTES,
        };
        room && !self.ended && self.closing == Closing::Open
    }

    /// The client's bytes, in order.
    pub fn receive<S: Services>(&mut self, bytes: &[u8], cx: &mut Context<'_, S>) {
        if self.closing != Closing::Open || self.ended {
            return;
        }
        if self.input.is_empty() {
            self.hear(bytes, cx);
            let mut rest = bytes;
            self.run(&mut rest, cx);
            self.input = Waiting::of(&[rest]);
        } else {
            self.hear_behind(bytes, cx);
        }
        self.settle(cx);
    }

    /// Takes up input that had to wait. To be called when [`Admission::Full`] may be over.
    pub fn resume<S: Services>(&mut self, cx: &mut Context<'_, S>) {
        let mut input = mem::take(&mut self.input);
        let mut rest = &*input;
        self.run(&mut rest, cx);
        let used = input.len() - rest.len();
        input.consume(used);
        self.input = input;
        self.settle(cx);
    }

    /// The client has shut down its sending side.
    pub fn end_of_input<S: Services>(&mut self, cx: &mut Context<'_, S>) {
        self.ended = true;
        self.settle(cx);
    }

    /// The work asked for by [`Services::verify`] is done.
    pub fn verified<S: Services>(&mut self, ok: bool, cx: &mut Context<'_, S>) {
        self.resume_login(cx.now);
        if mem::take(&mut self.penance) {
            self.say(Reply::AuthError, cx);
            self.count_failure();
        } else {
            self.apply(Event::Verified(ok), cx);
            if !ok {
                self.count_failure();
            }
        }
        self.resume(cx);
    }

    /// The password was right, and its user has as many sessions as it may have.
    pub fn one_too_many<S: Services>(&mut self, cx: &mut Context<'_, S>) {
        self.say(Reply::BadCommand(self.state.stage(), Why::TooManySessions), cx);
        self.finish();
        self.settle(cx);
    }

    /// The oldest message given to [`Services::store`] is on stable storage, or why it is not.
    pub fn stored<S: Services>(&mut self, result: Result<(), Refusal>, cx: &mut Context<'_, S>) {
        if self.void > 0 {
            self.void -= 1;
        } else {
            self.apply(result.map_or_else(Event::Refused, |()| Event::Stored), cx);
            self.follow_up(cx);
        }
        if self.ahead < OVERLAP_MAX_STORES / 2 && (self.has_pdu() || self.ended) {
            self.resume(cx);
        } else {
            self.settle(cx);
        }
    }

    /// A page of the download `serial`; `None`: it could not be read.
    pub fn page<S: Services>(&mut self, serial: u32, page: Option<Page>, cx: &mut Context<'_, S>) {
        if let State::ReceivingMessage { download, .. } = &self.state
            && download.serial == serial
            && download.reading
        {
            self.apply(page.map_or(Event::StoreFailed, Event::Page), cx);
            self.resume(cx);
        }
    }

    /// The queue that WMSG waits for is this session's.
    pub fn granted<S: Services>(&mut self, cx: &mut Context<'_, S>) {
        self.apply(Event::Granted, cx);
        self.resume(cx);
    }

    /// One delete asked for by [`Services::delete`] is on stable storage, or is not yet.
    pub fn deleted<S: Services>(&mut self, ok: bool, cx: &mut Context<'_, S>) {
        self.undeleted = self.undeleted.saturating_sub(1);
        if !ok {
            self.apply(Event::StoreFailed, cx);
        }
        if self.undeleted == 0 {
            self.deliver(cx);
            self.resume(cx);
        }
    }

    /// An administrator took messages away: those not yet sent are not sent.
    pub fn purged<S: Services>(&mut self, gone: impl Fn(MessageId) -> bool, cx: &mut Context<'_, S>) {
        if let State::ReceivingMessage { download, .. } = &mut self.state {
            download.drop_unsent(gone);
            self.deliver(cx);
            self.resume(cx);
        }
    }

    /// Ends the session in favour of another one's. Who does not take what is said within [`MAKING_WAY_MS`] hears nothing.
    pub fn make_way<S: Services>(&mut self, cx: &mut Context<'_, S>) {
        self.say(Reply::BadCommand(self.state.stage(), Why::Crowded), cx);
        self.finish();
        self.write_deadline = self.write_deadline.min(cx.now.saturating_add(MAKING_WAY_MS));
    }

    /// Ends the session at once, without a reply.
    pub fn kick(&mut self) {
        self.closing = Closing::Now;
    }

    /// The daemon stops.
    pub fn stop(&mut self) {
        if self.closing == Closing::Open {
            self.closing = Closing::Stopping;
        }
    }

    /// A successor goes on with the session.
    pub fn pause(&mut self) {
        if self.closing == Closing::Open {
            self.closing = Closing::Paused;
        }
    }

    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Whether work is under way whose outcome the client has not been told.
    pub fn is_storing(&self) -> bool {
        matches!(self.state, State::SendingMessage { .. }) || self.undeleted > 0
    }

    /// Bytes for the client.
    pub fn output(&self) -> &[u8] {
        self.output.get(self.sent as usize..).unwrap_or_default()
    }

    /// The client's side took `count` bytes of the output.
    pub fn output_sent<S: Services>(&mut self, count: usize, cx: &mut Context<'_, S>) {
        let was_full = self.is_full();
        self.sent = self.sent.saturating_add(u16::try_from(count).unwrap_or(u16::MAX));
        if self.sent as usize >= self.output.len() {
            self.output = Vec::new();
            self.sent = 0;
            self.write_deadline = NEVER;
        } else if count > 0 {
            if self.sent as usize >= OUTPUT_HIGH_WATER_BYTES / 2 {
                self.output.drain(..self.sent as usize);
                self.sent = 0;
            }
            // A byte now and then is no progress.
            self.progress = self.progress.saturating_add(u16::try_from(count).unwrap_or(u16::MAX));
            if self.progress >= WRITE_PROGRESS_BYTES {
                self.progress = 0;
                self.write_deadline = cx.now.saturating_add(cx.settings.timeouts.write);
            }
        }
        if was_full && !self.is_full() {
            self.deliver(cx);
            self.resume(cx);
        }
    }
}

#[cfg(test)]
mod tests;
