//! Gives the space of deleted messages back to the file system. For that SQLite rewrites all live content, and nothing
//! else is served meanwhile, so it is done only if there is little of it. If there is more, a backup and a restore have
//! the same effect.

use cpd_core::engine::port::{AdminAnswer, RequestId};
use rusqlite::limits::Limit;
use rusqlite::{Connection, Error};

use super::disk_space::DISK_RESERVE_BYTES;
use super::format::{FRAME_BYTES, PAGE_BYTES};
use super::log_checkpoint::{checkpoint, reserve_log};
use super::sqlite::{self, FaultPoint};
use super::state::WriterState;

/// Most bytes of live content that are rewritten: senders wait for it, for a fraction of a second.
pub const LIVE_MAX_BYTES: u64 = 8 * 1024 * 1024;

/// Shrinks the store if that is possible, and answers `request`.
///
/// # Errors
/// It is not known whether the change was stored; the cause as text.
pub fn run(core: &mut WriterState, connection: &Connection, request: RequestId) -> Result<(), String> {
    let before = core.files.bytes();
    let (answer, known) = match shrink(core, connection) {
        Ok(()) => (AdminAnswer::Shrunk { before, after: core.files.bytes() }, Ok(())),
        Err(ShrinkRefusal::Cannot(cause)) => (AdminAnswer::Failed(cause), Ok(())),
        Err(ShrinkRefusal::Unknown(cause)) => {
            (AdminAnswer::Failed(format!("cannot shrink the store: {cause}")), Err(cause))
        }
    };
    core.answer(request, answer);
    known
}

enum ShrinkRefusal {
    Cannot(String),
    /// It is not known whether the change was stored.
    Unknown(String),
}

fn shrink(core: &mut WriterState, connection: &Connection) -> Result<(), ShrinkRefusal> {
    let cannot = |said: String| Err(ShrinkRefusal::Cannot(said));
    let pages = |pragma: &str| connection.query_row(pragma, [], |row| row.get::<_, u32>(0));
    let read = |e: Error| ShrinkRefusal::Cannot(format!("cannot read the store: {}", sqlite::error_text(&e)));
    let (all, empty) = (pages("PRAGMA page_count").map_err(read)?, pages("PRAGMA freelist_count").map_err(read)?);
    let live_bytes = u64::from(all.saturating_sub(empty)).saturating_mul(u64::from(PAGE_BYTES));
    if live_bytes > LIVE_MAX_BYTES {
        return cannot(format!(
            "{live_bytes} bytes of the store are in use, and senders would have to wait while more than {LIVE_MAX_BYTES} are \
             written anew; a backup has no empty pages: stop cpd and restore one with cpd --restore"
        ));
    }
    // Everything is written to the log, and then copied from there to the store's file.
    let needed = live_bytes.saturating_mul(2).saturating_add(DISK_RESERVE_BYTES);
    match core.files.available() {
        Ok(free) if free < needed => {
            return cannot(format!("the disk has {free} bytes left, shrinking needs {needed}"));
        }
        Err(e) => return cannot(format!("cannot tell the room on the disk: {e}")),
        Ok(_) => {}
    }
    checkpoint(core, connection);
    if core.ensure_unchanged().is_err() || core.checkpoint_fails {
        return cannot("the write-ahead log cannot be moved into the store's file".to_owned());
    }
    // VACUUM attaches a temporary database, which is forbidden at other times.
    let limit = |most| connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, most);
    limit(1).map_err(read)?;
    let vacuumed = core.faults.check(FaultPoint::Commit).and_then(|()| connection.execute_batch("VACUUM"));
    limit(0).map_err(read)?;
    if let Err(error) = vacuumed {
        return match sqlite::is_full(&error) {
            true => cannot(format!("cannot shrink the store: {}", sqlite::error_text(&error))),
            false => Err(ShrinkRefusal::Unknown(sqlite::error_text(&error))),
        };
    }
    let (frames, left) = sqlite::log_frames(connection).unwrap_or_default();
    core.note_commit(frames);
    core.unmoved_log_bytes = left * FRAME_BYTES;
    // The store's file is truncated once the whole log is in it, and the log by `sqlite::truncate_log`.
    checkpoint(core, connection);
    if core.ensure_unchanged().is_ok() && core.unmoved_log_bytes == 0 && sqlite::truncate_log(connection).is_ok() {
        core.note_checkpoint(connection, true);
    }
    // Truncating the file has released the blocks that were reserved behind its end.
    core.file_reserved_to = 0;
    reserve_log(core);
    Ok(())
}
