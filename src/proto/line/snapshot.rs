//! The decoder's place in the stream, for a successor.

use super::{Decoder, Mode, held_as};
use crate::proto::codec::{Reader, Writer};
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
        };
        out.u8(kind);
        out.u8(byte);
        let (kind, verb, total) = match self.mode {
            Mode::Collect => (0, [0; VERB_BYTES], 0),
            Mode::Overlong { verb, total } => (1, verb, total),
            Mode::Skip { total } => (2, [0; VERB_BYTES], total),
            Mode::Whole => (3, [0; VERB_BYTES], 0),
            Mode::WholeOverlong { verb } => (4, verb, 0),
        };
        out.u8(kind);
        out.bytes(&verb);
        // With more than that the session is at its end, and only sends what it still owes.
        out.u32(total.min(UNTERMINATED_MAX));
        out.bytes(&self.held);
        out.u32(self.swallowed);
        out.bool(self.data_cr);
    }

    /// The decoder that was written, or `None`.
    pub fn thaw(from: &mut Reader<'_>) -> Option<Decoder> {
        let telnet = match (from.u8()?, from.u8()?) {
            (0, 0) => Telnet::Plain,
            (1, 0) => Telnet::Command,
            (2, verb) => Telnet::Option(verb),
            (3, 0) => Telnet::Subnegotiation,
            (4, 0) => Telnet::SubnegotiationCommand,
            _ => return None,
        };
        let kind = from.u8()?;
        let verb: [u8; VERB_BYTES] = from.bytes(VERB_BYTES)?.try_into().ok()?;
        let total = from.u32().filter(|total| *total <= UNTERMINATED_MAX)?;
        // A line, and the CR of its end.
        let held = from.bytes(PDU_MAX_BYTES + 1)?;
        let mode = match kind {
            0 => Mode::Collect,
            1 => Mode::Overlong { verb, total },
            2 => Mode::Skip { total },
            3 => Mode::Whole,
            4 => Mode::WholeOverlong { verb },
            _ => return None,
        };
        let (swallowed, data_cr) = (from.u32()?, from.bool()?);
        let holds = matches!(mode, Mode::Collect | Mode::Whole);
        let sound = (holds || held.is_empty()) && (!data_cr || held.last() == Some(&super::CR));
        // What a mode does not hold is written as nothing.
        let sparing = match mode {
            Mode::Overlong { .. } => true,
            Mode::Skip { .. } => verb == [0; VERB_BYTES],
            Mode::WholeOverlong { .. } => total == 0,
            Mode::Collect | Mode::Whole => verb == [0; VERB_BYTES] && total == 0,
        };
        (sound && sparing).then(|| Decoder { telnet, mode, held: held_as(held), swallowed, data_cr, touched: false })
    }
}
