//! The store's files: the lock on them, and the checks that they must pass before SQLite may open them.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use cpd_core::sabotage;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::sys::statvfs::statvfs;
use rusqlite::{Connection, ffi};

use super::history::{self, History, read_history};
use super::open_error::{OpenError, OpenErrorKind, system_error};
use super::paths::{BACKUP_SUFFIX, NEW_SUFFIX, careful_options, remove_if_exists, with_suffix};
use super::watch::Watch;
use super::{file_checks, lock, row, sqlite};

/// Bytes of disk space that are allocated to the log before anything is written to it.
pub const LOG_RESERVED_BYTES: i64 = 1024 * 1024;

/// The paths of a store and the lock on it. The lock is released when this value is dropped or the process ends. This
/// value must outlive every connection to the store.
pub struct StoreFiles {
    /// The store's path as the caller gave it.
    given_path: PathBuf,
    /// The same path with all symbolic links resolved.
    file: PathBuf,
    folder: PathBuf,
    /// Whether there was a write-ahead log, even an empty one, before SQLite opened the store.
    had_log: bool,
    pub history: History,
    _lock: File,
}

/// Whether the store's file is the one that the history in its folder describes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileOrigin {
    /// It is, or there is nothing to compare.
    Own,
    /// It is a copy that somebody has put there, and there is no log next to it.
    Copy,
}

impl StoreFiles {
    /// Locks the store at `path`, whose version must not be above `newest`. Nothing of the store is changed before the
    /// lock is held. While a tool holds the lock, `keep_waiting` decides whether to continue waiting.
    pub fn acquire(
        path: &Path,
        newest: usize,
        keep_waiting: &mut dyn FnMut() -> bool,
    ) -> Result<StoreFiles, OpenError> {
        let me = nix::unistd::geteuid().as_raw();
        let file = file_checks::resolve_for_writing(path, Some(me))?;
        let folder = file.parent().map(Path::to_path_buf).unwrap_or_default();
        file_checks::check_store_file(&file, Some(me), newest)?;
        file_checks::check_if_present(&with_suffix(&file, "-wal"), Some(me))?;
        let lock = lock::for_daemon(&with_suffix(&file, "-lock"), &file, keep_waiting)?;
        let had_log = fs::symlink_metadata(with_suffix(&file, "-wal")).is_ok();
        let history = read_history(&file)?;
        let place = StoreFiles { given_path: path.to_path_buf(), file, folder, had_log, history, _lock: lock };
        for suffix in ["", "-wal"] {
            file_checks::check_access(&place.sibling(suffix), me)?;
        }
        delete_leftovers(&place.file)?;
        Ok(place)
    }

