//! Silence as the end of a line (the classic dialect, docs/protocol.md section 8). Silence also ends a line that is
//! still unread because an earlier PDU is being handled. For this there is a second decoder, the lookahead, whose state
//! is the one that the first decoder will have after all unread input.

use super::{Decoder, Found, LF, copy_held};
use crate::secret::WipedBytes;
use crate::telnet::{IAC, NvtEvent};

impl Decoder {
    /// The lookahead: a copy of this decoder, advanced past its unread input.
    pub fn lookahead(&self, unread: &[u8]) -> Decoder {
        let mut lookahead = Decoder { held: copy_held(&self.held), ..*self };
        lookahead.advance_past(unread);
        lookahead
    }

    /// Once this decoder has reached the place of its lookahead, copies from it what only the lookahead knows: that
    /// silence has ended the line before.
    pub fn sync_with(&mut self, lookahead: &Decoder) {
        (self.skip_next_lf, self.after_cr) = (lookahead.skip_next_lf, lookahead.after_cr);
    }

    /// Advances this lookahead past `bytes` and appends them to the unread input of the decoder `first`. Bytes of a
    /// line terminator are left out if silence has ended that line already and `first` cannot know that. Returns
    /// whether a line is unfinished now and any of `bytes` belong to a line; bytes of NVT commands do not.
    pub fn observe_queued(&mut self, first: &Decoder, mut bytes: &[u8], unread: &mut WipedBytes) -> bool {
        while let Some(owed) = self.skipped_byte_at(bytes).filter(|_| !first.lookahead(unread).skip_next_lf) {
            let (before, behind) = bytes.split_at(owed);
            unread.append(before);
            self.advance_past(bytes.get(..=owed).unwrap_or_default());
            bytes = behind.get(1..).unwrap_or_default();
        }
        unread.append(bytes);
        self.observe(bytes)
    }

    /// Whether an LF that comes next belongs to a line that silence has ended already.
    pub fn skip_next_lf(&self) -> bool {
        self.skip_next_lf
    }

    /// Sets what [`Decoder::skip_next_lf`] returns, when a session is restored from a record.
    pub fn set_skip_next_lf(&mut self) {
        self.skip_next_lf = true;
    }

    /// Advances this lookahead past `bytes`. Returns whether a line is unfinished now and any of `bytes` belong to it;
    /// bytes of NVT commands do not.
    pub fn observe(&mut self, bytes: &[u8]) -> bool {
        self.line_bytes_seen = false;
        self.advance_past(bytes);
        // A line that is nothing but an IAC has begun with the last of these bytes: the line before it, if there was
        // one, has ended.
        let has_begun = self.line_bytes_seen || !self.has_unfinished_line();
        has_begun && self.awaits_terminator()
    }

    /// Whether a line has begun that silence would end. An IAC that nothing follows counts as a byte of a line.
    pub fn awaits_terminator(&self) -> bool {
        (self.has_unfinished_line() || self.telnet.is_after_iac()) && !self.has_finished_line() && !self.flooded()
    }

    /// Ends the unfinished line, if there is one, because of silence.
    pub fn end_by_silence(&mut self) {
        if self.awaits_terminator() {
            if self.telnet.end_lone_iac() {
                self.push(&[IAC]);
            }
            self.end_line_without_lf();
        }
    }

    /// Ends the line without an LF. If its last byte was a CR, an LF that comes next belongs to this end.
    fn end_line_without_lf(&mut self) {
        let (behind_cr, after_cr) = (self.trailing_crs > 0, self.after_cr);
        self.end_line();
        (self.skip_next_lf, self.after_cr) = (behind_cr, after_cr);
    }

    /// Ends the unfinished line at the end of the unread input because of silence, for this decoder and for its
    /// lookahead. The end is marked by an LF that is inserted into the unread input, if possible.
    pub fn end_queued_line(&mut self, lookahead: &mut Decoder, unread: &mut WipedBytes) {
        if !lookahead.awaits_terminator() {
            return;
        }
        lookahead.end_by_silence();
        lookahead.advance_past(&[]);
        // An NVT command that has begun continues after the silence, so the LF must stand before that command.
        let mut telnet = self.telnet;
        let mut end = telnet.is_plain().then_some(0);
        for (index, byte) in unread.iter().enumerate() {
            if telnet.feed(*byte) == NvtEvent::StrayIac {
                telnet.feed(*byte);
            }
            if telnet.is_plain() {
                end = Some(index + 1);
            }
        }
        match end {
            // An IAC that nothing follows does not begin a command.
            _ if telnet.is_after_iac() => unread.append(&[LF]),
            Some(end) => unread.insert(end, LF),
            None => self.end_line_without_lf(),
        }
    }

    /// The index in `bytes` of the LF that belongs to a line which silence has ended already, or of the NUL of a CR NUL
    /// before that LF. `None` if the next byte of data is neither.
    fn skipped_byte_at(&self, bytes: &[u8]) -> Option<usize> {
        if !self.skip_next_lf {
            return None;
        }
        let (mut telnet, mut after_cr) = (self.telnet, self.after_cr);
        for (index, byte) in bytes.iter().enumerate() {
            match telnet.feed(*byte) {
                NvtEvent::Data(LF) => return Some(index),
                NvtEvent::Data(0) if after_cr => return Some(index),
                NvtEvent::Data(_) | NvtEvent::StrayIac | NvtEvent::End => return None,
                NvtEvent::EraseCharacter | NvtEvent::EraseLine => after_cr = false,
                NvtEvent::Nothing | NvtEvent::Refuse(_) | NvtEvent::AreYouThere => {}
            }
        }
        None
    }

    /// Advances past all lines of `input`, up to a flood or the client's end.
    fn advance_past(&mut self, mut input: &[u8]) {
        loop {
            let token = match self.peek(&mut input) {
                Found::Line(_, token) => token,
                Found::Refuse(_) | Found::AreYouThere => continue,
                Found::NeedInput | Found::Flood | Found::End => return,
            };
            self.take_line(token, &mut input);
        }
    }
}
