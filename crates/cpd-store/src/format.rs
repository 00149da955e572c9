//! Lengths that the format of the store's file and of its log prescribes.

/// Bytes of a page, which is the smallest unit that is written to the log.
pub const PAGE_BYTES: u32 = 4096;
/// Bytes of the log's header, which comes before the first frame.
pub const LOG_HEADER_BYTES: u64 = 32;
/// Bytes of a frame of the log: a page and its header.
pub const FRAME_BYTES: u64 = PAGE_BYTES as u64 + 24;