    /// The path of the store's file, with all symbolic links resolved.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Removes the permissions of group and others from the store's file and its log, and returns texts for the log.
    /// Uses the descriptor of the file that `watch` has open: closing another one would drop SQLite's lock.
    pub fn restrict_mode(&self, watch: &Watch) -> Result<Vec<String>, OpenError> {
        let mut said = Vec::from_iter(file_checks::restrict_mode(&self.file, watch.file())?);
        let log = self.sibling("-wal");
        match careful_options().read(true).open(&log) {
            // A log that SQLite has just created has got its mode from the store, which is reported already.
            Ok(file) => said.extend(file_checks::restrict_mode(&log, &file)?.filter(|_| self.had_log)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(system_error(&log, "cannot open", &e)),
        }
        Ok(said)
    }

    /// Starts watching the store's files. Call this before SQLite opens them.
    pub fn watch(&self) -> Result<Watch, OpenError> {
        Watch::open(&self.given_path, &self.file, self.sibling("-wal"))
            .map_err(|e| system_error(&self.file, "cannot open", &e))
    }

    /// The path of the store with `suffix` appended to its name.
    pub fn sibling(&self, suffix: &str) -> PathBuf {
        with_suffix(&self.file, suffix)
    }

    /// The length of the store's file and its log together, in bytes.
    pub fn bytes(&self) -> u64 {
        self.length("").saturating_add(self.log_bytes())
    }

    /// The length of the log in bytes; 0 if there is none.
    pub fn log_bytes(&self) -> u64 {
        self.length("-wal")
    }

    /// Allocates disk blocks for the first [`LOG_RESERVED_BYTES`] of the log, in which deletes find room even when
    /// others fill the disk. The length of the log does not change. Call this again whenever the log was truncated to
    /// nothing. Does nothing on a file system that cannot allocate blocks in advance.
    pub fn reserve_log(&self) -> io::Result<()> {
        let log = careful_options().write(true).open(self.sibling("-wal"))?;
        match fallocate(&log, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, LOG_RESERVED_BYTES) {
            Ok(()) | Err(Errno::EOPNOTSUPP) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Bytes by which a file in the store's folder may still grow.
    pub fn available(&self) -> io::Result<u64> {
        self.available_for(self.length(""), 0)
    }

    /// As [`StoreFiles::available`], for a store's file of `length` bytes that has blocks allocated up to offset
    /// `reserved`.
    pub fn available_for(&self, length: u64, reserved: u64) -> io::Result<u64> {
        let found = statvfs(&self.folder).map_err(io::Error::from)?;
        let free = found.blocks_available().saturating_mul(found.fragment_size());
        let free = free.saturating_add(reserved.saturating_sub(length));
        let (limit, _) = getrlimit(Resource::RLIMIT_FSIZE).map_err(io::Error::from)?;
        if limit == RLIM_INFINITY {
            return Ok(free);
        }
        Ok(free.min(limit.saturating_sub(length.max(self.log_bytes()))))
    }

    /// Whether the store's folder has room for a file of `bytes` bytes.
    pub fn can_allocate(&self, bytes: u64) -> bool {
        let nameless =
            OpenOptions::new().write(true).custom_flags(nix::fcntl::OFlag::O_TMPFILE.bits()).open(&self.folder);
        let Ok(length) = i64::try_from(bytes) else { return false };
        let room = nameless.map(|file| fallocate(&file, FallocateFlags::empty(), 0, length.max(1)));
        // If the file system cannot answer that, the next write will show it.
        !matches!(room, Ok(Err(Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG)))
    }

    /// Leaves the log in place when this value is dropped, even if it is empty.
    pub fn keep_log(&mut self) {
        self.had_log = true;
    }

    fn length(&self, suffix: &str) -> u64 {
        fs::metadata(self.sibling(suffix)).map_or(0, |found| found.len())
    }

    /// Makes changes to the folder's entries durable. SQLite does this too, but ignores a failure.
    pub fn sync_folder(&self) -> Result<(), OpenError> {
        sync_folder(&self.folder)
    }

    /// Creates an empty file of mode 0600 with `suffix` after the store's name, and replaces a file of that name.
    pub fn create_file(&self, suffix: &str) -> io::Result<(PathBuf, File)> {
        let path = self.sibling(suffix);
        remove_if_exists(&path)?;
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        Ok((path, file))
    }

    /// Examines the store's file without changing it, and returns whether there is one. SQLite would replay a log into,
    /// and write to, every file that it can make sense of, so a file that does not look like a store of a version up to
    /// `newest` is refused here.
    pub fn examine(&self, newest: usize) -> Result<bool, OpenError> {
        examine(&self.file, newest)
    }

    /// Whether the store's file is the one that the history describes. Refuses a log that belongs to another file:
    /// replaying it would mix the contents of both.
    pub fn origin(&self) -> Result<FileOrigin, OpenError> {
        origin(&self.file, &self.history)
    }

    /// Records that ids below `reserved` may be in use: first in the folder's history, and then in the store, as part
    /// of the open transaction.
    pub fn reserve_ids(&mut self, connection: &Connection, reserved: u64) -> rusqlite::Result<()> {
        self.history.reserve(reserved).map_err(|e| {
            let code = match e.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ffi::SQLITE_FULL,
                _ => ffi::SQLITE_IOERR_WRITE,
            };
            sqlite::new_error(code, &format!("{}: {e}", self.history.path().display()))
        })?;
        row::set_reserved(connection, reserved)
    }
}

/// Makes changes to the folder's entries durable.
pub fn sync_folder(folder: &Path) -> Result<(), OpenError> {
    match File::open(folder).and_then(|f| f.sync_all()) {
        Err(e) if !sabotage::is_ordered(sabotage::Fault::DeafFolder) => {
            Err(system_error(folder, "cannot sync the folder", &e))
        }
        _ => Ok(()),
    }
}

/// Deletes unfinished files that an earlier process has left.
pub fn delete_leftovers(file: &Path) -> Result<(), OpenError> {
    for made in [NEW_SUFFIX, BACKUP_SUFFIX] {
        for tail in ["", "-journal", "-wal"] {
            let path = with_suffix(file, &format!("{made}{tail}"));
            remove_if_exists(&path).map_err(|e| system_error(&path, "cannot delete", &e))?;
        }
    }
    Ok(())
}

/// See [`StoreFiles::examine`].
pub fn examine(path: &Path, newest: usize) -> Result<bool, OpenError> {
    let log = with_suffix(path, "-wal");
    let wal = fs::metadata(&log).map_or(0, |m| m.len());
    let journal = with_suffix(path, "-journal");
    if fs::metadata(&journal).is_ok_and(|m| m.len() > 0) {
        let said = "is the unfinished change of another program; the store was left as it was";
        return Err(damaged_error(&journal, said));
    }
    let file = match careful_options().read(true).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound && wal == 0 => return Ok(false),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let said = format!("{}: the store is gone, but its write-ahead log is there", path.display());
            return Err(OpenError::new(OpenErrorKind::Gone, said));
        }
        Err(e) => return Err(system_error(path, "cannot open", &e)),
    };
    let length = file.metadata().map_err(|e| system_error(path, "cannot read", &e))?.len();
    file_checks::check_file_header(path, file, length, newest)?;
    Ok(true)
}

/// See [`StoreFiles::origin`].
pub fn origin(path: &Path, history: &History) -> Result<FileOrigin, OpenError> {
    let number = history::read_number_at(path).map_err(|e| system_error(path, "cannot read", &e))?;
    let (Some(number), Some(record)) = (number, history.record()) else { return Ok(FileOrigin::Own) };
    if record.matches(number) {
        return Ok(FileOrigin::Own);
    }
    let log = with_suffix(path, "-wal");
    if fs::metadata(&log).map_or(0, |m| m.len()) == 0 {
        return Ok(FileOrigin::Copy);
    }
    let said = format!(
        "{}: is not the store that the write-ahead log {} belongs to; both were left as they are",
        path.display(),
        log.display()
    );
    Err(OpenError::new(OpenErrorKind::ForeignLog, said))
}

impl Drop for StoreFiles {
    /// Removes the empty log that SQLite creates when it opens a file and, as it is set up here, does not delete on
    /// closing: a store that is refused is left as it was found.
    fn drop(&mut self) {
        let log = self.sibling("-wal");
        if !self.had_log && fs::symlink_metadata(&log).is_ok_and(|found| found.is_file() && found.len() == 0) {
            // If this fails, the empty log left behind is harmless.
            let _ = remove_if_exists(&log);
        }
    }
}

fn damaged_error(path: &Path, said: &str) -> OpenError {
    OpenError::new(OpenErrorKind::Damaged, format!("{} {said}", path.display()))
}
