//! Silence as the end of a PDU in the classic dialect (docs/protocol.md section 8). It counts only while the socket is
//! read, because otherwise there may be bytes in the socket that nobody has seen.

use cp_proto::line::Decoder;

use super::{Closing, NEVER, Services, Session, SessionContext};
use crate::dfa::Dialect;
use crate::limits::CLASSIC_UNREAD_MAX_BYTES;

impl Session {
    /// Restarts the silence timer if `bytes` belong to an unfinished line. Call this before they are handled.
    pub(super) fn note_input<S: Services>(&mut self, bytes: &[u8], cx: &SessionContext<'_, S>) {
        if self.dialect == Dialect::Classic {
            let mut lookahead = self.take_lookahead();
            if lookahead.observe(bytes) {
                self.deadlines.silence = cx.now.saturating_add(cx.settings.classic_quiet);
            }
            self.lookahead = Some(lookahead);
        }
    }

    /// Appends `bytes` to the unread input, and restarts the silence timer if they belong to an unfinished line.
    pub(super) fn note_queued_input<S: Services>(&mut self, bytes: &[u8], cx: &SessionContext<'_, S>) {
        if self.dialect == Dialect::Cp {
            return self.input.append(bytes);
        }
        let mut lookahead = self.take_lookahead();
        if lookahead.observe_queued(&self.decoder, bytes, &mut self.input) {
            self.deadlines.silence = cx.now.saturating_add(cx.settings.classic_quiet);
        }
        self.lookahead = Some(lookahead);
    }

    /// Ends the unfinished line, because the silence has lasted long enough.
    pub(super) fn silence_elapsed<S: Services>(&mut self, cx: &mut SessionContext<'_, S>) {
        self.deadlines.silence = NEVER;
        // After a pause, the successor measures the silence.
        if self.closing != Closing::Open {
            return;
        }
        if self.input.is_empty() {
            self.decoder.end_by_silence();
            self.resume(cx);
        } else {
            // There is nothing to resume: the input before that line cannot be handled yet.
            let mut lookahead = self.take_lookahead();
            self.decoder.end_queued_line(&mut lookahead, &mut self.input);
            self.lookahead = Some(lookahead);
        }
    }

    /// Starts or stops the silence timer as the situation requires, and drops the lookahead when it is not needed.
    pub(super) fn rearm_silence<S: Services>(&mut self, cx: &SessionContext<'_, S>) {
        if self.dialect == Dialect::Cp {
            return;
        }
        let unfinished = if self.input.is_empty() {
            if let Some(lookahead) = self.lookahead.take() {
                self.decoder.sync_with(&lookahead);
            }
            self.decoder.awaits_terminator()
        } else {
            let lookahead = self.take_lookahead();
            self.lookahead.insert(lookahead).awaits_terminator()
        };
        let all_is_read = self.input_ended || self.input.len() < CLASSIC_UNREAD_MAX_BYTES;
        if !unfinished || !all_is_read {
            self.deadlines.silence = NEVER;
        } else if self.deadlines.silence == NEVER {
            self.deadlines.silence = cx.now.saturating_add(cx.settings.classic_quiet);
        }
    }

    /// Takes the lookahead out of its field, or creates it.
    fn take_lookahead(&mut self) -> Box<Decoder> {
        self.lookahead.take().unwrap_or_else(|| Box::new(self.decoder.lookahead(&self.input)))
    }
}
