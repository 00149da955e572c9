//! Recovery after a commit whose outcome is unknown. After a failed sync the kernel may believe pages to be on the disk
//! that are not: a row can be readable now and gone after a power failure. So the connection is closed, the log is
//! moved into the file by new writes and a sync that succeeds, and what the commit inserted is deleted.

use std::thread;
use std::time::Duration;

use cpd_core::engine::port::Op;
use rusqlite::Connection;

use super::event::StoreEvent;
use super::hot_statements::HotStatements;
use super::round::{self, Round, WriteAnswers};
use super::sqlite::{self, FaultPoint};
use super::state::WriterState;
use super::transaction::{CommitError, run_transaction};
use super::watch::FileChange;
use super::{admin_ops, log_checkpoint, row, users};

/// Attempts before the store gives up; the daemon then ends, and the next start reads what is there.
pub const ATTEMPTS_MAX: u32 = 4;
/// Pause before the second attempt; it doubles each time.
const FIRST_RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Closes `connection` and returns a new one on which none of the round's inserts is stored and everything else is. The
/// lock on the store is held throughout.
///
/// # Errors
/// Every attempt has failed; the text names the store and the causes.
pub fn recover(
    connection: Connection,
    core: &mut WriterState,
    round: &mut Round,
    cause: &str,
) -> Result<Connection, String> {
    core.event(StoreEvent::CommitFailed(cause.to_owned()));
    drop(connection);
    let mut last = String::new();
    for attempt in 0..ATTEMPTS_MAX {
        if attempt > 0 {
            thread::sleep(FIRST_RETRY_PAUSE * 2u32.saturating_pow(attempt - 1));
        }
        core.progress.note_step();
        match reopen(core, round) {
            Ok((connection, late_answers)) => {
                round.write_answers.extend(late_answers);
                if round.inserting {
                    round.refuse_inserts(core, false);
                }
                core.pending_deletes.clear();
                core.event(StoreEvent::Recovered);
                return Ok(connection);
            }
            Err(error) => last = error,
        }
    }
    Err(format!("{}: a commit failed ({cause}) and so did recovery: {last}", core.files.file().display()))
}

/// Makes one attempt: opens the store, moves its log into the file and executes [`redo`]. Returns the connection and
/// the answers that [`redo`] returned.
fn reopen(core: &mut WriterState, round: &Round) -> Result<(Connection, WriteAnswers), String> {
    core.faults.check(FaultPoint::Reopen).map_err(|e| text(core, e))?;
    if let Err(what) = core.watch.ensure_in_place() {
        core.change = Some(FileChange { what: what.clone(), can_be_saved: false });
        return Err(what);
    }
    let connection = sqlite::connect(core.files.file()).map_err(|e| text(core, e))?;
    sqlite::truncate_log(&connection).map_err(|e| text(core, e))?;
    core.file_reserved_to = 0;
    core.watch.start(&connection).map_err(|e| e.to_string())?;
    log_checkpoint::reserve_log(core);
    core.unmoved_log_bytes = 0;
    core.reserved = row::reserved(&connection).map_err(|e| e.text())?;
    let late_answers = run_transaction(core, &connection, |core, hot| redo(core, &connection, hot, round))
        .map_err(|(CommitError::RolledBack(e) | CommitError::Unknown(e))| text(core, e))?;
    Ok((connection, late_answers))
}

fn text(core: &WriterState, error: rusqlite::Error) -> String {
    sqlite::error_text(&log_checkpoint::explain_write_error(&core.files, error))
}

/// Deletes what was inserted and executes the other writes once more, each of which may be stored already. Returns the
/// answers to operators' writes that the failed transaction did not reach.
fn redo(
    core: &WriterState,
    connection: &Connection,
    hot: &mut HotStatements<'_>,
    round: &Round,
) -> rusqlite::Result<WriteAnswers> {
    for id in &core.pending_deletes {
        hot.delete(*id)?;
    }
    let (mut write_answers, mut late_answers) = (round.write_answers.iter(), Vec::new());
    for taken in &round.batches {
        for op in &taken.batch.ops {
            match op {
                // Only ids that were inserted: if the caller made a mistake, the id of a refused insert may be that of
                // another message.
                Op::Insert { id, .. } if round.inserting && taken.inserts_accepted => hot.delete(id.0)?,
                Op::Delete { id, .. } | Op::DeleteExpired { id } => hot.delete(id.0)?,
                Op::LoggedIn { name, from, at, rehash } => {
                    let again = users::record_login(connection, *name, *from, *at, rehash.as_deref());
                    round::ignore_damage(again)?;
                }
                Op::Admin { request, op } if admin_ops::is_write(op) => match write_answers.next() {
                    Some((_, answer)) => admin_ops::write_again(connection, hot, op, answer)?,
                    None => late_answers.push((*request, admin_ops::write(connection, hot, op)?)),
                },
                Op::Insert { .. } | Op::Fetch { .. } | Op::Lookup { .. } | Op::Admin { .. } => {}
            }
        }
    }
    Ok(late_answers)
}
