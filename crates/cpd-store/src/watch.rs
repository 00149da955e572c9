//! Checks whether the store's files are still the ones that this process opened, with the content that it wrote. Others
//! move, remove, overwrite and truncate files under a running daemon, and what is acknowledged after that is lost with
//! the next start. So the files are checked after each sync and before the answers, before the log is moved into the
//! file, and while the writer is idle.
//!
//! There are two kinds of checks. By name: device and inode of what the next start would open. By content: the file
//! changes only when cpd moves the log into it, so its length, its modification time and its first bytes stay the same
//! in between; and each time it does change, it gets another mark in its table `meta`, so that even a copy that is an
//! hour old is recognised.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use cpd_core::sabotage;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, fallocate};
use rusqlite::Connection;

use super::format::{FRAME_BYTES, LOG_HEADER_BYTES, PAGE_BYTES};
use super::history::read_up_to;
use super::{history, row, sqlite, users};

/// Bytes at the beginning of the file that are compared in each check.
const HEAD_BYTES: usize = 100;
/// Length of the salts, by which a log is told from those before it in the same file, and their offsets in the header
/// of the log and in that of a frame (SQLite file format, section 4.1).
const SALT_BYTES: usize = 8;
const SALT_IN_LOG: u64 = 16;
const SALT_IN_FRAME: u64 = 8;

/// What others did to the store's files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileChange {
    /// A human-readable description.
    pub what: String,
    /// Only names were changed: the log can still be moved into the file, which still has a name somewhere.
    pub can_be_saved: bool,
}

/// The result of a check.
pub enum FileCheck {
    Unchanged,
    Changed(FileChange),
    /// The files could not be checked.
    Failed(io::Error),
}

/// What the store's files are expected to be. The descriptors stay open for as long as SQLite has the files open:
/// closing any descriptor of a file drops all locks that the process has on it.
pub struct Watch {
    /// The store's path as the caller gave it.
    given_path: PathBuf,
    path: PathBuf,
    log_path: PathBuf,
    file: File,
    identity: (u64, u64),
    log: Option<(File, (u64, u64))>,
    /// `None`: nothing is known yet, or the file could not be read.
    expected: Option<ExpectedFile>,
    expected_log: ExpectedLog,
    /// The mark in the part of the log that is not in the file yet, if there is one.
    pub mark: Option<u64>,
}

/// The state of the file after this process last moved the log into it.
struct ExpectedFile {
    bytes: u64,
    modified: (i64, i64),
    head: Vec<u8>,
    /// The offset and the content of the page of table `meta`, which contains the mark.
    mark_page: (u64, Vec<u8>),
}

/// The state of the log after the last commit. Without frames nothing is expected of it: the next commit writes it from
/// its beginning again.
#[derive(Default)]
struct ExpectedLog {
    frames: u64,
    /// The salts in its header and, until it is written from its beginning again, in each of its frames.
    salt: Option<[u8; SALT_BYTES]>,
}

impl Watch {
    /// Opens the store's file at `path`, to which `given_path` leads. Call this before SQLite opens it.
    pub fn open(given_path: &Path, path: &Path, log_path: PathBuf) -> io::Result<Watch> {
        let file = open_nofollow(path, true)?;
        let identity = identity(&file.metadata()?);
        Ok(Watch {
            given_path: given_path.to_path_buf(),
            path: path.to_path_buf(),
            log_path,
            file,
            identity,
            log: None,
            expected: None,
            expected_log: ExpectedLog::default(),
            mark: None,
        })
    }

    /// Notes the present state of the files. Call this once SQLite has opened them.
    pub fn start(&mut self, connection: &Connection) -> io::Result<()> {
        if self.log.is_none() {
            let log = open_nofollow(&self.log_path, false)?;
            let identity = identity(&log.metadata()?);
            self.log = Some((log, identity));
        }
        self.mark = None;
        // No mark of this process is expected in the file yet, so nothing can be wrong with it.
        self.note_checkpoint(connection, true).map(drop)
    }

    /// The store's file, for reading.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The expected length of the file in bytes.
    pub fn bytes(&self) -> io::Result<u64> {
        self.expected.as_ref().map_or_else(|| Ok(self.file.metadata()?.len()), |expected| Ok(expected.bytes))
    }

