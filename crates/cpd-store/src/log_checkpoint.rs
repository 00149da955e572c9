//! Moves the log into the store's file, at a start and at a stop even when the disk is full: then no space is given
//! back to the file system, because others would take it at once, and a log that does not fit into the file stays where
//! it is.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rusqlite::{Connection, ffi};

use super::event::StoreEvent;
use super::files::{LOG_RESERVED_BYTES, StoreFiles};
use super::format::{FRAME_BYTES, PAGE_BYTES};
use super::paths::is_read_only;
use super::sqlite::{self, FaultPoint};
use super::state::WriterState;
use super::watch::Watch;

/// Blocks of the store's file are reserved for this many bytes more than the estimated need.
const FILE_SLACK_BYTES: u64 = 64 * 1024;
/// Blocks are reserved for this many more bytes at once if there is room, so that they are rarely reserved.
const FILE_STEP_BYTES: u64 = 2 * 1024 * 1024;
/// Bytes that are rewritten at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// Puts everything that an earlier process may have left unsynced on stable storage: if a part of the log before the
/// first commit of this process were lost, that commit would be lost with it. Returns why the log stays as it is, or
/// `None` if nothing of it is left to be moved.
pub fn at_start(connection: &Connection, place: &StoreFiles, watch: &Watch) -> rusqlite::Result<Option<String>> {
    sqlite::require_wal_mode(connection)?;
    let unsynced = |e: io::Error| sqlite::new_error(ffi::SQLITE_IOERR_FSYNC, &e.to_string());
    if place.log_bytes() == 0 {
        // Moving an empty log would give up the blocks that are reserved in it.
        return watch.sync().map(|()| None).map_err(unsynced);
    }
    match checkpoint_all(connection, place) {
        // What is rewritten and then synced is on stable storage, whatever became of the earlier writes.
        Err(error) if sqlite::is_full(&error) => {
            let said = format!("what is in the log stays there: {}", sqlite::error_text(&error));
            rewrite_in_place(&place.sibling("-wal")).map(|()| Some(said)).map_err(unsynced)
        }
        moved => moved.map(|()| None),
    }
}

/// Moves the whole log into the store's file. An error says whether the disk is full.
pub fn checkpoint_all(connection: &Connection, place: &StoreFiles) -> rusqlite::Result<()> {
    let moved = if is_space_scarce(place) { sqlite::restart_log(connection) } else { sqlite::truncate_log(connection) };
    moved.map_err(|error| explain_write_error(place, error))
}

/// Moves the whole log into the store's file, and leaves a log with the blocks that are reserved for deletes.
pub fn at_stop(connection: &Connection, place: &mut StoreFiles) -> rusqlite::Result<()> {
    if is_space_scarce(place) {
        // The log keeps its content, which is in the file as well and which the next commit overwrites.
        sqlite::restart_log(connection)?;
    } else {
        sqlite::truncate_log(connection)?;
        // If this fails, the next start tries again.
        let _ = place.reserve_log();
    }
    place.keep_log();
    Ok(())
}

/// Moves the log into the store's file. A failure loses nothing: the log keeps everything, and grows.
pub fn checkpoint(core: &mut WriterState, connection: &Connection) {
    // Nothing may be moved into a file that others have changed or replaced.
    if core.check_files(connection).is_err() {
        return;
    }
    core.progress.note_step();
    match core.faults.check(FaultPoint::Checkpoint).and_then(|()| sqlite::checkpoint(connection)) {
        Ok(frames) => {
            core.unmoved_log_bytes = frames * FRAME_BYTES;
            core.checkpoint_fails = false;
            core.note_checkpoint(connection, frames == 0);
        }
        Err(e) if !core.checkpoint_fails => {
            core.checkpoint_fails = true;
            core.event(StoreEvent::CheckpointFailed(sqlite::error_text(&e)));
        }
        Err(_) => {}
    }
    if core.checkpoint_fails {
        core.note_checkpoint(connection, false);
    }
    core.progress.note_step();
}

