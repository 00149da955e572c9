//! Silence as the end of a PDU in the classic dialect (docs/protocol.md section 8). It counts only while the socket is
//! read, because otherwise there may be bytes in the socket that nobody has seen.

use super::{Closing, NEVER, Services, Session, SessionContext};
use crate::limits::CLASSIC_UNREAD_MAX_BYTES;
use crate::time::Millis;

impl Session {
    /// When silence ends the unfinished PDU. [`NEVER`]: it does not, or not in this dialect.
    pub(super) fn silence_deadline(&self) -> Millis {
        self.classic.as_ref().map_or(NEVER, |classic| classic.silence)
    }

    /// Restarts the silence timer if `bytes` belong to an unfinished line. Call this before they are handled.
    pub(super) fn note_input<S: Services>(&mut self, bytes: &[u8], cx: &SessionContext<'_, S>) {
        if let Some(classic) = &mut self.classic {
            let lookahead = classic.lookahead(&self.decoder, &self.input);
            if lookahead.observe(bytes) {
                classic.silence = cx.now.saturating_add(cx.settings.classic_quiet);
            }
        }
    }

    /// Appends `bytes` to the unread input, and restarts the silence timer if they belong to an unfinished line.
    pub(super) fn note_queued_input<S: Services>(&mut self, bytes: &[u8], cx: &SessionContext<'_, S>) {
        let Some(classic) = &mut self.classic else { return self.input.append(bytes) };
        let lookahead = classic.lookahead(&self.decoder, &self.input);
        if lookahead.observe_queued(&self.decoder, bytes, &mut self.input) {
            classic.silence = cx.now.saturating_add(cx.settings.classic_quiet);
        }
    }

    /// Ends the unfinished line, because the silence has lasted long enough.
    pub(super) fn silence_elapsed<S: Services>(&mut self, cx: &mut SessionContext<'_, S>) {
        let Some(classic) = &mut self.classic else { return };
        classic.silence = NEVER;
        // After a pause, the successor measures the silence.
        if self.closing != Closing::Open {
            return;
        }
        if self.input.is_empty() {
            self.decoder.end_by_silence();
            self.resume(cx);
        } else {
            // There is nothing to resume: the input before that line cannot be handled yet.
            let lookahead = classic.lookahead(&self.decoder, &self.input);
            self.decoder.end_queued_line(lookahead, &mut self.input);
        }
    }

    /// Starts or stops the silence timer as the situation requires, and drops the lookahead when it is not needed.
    pub(super) fn rearm_silence<S: Services>(&mut self, cx: &SessionContext<'_, S>) {
        let Some(classic) = &mut self.classic else { return };
        let unfinished = if self.input.is_empty() {
            if let Some(lookahead) = classic.lookahead.take() {
                self.decoder.sync_with(&lookahead);
            }
            self.decoder.awaits_terminator()
        } else {
            classic.lookahead(&self.decoder, &self.input).awaits_terminator()
        };
        let all_is_read = self.input_ended || self.input.len() < CLASSIC_UNREAD_MAX_BYTES;
        if !unfinished || !all_is_read {
            classic.silence = NEVER;
        } else if classic.silence == NEVER {
            classic.silence = cx.now.saturating_add(cx.settings.classic_quiet);
        }
    }

    /// Forgets the lookahead, because the unread input has been changed. It is made anew when it is needed.
    pub(super) fn drop_lookahead(&mut self) {
        if let Some(classic) = &mut self.classic {
            classic.lookahead = None;
        }
    }
}
