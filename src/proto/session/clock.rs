//! A session's time: its deadlines, and what happens when one has passed.

use super::{Closing, Context, NEVER, Services, Session};
use crate::proto::dfa::{Dialect, Event, State};
use crate::proto::limits::{OUTPUT_HIGH_WATER_BYTES, REPLY_MAX_BYTES};
use crate::proto::types::Millis;
use crate::proto::waiting::Waiting;

impl Session {
    /// When [`Session::expire`] is to be called at the latest.
    pub fn deadline(&self) -> Millis {
        self.pdu_deadline
            .min(self.quiet_deadline)
            .min(if self.login_waits() { NEVER } else { self.state_deadline })
            .min(self.idle_deadline)
            .min(self.write_deadline)
    }

    /// Does what is due at `now`.
    pub fn expire<S: Services>(&mut self, cx: &mut Context<'_, S>) {
        if self.write_deadline <= cx.now {
            self.closing = Closing::Now;
        }
        if self.idle_deadline <= cx.now {
            // Who has sent what could not be taken yet is not idle.
            if self.has_pdu() {
                self.idle_deadline = cx.now.saturating_add(cx.settings.timeouts.idle);
            } else {
                self.close(cx);
            }
        }
        if self.state_deadline <= cx.now && !self.login_waits() {
            self.state_deadline = NEVER;
            self.expire_state(cx);
        }
        if self.quiet_deadline <= cx.now {
            self.fall_silent(cx);
        }
        if self.pdu_deadline <= cx.now {
            self.expire_pdu(cx);
        }
        self.settle(cx);
    }

    /// A timer that runs takes no longer than its setting says now: one that was made shorter counts from the next event
    /// on. With settings that stay as they are this changes nothing.
    fn obey_settings<S: Services>(&mut self, cx: &Context<'_, S>) {
        let timeouts = &cx.settings.timeouts;
        let at_most = |deadline: Millis, timeout: Millis| match deadline {
            NEVER => NEVER,
            deadline => deadline.min(cx.now.saturating_add(timeout)),
        };
        self.pdu_deadline = at_most(self.pdu_deadline, timeouts.pdu);
        self.quiet_deadline = at_most(self.quiet_deadline, cx.settings.classic_quiet);
        self.idle_deadline = at_most(self.idle_deadline, timeouts.idle);
        self.write_deadline = at_most(self.write_deadline, timeouts.write);
        self.state_deadline = match &self.state {
            State::Idle | State::UserValidated { .. } | State::AuthenticationValidated { .. } => {
                at_most(self.state_deadline, timeouts.login)
            }
            // So long the client asked to wait.
            State::ReceivingMessage { download, .. } if download.waiting => self.state_deadline,
            State::ReceivingMessage { .. } => at_most(self.state_deadline, timeouts.ack),
            State::ErrorProcessing { .. } => at_most(self.state_deadline, timeouts.recover),
            State::ProcessCommand { .. } | State::SendingMessage { .. } => self.state_deadline,
        };
    }

    /// A PASS waits for cpd.
    fn login_waits(&self) -> bool {
        self.penance || matches!(self.state, State::AuthenticationValidated { .. })
    }

    /// It does from now on.
    pub(super) fn pause_login(&mut self, now: Millis) {
        self.last_pdu = now;
    }

    /// If it does, it does no longer: what was left of the time for logging in is left now.
    pub(super) fn resume_login(&mut self, now: Millis) {
        if self.login_waits() && self.state_deadline != NEVER {
            self.state_deadline = self.state_deadline.saturating_add(now.saturating_sub(self.last_pdu));
        }
    }

    fn expire_state<S: Services>(&mut self, cx: &mut Context<'_, S>) {
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

    /// The unfinished line took too long. While another PDU is under way its answer would come too early.
    fn expire_pdu<S: Services>(&mut self, cx: &mut Context<'_, S>) {
        if !self.takes_pdus() {
            self.pdu_deadline = cx.now.saturating_add(cx.settings.timeouts.pdu);
            return;
        }
        self.pdu_deadline = NEVER;
        if !self.decoder.unfinished() {
            return;
        }
        self.tail = None;
        match self.decoder.give_up() {
            Some(verb) => {
                self.fresh = false;
                if self.is_waiting() {
                    self.end_wait(cx);
                }
                self.apply(Event::Late(verb), cx);
            }
            None => self.close(cx),
        }
    }

    /// After every call: the timers that follow from where the session stands, and its end after the client's FIN.
    pub(super) fn settle<S: Services>(&mut self, cx: &mut Context<'_, S>) {
        if self.closing == Closing::Paused {
            return;
        }
        self.obey_settings(cx);
        if self.closing != Closing::Open {
            self.input = Waiting::default();
            self.tail = None;
            self.pdu_deadline = NEVER;
            self.quiet_deadline = NEVER;
            self.state_deadline = NEVER;
            self.idle_deadline = NEVER;
        } else if self.ended && self.is_stuck() {
            self.close(cx);
        } else {
            if self.ended && self.input.is_empty() && self.dialect == Dialect::Cp {
                self.decoder.drop_unfinished();
            }
            // What comes behind an erased line is another one, in the same segment as well.
            if self.decoder.take_erased() || !self.decoder.collecting() {
                self.pdu_deadline = NEVER;
            }
            if self.decoder.collecting() && self.pdu_deadline == NEVER {
                self.pdu_deadline = cx.now.saturating_add(cx.settings.timeouts.pdu);
            }
            self.settle_silence(cx);
        }
        if self.output.is_empty() {
            self.write_deadline = NEVER;
        } else if self.write_deadline == NEVER {
            self.progress = 0;
            self.write_deadline = cx.now.saturating_add(cx.settings.timeouts.write);
        }
    }

    /// Whether nothing can happen any more without input.
    pub(super) fn is_stuck(&self) -> bool {
        // In the classic dialect the silence behind the last byte still ends a PDU.
        let silence = self.dialect == Dialect::Classic && self.decoder.waits_for_end();
        if silence || self.penance || self.is_full() || self.undeleted > 0 || self.has_pdu() {
            return false;
        }
        match &self.state {
            State::Idle
            | State::UserValidated { .. }
            | State::ProcessCommand { .. }
            | State::ErrorProcessing { .. } => true,
            State::AuthenticationValidated { .. } | State::SendingMessage { .. } => false,
            State::ReceivingMessage { download, .. } => !download.waiting && !download.reading,
        }
    }

    /// Whether a PDU waits that could not be taken yet.
    pub(super) fn has_pdu(&self) -> bool {
        !self.input.is_empty() || self.decoder.finished()
    }

    pub(super) fn is_waiting(&self) -> bool {
        matches!(&self.state, State::ReceivingMessage { download, .. } if download.waiting)
    }

    pub(super) fn takes_pdus(&self) -> bool {
        !self.penance && self.state.takes_pdus()
    }

    pub(super) fn is_full(&self) -> bool {
        self.output().len() >= OUTPUT_HIGH_WATER_BYTES
    }
}

/// Makes room for one reply or message more. A vector by itself takes twice of what it had, and at the high-water mark that
/// would be as much again for each client who does not read.
pub(super) fn make_room(output: &mut Vec<u8>) {
    let free = output.capacity() - output.len();
    if free < REPLY_MAX_BYTES && output.len() >= OUTPUT_HIGH_WATER_BYTES / 2 {
        let all = OUTPUT_HIGH_WATER_BYTES + 2 * REPLY_MAX_BYTES;
        output.reserve_exact(all.saturating_sub(output.len()).max(REPLY_MAX_BYTES));
    }
}
