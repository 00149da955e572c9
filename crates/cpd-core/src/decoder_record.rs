//! The decoder's part of a session's record, which lets the successor continue in the middle of the stream.

use cp_proto::limits::{PDU_MAX_BYTES, VERB_BYTES};
use cp_proto::line::snapshot::DecoderSnapshot;
use cp_proto::line::{Decoder, LineMode};
use cp_proto::telnet::NvtParser;

use super::record::{RecordFormat, RecordReader, RecordWriter};

const NO_VERB: [u8; VERB_BYTES] = [0; VERB_BYTES];

/// Writes a decoder in the form that [`thaw`] reads.
pub fn freeze(decoder: &Decoder, out: &mut RecordWriter) {
    let DecoderSnapshot { telnet, mode, held, dropped_bytes, removed_bytes, trailing_crs, after_cr, skip_next_lf } =
        decoder.snapshot();
    let (kind, byte) = match telnet {
        NvtParser::Plain => (0, 0),
        NvtParser::Command => (1, 0),
        NvtParser::Option(verb) => (2, verb),
        NvtParser::Subnegotiation => (3, 0),
        NvtParser::SubnegotiationCommand => (4, 0),
        NvtParser::Ended => (5, 0),
    };
    out.u8(kind);
    out.u8(byte);
    let (kind, verb) = match mode {
        LineMode::Collect => (0, NO_VERB),
        LineMode::Overlong { verb } => (1, verb),
        LineMode::Skip => (2, NO_VERB),
        LineMode::Whole => (3, NO_VERB),
        LineMode::WholeOverlong { verb } => (4, verb),
    };
    out.u8(kind);
    out.bytes(&verb);
    out.u32(dropped_bytes);
    out.bytes(held);
    out.u32(removed_bytes);
    out.u32(trailing_crs);
    out.bool(after_cr);
    out.bool(skip_next_lf);
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
    let dropped_bytes = from.u32()?;
    let mode = match kind {
        0 if verb == NO_VERB => LineMode::Collect,
        1 => LineMode::Overlong { verb },
        2 if verb == NO_VERB => LineMode::Skip,
        3 if verb == NO_VERB => LineMode::Whole,
        4 => LineMode::WholeOverlong { verb },
        _ => return None,
    };
    let (held, removed_bytes, trailing_crs, after_cr, skip_next_lf) = match form {
        RecordFormat::Current => thaw_line(from)?,
        RecordFormat::Previous => thaw_old_line(from, mode)?,
    };
    Decoder::from_snapshot(DecoderSnapshot {
        telnet,
        mode,
        held,
        dropped_bytes,
        removed_bytes,
        trailing_crs,
        after_cr,
        skip_next_lf,
    })
}

/// The values of the fields `held`, `removed_bytes`, `trailing_crs`, `after_cr` and `skip_next_lf`.
type LineFields<'a> = (&'a [u8], u32, u32, bool, bool);

fn thaw_line<'a>(from: &mut RecordReader<'a>) -> Option<LineFields<'a>> {
    Some((from.bytes(PDU_MAX_BYTES)?, from.u32()?, from.u32()?, from.bool()?, from.bool()?))
}

/// Reads the format of 0.1.0, which kept the CRs at the line's end in the line, and a flag whether the NUL after the
/// last of them had come.
fn thaw_old_line<'a>(from: &mut RecordReader<'a>, mode: LineMode) -> Option<LineFields<'a>> {
    let (held, removed_bytes, has_nul) = (from.bytes(PDU_MAX_BYTES + 1)?, from.u32()?, from.bool()?);
    let line = held.iter().rposition(|byte| *byte != b'\r').and_then(|last| held.get(..=last)).unwrap_or_default();
    let behind_cr = line.len() < held.len();
    let sound = line.len() <= PDU_MAX_BYTES && (behind_cr || !has_nul);
    let open = mode == LineMode::Collect;
    let trailing_crs = if open { u32::try_from(held.len() - line.len()).ok()? } else { 0 };
    sound.then_some((line, removed_bytes, trailing_crs, open && behind_cr && !has_nul, false))
}

#[cfg(test)]
mod tests;
