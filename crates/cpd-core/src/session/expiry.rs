//! When a session has to be looked at again, and what happens when one of its deadlines has passed.

use cp_proto::secret::WipedBytes;

use super::classic::Classic;
use super::deadlines::Deadlines;
use super::{Closing, NEVER, Services, Session, SessionContext};
use crate::dfa::{Dialect, Event, State};
use crate::time::Millis;

impl Session {
    /// The earliest deadline: when to call [`Session::expire`]. [`NEVER`] if there is none.
    pub fn deadline(&self) -> Millis {
        self.deadlines
            .pdu
            .min(self.silence_deadline())
            .min(if self.is_verifying() { NEVER } else { self.deadlines.state })
            .min(self.deadlines.idle)
            .min(self.output.deadline())
    }

    /// Handles the deadlines that have passed.
    pub fn expire<S: Services>(&mut self, cx: &mut SessionContext<'_, S>) {
        if self.output.deadline() <= cx.now {
            self.closing = Closing::Now;
        }
        if self.deadlines.idle <= cx.now {
            // A client with unread input is not idle.
            if self.has_unread_input() {
                self.deadlines.idle = cx.now.saturating_add(cx.settings.timeouts.idle);
            } else {
                self.close(cx);
            }
        }
        if self.deadlines.state <= cx.now && !self.is_verifying() {
            self.deadlines.state = NEVER;
            self.expire_state(cx);
        }
        if self.silence_deadline() <= cx.now {
            self.silence_elapsed(cx);
        }
        if self.deadlines.pdu <= cx.now {
            self.expire_pdu(cx);
        }
        self.rearm_deadlines(cx);
    }

    /// Shortens the running timers whose settings were made shorter, so that these hold from the next event on
    /// (section 6). While the settings stay the same, this changes nothing.
    fn apply_shortened_timeouts<S: Services>(&mut self, cx: &SessionContext<'_, S>) {
        let timeouts = &cx.settings.timeouts;
        let at_most = |deadline: Millis, timeout: Millis| match deadline {
            NEVER => NEVER,
            deadline => deadline.min(cx.now.saturating_add(timeout)),
        };
        self.deadlines.pdu = at_most(self.deadlines.pdu, timeouts.pdu);
        if let Some(classic) = &mut self.classic {
            classic.silence = at_most(classic.silence, cx.settings.classic_quiet);
        }
        self.deadlines.idle = at_most(self.deadlines.idle, timeouts.idle);
        self.output.shorten_deadline(at_most(self.output.deadline(), timeouts.write));
        self.deadlines.state = match &self.state {
            State::Idle | State::UserValidated { .. } | State::AuthenticationValidated { .. } => {
                at_most(self.deadlines.state, timeouts.login)
            }
            // The client has chosen how long to wait.
            State::ReceivingMessage { download, .. } if download.waiting => self.deadlines.state,
            State::ReceivingMessage { .. } => at_most(self.deadlines.state, timeouts.ack),
            State::ErrorProcessing { .. } => at_most(self.deadlines.state, timeouts.recover),
            State::ProcessCommand { .. } | State::SendingMessage { .. } => self.deadlines.state,
        };
    }

    /// Whether a verification is under way, even a dummy one.
    fn is_verifying(&self) -> bool {
        matches!(self.state, State::AuthenticationValidated { .. })
    }

    /// Suspends the login timer when a verification begins.
    pub(super) fn suspend_login_timer(&mut self, now: Millis) {
        self.last_pdu_at = now;
    }

    /// Restarts the login timer with the time that was left, if a verification is under way. Call this when that has
    /// ended and before the state changes.
    pub(super) fn resume_login_timer(&mut self, now: Millis) {
        if self.is_verifying() && self.deadlines.state != NEVER {
            self.deadlines.state = self.deadlines.state.saturating_add(now.saturating_sub(self.last_pdu_at));
        }
    }

