//! Whether the disk has room for more messages. Deletes have to write before they free anything, so inserts leave them
//! some room.

use rusqlite::Connection;

use super::files::StoreFiles;
use super::format::{FRAME_BYTES, PAGE_BYTES};
use super::sqlite;

/// Disk space in bytes that inserts leave for deletes, in addition to what moving the log into the store's file still
/// needs.
pub const DISK_RESERVE_BYTES: u64 = 4 * 1024 * 1024;
/// What deletes need at least, in bytes: the pages of a few commits, however little is stored.
const RESERVE_MIN_BYTES: u64 = 256 * 1024;
/// Additional free space in bytes that is required before inserts resume after the disk was full. Without it, the disk
/// would be full again at once.
pub const RESUME_MARGIN_BYTES: u64 = 1024 * 1024;

/// How the store's files use their space.
#[derive(Clone, Copy, Debug)]
struct PageUsage {
    /// Bytes of the pages in use.
    used: u64,
    /// Bytes of the free pages.
    free: u64,
    /// Bytes of the log that can be overwritten before it grows.
    log: u64,
}

/// Bytes that must be free on the disk to insert `inserts` bytes, while `unmoved` bytes of the log are still to be
/// moved into the store's file. If the `available` bytes are enough for a simple estimate, that is returned; otherwise,
/// the requirement is computed from what the files have room for.
pub fn needed_bytes(place: &StoreFiles, connection: &Connection, available: u64, unmoved: u64, inserts: u64) -> u64 {
    // Everything is written to the log first and copied from there, so each byte needs room twice.
    let plain = DISK_RESERVE_BYTES.saturating_add(unmoved).saturating_add(inserts.saturating_mul(2));
    if available >= plain {
        return plain;
    }
    page_usage(place, connection).map_or(plain, |usage| needed_exactly(usage, unmoved, inserts))
}

/// The precise requirement. The files do not shrink, so new messages go where old ones have been.
fn needed_exactly(usage: PageUsage, unmoved: u64, inserts: u64) -> u64 {
    // A delete writes the page of its row, and hardly more.
    let reserve = usage.used.saturating_add(RESERVE_MIN_BYTES).min(DISK_RESERVE_BYTES);
    let log = reserve.saturating_add(inserts).saturating_sub(usage.log);
    log.saturating_add(unmoved.saturating_add(inserts).saturating_sub(usage.free))
}

/// Reads how the store's files use their space.
fn page_usage(place: &StoreFiles, connection: &Connection) -> rusqlite::Result<PageUsage> {
    let pages = |pragma: &str| connection.prepare_cached(pragma)?.query_row([], |row| row.get::<_, u32>(0));
    let (all, free) = (u64::from(pages("PRAGMA page_count")?), u64::from(pages("PRAGMA freelist_count")?));
    let (written, left) = sqlite::log_frames(connection)?;
    // Once the whole log is in the store's file, writing starts again at the log's beginning.
    let taken = if left == 0 { 0 } else { written * FRAME_BYTES };
    let page = u64::from(PAGE_BYTES);
    let log = place.log_bytes().saturating_sub(taken);
    Ok(PageUsage { used: all.saturating_sub(free) * page, free: free * page, log })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_store_that_is_full_of_messages_keeps_room_for_their_deletes() {
        let usage = PageUsage { used: 100 * MIB, free: 0, log: 0 };
        assert_eq!(needed_exactly(usage, 3, 10), DISK_RESERVE_BYTES + 3 + 20, "each byte twice");
        let usage = PageUsage { log: DISK_RESERVE_BYTES + 10, ..usage };
        assert_eq!(needed_exactly(usage, 3, 10), 13, "the log has room inside, the file has not");
    }

    #[test]
    fn a_store_that_was_emptied_takes_messages_where_the_old_ones_were() {
        let usage = PageUsage { used: 8 * 4096, free: 100 * MIB, log: MIB };
        assert_eq!(needed_exactly(usage, 0, 1000), 0);
        assert!(
            needed_exactly(PageUsage { log: 0, ..usage }, 0, 1000) < MIB / 2,
            "little is stored, little is to be deleted"
        );
    }
}
