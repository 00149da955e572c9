//! A copy of the store, made between batches by the connection that writes. SQLite carries commits that are made
//! meanwhile over into the copy, so that it is consistent as of the moment when it is complete. If many of its pages
//! are empty, its contents are copied once more without them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use cpd_core::engine::port::{AdminAnswer, RequestId};
use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use super::compact::RowCopy;
use super::copy_target::CopyTarget;
use super::held_backup::HeldBackup;
use super::paths::{BACKUP_SUFFIX, remove_if_exists};
use super::state::WriterState;
use super::{history, sqlite};

/// Pages copied before waiting batches are served again.
const STEP_PAGES: i32 = 128;
/// Offset of the two bytes that say whether a SQLite file uses a write-ahead log.
const FORMAT_OFFSET: u64 = 18;

/// A copy in progress, which the writer's loop advances between batches.
pub enum CopyInProgress<'a> {
    /// Copies the pages of the store as they are.
    Pages(Backup<'a, 'a>),
    /// Copies the rows of a complete copy, without empty pages.
    Rows(RowCopy<'a>),
}

/// The result of one step of copying.
pub enum CopyStep {
    /// There is more to copy.
    More,
    /// The copy is complete.
    Complete,
    /// The copy has failed for this reason.
    Failed(String),
}

impl<'a> CopyInProgress<'a> {
    /// Begins to copy the pages of the store to `target`.
    ///
    /// # Errors
    /// The cause as text.
    pub fn of_pages(connection: &'a Connection, target: &'a mut CopyTarget) -> Result<CopyInProgress<'a>, String> {
        Backup::new(connection, &mut target.connection).map(CopyInProgress::Pages).map_err(|e| sqlite::error_text(&e))
    }

    /// Copies a little more.
    pub fn step(&mut self) -> CopyStep {
        match self {
            CopyInProgress::Pages(copy) => match copy.step(STEP_PAGES) {
                Ok(StepResult::Done) => CopyStep::Complete,
                Ok(StepResult::More) => CopyStep::More,
                Ok(_) => CopyStep::Failed("the store is locked".to_owned()),
                Err(e) => CopyStep::Failed(sqlite::error_text(&e)),
            },
            CopyInProgress::Rows(copy) => match copy.step() {
                Ok(true) => CopyStep::Complete,
                Ok(false) => CopyStep::More,
                Err(e) => CopyStep::Failed(sqlite::error_text(&e)),
            },
        }
    }
}

/// Answers the request for a copy. `ended`: how the copy ended; `None` if the serving ended before it.
pub fn answer(core: &mut WriterState, request: RequestId, ended: Option<Result<(), String>>) {
    // A complete copy is open and needs no name; an incomplete one is not needed at all.
    let _ = remove_if_exists(&core.files.sibling(BACKUP_SUFFIX));
    core.backup_active = false;
    let answer = match ended {
        Some(Ok(())) => match &core.held_backup {
            Some(held) => AdminAnswer::Backup { backup: held.number, bytes: held.bytes },
            None => AdminAnswer::Failed("the copy is gone".to_owned()),
        },
        Some(Err(cause)) => AdminAnswer::Failed(format!("cannot copy the store: {cause}")),
        None => AdminAnswer::Failed("the copy was broken off; try again".to_owned()),
    };
    core.answer(request, answer);
}

/// Keeps the finished copy in `core` under a new number.
///
/// # Errors
/// The copy could not be marked as one; the cause as text.
pub fn hold_copy(core: &mut WriterState, file: File) -> Result<(), String> {
    let mark = || -> io::Result<u64> {
        history::set_number(&file, history::COPY_NUMBER)?;
        // The copy is to use a write-ahead log like the store itself, so that opening it as a store does not change it.
        file.write_all_at(&[2, 2], FORMAT_OFFSET)?;
        Ok(file.metadata()?.len())
    };
    let bytes = mark().map_err(|e| e.to_string())?;
    core.last_backup += 1;
    core.held_backup = Some(HeldBackup { number: core.last_backup, bytes, file });
    Ok(())
}
