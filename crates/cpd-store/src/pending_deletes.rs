//! Deletes that a full disk did not accept in one transaction. They are written a few at a time, and the log is moved
//! into the store's file after each transaction, so that the next one has the room in the log again.

use rusqlite::Connection;

use super::log_checkpoint::checkpoint;
use super::sqlite;
use super::state::WriterState;
use super::transaction::{CommitError, run_transaction};

/// Deletes in one transaction. Even if each is on a page of its own, they fit into the space that is reserved in the
/// log.
const PIECE_MAX_DELETES: usize = 48;

/// Writes the pending deletes, as many as the disk accepts.
///
/// # Errors
/// It is unknown whether the last ones are stored.
pub fn write_in_pieces(core: &mut WriterState, connection: &Connection) -> Result<(), String> {
    // So few fit into one transaction, which has already been tried.
    if core.pending_deletes.len() <= PIECE_MAX_DELETES {
        return Ok(());
    }
    loop {
        let ids: Vec<u64> = core.pending_deletes.iter().take(PIECE_MAX_DELETES).copied().collect();
        if ids.is_empty() {
            return Ok(());
        }
        match run_transaction(core, connection, |_, hot| hot.delete_ascending(&ids)) {
            Ok(()) => {}
            Err(CommitError::RolledBack(_)) => return Ok(()),
            Err(CommitError::Unknown(cause)) => return Err(sqlite::error_text(&cause)),
        }
        for id in &ids {
            core.pending_deletes.remove(id);
        }
        core.progress.note_step();
        checkpoint(core, connection);
    }
}
