//! Whether the store's files are still the ones that this process opened, with what it left in them. Others move, remove,
//! copy over and cut files under a running daemon, and what is acknowledged after that is lost with the next start. So it
//! is looked at behind each sync and before the answers, before the log is moved into the file, and while nothing happens.
//!
//! Two things tell. By name: device and inode of what a next start would open. By content: the file changes only when cpd
//! moves the log into it, so its length, its time and its first bytes stay in between; and each time it does change, it
//! gets another mark in its table `meta`, so that even a copy that is an hour old is told from it.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use rusqlite::Connection;

use super::room::{FRAME_BYTES, LOG_HEADER_BYTES};
use super::schema::PAGE_BYTES;
use super::{history, row, sqlite, users};
use crate::sabotage;

/// Bytes at the beginning of the file that are compared at each look.
const HEAD_BYTES: usize = 100;
/// Bytes of the number that tells a log from those before it in the same file, and where it is in the log's header and in
/// a frame's (SQLite's file format, section 4.1).
const SALT_BYTES: usize = 8;
const SALT_IN_LOG: u64 = 16;
const SALT_IN_FRAME: u64 = 8;

/// What was done to the store's files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// What was changed, for people.
    pub what: String,
    /// Only names were: the log still can be moved into the file, and the file has a name somewhere.
    pub can_be_saved: bool,
}

/// What a look comes to.
pub enum Look {
    Same,
    Changed(Change),
    /// The system did not let us look.
    Unseen(io::Error),
}

/// The descriptors stay open for as long as SQLite has the files: closing any descriptor of a file would take the locks
/// of the whole process from it.
pub struct Watch {
    /// As the configuration names it.
    asked: PathBuf,
    path: PathBuf,
    log_path: PathBuf,
    file: File,
    identity: (u64, u64),
    log: Option<(File, (u64, u64))>,
    /// `None`: a move has failed, or what it left could not be read.
    left: Option<Left>,
    log_left: LogLeft,
    /// The mark in the log that is not moved yet, if it has one.
    pub mark: Option<u64>,
}

/// What we left in the file when we last moved the log into it.
struct Left {
    bytes: u64,
    modified: (i64, i64),
    head: Vec<u8>,
    /// The page of the table `meta`, in which the mark is, and where it begins.
    marked: (u64, Vec<u8>),
}

/// What we left in the log with the last commit. Empty: the next commit begins it anew.
#[derive(Default)]
struct LogLeft {
    frames: u64,
    /// The number that is in its header and, as long as it is not begun anew, in each of its frames.
    salt: Option<[u8; SALT_BYTES]>,
}

impl Watch {
    /// Opens the store's file at `path`, which is where `asked` leads to. Before SQLite opens it.
    pub fn open(asked: &Path, path: &Path, log_path: PathBuf) -> io::Result<Watch> {
        let file = open(path, true)?;
        let identity = identity(&file.metadata()?);
        Ok(Watch {
            asked: asked.to_path_buf(),
            path: path.to_path_buf(),
            log_path,
            file,
            identity,
            log: None,
            left: None,
            log_left: LogLeft::default(),
            mark: None,
        })
    }

    /// Takes note of the files as they are: SQLite has opened them and emptied the log into the file.
    pub fn begin(&mut self, connection: &Connection) -> io::Result<()> {
        if self.log.is_none() {
            let log = open(&self.log_path, false)?;
            let identity = identity(&log.metadata()?);
            self.log = Some((log, identity));
        }
        self.mark = None;
        // A mark of this process is not in it yet, so that there is nothing to be wrong.
        self.moved(connection, true).map(drop)
    }

    /// The store's file, to be read.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Bytes of the file, as it was left.
    pub fn bytes(&self) -> io::Result<u64> {
        self.left.as_ref().map_or_else(|| Ok(self.file.metadata()?.len()), |left| Ok(left.bytes))
    }

    /// The number in the file's header.
    pub fn number(&self) -> io::Result<u32> {
        Ok(history::number_of(&self.file)?.unwrap_or(history::NO_LOG))
    }

    /// Whether everything is as we left it. `connection` is asked only where the file's time has changed.
    pub fn look(&mut self, connection: &Connection) -> Look {
        if sabotage::is(sabotage::Fault::BlindStore) {
            return Look::Same;
        }
        self.changed(connection).map_or_else(Look::Unseen, |change| change.map_or(Look::Same, Look::Changed))
    }

    fn changed(&mut self, connection: &Connection) -> io::Result<Option<Change>> {
        let [named, log_named] = self.named()?;
        let own = named.as_ref().filter(|found| identity(found) == self.identity);
        let file = own.cloned().map_or_else(|| self.file.metadata(), Ok)?;
        let said = [self.content(connection, &file)?, self.log_content(log_named.as_ref())?];
        if let Some(what) = said.into_iter().flatten().next() {
            return Ok(Some(Change { what, can_be_saved: false }));
        }
        let what = self.names(named.as_ref(), log_named.as_ref())?;
        let can_be_saved = file.nlink() > 0;
        Ok(what.map(|what| Change { what, can_be_saved }))
    }

