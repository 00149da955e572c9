//! Silence as the end of a PDU (the classic dialect). It is heard only while reading goes on: bytes that nobody has read
//! yet are no silence.

use super::{Closing, Context, NEVER, Services, Session};
use crate::proto::dfa::Dialect;
use crate::proto::limits::CLASSIC_AHEAD_BYTES;
use crate::proto::line::Decoder;

impl Session {
    /// Bytes of an unfinished line begin the silence anew. To be called before they are taken up.
    pub(super) fn hear<S: Services>(&mut self, bytes: &[u8], cx: &Context<'_, S>) {
        if self.dialect == Dialect::Classic {
            let mut tail = self.take_tail();
            if tail.hears(bytes) {
                self.quiet_deadline = cx.now.saturating_add(cx.settings.classic_quiet);
            }
            self.tail = Some(tail);
        }
    }

    /// The same of bytes that come while others wait: they are put behind those.
    pub(super) fn hear_behind<S: Services>(&mut self, bytes: &[u8], cx: &Context<'_, S>) {
        if self.dialect == Dialect::Cp {
            return self.input.append(bytes);
        }
        let mut tail = self.take_tail();
        if tail.hears_behind(&self.decoder, bytes, &mut self.input) {
            self.quiet_deadline = cx.now.saturating_add(cx.settings.classic_quiet);
        }
        self.tail = Some(tail);
    }

    /// It has been silent for long enough.
    pub(super) fn fall_silent<S: Services>(&mut self, cx: &mut Context<'_, S>) {
        self.quiet_deadline = NEVER;
        // What a pause leaves unread, a successor hears.
        if self.closing != Closing::Open {
            return;
        }
        if self.input.is_empty() {
            self.decoder.end_by_silence();
            self.resume(cx);
        } else {
            // What waits is not helped by an end behind it.
            let mut tail = self.take_tail();
            self.decoder.end_tail(&mut tail, &mut self.input);
            self.tail = Some(tail);
        }
    }

    /// After every call: whether silence counts, and from when on.
    pub(super) fn settle_silence<S: Services>(&mut self, cx: &Context<'_, S>) {
        if self.dialect == Dialect::Cp {
            return;
        }
        let unfinished = if self.input.is_empty() {
            if let Some(tail) = self.tail.take() {
                self.decoder.catch_up(&tail);
            }
            self.decoder.waits_for_end()
        } else {
            let tail = self.take_tail();
            self.tail.insert(tail).waits_for_end()
        };
        let all_is_read = self.ended || self.input.len() < CLASSIC_AHEAD_BYTES;
        if !unfinished || !all_is_read {
            self.quiet_deadline = NEVER;
        } else if self.quiet_deadline == NEVER {
            self.quiet_deadline = cx.now.saturating_add(cx.settings.classic_quiet);
        }
    }

    fn take_tail(&mut self) -> Box<Decoder> {
        self.tail.take().unwrap_or_else(|| Box::new(self.decoder.tail(&self.input)))
    }
}
