//! How the writer reacts to files that are no longer its own (see [`super::watch`]): it answers nothing more, and
//! writes nothing to a file that is in doubt. If only a name was changed, the log is still moved into the file that had
//! the name, so that this file, wherever it is now, is complete.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use cpd_core::engine::port::FromStore;
use rusqlite::Connection;

use super::event::StoreEvent;
use super::row;
use super::sqlite::{self, FaultPoint};
use super::state::WriterState;
use super::watch::{FileChange, FileCheck};

/// The store's files were changed by others; `WriterState::change` says how.
#[derive(Debug)]
pub struct FilesChanged;

impl WriterState {
    /// Checks the store's files. A change that is found is kept for [`WriterState::report_change`].
    pub fn check_files(&mut self, connection: &Connection) -> Result<(), FilesChanged> {
        if self.change.is_none() {
            match self.watch.check(connection) {
                FileCheck::Unchanged => self.file_check_failing = false,
                FileCheck::Changed(change) => self.change = Some(change),
                FileCheck::Failed(error) => self.report_check_failure(&error),
            }
        }
        self.ensure_unchanged()
    }

    /// Fails if any check so far has found a change.
    pub fn ensure_unchanged(&self) -> Result<(), FilesChanged> {
        if self.change.is_some() { Err(FilesChanged) } else { Ok(()) }
    }

    /// Checks the length of the log before a commit, which would otherwise be written behind the end of a truncated
    /// log.
    pub fn check_log_length(&mut self) -> Result<(), FilesChanged> {
        if self.change.is_none() {
            self.change = self.watch.check_log_length();
        }
        self.ensure_unchanged()
    }

    /// Notes that this process has committed: the log now has `frames` frames.
    pub fn note_commit(&mut self, frames: u64) {
        if let Err(error) = self.watch.note_commit(frames) {
            self.report_check_failure(&error);
        }
    }

    /// Notes that this process has moved the log into the store's file, either the `whole` of it or a part.
    pub fn note_checkpoint(&mut self, connection: &Connection, whole: bool) {
        // SQLite has truncated the file to the length that it needs, and with that has released the reserved blocks.
        self.file_reserved_to = 0;
        match self.watch.note_checkpoint(connection, whole) {
            Ok(None) => {}
            Ok(Some(what)) => self.change = Some(FileChange { what, can_be_saved: false }),
            Err(error) => self.report_check_failure(&error),
        }
    }

    /// Logs that the files could not be checked, once until a check succeeds.
    fn report_check_failure(&mut self, error: &io::Error) {
        if !self.file_check_failing {
            self.event(StoreEvent::FileCheckFailed(error.to_string()));
        }
        self.file_check_failing = true;
    }

    /// Writes a new mark as part of the open transaction, unless the log has one already, and returns the mark. When
    /// the transaction is committed, the caller stores it in [`super::watch::Watch::mark`].
    pub fn write_mark(&self, connection: &Connection) -> rusqlite::Result<u64> {
        if let Some(mark) = self.watch.mark {
            return Ok(mark);
        }
        // As long as the clock advances no two marks are the same. Bit 62 makes SQLite use all eight bytes for each.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let mark = u64::try_from(now & (u128::from(u64::MAX) >> 2)).unwrap_or(0) | 1 << 62;
        row::set_mark(connection, mark)?;
        Ok(mark)
    }

    /// Reports the change as the store's last result. Writes nothing to a file that is not the store's own, not even by
    /// closing the connection.
    pub fn report_change(&mut self, connection: Option<&Connection>) {
        let Some(FileChange { what, can_be_saved }) = self.change.take() else { return };
        let open = connection.filter(|_| can_be_saved && self.faults.check(FaultPoint::Checkpoint).is_ok());
        let saved = open.is_some_and(|connection| sqlite::truncate_log(connection).is_ok());
        self.send(FromStore::Changed { what, saved });
        (self.wake)();
    }
}
