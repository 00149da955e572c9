//! Deletes that did not fit into a full disk as a whole: a few at a time, each time in a log begun anew.

use rusqlite::Connection;

use super::cycle::{self, Core, Trouble};
use super::{sqlite, writer};

/// Deletes of one transaction. Were each on a page of its own, they would fit into the room that the log has set apart.
const PIECE_MAX: usize = 48;

/// Writes the deletes that wait, as many as the disk takes. `Err`: of the last ones it is not known.
pub fn in_pieces(core: &mut Core, connection: &Connection) -> Result<(), String> {
    // So few have been tried as a whole.
    if core.pending.len() <= PIECE_MAX {
        return Ok(());
    }
    loop {
        let ids: Vec<u64> = core.pending.iter().take(PIECE_MAX).copied().collect();
        if ids.is_empty() {
            return Ok(());
        }
        match cycle::transaction(core, connection, |_, hot| hot.delete_all(&ids)) {
            Ok(()) => {}
            Err(Trouble::Refused(_)) => return Ok(()),
            Err(Trouble::Unknown(cause)) => return Err(sqlite::text(&cause)),
        }
        for id in &ids {
            core.pending.remove(id);
        }
        core.progress.step();
        writer::checkpoint(core, connection);
    }
}