    fn expire_state<S: Services>(&mut self, cx: &mut SessionContext<'_, S>) {
        match &self.state {
            State::ReceivingMessage { download, .. } if download.waiting => self.end_wait(cx),
            State::ReceivingMessage { .. } => self.apply(Event::AckTimeout, cx),
            State::Idle
            | State::UserValidated { .. }
            | State::AuthenticationValidated { .. }
            | State::ErrorProcessing { .. } => self.close(cx),
            State::ProcessCommand { .. } | State::SendingMessage { .. } => {}
        }
        self.resume(cx);
    }

    /// Gives up the unfinished line because it took too long. While another PDU is being handled, the reply would come
    /// too early, so the timer starts again.
    fn expire_pdu<S: Services>(&mut self, cx: &mut SessionContext<'_, S>) {
        if !self.takes_pdus() {
            self.deadlines.pdu = cx.now.saturating_add(cx.settings.timeouts.pdu);
            return;
        }
        self.deadlines.pdu = NEVER;
        if !self.decoder.has_unfinished_line() {
            return;
        }
        self.drop_lookahead();
        match self.decoder.abandon_line() {
            Some(verb) => {
                self.no_line_yet = false;
                if self.is_waiting() {
                    self.end_wait(cx);
                }
                self.apply(Event::TimedOut(verb), cx);
            }
            None => self.close(cx),
        }
    }

    /// Sets and clears the timers as the situation requires, and closes the session if the client has ended its stream
    /// and nothing is left to do. Most methods that handle input, an outcome or a deadline call this last.
    pub(super) fn rearm_deadlines<S: Services>(&mut self, cx: &mut SessionContext<'_, S>) {
        if self.closing == Closing::Paused {
            return;
        }
        self.apply_shortened_timeouts(cx);
        if self.closing != Closing::Open {
            self.input = WipedBytes::default();
            if let Some(classic) = &mut self.classic {
                **classic = Classic::default();
            }
            self.deadlines = Deadlines::default();
        } else if self.input_ended && self.awaits_input_only() {
            self.close(cx);
        } else {
            if self.input_ended && self.input.is_empty() && self.dialect() == Dialect::Cp {
                self.decoder.drop_unfinished_line();
            }
            // Bytes after an erased line begin another line with a timer of its own, even in the same segment.
            if self.decoder.take_line_erased() || !self.decoder.has_timed_line() {
                self.deadlines.pdu = NEVER;
            }
            if self.decoder.has_timed_line() && self.deadlines.pdu == NEVER {
                self.deadlines.pdu = cx.now.saturating_add(cx.settings.timeouts.pdu);
            }
            self.rearm_silence(cx);
        }
        self.output.rearm(cx.now, cx.settings.timeouts.write);
    }

    /// Whether nothing can happen any more without further input.
    pub(super) fn awaits_input_only(&self) -> bool {
        // In the classic dialect, the silence after the last byte still ends a PDU.
        let silence = self.dialect() == Dialect::Classic && self.decoder.awaits_terminator();
        if silence || self.output.is_full() || self.store_work.pending_deletes > 0 || self.has_unread_input() {
            return false;
        }
        match &self.state {
            State::Idle
            | State::UserValidated { .. }
            | State::ProcessCommand { .. }
            | State::ErrorProcessing { .. } => true,
            State::AuthenticationValidated { .. } | State::SendingMessage { .. } => false,
            State::ReceivingMessage { download, .. } => !download.waiting && !download.page_requested,
        }
    }

    /// Whether there is input, or a finished line in the decoder, that could not be handled yet.
    pub(super) fn has_unread_input(&self) -> bool {
        !self.input.is_empty() || self.decoder.has_finished_line()
    }

    /// Whether a WMSG waits.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(&self.state, State::ReceivingMessage { download, .. } if download.waiting)
    }

    /// Whether the next PDU can be handled now.
    pub(super) fn takes_pdus(&self) -> bool {
        self.state.takes_pdus()
    }
}
