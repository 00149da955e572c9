//! The server's side of one connection: bytes, events and the time go in; output, deadlines and requests to
//! [`Services`] come out. Nothing here blocks, and every buffer is bounded: once one is full, the client is not read.

mod classic;
mod deadlines;
mod dispatch;
mod expiry;
mod handover;
mod output;
pub mod settings;
mod silence;
mod stall;

use std::mem;

use cp_proto::line::Decoder;
use cp_proto::reply::{BadCommandCause, Reply};
use cp_proto::secret::WipedBytes;

use self::classic::Classic;
use self::deadlines::Deadlines;
use self::output::Output;
use self::settings::SessionSettings;
use super::dfa::{Dialect, Event, Refusal, State};
use super::download::{MessageId, Page};
use super::services::{Services, SessionContext};
use crate::limits::{CLASSIC_UNREAD_MAX_BYTES, PIPELINE_MAX_STORES};
use crate::time::{Millis, NEVER};

/// How long an evicted session may take to send its last reply, in milliseconds.
pub const EVICTION_GRACE_MS: Millis = 1000;

/// Whether, and how, a session is closing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    /// The session is not closing.
    Open,
    /// No further PDU is handled, because the daemon stops, or because the session ends while an SMSG is at the store.
    /// Work at the store is still answered.
    Stopping,
    /// No further PDU is handled, because the session is about to be handed over. Unread input is kept.
    Paused,
    /// The output is still sent, then the connection is shut down in order.
    Flush,
    /// The connection is closed at once.
    Now,
}

/// What a session has under way at the store.
#[derive(Debug, Default)]
struct StoreWork {
    /// How many SMSGs are at the store in addition to the one of Sending Message.
    pipelined: u16,
    /// How many stores are under way whose SMSG was answered already: 500, because an SMSG before it failed, or 540,
    /// because the store did not answer.
    discarded_outcomes: u16,
    /// How many deletes are not on stable storage yet.
    pending_deletes: u32,
}

/// The session of one connection.
#[derive(Debug)]
pub struct Session {
    state: State,
    decoder: Decoder,
    /// Input that was received and not parsed, because the PDU at its beginning cannot be handled yet.
    input: WipedBytes,
    /// What only a session in the classic dialect has; `None` in the other dialect. On the heap, since most sessions
    /// are not classic.
    classic: Option<Box<Classic>>,
    output: Output,
    deadlines: Deadlines,
    /// When the last complete PDU was taken, or the connection was made. While a password is being verified: when that
    /// began.
    last_pdu_at: Millis,
    store_work: StoreWork,
    /// How many downloads the session has begun.
    downloads: u32,
    /// How many logins have failed.
    login_failures: u8,
    /// How many replies of 500 or 560 were sent before the login.
    bad_pdus: u8,
    /// No line has come yet.
    no_line_yet: bool,
    /// The client has ended its stream.
    input_ended: bool,
    closing: Closing,
}

impl Session {
    /// The session of a connection that was made at `now`.
    pub fn new(dialect: Dialect, now: Millis, settings: &SessionSettings) -> Session {
        Session {
            state: State::Idle,
            decoder: Decoder::default(),
            input: WipedBytes::default(),
            classic: Classic::for_dialect(dialect),
            output: Output::default(),
            deadlines: Deadlines { state: now.saturating_add(settings.timeouts.login), ..Deadlines::default() },
            last_pdu_at: now,
            store_work: StoreWork::default(),
            downloads: 0,
            login_failures: 0,
            bad_pdus: 0,
            no_line_yet: true,
            input_ended: false,
            closing: Closing::Open,
        }
    }

    /// The state of section 5.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// How the owner of the connection has to close it now. This is `Flush` only once all output has been sent.
    pub fn next_close_step(&self) -> Closing {
        match self.closing {
            Closing::Flush if !self.output.is_empty() => Closing::Stopping,
            Closing::Stopping if self.output.is_empty() && !self.has_store_work() => Closing::Flush,
            other => other,
        }
    }

    /// How long ago the last complete PDU came, or the connection was made, in milliseconds.
    pub fn idle_for(&self, now: Millis) -> Millis {
        now.saturating_sub(self.last_pdu_at)
    }

    /// Whether the client's bytes should be read: only if there is no unread input, or in the classic dialect only a
    /// little, because silence can only be noticed while the socket is read.
    pub fn wants_input(&self) -> bool {
        let room = match self.dialect() {
            Dialect::Cp => self.input.is_empty() && !self.output.is_full(),
            Dialect::Classic => self.input.len() < CLASSIC_UNREAD_MAX_BYTES,
        };
        room && !self.input_ended && self.closing == Closing::Open
    }

    /// Handles bytes that came from the client.
    pub fn receive<S: Services>(&mut self, bytes: &[u8], cx: &mut SessionContext<'_, S>) {
        if self.closing != Closing::Open || self.input_ended {
            return;
        }
        if self.input.is_empty() {
            self.note_input(bytes, cx);
            let mut rest = bytes;
            self.handle_input(&mut rest, cx);
            self.input = WipedBytes::concat(&[rest]);
        } else {
            self.note_queued_input(bytes, cx);
        }
        self.rearm_deadlines(cx);
    }

    /// Handles unread input as far as possible. Call this when there may be room again after
    /// [`Admission::Full`](super::services::Admission::Full).
    pub fn resume<S: Services>(&mut self, cx: &mut SessionContext<'_, S>) {
        let mut input = mem::take(&mut self.input);
        let mut rest = &*input;
        self.handle_input(&mut rest, cx);
        let used = input.len() - rest.len();
        input.consume(used);
        self.input = input;
        self.rearm_deadlines(cx);
    }

