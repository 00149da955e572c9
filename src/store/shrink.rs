//! Gives the room of messages that are gone back to the file system. SQLite writes what is alive anew for that, and nobody
//! is served meanwhile, so it is done only where that is little; for more there are a backup and a restore.

use rusqlite::limits::Limit;
use rusqlite::{Connection, Error};

use super::cycle::Core;
use super::room::{DISK_RESERVE_BYTES, FRAME_BYTES};
use super::schema::PAGE_BYTES;
use super::sqlite::{self, Point};
use super::writer::{self, Exit};
use crate::engine::port::{AdminAnswer, RequestId};

/// Bytes that are written anew at most, and for which senders wait: a fraction of a second.
pub const ALIVE_MAX_BYTES: u64 = 8 * 1024 * 1024;

/// Shrinks the store, if it can be, and answers `request`.
pub fn run(core: &mut Core, connection: &Connection, request: RequestId) -> Exit {
    let before = core.place.bytes();
    let (answer, exit) = match shrink(core, connection) {
        Ok(()) => (AdminAnswer::Shrunk { before, after: core.place.bytes() }, Exit::Again),
        Err(Refusal::Cannot(cause)) => (AdminAnswer::Failed(cause), Exit::Again),
        Err(Refusal::Unknown(cause)) => {
            (AdminAnswer::Failed(format!("cannot shrink the store: {cause}")), Exit::Unknown(cause))
        }
    };
    core.answer(request, answer);
    exit
}

enum Refusal {
    Cannot(String),
    /// What became of it is not known.
    Unknown(String),
}

fn shrink(core: &mut Core, connection: &Connection) -> Result<(), Refusal> {
    let cannot = |said: String| Err(Refusal::Cannot(said));
    let pages = |pragma: &str| connection.query_row(pragma, [], |row| row.get::<_, u32>(0));
    let read = |e: Error| Refusal::Cannot(format!("cannot read the store: {}", sqlite::text(&e)));
    let (all, empty) = (pages("PRAGMA page_count").map_err(read)?, pages("PRAGMA freelist_count").map_err(read)?);
    let alive = u64::from(all.saturating_sub(empty)).saturating_mul(u64::from(PAGE_BYTES));
    if alive > ALIVE_MAX_BYTES {
        return cannot(format!(
            "{alive} bytes of the store are in use, and senders would have to wait while more than {ALIVE_MAX_BYTES} are \
             written anew; a backup has no empty pages: stop cpd and restore one with cpd --restore"
        ));
    }
    // Once in the log, and once on the way from there.
    let needed = alive.saturating_mul(2).saturating_add(DISK_RESERVE_BYTES);
    match core.place.available() {
        Ok(free) if free < needed => {
            return cannot(format!("the disk has {free} bytes left, shrinking needs {needed}"));
        }
        Err(e) => return cannot(format!("cannot tell the room on the disk: {e}")),
        Ok(_) => {}
    }
    writer::checkpoint(core, connection);
    if core.unchanged().is_err() || core.checkpoint_fails {
        return cannot("the write-ahead log cannot be moved into the store's file".to_owned());
    }
    let limit = |most| connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, most);
    limit(1).map_err(read)?;
    let vacuumed = core.faults.at(Point::Commit).and_then(|()| connection.execute_batch("VACUUM"));
    limit(0).map_err(read)?;
    if let Err(error) = vacuumed {
        return match sqlite::is_full(&error) {
            true => cannot(format!("cannot shrink the store: {}", sqlite::text(&error))),
            false => Err(Refusal::Unknown(sqlite::text(&error))),
        };
    }
    let (frames, left) = sqlite::log(connection).unwrap_or_default();
    core.note_commit(frames);
    core.log_bytes = left * FRAME_BYTES;
    // The file is cut when all of the log is in it, and the log by the second.
    writer::checkpoint(core, connection);
    if core.unchanged().is_ok() && core.log_bytes == 0 && sqlite::settle(connection).is_ok() {
        core.note_move(connection, true);
    }
    // With the file's end the blocks behind it went back as well.
    core.file_reserved = 0;
    writer::reserve(core);
    Ok(())
}
