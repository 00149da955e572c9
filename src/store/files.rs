//! The store's files: the lock, and what they must look like before SQLite may open them.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::sys::statvfs::{FsFlags, statvfs};
use rusqlite::{Connection, ffi};

use super::history::{self, History};
use super::watch::Watch;
use super::{OpenError, OpenErrorKind, entry, lock, row, sqlite};
use crate::sabotage;

/// What the log has of the disk before anything is in it.
pub const LOG_RESERVED_BYTES: i64 = 1024 * 1024;
/// The name of a copy that is being made or served, after the store's own. What is found under it or the next is deleted:
/// nobody gives a file of their own such a name.
pub const BACKUP_SUFFIX: &str = ".incomplete-backup";
/// The name of a store that is being made.
pub const NEW_SUFFIX: &str = ".incomplete-new";

/// Where a store is, and the lock on it; the lock ends with this value or with the process. Outlives every connection to
/// the store.
pub struct Place {
    /// The store as it was asked for.
    asked: PathBuf,
    file: PathBuf,
    folder: PathBuf,
    /// A write-ahead log was there, be it an empty one.
    had_log: bool,
    pub history: History,
    _lock: File,
}

/// Whether the file that is there is the one that the folder knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// It is, or the folder knows nothing.
    Own,
    /// It is a copy that somebody has put here, and no log lies beside it.
    Copy,
}

