//! What the writer does about files that are no longer its own (see [`super::watch`]): nothing more is answered and
//! nothing is written to a file that is in doubt. Where only a name was taken, the log is still brought into the file that
//! had it, so that whoever has moved that has all of it.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::Connection;

use super::cycle::Core;
use super::sqlite::{self, Point};
use super::watch::{Change, Look};
use super::{StoreEvent, row};
use crate::engine::port::FromStore;

/// The store's files were changed by others.
#[derive(Debug)]
pub struct Changed;

impl Core {
    /// Looks at the store's files. What is found is kept for [`Core::end_changed`].
    pub fn look(&mut self, connection: &Connection) -> Result<(), Changed> {
        if self.change.is_none() {
            match self.watch.look(connection) {
                Look::Same => self.unseen = false,
                Look::Changed(change) => self.change = Some(change),
                Look::Unseen(error) => self.could_not_look(&error),
            }
        }
        self.unchanged()
    }

    /// What the looks have found so far.
    pub fn unchanged(&self) -> Result<(), Changed> {
        if self.change.is_some() { Err(Changed) } else { Ok(()) }
    }

    /// A look before a commit, which would write on behind the end of a log that was cut.
    pub fn look_at_log(&mut self) -> Result<(), Changed> {
        if self.change.is_none() {
            self.change = self.watch.log_is_cut();
        }
        self.unchanged()
    }

    /// Takes note of what this process has done to its files: of a commit, by the number of frames in the log.
    pub fn note_commit(&mut self, frames: u64) {
        if let Err(error) = self.watch.committed(frames) {
            self.could_not_look(&error);
        }
    }

    /// Of the log, the `whole` of it or not, being moved into the file.
    pub fn note_move(&mut self, connection: &Connection, whole: bool) {
        // SQLite has cut the file to its length.
        self.file_reserved = 0;
        match self.watch.moved(connection, whole) {
            Ok(None) => {}
            Ok(Some(what)) => self.change = Some(Change { what, can_be_saved: false }),
            Err(error) => self.could_not_look(&error),
        }
    }

    /// Said once until a look succeeds.
    fn could_not_look(&mut self, error: &io::Error) {
        if !self.unseen {
            self.event(StoreEvent::Unseen(error.to_string()));
        }
        self.unseen = true;
    }

    /// Puts a new mark into the transaction, if the log has none yet; to be noted in [`super::watch::Watch::mark`] when
    /// that is stored.
    pub fn mark(&self, connection: &Connection) -> rusqlite::Result<u64> {
        if let Some(mark) = self.watch.mark {
            return Ok(mark);
        }
        // No two are the same by any clock that goes. With this bit each takes all of its eight bytes.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let mark = u64::try_from(now & (u128::from(u64::MAX) >> 2)).unwrap_or(0) | 1 << 62;
        row::set_mark(connection, mark)?;
        Ok(mark)
    }

    /// The last word. Nothing is written to what is not ours, also not by closing the connection.
    pub fn end_changed(&mut self, connection: Option<&Connection>) {
        let Some(Change { what, can_be_saved }) = self.change.take() else { return };
        let open = connection.filter(|_| can_be_saved && self.faults.at(Point::Checkpoint).is_ok());
        let saved = open.is_some_and(|connection| sqlite::settle(connection).is_ok());
        self.send(FromStore::Changed { what, saved });
        (self.wake)();
    }
}
