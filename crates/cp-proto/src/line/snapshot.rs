//! The state of a decoder as a plain value, with which another process continues in the middle of the stream.

use super::{CR, Decoder, LineMode, copy_held};
use crate::limits::{PDU_MAX_BYTES, UNTERMINATED_MAX_BYTES};
use crate::telnet::NvtParser;

const UNTERMINATED_MAX: u32 = UNTERMINATED_MAX_BYTES as u32;

/// Everything that a [`Decoder`] knows between two bytes of its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecoderSnapshot<'a> {
    pub telnet: NvtParser,
    pub mode: LineMode,
    /// What has come of a line that is collected or whole, without the CRs at its end. It may be a password.
    pub held: &'a [u8],
    /// The length of a line that is over-long or skipped, in bytes: at most `UNTERMINATED_MAX_BYTES`, as more is a flood.
    pub dropped_bytes: u32,
    /// How many bytes since the last terminator are not part of the line.
    pub removed_bytes: u32,
    /// How many CRs have come after the last other byte of an unfinished line; bounded as `dropped_bytes` is.
    pub trailing_crs: u32,
    /// The last byte was a CR, so a NUL right after it belongs to it.
    pub after_cr: bool,
    /// An LF that comes next belongs to a line that silence has ended.
    pub skip_next_lf: bool,
}

impl Decoder {
    /// The state of this decoder.
    pub fn snapshot(&self) -> DecoderSnapshot<'_> {
        DecoderSnapshot {
            telnet: self.telnet,
            mode: self.mode,
            held: &self.held,
            dropped_bytes: self.dropped_bytes.min(UNTERMINATED_MAX),
            removed_bytes: self.removed_bytes,
            trailing_crs: self.trailing_crs.min(UNTERMINATED_MAX),
            after_cr: self.after_cr,
            skip_next_lf: self.skip_next_lf,
        }
    }

    /// A decoder in this state; `None` if no decoder is ever in it.
    pub fn from_snapshot(snapshot: DecoderSnapshot<'_>) -> Option<Decoder> {
        let DecoderSnapshot { telnet, mode, held, dropped_bytes, removed_bytes, trailing_crs, after_cr, skip_next_lf } =
            snapshot;
        let within_bounds =
            held.len() <= PDU_MAX_BYTES && dropped_bytes <= UNTERMINATED_MAX && trailing_crs <= UNTERMINATED_MAX;
        let unused_are_zero = match mode {
            LineMode::Overlong { .. } | LineMode::Skip => held.is_empty(),
            LineMode::WholeOverlong { .. } => held.is_empty() && dropped_bytes == 0 && trailing_crs == 0,
            LineMode::Collect => dropped_bytes == 0,
            LineMode::Whole => dropped_bytes == 0 && trailing_crs == 0,
        };
        (within_bounds && unused_are_zero && held.last() != Some(&CR)).then(|| Decoder {
            telnet,
            mode,
            held: copy_held(held),
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