    /// The number in the file's header.
    pub fn number(&self) -> io::Result<u32> {
        Ok(history::read_number(&self.file)?.unwrap_or(history::COPY_NUMBER))
    }

    /// Checks whether everything is as expected. `connection` is used only if the file's modification time has changed.
    pub fn check(&mut self, connection: &Connection) -> FileCheck {
        if sabotage::is_ordered(sabotage::Fault::BlindStore) {
            return FileCheck::Unchanged;
        }
        self.find_change(connection)
            .map_or_else(FileCheck::Failed, |change| change.map_or(FileCheck::Unchanged, FileCheck::Changed))
    }

    /// The change that others have made, if any.
    fn find_change(&mut self, connection: &Connection) -> io::Result<Option<FileChange>> {
        let [named, log_named] = self.metadata_by_name()?;
        let own = named.as_ref().filter(|found| identity(found) == self.identity);
        let file = own.cloned().map_or_else(|| self.file.metadata(), Ok)?;
        let findings = [self.check_content(connection, &file)?, self.check_log_content(log_named.as_ref())?];
        if let Some(what) = findings.into_iter().flatten().next() {
            return Ok(Some(FileChange { what, can_be_saved: false }));
        }
        let what = self.check_names(named.as_ref(), log_named.as_ref())?;
        let can_be_saved = file.nlink() > 0;
        Ok(what.map(|what| FileChange { what, can_be_saved }))
    }

