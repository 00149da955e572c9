//! After a commit of which nobody knows whether it was stored. A failed sync leaves pages that the kernel believes to
//! be written: the row can be there now and gone after a power cut. So the connection is closed, the log is brought
//! into the file by way of fresh writes and a sync that succeeds, and what the commit inserted is deleted.

use std::thread;
use std::time::Duration;

use rusqlite::Connection;

use super::cycle::{self, Core, Cycle, Trouble, Written};
use super::sqlite::{self, Hot, Point};
use super::watch::Change;
use super::{StoreEvent, admin, row, settle, users, writer};
use crate::engine::port::Op;

/// Attempts before the store gives up; the daemon then ends, and the next start reads what is there.
pub const TRIES_MAX: u32 = 4;
/// Pause before the second attempt; it doubles each time.
const PAUSE: Duration = Duration::from_millis(50);

/// Closes `connection` and returns a new one on which nothing of the cycle's inserts is stored and everything else
/// is. The lock on the store is kept all the while.
pub fn recover(connection: Connection, core: &mut Core, cycle: &mut Cycle, cause: &str) -> Result<Connection, String> {
    core.event(StoreEvent::CommitFailed(cause.to_owned()));
    drop(connection);
    let mut last = String::new();
    for attempt in 0..TRIES_MAX {
        if attempt > 0 {
            thread::sleep(PAUSE * 2u32.saturating_pow(attempt - 1));
        }
        core.progress.step();
        match reopen(core, cycle) {
            Ok((connection, late)) => {
                cycle.written.extend(late);
                if cycle.inserting {
                    cycle.refuse_inserts(core, false);
                }
                core.pending.clear();
                core.event(StoreEvent::Recovered);
                return Ok(connection);
            }
            Err(error) => last = error,
        }
    }
    Err(format!("{}: a commit failed ({cause}) and so did recovery: {last}", core.place.file().display()))
}

fn reopen(core: &mut Core, cycle: &Cycle) -> Result<(Connection, Written), String> {
    core.faults.at(Point::Reopen).map_err(|e| text(core, e))?;
    if let Err(what) = core.watch.is_in_place() {
        core.change = Some(Change { what: what.clone(), can_be_saved: false });
        return Err(what);
    }
    let connection = sqlite::connect(core.place.file()).map_err(|e| text(core, e))?;
    sqlite::settle(&connection).map_err(|e| text(core, e))?;
    core.file_reserved = 0;
    core.watch.begin(&connection).map_err(|e| e.to_string())?;
    writer::reserve(core);
    core.log_bytes = 0;
    core.reserved = row::reserved(&connection).map_err(|e| e.text())?;
    let late = cycle::transaction(core, &connection, |core, hot| redo(core, &connection, hot, cycle))
        .map_err(|(Trouble::Refused(e) | Trouble::Unknown(e))| text(core, e))?;
    Ok((connection, late))
}

fn text(core: &Core, error: rusqlite::Error) -> String {
    sqlite::text(&settle::full_or(&core.place, error))
}

/// Takes the inserts back and executes the rest once more; each of these writes may be there already. Returns the
/// answers to those that the failed transaction did not come to.
fn redo(core: &Core, connection: &Connection, hot: &mut Hot<'_>, cycle: &Cycle) -> rusqlite::Result<Written> {
    for id in &core.pending {
        hot.delete(*id)?;
    }
    let (mut written, mut late) = (cycle.written.iter(), Vec::new());
    for taken in &cycle.batches {
        for op in &taken.batch.ops {
            match op {
                // An id of an insert that was not executed may be that of another message, if the caller erred.
                Op::Insert { id, .. } if cycle.inserting && taken.accepted => hot.delete(id.0)?,
                Op::Delete { id, .. } | Op::Forget { id } => hot.delete(id.0)?,
                Op::LoggedIn { name, from, at, rehash } => {
                    let again = users::logged_in(connection, *name, *from, *at, rehash.as_deref());
                    cycle::logged_in(again)?;
                }
                Op::Admin { request, op } if admin::is_write(op) => match written.next() {
                    Some((_, answer)) => admin::again(connection, hot, op, answer)?,
                    None => late.push((*request, admin::write(connection, hot, op)?)),
                },
                Op::Insert { .. } | Op::Fetch { .. } | Op::Lookup { .. } | Op::Admin { .. } => {}
            }
        }
    }
    Ok(late)
}