    /// Gives the file blocks of its own up to its byte `to`; it does not become longer by that.
    pub fn reserve(&mut self, to: u64) -> io::Result<()> {
        let found = self.file.metadata()?;
        let range = (i64::try_from(found.len()), i64::try_from(to.saturating_sub(found.len())));
        let (Ok(from), Ok(length @ 1..)) = range else { return Ok(()) };
        match fallocate(&self.file, FallocateFlags::FALLOC_FL_KEEP_SIZE, from, length) {
            Ok(()) | Err(Errno::EOPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
        // This counts as a change of the file. One of somebody else that was not looked at yet is still to be.
        let now = modified(&self.file.metadata()?);
        if let Some(left) = self.left.as_mut().filter(|left| left.modified == modified(&found)) {
            left.modified = now;
        }
        Ok(())
    }

    /// Syncs the store's file.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// That the store can be opened once more by its name. Errors: what was done to it.
    pub fn is_in_place(&self) -> Result<(), String> {
        match self.named().and_then(|[file, log]| self.names(file.as_ref(), log.as_ref())) {
            Ok(None) => Ok(()),
            Ok(Some(what)) => Err(what),
            Err(error) => Err(error.to_string()),
        }
    }

    /// What stands under the names of the file and of the log. A folder that is moved away meanwhile has taken the file as
    /// well if it has taken the log.
    fn named(&self) -> io::Result<[Option<Metadata>; 2]> {
        let log = found(fs::symlink_metadata(&self.log_path))?;
        Ok([found(fs::symlink_metadata(&self.path))?, log])
    }

    /// Whether a next start would open something else. `file` and `log` are what stands under their names.
    fn names(&self, file: Option<&Metadata>, log: Option<&Metadata>) -> io::Result<Option<String>> {
        let said = |path: &Path, what: &str| Ok(Some(format!("{} {what}", path.display())));
        match file {
            None => return self.gone(),
            Some(found) if found.is_symlink() => return said(&self.path, "is a symbolic link now"),
            Some(found) if identity(found) != self.identity => return said(&self.path, "is another file now"),
            Some(_) => {}
        }
        if self.asked != self.path
            && found(fs::metadata(&self.asked))?.is_none_or(|found| identity(&found) != self.identity)
        {
            return said(&self.asked, "leads to another file now");
        }
        match (&self.log, log) {
            (None, _) => Ok(None),
            (Some(_), None) => said(&self.log_path, "was removed"),
            (Some((_, own)), Some(found)) if identity(found) != *own => said(&self.log_path, "is another file now"),
            (Some(_), Some(_)) => Ok(None),
        }
    }

    fn gone(&self) -> io::Result<Option<String>> {
        if self.file.metadata()?.nlink() == 0 {
            return Ok(Some(format!("{} was removed", self.path.display())));
        }
        let now = fs::read_link(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        let now = now.map(|now| format!(" to {}", now.display())).unwrap_or_default();
        Ok(Some(format!("{} was moved away{now}", self.path.display())))
    }

    /// Whether somebody wrote to the file.
    fn content(&mut self, connection: &Connection, found: &Metadata) -> io::Result<Option<String>> {
        let said = |what: &str| Ok(Some(format!("{} {what}", self.path.display())));
        let Some(left) = &mut self.left else { return Ok(None) };
        if found.len() < left.bytes {
            return said("was cut");
        }
        if found.len() > left.bytes || read(&self.file, 0, &mut [0; HEAD_BYTES])? != left.head {
            return said("was overwritten");
        }
        if modified(found) == left.modified {
            return Ok(None);
        }
        let (at, page) = &left.marked;
        if read(&self.file, *at, &mut [0; PAGE_BYTES as usize])? != page {
            return said("was overwritten");
        }
        // It was touched, or something within was altered: that is for the checksums to say.
        if let Err(damage) = sound(connection) {
            return said(&format!("was written to: {damage}"));
        }
        left.modified = modified(found);
        Ok(None)
    }

    /// Whether somebody cut the log, or wrote to it. One that was cut and written on has a hole where its last frame was.
    /// `named` is what stands under its name.
    fn log_content(&self, named: Option<&Metadata>) -> io::Result<Option<String>> {
        let said = |what: &str| Ok(Some(format!("{} {what}", self.log_path.display())));
        let LogLeft { frames: frames @ 1.., salt: Some(salt) } = self.log_left else { return Ok(None) };
        let Some((log, own)) = &self.log else { return Ok(None) };
        let bytes = match named.filter(|found| identity(found) == *own) {
            Some(found) => found.len(),
            None => log.metadata()?.len(),
        };
        if bytes < log_bytes(frames) {
            return said("was cut");
        }
        let last = log_bytes(frames - 1).max(LOG_HEADER_BYTES);
        let same = read(log, SALT_IN_LOG, &mut [0; SALT_BYTES])? == salt
            && read(log, last + SALT_IN_FRAME, &mut [0; SALT_BYTES])? == salt;
        if same { Ok(None) } else { said("was overwritten") }
    }

    /// Whether the log has become shorter than it was left.
    pub fn log_is_cut(&self) -> Option<Change> {
        let (log, _) = self.log.as_ref().filter(|_| !sabotage::is(sabotage::Fault::BlindStore))?;
        let is_cut = log.metadata().ok()?.len() < log_bytes(self.log_left.frames);
        is_cut.then(|| Change { what: format!("{} was cut", self.log_path.display()), can_be_saved: false })
    }

    /// Takes note of a commit: the log has `frames` now. To be called when a look found nothing.
    ///
    /// # Errors
    /// It could not be read: it is not compared at the next looks.
    pub fn committed(&mut self, frames: u64) -> io::Result<()> {
        // As long as frames are added it is the same log.
        let known = self.log_left.salt.filter(|_| frames >= self.log_left.frames);
        self.log_left = LogLeft::default();
        let Some((log, _)) = self.log.as_ref().filter(|_| frames > 0) else { return Ok(()) };
        let salt = match known {
            Some(salt) => salt,
            None => {
                let mut salt = [0; SALT_BYTES];
                log.read_exact_at(&mut salt, SALT_IN_LOG)?;
                salt
            }
        };
        self.log_left = LogLeft { frames, salt: Some(salt) };
        Ok(())
    }

    /// Takes note of the file after the log, the `whole` of it or a part, was moved into it. `Some`: somebody else has
    /// written to it meanwhile.
    ///
    /// # Errors
    /// It could not be read: it is not compared at the next looks.
    pub fn moved(&mut self, connection: &Connection, whole: bool) -> io::Result<Option<String>> {
        let mark = self.mark.filter(|_| whole).map(u64::to_be_bytes);
        if whole {
            (self.log_left, self.mark) = (LogLeft::default(), None);
        }
        self.left = None;
        let (left, pages) = self.read_file(connection)?;
        let left = self.left.insert(left);
        // What somebody writes while we do must not become what we believe to have left.
        let has_mark = mark.is_none_or(|mark| left.marked.1.windows(mark.len()).any(|part| part == mark));
        let right = has_mark && left.bytes == pages * u64::from(PAGE_BYTES);
        Ok((whole && !right).then(|| format!("{} was overwritten", self.path.display())))
    }

    /// The file as it is, and how many pages it should have once the whole log is in it.
    fn read_file(&self, connection: &Connection) -> io::Result<(Left, u64)> {
        let number = |sql: &str| -> io::Result<u64> {
            let found = connection.prepare_cached(sql).and_then(|mut s| s.query_row([], |row| row.get::<_, u32>(0)));
            found.map(u64::from).map_err(|e| io::Error::other(sqlite::text(&e)))
        };
        let page = number("SELECT rootpage FROM sqlite_schema WHERE name = 'meta'")?;
        let at = page.saturating_sub(1) * u64::from(PAGE_BYTES);
        let found = self.file.metadata()?;
        let marked = read(&self.file, at, &mut [0; PAGE_BYTES as usize])?.to_vec();
        let head = read(&self.file, 0, &mut [0; HEAD_BYTES])?.to_vec();
        let left = Left { bytes: found.len(), modified: modified(&found), head, marked: (at, marked) };
        Ok((left, number("PRAGMA page_count")?))
    }
}

fn open(path: &Path, writes: bool) -> io::Result<File> {
    let nofollow = nix::fcntl::OFlag::O_NOFOLLOW.bits();
    OpenOptions::new().read(true).write(writes).custom_flags(nofollow).open(path)
}

/// Bytes of a log of that many frames.
fn log_bytes(frames: u64) -> u64 {
    if frames == 0 { 0 } else { LOG_HEADER_BYTES + frames * FRAME_BYTES }
}

/// What no other file has while a descriptor of this one is open.
fn identity(found: &Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

fn modified(found: &Metadata) -> (i64, i64) {
    (found.mtime(), found.mtime_nsec())
}

/// `None`: it is not there, nor anything behind a link.
fn found(looked: io::Result<Metadata>) -> io::Result<Option<Metadata>> {
    match looked {
        Ok(found) => Ok(Some(found)),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(e) if e.kind() == ErrorKind::StaleNetworkFileHandle => Ok(None),
        Err(e) if e.raw_os_error() == Some(Errno::ELOOP as i32) => Ok(None),
        Err(e) => Err(e),
    }
}

/// What stands at `offset`; fewer bytes at the end of the file.
fn read<'b>(file: &File, offset: u64, bytes: &'b mut [u8]) -> io::Result<&'b [u8]> {
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(bytes.get(..filled).unwrap_or_default())
}

/// Whether every row, read from the file anew, matches its checksum.
fn sound(connection: &Connection) -> Result<(), String> {
    // What SQLite has in memory was read before.
    connection.release_memory().map_err(|e| sqlite::text(&e))?;
    let checked = users::each(connection, None, u32::MAX, |_| ())
        .and_then(|()| users::check_seen(connection, |what| Err(row::RowError::Damaged(what))))
        .and_then(|_| row::reserved(connection))
        .and_then(|_| row::each_message(connection, |_| ()));
    checked.map_err(|e| e.text())
}
