//! The decoder's part of a session's record, which lets the successor continue in the middle of the stream.

use super::{Decoder, Mode, copy_held, without_crs};
use crate::proto::limits::{PDU_MAX_BYTES, UNTERMINATED_MAX_BYTES, VERB_BYTES};
use crate::proto::record::{RecordFormat, RecordReader, RecordWriter};
use crate::proto::telnet::NvtParser;

const UNTERMINATED_MAX: u32 = UNTERMINATED_MAX_BYTES as u32;

impl Decoder {
    /// Writes this decoder in the form that [`Decoder::thaw`] reads.
    pub fn freeze(&self, out: &mut RecordWriter) {
        let (kind, byte) = match self.telnet {
            NvtParser::Plain => (0, 0),
            NvtParser::Command => (1, 0),
            NvtParser::Option(verb) => (2, verb),
            NvtParser::Subnegotiation => (3, 0),
            NvtParser::SubnegotiationCommand => (4, 0),
            NvtParser::Ended => (5, 0),
        };
        out.u8(kind);
        out.u8(byte);
        let (kind, verb) = match self.mode {
            Mode::Collect => (0, [0; VERB_BYTES]),
            Mode::Overlong { verb } => (1, verb),
            Mode::Skip => (2, [0; VERB_BYTES]),
            Mode::Whole => (3, [0; VERB_BYTES]),
            Mode::WholeOverlong { verb } => (4, verb),
        };
        out.u8(kind);
        out.bytes(&verb);
        // More than this is a flood, after which the session only sends the rest of its output.
        out.u32(self.dropped_bytes.min(UNTERMINATED_MAX));
        out.bytes(&self.held);
        out.u32(self.removed_bytes);
        out.u32(self.trailing_crs.min(UNTERMINATED_MAX));
        out.bool(self.after_cr);
        out.bool(self.skip_next_lf);
    }

    /// Reads a decoder from a record; `None` if no decoder is written like that in this format.
    pub fn thaw(from: &mut RecordReader<'_>, form: RecordFormat) -> Option<Decoder> {
        let telnet = match (from.u8()?, from.u8()?) {
            (0, 0) => NvtParser::Plain,
            (1, 0) => NvtParser::Command,
            (2, verb) => NvtParser::Option(verb),
            (3, 0) => NvtParser::Subnegotiation,
            (4, 0) => NvtParser::SubnegotiationCommand,
            (5, 0) if form == RecordFormat::Current => NvtParser::Ended,
            _ => return None,
        };
        let kind = from.u8()?;
        let verb: [u8; VERB_BYTES] = from.bytes(VERB_BYTES)?.try_into().ok()?;
        let dropped_bytes = from.u32().filter(|dropped_bytes| *dropped_bytes <= UNTERMINATED_MAX)?;
        let mode = match kind {
            0 => Mode::Collect,
            1 => Mode::Overlong { verb },
            2 => Mode::Skip,
            3 => Mode::Whole,
            4 => Mode::WholeOverlong { verb },
            _ => return None,
        };
        let (held, removed_bytes, trailing_crs, after_cr, skip_next_lf) = match form {
            RecordFormat::Current => thaw_line(from)?,
            RecordFormat::Previous => thaw_old_line(from, mode)?,
        };
        let holds = matches!(mode, Mode::Collect | Mode::Whole);
        // Fields that a mode does not use are written as zeros.
        let unused_are_zero = match mode {
            Mode::Overlong { .. } => true,
            Mode::Skip => verb == [0; VERB_BYTES],
            Mode::WholeOverlong { .. } => dropped_bytes == 0 && trailing_crs == 0,
            Mode::Collect => verb == [0; VERB_BYTES] && dropped_bytes == 0,
            Mode::Whole => verb == [0; VERB_BYTES] && dropped_bytes == 0 && trailing_crs == 0,
        };
        let sound = (holds || held.is_empty()) && held.last() != Some(&super::CR);
        let held = copy_held(held);
        (sound && unused_are_zero).then_some(Decoder {
            telnet,
            mode,
            held,
            dropped_bytes,
            trailing_crs,
            after_cr,
            skip_next_lf,
            removed_bytes,
            line_bytes_seen: false,
            erased: false,
        })
    }
}

/// The values of the decoder's fields `held`, `removed_bytes`, `trailing_crs`, `after_cr` and `skip_next_lf`.
type LineFields<'a> = (&'a [u8], u32, u32, bool, bool);

fn thaw_line<'a>(from: &mut RecordReader<'a>) -> Option<LineFields<'a>> {
    let (held, removed_bytes) = (from.bytes(PDU_MAX_BYTES)?, from.u32()?);
    let trailing_crs = from.u32().filter(|trailing_crs| *trailing_crs <= UNTERMINATED_MAX)?;
    Some((held, removed_bytes, trailing_crs, from.bool()?, from.bool()?))
}

/// Reads the format of 0.1.0, which kept the CRs at the line's end in the line, and a flag whether the NUL after the
/// last of them had come.
fn thaw_old_line<'a>(from: &mut RecordReader<'a>, mode: Mode) -> Option<LineFields<'a>> {
    let (held, removed_bytes, has_nul) = (from.bytes(PDU_MAX_BYTES + 1)?, from.u32()?, from.bool()?);
    let line = without_crs(held);
    let behind_cr = line.len() < held.len();
    let sound = line.len() <= PDU_MAX_BYTES && (behind_cr || !has_nul);
    let open = mode == Mode::Collect;
    let trailing_crs = if open { u32::try_from(held.len() - line.len()).ok()? } else { 0 };
    sound.then_some((line, removed_bytes, trailing_crs, open && behind_cr && !has_nul, false))
}