    /// Allocates blocks for the file up to offset `to`, without changing its length. Does nothing on a file system that
    /// cannot allocate blocks in advance.
    pub fn reserve(&mut self, to: u64) -> io::Result<()> {
        let found = self.file.metadata()?;
        let range = (i64::try_from(found.len()), i64::try_from(to.saturating_sub(found.len())));
        let (Ok(from), Ok(length @ 1..)) = range else { return Ok(()) };
        match fallocate(&self.file, FallocateFlags::FALLOC_FL_KEEP_SIZE, from, length) {
            Ok(()) | Err(Errno::EOPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
        // This has changed the file's modification time. A change by somebody else that was not checked yet must still
        // be noticed.
        let now = modified(&self.file.metadata()?);
        if let Some(expected) = self.expected.as_mut().filter(|expected| expected.modified == modified(&found)) {
            expected.modified = now;
        }
        Ok(())
    }

    /// Syncs the store's file.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// Checks that the store can be opened again by its name.
    ///
    /// # Errors
    /// Describes what was done to the files.
    pub fn ensure_in_place(&self) -> Result<(), String> {
        match self.metadata_by_name().and_then(|[file, log]| self.check_names(file.as_ref(), log.as_ref())) {
            Ok(None) => Ok(()),
            Ok(Some(what)) => Err(what),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The metadata found under the names of the file and of the log. The log is looked up first: if it is missing
    /// because the folder was moved away, then the file is found to be missing as well.
    fn metadata_by_name(&self) -> io::Result<[Option<Metadata>; 2]> {
        let log = existing(fs::symlink_metadata(&self.log_path))?;
        Ok([existing(fs::symlink_metadata(&self.path))?, log])
    }

    /// Describes how the next start would open something else, if it would. `file` and `log` are the metadata found
    /// under their names.
    fn check_names(&self, file: Option<&Metadata>, log: Option<&Metadata>) -> io::Result<Option<String>> {
        let describe = |path: &Path, what: &str| Ok(Some(format!("{} {what}", path.display())));
        match file {
            None => return self.describe_missing(),
            Some(found) if found.is_symlink() => return describe(&self.path, "is a symbolic link now"),
            Some(found) if identity(found) != self.identity => return describe(&self.path, "is another file now"),
            Some(_) => {}
        }
        if self.given_path != self.path
            && existing(fs::metadata(&self.given_path))?.is_none_or(|found| identity(&found) != self.identity)
        {
            return describe(&self.given_path, "leads to another file now");
        }
        match (&self.log, log) {
            (None, _) => Ok(None),
            (Some(_), None) => describe(&self.log_path, "was removed"),
            (Some((_, own)), Some(found)) if identity(found) != *own => describe(&self.log_path, "is another file now"),
            (Some(_), Some(_)) => Ok(None),
        }
    }

    /// Describes what became of a file that is not found under its name.
    fn describe_missing(&self) -> io::Result<Option<String>> {
        if self.file.metadata()?.nlink() == 0 {
            return Ok(Some(format!("{} was removed", self.path.display())));
        }
        let now = fs::read_link(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        let now = now.map(|now| format!(" to {}", now.display())).unwrap_or_default();
        Ok(Some(format!("{} was moved away{now}", self.path.display())))
    }

    /// Describes how others have written to the file, if they have. `found` is its present metadata.
    fn check_content(&mut self, connection: &Connection, found: &Metadata) -> io::Result<Option<String>> {
        let describe = |what: &str| Ok(Some(format!("{} {what}", self.path.display())));
        let Some(expected) = &mut self.expected else { return Ok(None) };
        if found.len() < expected.bytes {
            return describe("was cut");
        }
        if found.len() > expected.bytes || read_up_to(&self.file, 0, &mut [0; HEAD_BYTES])? != expected.head {
            return describe("was overwritten");
        }
        if modified(found) == expected.modified {
            return Ok(None);
        }
        let (at, page) = &expected.mark_page;
        if read_up_to(&self.file, *at, &mut [0; PAGE_BYTES as usize])? != page {
            return describe("was overwritten");
        }
        // Only its time was changed, or something inside was altered: the checksums decide.
        if let Err(damage) = verify_rows(connection) {
            return describe(&format!("was written to: {damage}"));
        }
        expected.modified = modified(found);
        Ok(None)
    }

    /// Describes how others have truncated or overwritten the log, if they have. One that was truncated and written to
    /// since has a hole where its last frame was. `named` is the metadata found under its name.
    fn check_log_content(&self, named: Option<&Metadata>) -> io::Result<Option<String>> {
        let describe = |what: &str| Ok(Some(format!("{} {what}", self.log_path.display())));
        let ExpectedLog { frames: frames @ 1.., salt: Some(salt) } = self.expected_log else { return Ok(None) };
        let Some((log, own)) = &self.log else { return Ok(None) };
        let bytes = match named.filter(|found| identity(found) == *own) {
            Some(found) => found.len(),
            None => log.metadata()?.len(),
        };
        if bytes < log_bytes(frames) {
            return describe("was cut");
        }
        let last = log_bytes(frames - 1).max(LOG_HEADER_BYTES);
        let same = read_up_to(log, SALT_IN_LOG, &mut [0; SALT_BYTES])? == salt
            && read_up_to(log, last + SALT_IN_FRAME, &mut [0; SALT_BYTES])? == salt;
        if same { Ok(None) } else { describe("was overwritten") }
    }

    /// The change, if the log is shorter than expected.
    pub fn check_log_length(&self) -> Option<FileChange> {
        let (log, _) = self.log.as_ref().filter(|_| !sabotage::is_ordered(sabotage::Fault::BlindStore))?;
        let is_cut = log.metadata().ok()?.len() < log_bytes(self.expected_log.frames);
        is_cut.then(|| FileChange { what: format!("{} was cut", self.log_path.display()), can_be_saved: false })
    }

    /// Notes a commit, after which the log has `frames` frames. Call this only after a check has found no change.
    ///
    /// # Errors
    /// The log could not be read, and is not compared in the next checks.
    pub fn note_commit(&mut self, frames: u64) -> io::Result<()> {
        // As long as frames are only added, the salts remain the same.
        let known = self.expected_log.salt.filter(|_| frames >= self.expected_log.frames);
        self.expected_log = ExpectedLog::default();
        let Some((log, _)) = self.log.as_ref().filter(|_| frames > 0) else { return Ok(()) };
        let salt = match known {
            Some(salt) => salt,
            None => {
                let mut salt = [0; SALT_BYTES];
                log.read_exact_at(&mut salt, SALT_IN_LOG)?;
                salt
            }
        };
        self.expected_log = ExpectedLog { frames, salt: Some(salt) };
        Ok(())
    }

    /// Notes the state of the file after the log, the `whole` of it or a part, was moved into it. Returns a description
    /// if somebody else has written to the file meanwhile.
    ///
    /// # Errors
    /// The file could not be read, and is not compared in the next checks.
    pub fn note_checkpoint(&mut self, connection: &Connection, whole: bool) -> io::Result<Option<String>> {
        let mark = self.mark.filter(|_| whole).map(u64::to_be_bytes);
        if whole {
            (self.expected_log, self.mark) = (ExpectedLog::default(), None);
        }
        self.expected = None;
        let (expected, pages) = self.read_file(connection)?;
        let expected = self.expected.insert(expected);
        // What somebody else writes at the same time must not be taken for what this process has written.
        let has_mark = mark.is_none_or(|mark| expected.mark_page.1.windows(mark.len()).any(|part| part == mark));
        let right = has_mark && expected.bytes == pages * u64::from(PAGE_BYTES);
        Ok((whole && !right).then(|| format!("{} was overwritten", self.path.display())))
    }

    /// The present state of the file, and how many pages it should have once the whole log is in it.
    fn read_file(&self, connection: &Connection) -> io::Result<(ExpectedFile, u64)> {
        let number = |sql: &str| -> io::Result<u64> {
            let found = connection.prepare_cached(sql).and_then(|mut s| s.query_row([], |row| row.get::<_, u32>(0)));
            found.map(u64::from).map_err(|e| io::Error::other(sqlite::error_text(&e)))
        };
        let page = number("SELECT rootpage FROM sqlite_schema WHERE name = 'meta'")?;
        let at = page.saturating_sub(1) * u64::from(PAGE_BYTES);
        let found = self.file.metadata()?;
        let mark_page = read_up_to(&self.file, at, &mut [0; PAGE_BYTES as usize])?.to_vec();
        let head = read_up_to(&self.file, 0, &mut [0; HEAD_BYTES])?.to_vec();
        let expected =
            ExpectedFile { bytes: found.len(), modified: modified(&found), head, mark_page: (at, mark_page) };
        Ok((expected, number("PRAGMA page_count")?))
    }
}

fn open_nofollow(path: &Path, writes: bool) -> io::Result<File> {
    let open = |flags: OFlag| OpenOptions::new().read(true).write(writes).custom_flags(flags.bits()).open(path);
    // Reads after each commit would otherwise cost a write of the inode's access time. Only an owner may ask for that.
    match open(OFlag::O_NOFOLLOW | OFlag::O_NOATIME) {
        Err(error) if error.raw_os_error() == Some(Errno::EPERM as i32) => open(OFlag::O_NOFOLLOW),
        opened => opened,
    }
}

/// The length in bytes of a log of `frames` frames.
fn log_bytes(frames: u64) -> u64 {
    if frames == 0 { 0 } else { LOG_HEADER_BYTES + frames * FRAME_BYTES }
}

/// Device and inode: no other file has the same while a descriptor of this one is open.
fn identity(found: &Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

/// The modification time in seconds and nanoseconds.
fn modified(found: &Metadata) -> (i64, i64) {
    (found.mtime(), found.mtime_nsec())
}

/// `None`: there is nothing, or a link that leads nowhere.
fn existing(looked: io::Result<Metadata>) -> io::Result<Option<Metadata>> {
    match looked {
        Ok(found) => Ok(Some(found)),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(e) if e.kind() == ErrorKind::StaleNetworkFileHandle => Ok(None),
        Err(e) if e.raw_os_error() == Some(Errno::ELOOP as i32) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Checks every row, read from the file again, against its checksum.
///
/// # Errors
/// Describes the damage, or why the rows could not be read.
fn verify_rows(connection: &Connection) -> Result<(), String> {
    // Pages in SQLite's cache were read earlier, so they are dropped.
    connection.release_memory().map_err(|e| sqlite::error_text(&e))?;
    let checked = users::each(connection, None, u32::MAX, |_| ())
        .and_then(|()| users::check_seen(connection, |what| Err(row::RowError::Damaged(what))))
        .and_then(|_| row::reserved(connection))
        .and_then(|_| row::each_message(connection, |_| ()));
    checked.map_err(|e| e.text())
}
