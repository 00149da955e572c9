//! Whether the disk has room for more messages. Deletes write before they free anything, so inserts leave them some.

use rusqlite::Connection;

use super::files::Place;
use super::schema::PAGE_BYTES;
use super::sqlite;

/// Room that inserts leave to deletes, in bytes, beside what the log still has to bring into the store's file.
pub const DISK_RESERVE_BYTES: u64 = 4 * 1024 * 1024;
/// What deletes need at least, in bytes: a few commits' pages, however little is stored.
const RESERVE_MIN_BYTES: u64 = 256 * 1024;
/// What must fit beside, in bytes, before a full disk counts as one with room again: else it is full again at once.
pub const AGAIN_BYTES: u64 = 1024 * 1024;
/// Bytes of the log before its first frame.
pub const LOG_HEADER_BYTES: u64 = 32;
/// Bytes of a frame of the log: a page and its header.
pub const FRAME_BYTES: u64 = PAGE_BYTES as u64 + 24;

/// What the store's files have inside of them.
#[derive(Clone, Copy, Debug)]
struct Inside {
    /// Bytes of pages that hold something.
    used: u64,
    /// Bytes of pages that hold nothing.
    free: u64,
    /// Bytes of the log that are written anew before it grows.
    log: u64,
}

/// Bytes that the disk must have free for `inserts` bytes more, when `unmoved` bytes of the log are to be brought into
/// the store's file.
pub fn needed(place: &Place, connection: &Connection, available: u64, unmoved: u64, inserts: u64) -> u64 {
    // The log is written first and then copied, so each byte needs room twice.
    let plain = DISK_RESERVE_BYTES.saturating_add(unmoved).saturating_add(inserts.saturating_mul(2));
    if available >= plain {
        return plain;
    }
    look(place, connection).map_or(plain, |inside| exactly(inside, unmoved, inserts))
}

/// The files do not shrink: what messages once filled the disk with is where the next ones go.
fn exactly(inside: Inside, unmoved: u64, inserts: u64) -> u64 {
    // A delete writes the page that it is in, and hardly more.
    let reserve = inside.used.saturating_add(RESERVE_MIN_BYTES).min(DISK_RESERVE_BYTES);
    let log = reserve.saturating_add(inserts).saturating_sub(inside.log);
    log.saturating_add(unmoved.saturating_add(inserts).saturating_sub(inside.free))
}

fn look(place: &Place, connection: &Connection) -> rusqlite::Result<Inside> {
    let pages = |pragma: &str| connection.prepare_cached(pragma)?.query_row([], |row| row.get::<_, u32>(0));
    let (all, free) = (u64::from(pages("PRAGMA page_count")?), u64::from(pages("PRAGMA freelist_count")?));
    let (written, left) = sqlite::log(connection)?;
    // A log that is moved as a whole is begun anew.
    let taken = if left == 0 { 0 } else { written * FRAME_BYTES };
    let page = u64::from(PAGE_BYTES);
    let log = place.log_bytes().saturating_sub(taken);
    Ok(Inside { used: all.saturating_sub(free) * page, free: free * page, log })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_store_that_is_full_of_messages_keeps_room_for_their_deletes() {
        let inside = Inside { used: 100 * MIB, free: 0, log: 0 };
        assert_eq!(exactly(inside, 3, 10), DISK_RESERVE_BYTES + 3 + 20, "each byte twice");
        let inside = Inside { log: DISK_RESERVE_BYTES + 10, ..inside };
        assert_eq!(exactly(inside, 3, 10), 13, "the log has room inside, the file has not");
    }

    #[test]
    fn a_store_that_was_emptied_takes_messages_where_the_old_ones_were() {
        let inside = Inside { used: 8 * 4096, free: 100 * MIB, log: MIB };
        assert_eq!(exactly(inside, 0, 1000), 0);
        assert!(exactly(Inside { log: 0, ..inside }, 0, 1000) < MIB / 2, "little is stored, little is to be deleted");
    }
}
