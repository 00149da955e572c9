//! The decoder's place in the stream, for a successor.

use super::{Decoder, Mode, held_as, without_crs};
use crate::proto::codec::{Form, Reader, Writer};
use crate::proto::limits::{PDU_MAX_BYTES, UNTERMINATED_MAX_BYTES, VERB_BYTES};
use crate::proto::telnet::Telnet;

const UNTERMINATED_MAX: u32 = UNTERMINATED_MAX_BYTES as u32;

impl Decoder {
    /// Writes what [`Decoder::thaw`] reads.
    pub fn freeze(&self, out: &mut Writer) {
        let (kind, byte) = match self.telnet {
            Telnet::Plain => (0, 0),
            Telnet::Command => (1, 0),
            Telnet::Option(verb) => (2, verb),
            Telnet::Subnegotiation => (3, 0),
            Telnet::SubnegotiationCommand => (4, 0),
            Telnet::Ended => (5, 0),
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
        // With more than that the session is at its end, and only sends what it still owes.
        out.u32(self.total.min(UNTERMINATED_MAX));
        out.bytes(&self.held);
        out.u32(self.swallowed);
        out.u32(self.crs.min(UNTERMINATED_MAX));
        out.bool(self.after_cr);
        out.bool(self.owes_lf);
    }

    /// The decoder that was written, or `None`.
    pub fn thaw(from: &mut Reader<'_>, form: Form) -> Option<Decoder> {
        let telnet = match (from.u8()?, from.u8()?) {
            (0, 0) => Telnet::Plain,
            (1, 0) => Telnet::Command,
            (2, verb) => Telnet::Option(verb),
            (3, 0) => Telnet::Subnegotiation,
            (4, 0) => Telnet::SubnegotiationCommand,
            (5, 0) if form == Form::Now => Telnet::Ended,
            _ => return None,
        };
        let kind = from.u8()?;
        let verb: [u8; VERB_BYTES] = from.bytes(VERB_BYTES)?.try_into().ok()?;
        let total = from.u32().filter(|total| *total <= UNTERMINATED_MAX)?;
        let mode = match kind {
            0 => Mode::Collect,
            1 => Mode::Overlong { verb },
            2 => Mode::Skip,
            3 => Mode::Whole,
            4 => Mode::WholeOverlong { verb },
            _ => return None,
        };
        let (held, swallowed, crs, after_cr, owes_lf) = match form {
            Form::Now => thaw_line(from)?,
            Form::Old => thaw_old_line(from, mode)?,
        };
        let holds = matches!(mode, Mode::Collect | Mode::Whole);
        // What a mode does not hold is written as nothing.
        let sparing = match mode {
            Mode::Overlong { .. } => true,
            Mode::Skip => verb == [0; VERB_BYTES],
            Mode::WholeOverlong { .. } => total == 0 && crs == 0,
            Mode::Collect => verb == [0; VERB_BYTES] && total == 0,
            Mode::Whole => verb == [0; VERB_BYTES] && total == 0 && crs == 0,
        };
        let sound = (holds || held.is_empty()) && held.last() != Some(&super::CR);
        let held = held_as(held);
        (sound && sparing).then_some(Decoder {
            telnet,
            mode,
            held,
            total,
            crs,
            after_cr,
            owes_lf,
            swallowed,
            touched: false,
            erased: false,
        })
    }
}

/// A line without the CRs at its end, bytes swallowed, those CRs, and what belongs to them if it comes next.
type Collected<'a> = (&'a [u8], u32, u32, bool, bool);

fn thaw_line<'a>(from: &mut Reader<'a>) -> Option<Collected<'a>> {
    let (held, swallowed) = (from.bytes(PDU_MAX_BYTES)?, from.u32()?);
    let crs = from.u32().filter(|crs| *crs <= UNTERMINATED_MAX)?;
    Some((held, swallowed, crs, from.bool()?, from.bool()?))
}

/// Version 0.1.0 kept the CRs at the line's end in the line, and whether the last of them had its NUL already.
fn thaw_old_line<'a>(from: &mut Reader<'a>, mode: Mode) -> Option<Collected<'a>> {
    let (held, swallowed, has_nul) = (from.bytes(PDU_MAX_BYTES + 1)?, from.u32()?, from.bool()?);
    let line = without_crs(held);
    let behind_cr = line.len() < held.len();
    let sound = line.len() <= PDU_MAX_BYTES && (behind_cr || !has_nul);
    let open = mode == Mode::Collect;
    let crs = if open { u32::try_from(held.len() - line.len()).ok()? } else { 0 };
    sound.then_some((line, swallowed, crs, open && behind_cr && !has_nul, false))
}
