//! One transaction of the writer, and whether it is known to be stored or not.

use rusqlite::Connection;

use super::hot_statements::HotStatements;
use super::log_checkpoint::explain_write_error;
use super::sqlite::{self, FaultPoint};
use super::state::WriterState;

/// Why a transaction did not succeed.
pub enum CommitError {
    /// It was rolled back: nothing of it is stored.
    RolledBack(rusqlite::Error),
    /// It may or may not be stored.
    Unknown(rusqlite::Error),
}

/// Runs `work` as one transaction.
///
/// # Errors
/// Says whether it is certain that nothing of the transaction is stored.
pub fn run_transaction<T>(
    core: &mut WriterState,
    connection: &Connection,
    work: impl FnOnce(&mut WriterState, &mut HotStatements<'_>) -> rusqlite::Result<T>,
) -> Result<T, CommitError> {
    let simple = |sql: &str| connection.prepare_cached(sql)?.raw_execute();
    let undo = |core: &mut WriterState, error| {
        let rollback =
            |core: &mut WriterState| core.faults.check(FaultPoint::Rollback).and_then(|()| simple("ROLLBACK"));
        match connection.is_autocommit() || rollback(core).is_ok() {
            true => CommitError::RolledBack(error),
            false => CommitError::Unknown(error),
        }
    };
    simple("BEGIN IMMEDIATE").map_err(|error| undo(core, error))?;
    let worked = HotStatements::prepare(connection).and_then(|mut hot| {
        core.faults.check(FaultPoint::Writes)?;
        work(core, &mut hot)
    });
    let found = worked.map_err(|error| undo(core, explain_write_error(&core.files, error)))?;
    core.progress.note_step();
    let committed = core.faults.check(FaultPoint::Commit).and_then(|()| simple("COMMIT"));
    let committed = committed.and_then(|_| core.faults.check(FaultPoint::Committed));
    match committed.map_err(|error| explain_write_error(&core.files, error)) {
        Ok(()) => Ok(found),
        // A frame could not be written for lack of room. The last frame makes the commit, so this one is not in the
        // log.
        Err(error) if sqlite::is_full(&error) => Err(undo(core, error)),
        Err(error) => Err(CommitError::Unknown(error)),
    }
}