/// Reserves disk space in the log, so that deletes can be written on a full disk. Call this after each truncation of
/// the log.
pub fn reserve_log(core: &WriterState) {
    if let Err(error) = core.files.reserve_log() {
        core.event(StoreEvent::LogReserveFailed(error.to_string()));
    }
}

/// Whether so little disk space is free that others are likely to take any that is given back before it is needed
/// again.
fn is_space_scarce(place: &StoreFiles) -> bool {
    place.available().is_ok_and(|free| free < 2 * LOG_RESERVED_BYTES.unsigned_abs())
}

/// Adds the cause to the error of a write. SQLite reports a full disk as such, but a used-up quota and a read-only file
/// system like any other failure.
pub fn explain_write_error(place: &StoreFiles, error: rusqlite::Error) -> rusqlite::Error {
    let error = sqlite::name_read_only(error, || is_read_only(place.file()));
    if !sqlite::is_failed_write(&error) {
        return error;
    }
    match probe_write(&place.sibling("-wal")) {
        Ok(()) => error,
        Err(e) if is_out_of_space(&e) => sqlite::new_error(ffi::SQLITE_FULL, &e.to_string()),
        Err(e) => sqlite::new_error(sqlite::code(&error), &e.to_string()),
    }
}

/// Whether the disk, the quota or the largest file size is used up.
fn is_out_of_space(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}

/// Tries to write behind the end of the log, where it overwrites nothing.
fn probe_write(log: &Path) -> io::Result<()> {
    let nofollow = nix::fcntl::OFlag::O_NOFOLLOW.bits();
    let log = OpenOptions::new().write(true).custom_flags(nofollow).open(log)?;
    log.write_all_at(&[0; 2 * PAGE_BYTES as usize], log.metadata()?.len())
}

/// Overwrites the file with its own content, and syncs it.
fn rewrite_in_place(path: &Path) -> io::Result<()> {
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

impl WriterState {
    /// Reserves blocks of the store's file for the content of the log and for `inserts` bytes more, so that the log can
    /// be moved into the file even if others fill the disk meanwhile. Returns `false` if the disk has no room for them.
    pub fn reserve_file(&mut self, connection: &Connection, inserts: u64) -> bool {
        // Pages are not filled completely.
        let more = inserts.saturating_mul(3) / 2 + FILE_SLACK_BYTES;
        self.file_filled_to = self.file_filled_to.saturating_add(more);
        if self.file_filled_to <= self.file_reserved_to {
            return true;
        }
        let bytes = |pragma: &str| -> rusqlite::Result<u64> {
            let pages: u32 = connection.prepare_cached(pragma)?.query_row([], |row| row.get(0))?;
            Ok(u64::from(pages) * u64::from(PAGE_BYTES))
        };
        // If the pages cannot be counted, writing will fail as well, and that is reported.
        let Ok(all) = bytes("PRAGMA page_count") else { return true };
        self.file_filled_to = all.saturating_add(more);
        if self.file_filled_to <= self.file_reserved_to {
            return true;
        }
        // Free pages are filled first.
        let to = all + more.saturating_sub(bytes("PRAGMA freelist_count").unwrap_or(0));
        self.file_filled_to = to;
        if to <= self.file_reserved_to {
            return true;
        }
        for to in [to + FILE_STEP_BYTES, to] {
            match self.watch.reserve(to) {
                Ok(()) => {
                    self.file_reserved_to = to;
                    return true;
                }
                Err(e) if is_out_of_space(&e) => {}
                Err(_) => return true,
            }
        }
        false
    }

    /// Bytes that the store's files may still grow by.
    pub fn available(&self) -> io::Result<u64> {
        self.files.available_for(self.watch.bytes()?, self.file_reserved_to)
    }

    /// Bytes that inserts may use. A file system says nothing about a quota except by refusing writes. After it has
    /// done so, there is no room for inserts until it grants as many bytes as are `needed`.
    pub fn available_for_inserts(&mut self, available: u64, needed: u64) -> u64 {
        if self.quota_is_used_up && self.files.can_allocate(needed) {
            self.quota_is_used_up = false;
        }
        if self.quota_is_used_up { 0 } else { available }
    }
}
