//! How a start and a stop bring the log into the store's file, also where the disk has no byte left: then nothing is
//! given back to it that others would take at once, and a log that does not fit into the file stays where it is.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rusqlite::{Connection, ffi};

use super::cycle::Core;
use super::files::{LOG_RESERVED_BYTES, Place};
use super::schema::PAGE_BYTES;
use super::watch::Watch;
use super::{files, sqlite};

/// By how much the file's blocks are more than what is known to be needed, in bytes, and in which steps.
const FILE_SLACK_BYTES: u64 = 64 * 1024;
const FILE_STEP_BYTES: u64 = 2 * 1024 * 1024;
/// Bytes that are rewritten at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// Puts everything that an earlier process may have left unsynced on stable storage: a hole in the log below the first
/// commit of this process would take that commit with it. `Some`: why the log stays as it is.
pub fn at_start(connection: &Connection, place: &Place, watch: &Watch) -> rusqlite::Result<Option<String>> {
    sqlite::wal_mode(connection)?;
    let unsynced = |e: io::Error| sqlite::error(ffi::SQLITE_IOERR_FSYNC, &e.to_string());
    if place.log_bytes() == 0 {
        // The room that is set apart in it stays there.
        return watch.sync().map(|()| None).map_err(unsynced);
    }
    match moved(connection, place) {
        // What is written anew and synced is on stable storage, whatever became of it before.
        Err(error) if sqlite::is_full(&error) => {
            let said = format!("what is in the log stays there: {}", sqlite::text(&error));
            rewrite(&place.beside("-wal")).map(|()| Some(said)).map_err(unsynced)
        }
        moved => moved.map(|()| None),
    }
}

/// Moves the whole log into the file. Errors of the disk tell whether it is full.
pub fn moved(connection: &Connection, place: &Place) -> rusqlite::Result<()> {
    let moved = if is_tight(place) { sqlite::restart_log(connection) } else { sqlite::settle(connection) };
    moved.map_err(|error| full_or(place, error))
}

/// Leaves everything in the store's file, and an empty log with the room that is set apart for deletes.
pub fn at_stop(connection: &Connection, place: &mut Place) -> rusqlite::Result<()> {
    if is_tight(place) {
        // What is in the log is in the file as well, and goes when the log is begun anew.
        sqlite::restart_log(connection)?;
    } else {
        sqlite::settle(connection)?;
        // Without it the next start tries again.
        let _ = place.reserve_log();
    }
    place.keep_log();
    Ok(())
}

/// Whether room that is given back is likely to be taken by others before it can be had again.
fn is_tight(place: &Place) -> bool {
    place.available().is_ok_and(|free| free < 2 * LOG_RESERVED_BYTES.unsigned_abs())
}

/// The error of a write, with its cause. SQLite tells of a disk that is full, and of a used-up quota and of a read-only
/// file system as of any failure.
pub fn full_or(place: &Place, error: rusqlite::Error) -> rusqlite::Error {
    let error = sqlite::read_only_or(error, || files::is_read_only(place.file()));
    if !sqlite::is_failed_write(&error) {
        return error;
    }
    match probe(&place.beside("-wal")) {
        Ok(()) => error,
        Err(e) if is_want_of_room(&e) => sqlite::error(ffi::SQLITE_FULL, &e.to_string()),
        Err(e) => sqlite::error(sqlite::code(&error), &e.to_string()),
    }
}

fn is_want_of_room(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}

/// Tries to write behind the end of the log, where nothing is that counts.
fn probe(log: &Path) -> io::Result<()> {
    let nofollow = nix::fcntl::OFlag::O_NOFOLLOW.bits();
    let log = OpenOptions::new().write(true).custom_flags(nofollow).open(log)?;
    log.write_all_at(&[0; 2 * PAGE_BYTES as usize], log.metadata()?.len())
}

/// Writes what the file holds over itself, and syncs.
fn rewrite(path: &Path) -> io::Result<()> {
    let nofollow = nix::fcntl::OFlag::O_NOFOLLOW.bits();
    let file: File = OpenOptions::new().read(true).write(true).custom_flags(nofollow).open(path)?;
    let (mut bytes, mut at) = (vec![0; CHUNK_BYTES], 0);
    loop {
        let count = file.read_at(&mut bytes, at)?;
        let Some(read) = bytes.get(..count).filter(|read| !read.is_empty()) else { return file.sync_all() };
        file.write_all_at(read, at)?;
        at += count as u64;
    }
}

impl Core {
    /// Gives the file the blocks into which what is in the log and `inserts` bytes more are moved later, so that the log
    /// can be begun anew whoever fills the disk meanwhile. `false`: there are none.
    pub fn reserve_file(&mut self, connection: &Connection, inserts: u64) -> bool {
        // A page is not filled to its end.
        let more = inserts.saturating_mul(3) / 2 + FILE_SLACK_BYTES;
        self.file_filled = self.file_filled.saturating_add(more);
        if self.file_filled <= self.file_reserved {
            return true;
        }
        let bytes = |pragma: &str| -> rusqlite::Result<u64> {
            let pages: u32 = connection.prepare_cached(pragma)?.query_row([], |row| row.get(0))?;
            Ok(u64::from(pages) * u64::from(PAGE_BYTES))
        };
        // Who cannot say cannot write either, and will be heard.
        let Ok(all) = bytes("PRAGMA page_count") else { return true };
        self.file_filled = all.saturating_add(more);
        if self.file_filled <= self.file_reserved {
            return true;
        }
        // Pages that hold nothing are filled first.
        let to = all + more.saturating_sub(bytes("PRAGMA freelist_count").unwrap_or(0));
        self.file_filled = to;
        if to <= self.file_reserved {
            return true;
        }
        for to in [to + FILE_STEP_BYTES, to] {
            match self.watch.reserve(to) {
                Ok(()) => {
                    self.file_reserved = to;
                    return true;
                }
                Err(e) if is_want_of_room(&e) => {}
                Err(_) => return true,
            }
        }
        false
    }

    /// Bytes that the store's files may still grow by.
    pub fn available(&self) -> io::Result<u64> {
        self.place.available_beside(self.watch.bytes()?, self.file_reserved)
    }

    /// Bytes that inserts may use. Of a quota the file system tells nothing but by refusing: where it did, it is asked for
    /// as many as are `needed`.
    pub fn room(&mut self, available: u64, needed: u64) -> u64 {
        if self.quota_is_used_up && self.place.can_grow(needed) {
            self.quota_is_used_up = false;
        }
        if self.quota_is_used_up { 0 } else { available }
    }
}