impl Place {
    /// Finds and locks the store at `path`, which is to be of a version up to `newest`. Nothing of the store is touched
    /// before the lock is held. While a tool holds it, `waits` is asked whether to go on waiting.
    pub fn take(path: &Path, newest: usize, waits: &mut dyn FnMut() -> bool) -> Result<Place, OpenError> {
        let me = nix::unistd::geteuid().as_raw();
        let file = entry::claim(path, Some(me))?;
        let folder = file.parent().map(Path::to_path_buf).unwrap_or_default();
        entry::look(&file, Some(me), newest)?;
        entry::look_beside(&with_suffix(&file, "-wal"), Some(me))?;
        let lock = lock::for_daemon(&with_suffix(&file, "-lock"), &file, waits)?;
        let had_log = fs::symlink_metadata(with_suffix(&file, "-wal")).is_ok();
        let history = read_history(&file)?;
        let place = Place { asked: path.to_path_buf(), file, folder, had_log, history, _lock: lock };
        for suffix in ["", "-wal"] {
            entry::check_access(&place.beside(suffix), me)?;
        }
        delete_leftovers(&place.file)?;
        Ok(place)
    }

    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Makes the files their owner's alone. `watch` has the store's open: closing another descriptor of it would end
    /// SQLite's lock.
    pub fn tighten(&self, watch: &Watch) -> Result<Vec<String>, OpenError> {
        let mut said = Vec::from_iter(entry::tighten(&self.file, watch.file())?);
        let log = self.beside("-wal");
        match entry::carefully().read(true).open(&log) {
            // What SQLite has made just now has the mode of the store.
            Ok(file) => said.extend(entry::tighten(&log, &file)?.filter(|_| self.had_log)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(system(&log, "cannot open", &e)),
        }
        Ok(said)
    }

    /// Begins to watch the store's files; before SQLite opens them.
    pub fn watch(&self) -> Result<Watch, OpenError> {
        Watch::open(&self.asked, &self.file, self.beside("-wal")).map_err(|e| system(&self.file, "cannot open", &e))
    }

    /// The file beside the store with `suffix` after the store's name.
    pub fn beside(&self, suffix: &str) -> PathBuf {
        with_suffix(&self.file, suffix)
    }

    /// What the store's files occupy in bytes.
    pub fn bytes(&self) -> u64 {
        self.length("").saturating_add(self.log_bytes())
    }

    /// What the log occupies in bytes.
    pub fn log_bytes(&self) -> u64 {
        self.length("-wal")
    }

    /// Gives the log blocks of its own for its first bytes, in which deletes find room when others fill the disk. It stays
    /// as long as it is. To be called anew whenever it was cut to nothing. On a file system that cannot do such a thing it
    /// does nothing.
    pub fn reserve_log(&self) -> io::Result<()> {
        let log = entry::carefully().write(true).open(self.beside("-wal"))?;
        match fallocate(&log, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, LOG_RESERVED_BYTES) {
            Ok(()) | Err(Errno::EOPNOTSUPP) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Bytes that a file here may still grow by.
    pub fn available(&self) -> io::Result<u64> {
        self.available_beside(self.length(""), 0)
    }

    /// As [`Place::available`], where the store's file has `length` bytes and blocks up to its byte `reserved` already.
    pub fn available_beside(&self, length: u64, reserved: u64) -> io::Result<u64> {
        let found = statvfs(&self.folder).map_err(io::Error::from)?;
        let free = found.blocks_available().saturating_mul(found.fragment_size());
        let free = free.saturating_add(reserved.saturating_sub(length));
        let (limit, _) = getrlimit(Resource::RLIMIT_FSIZE).map_err(io::Error::from)?;
        if limit == RLIM_INFINITY {
            return Ok(free);
        }
        Ok(free.min(limit.saturating_sub(length.max(self.log_bytes()))))
    }

    /// Whether a file here can be as large as that.
    pub fn can_grow(&self, bytes: u64) -> bool {
        let nameless =
            OpenOptions::new().write(true).custom_flags(nix::fcntl::OFlag::O_TMPFILE.bits()).open(&self.folder);
        let Ok(length) = i64::try_from(bytes) else { return false };
        let room = nameless.map(|file| fallocate(&file, FallocateFlags::empty(), 0, length.max(1)));
        // Where that cannot be asked, the next write tells.
        !matches!(room, Ok(Err(Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG)))
    }

    /// The log stays behind, however empty it is.
    pub fn keep_log(&mut self) {
        self.had_log = true;
    }

    fn length(&self, suffix: &str) -> u64 {
        fs::metadata(self.beside(suffix)).map_or(0, |found| found.len())
    }

    /// Makes the folder's entries durable. SQLite does this too, and ignores its failure.
    pub fn sync_folder(&self) -> Result<(), OpenError> {
        sync_folder(&self.folder)
    }

    /// Makes an empty file of mode 0600 beside the store, in the place of what was there.
    pub fn make(&self, suffix: &str) -> io::Result<(PathBuf, File)> {
        let path = self.beside(suffix);
        remove(&path)?;
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        Ok((path, file))
    }

    /// Looks at the file without changing it: `false` when there is none. SQLite would replay logs and write to a
    /// file that it can make sense of, so what does not look like a store up to the version `newest` is refused here.
    pub fn examine(&self, newest: usize) -> Result<bool, OpenError> {
        examine(&self.file, newest)
    }

    /// Whether the store's file is the one that the folder knows. Refuses a log that is not this file's: replayed into it,
    /// it would make a mixture of both.
    pub fn origin(&self) -> Result<Origin, OpenError> {
        origin(&self.file, &self.history)
    }

    /// Records that ids below `reserved` may be in use: in the store as a part of the transaction that is open, and before
    /// that in its folder.
    pub fn reserve_ids(&mut self, connection: &Connection, reserved: u64) -> rusqlite::Result<()> {
        self.history.reserve(reserved).map_err(|e| {
            let code = match e.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ffi::SQLITE_FULL,
                _ => ffi::SQLITE_IOERR_WRITE,
            };
            sqlite::error(code, &format!("{}: {e}", self.history.path().display()))
        })?;
        row::set_reserved(connection, reserved)
    }
}

/// Whether the file system that holds the store at `file` takes no writes, as it was mounted or since it met a fault.
pub fn is_read_only(file: &Path) -> bool {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let marked = |path: &Path| statvfs(path).is_ok_and(|found| found.flags().contains(FsFlags::ST_RDONLY));
    // The lock's file is asked for what the mount does not tell: closing the store's own would end SQLite's lock on it.
    let lock = entry::carefully().write(true).open(with_suffix(file, "-lock"));
    marked(file) || marked(folder) || lock.is_err_and(|e| e.kind() == io::ErrorKind::ReadOnlyFilesystem)
}

/// Makes the folder's entries durable.
pub fn sync_folder(folder: &Path) -> Result<(), OpenError> {
    match File::open(folder).and_then(|f| f.sync_all()) {
        Err(e) if !sabotage::is(sabotage::Fault::DeafFolder) => Err(system(folder, "cannot sync the folder", &e)),
        _ => Ok(()),
    }
}

/// Deletes what an earlier process left half made.
pub fn delete_leftovers(file: &Path) -> Result<(), OpenError> {
    for made in [NEW_SUFFIX, BACKUP_SUFFIX] {
        for tail in ["", "-journal", "-wal"] {
            let path = with_suffix(file, &format!("{made}{tail}"));
            remove(&path).map_err(|e| system(&path, "cannot delete", &e))?;
        }
    }
    Ok(())
}

/// Whether the disk gives every byte of the store at `path` and of its log, by the same call as SQLite reads them.
pub fn read_through(path: &Path) -> io::Result<()> {
    let mut bytes = vec![0; 64 * 1024];
    for suffix in ["", "-wal"] {
        match File::open(with_suffix(path, suffix)) {
            Ok(file) => {
                let mut at = 0;
                loop {
                    match file.read_at(&mut bytes, at)? {
                        0 => break,
                        count => at += count as u64,
                    }
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Looks at the store's file at `path`, see [`Place::examine`].
pub fn examine(path: &Path, newest: usize) -> Result<bool, OpenError> {
    let log = with_suffix(path, "-wal");
    let wal = fs::metadata(&log).map_or(0, |m| m.len());
    let journal = with_suffix(path, "-journal");
    if fs::metadata(&journal).is_ok_and(|m| m.len() > 0) {
        let said = "is the unfinished change of another program; the store was left as it was";
        return Err(damaged(&journal, said));
    }
    let file = match entry::carefully().read(true).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound && wal == 0 => return Ok(false),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let said = format!("{}: the store is gone, but its write-ahead log is there", path.display());
            return Err(OpenError::new(OpenErrorKind::Gone, said));
        }
        Err(e) => return Err(system(path, "cannot open", &e)),
    };
    let length = file.metadata().map_err(|e| system(path, "cannot read", &e))?.len();
    entry::check_head(path, file, length, newest)?;
    Ok(true)
}

/// See [`Place::origin`].
pub fn origin(path: &Path, history: &History) -> Result<Origin, OpenError> {
    let number = history::number_at(path).map_err(|e| system(path, "cannot read", &e))?;
    let (Some(number), Some(record)) = (number, history.record()) else { return Ok(Origin::Own) };
    if record.knows(number) {
        return Ok(Origin::Own);
    }
    let log = with_suffix(path, "-wal");
    if fs::metadata(&log).map_or(0, |m| m.len()) == 0 {
        return Ok(Origin::Copy);
    }
    let said = format!(
        "{}: is not the store that the write-ahead log {} belongs to; both were left as they are",
        path.display(),
        log.display()
    );
    Err(OpenError::new(OpenErrorKind::Foreign, said))
}

/// What the folder of the store knows of it.
pub fn read_history(store: &Path) -> Result<History, OpenError> {
    History::read(store).map_err(|e| system(&history::path(store), "cannot read", &e))
}

impl Drop for Place {
    /// SQLite makes an empty log when it opens a file, and leaves it when it is not to write: a store that is refused is
    /// left as it was found.
    fn drop(&mut self) {
        let log = self.beside("-wal");
        if !self.had_log && fs::symlink_metadata(&log).is_ok_and(|found| found.is_file() && found.len() == 0) {
            // What stays says and changes nothing.
            let _ = remove(&log);
        }
    }
}

/// Deletes `path`; that it is not there is no error.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// The error that a failing system call is to one who opens a store.
pub fn system(path: &Path, doing: &str, error: &io::Error) -> OpenError {
    let kind = match error.kind() {
        io::ErrorKind::PermissionDenied => OpenErrorKind::Permission,
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::StorageFull => OpenErrorKind::CannotCreate,
        _ => OpenErrorKind::System,
    };
    OpenError::new(kind, format!("{}: {doing}: {error}", path.display()))
}

fn damaged(path: &Path, said: &str) -> OpenError {
    OpenError::new(OpenErrorKind::Damaged, format!("{} {said}", path.display()))
}

/// `path` with `suffix` after its name.
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(suffix);
    PathBuf::from(name)
}