    /// Handles the end of the client's stream.
    pub fn end_of_input<S: Services>(&mut self, cx: &mut SessionContext<'_, S>) {
        self.input_ended = true;
        self.rearm_deadlines(cx);
    }

    /// Handles the outcome of [`Services::verify`]: whether the credentials are correct.
    pub fn verified<S: Services>(&mut self, ok: bool, cx: &mut SessionContext<'_, S>) {
        self.resume_login_timer(cx.now);
        self.apply(Event::Verified(ok), cx);
        if self.state.user().is_none() {
            self.count_failure();
        }
        self.resume(cx);
    }

    /// Refuses a login whose password was correct, because its user has as many sessions as are allowed, and closes.
    pub fn refuse_login<S: Services>(&mut self, cx: &mut SessionContext<'_, S>) {
        self.send_reply(Reply::BadCommand(self.state.stage(), BadCommandCause::TooManySessions), cx);
        self.close_after_output();
        self.rearm_deadlines(cx);
    }

    /// Handles the outcome of the oldest message given to [`Services::store`]: it is on stable storage, or why not.
    pub fn stored<S: Services>(&mut self, result: Result<(), Refusal>, cx: &mut SessionContext<'_, S>) {
        if self.store_work.discarded_outcomes > 0 {
            self.store_work.discarded_outcomes -= 1;
        } else {
            self.apply(result.map_or_else(Event::Refused, |()| Event::Stored), cx);
            self.advance_pipeline(cx);
        }
        if self.store_work.pipelined < PIPELINE_MAX_STORES / 2 && (self.has_unread_input() || self.input_ended) {
            self.resume(cx);
        } else {
            self.rearm_deadlines(cx);
        }
    }

    /// Handles a page of the download `serial`; `None` means that it could not be read.
    pub fn page<S: Services>(&mut self, serial: u32, page: Option<Page>, cx: &mut SessionContext<'_, S>) {
        if let State::ReceivingMessage { download, .. } = &self.state
            && download.serial == serial
            && download.page_requested
        {
            self.apply(page.map_or(Event::StoreFailed, Event::Page), cx);
            self.resume(cx);
        }
    }

    /// Handles the grant of the lease that a WMSG waits for, or for which this session asked.
    pub fn granted<S: Services>(&mut self, cx: &mut SessionContext<'_, S>) {
        self.apply(Event::Granted, cx);
        self.resume(cx);
    }

    /// Handles that the session does not get the lease for which it asked.
    pub fn nothing<S: Services>(&mut self, cx: &mut SessionContext<'_, S>) {
        self.apply(Event::Nothing, cx);
        self.resume(cx);
    }

    /// Handles the outcome of `count` calls of [`Services::delete`]: whether the deletes are on stable storage.
    pub fn deleted<S: Services>(&mut self, count: u32, ok: bool, cx: &mut SessionContext<'_, S>) {
        self.store_work.pending_deletes = self.store_work.pending_deletes.saturating_sub(count);
        if !ok {
            self.apply(Event::StoreFailed, cx);
        }
        if self.store_work.pending_deletes == 0 {
            self.deliver(cx);
            self.resume(cx);
        }
    }

    /// Drops unsent messages for which `gone` is true, because an operator has removed them from the queue.
    pub fn purged<S: Services>(&mut self, gone: impl Fn(MessageId) -> bool, cx: &mut SessionContext<'_, S>) {
        if let State::ReceivingMessage { download, .. } = &mut self.state {
            download.drop_unsent(gone);
            self.deliver(cx);
            self.resume(cx);
        }
    }

    /// Ends the session with a 500 in favour of a new connection (section 5). A client that does not read its output
    /// within [`EVICTION_GRACE_MS`] is disconnected without it.
    pub fn evict<S: Services>(&mut self, cx: &mut SessionContext<'_, S>) {
        self.send_reply(Reply::BadCommand(self.state.stage(), BadCommandCause::TooManyConnections), cx);
        self.close_after_output();
        self.output.shorten_deadline(cx.now.saturating_add(EVICTION_GRACE_MS));
    }

    /// Disconnects the client at once, without a reply.
    pub fn disconnect(&mut self) {
        self.closing = Closing::Now;
    }

    /// Ends the session because the daemon stops.
    pub fn stop(&mut self) {
        if self.closing == Closing::Open {
            self.closing = Closing::Stopping;
        }
    }

    /// Stops handling PDUs, because the session is about to be handed over.
    pub fn pause(&mut self) {
        if self.closing == Closing::Open {
            self.closing = Closing::Paused;
        }
    }

    /// The dialect of the listener that accepted the connection.
    pub fn dialect(&self) -> Dialect {
        if self.classic.is_some() { Dialect::Classic } else { Dialect::Cp }
    }

    /// Whether a store or a delete is under way whose outcome the client has not been sent.
    pub fn has_store_work(&self) -> bool {
        matches!(self.state, State::SendingMessage { .. }) || self.store_work.pending_deletes > 0
    }

    /// The bytes that are still to be sent to the client.
    pub fn output(&self) -> &[u8] {
        self.output.unsent()
    }

    /// Removes `count` bytes from the output, because the client's socket has taken them.
    pub fn output_sent<S: Services>(&mut self, count: usize, cx: &mut SessionContext<'_, S>) {
        let was_full = self.output.is_full();
        self.output.remove(count, cx.now, cx.settings.timeouts.write);
        if was_full && !self.output.is_full() {
            self.deliver(cx);
            self.resume(cx);
        }
    }
}

#[cfg(test)]
mod tests;
