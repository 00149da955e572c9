//! Replaces a store that no cpd serves by a copy. Nothing of the old store is changed until the copy is complete,
//! checked and on stable storage; then a single rename decides. If the process is killed before the rename, the old
//! store is in place, and after it the new one. The next start completes what remains to be done.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::history::{self, History, HistoryRecord, read_history};
use super::open_error::{OpenError, OpenErrorKind, system_error};
use super::paths::{NEW_SUFFIX, careful_options, remove_if_exists, with_suffix};
use super::schema::{self, Migration};
use super::{carve, file_checks, files, lock, row, sqlite, verify};

/// The file to restore, and its log if it has one, as a store that an earlier restore has kept may. Opening it is a
/// step of its own because a cpd that root runs then continues as the owner of the store, and that user might not be
/// able to read the file.
#[derive(Debug)]
pub struct RestoreSource {
    name: PathBuf,
    file: File,
    log: Option<File>,
}

/// The result of a restore.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Restored {
    pub users: u64,
    pub messages: u64,
    /// Where the old files are now.
    pub kept: Vec<PathBuf>,
}

impl RestoreSource {
    /// Opens the file `name`, which may be a symbolic link to one, and its log.
    ///
    /// # Errors
    /// [`OpenErrorKind::NoInput`]: there is no such file. [`OpenErrorKind::ForeignLog`]: the log belongs to another
    /// file.
    pub fn open(name: &Path) -> Result<RestoreSource, OpenError> {
        // Follows symbolic links. Without this flag, opening a pipe would wait for its other end.
        let read =
            |path: &Path| OpenOptions::new().read(true).custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits()).open(path);
        let cannot = |path: &Path, e: &io::Error| match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                OpenError::new(OpenErrorKind::NoInput, format!("{}: {e}", path.display()))
            }
            _ => system_error(path, "cannot read", e),
        };
        // The type is checked before opening, because opening a device may have effects.
        if !fs::metadata(name).map_err(|e| cannot(name, &e))?.is_file() {
            return Err(OpenError::new(OpenErrorKind::NoInput, format!("{}: is not a file", name.display())));
        }
        let file = read(name).map_err(|e| cannot(name, &e))?;
        if !file.metadata().is_ok_and(|found| found.is_file()) {
            return Err(OpenError::new(OpenErrorKind::NoInput, format!("{}: is not a file", name.display())));
        }
        let path = with_suffix(name, "-wal");
        let log = match read(&path) {
            Ok(log) if log.metadata().is_ok_and(|found| found.len() > 0) => Some(log),
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(cannot(&path, &e)),
            _ => None,
        };
        if log.is_some() {
            let known = read_history(name)?;
            files::origin(name, &known)?;
        }
        Ok(RestoreSource { name: name.to_owned(), file, log })
    }

    fn bytes(&self) -> io::Result<u64> {
        let log = self.log.as_ref().map_or(Ok(0), |log| log.metadata().map(|found| found.len()))?;
        Ok(self.file.metadata()?.len().saturating_add(log))
    }
}

/// Replaces the store at `path` by `source`. `now`, in seconds since 1970, becomes a part of the names of the files
/// that are kept.
pub fn restore(path: &Path, source: &RestoreSource, now: u64) -> Result<Restored, OpenError> {
    restore_with_migrations(path, source, now, schema::MIGRATIONS)
}

/// As [`restore`], with these migrations: a copy of an earlier version is migrated, and `source` itself stays as it is.
pub fn restore_with_migrations(
    path: &Path,
    source: &RestoreSource,
    now: u64,
    steps: &[Migration],
) -> Result<Restored, OpenError> {
    let file = file_checks::resolve_for_writing(path, Some(nix::unistd::geteuid().as_raw()))?;
    let folder = file.parent().map(Path::to_path_buf).unwrap_or_default();
    // The old file may be any user's, because it will be replaced.
    file_checks::check_if_present(&file, None)?;
    let _lock = lock::for_tool(&with_suffix(&file, "-lock"), &folder, &file, true)?;
    refuse_own_file(&file, source)?;
    let mut history = read_history(&file)?;
    finish_restore(&file, &mut history)?;
    files::delete_leftovers(&file)?;
    let made = prepare_copy(&file, &folder, source, &history, steps);
    if made.is_err() {
        // If this fails, the next run deletes them.
        let _ = files::delete_leftovers(&file);
    }
    let (contents, mut record) = made?;
    record.restore_time = (now..).find(|at| !names_taken(&file, *at)).unwrap_or(now);
    let kept_file = kept_path(&file, record.restore_time);
    history.write(record).map_err(|e| system_error(history.path(), "cannot write", &e))?;
    let placed = keep_old_file(&file, &kept_file)
        .map_err(|e| system_error(&kept_file, "cannot keep the old store", &e))
        .and_then(|()| {
            files::sync_folder(&folder)?;
            let new = with_suffix(&file, NEW_SUFFIX);
            fs::rename(&new, &file).map_err(|e| system_error(&file, "cannot replace", &e))
        });
    // Completes the restore if the rename has happened, and undoes it otherwise.
    files::sync_folder(&folder)?;
    finish_restore(&file, &mut history)?;
    files::delete_leftovers(&file)?;
    placed?;
    let kept = [kept_file.clone(), with_suffix(&kept_file, "-wal"), with_suffix(&kept_file, ".log")];
    let kept = kept.into_iter().filter(|path| fs::symlink_metadata(path).is_ok()).collect();
    Ok(Restored { users: contents.users, messages: contents.messages, kept })
}

/// Refuses to restore a store from its own file.
fn refuse_own_file(file: &Path, source: &RestoreSource) -> Result<(), OpenError> {
    let same = match (fs::metadata(file), source.file.metadata()) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    };
    match same {
        true => Err(OpenError::new(OpenErrorKind::NoInput, format!("{}: is the store itself", source.name.display()))),
        false => Ok(()),
    }
}

/// Copies the source to a file next to the store, checks the copy, and gives it its number and its first message id.
/// Returns what the copy contains, and the record to write before it replaces the store.
fn prepare_copy(
    file: &Path,
    folder: &Path,
    source: &RestoreSource,
    history: &History,
    steps: &[Migration],
) -> Result<(verify::Contents, HistoryRecord), OpenError> {
    let new = with_suffix(file, NEW_SUFFIX);
    let bytes = source.bytes().map_err(|e| system_error(&source.name, "cannot read", &e))?;
    if let Ok(found) = nix::sys::statvfs::statvfs(folder) {
        let free = found.blocks_available().saturating_mul(found.fragment_size());
        if free < bytes {
            let message = format!("{}: has {free} bytes left, the copy needs {bytes}", folder.display());
            return Err(OpenError::new(OpenErrorKind::CannotCreate, message));
        }
    }
    let log_name = with_suffix(&new, "-wal");
    for (from, to) in [(Some(&source.file), &new), (source.log.as_ref(), &log_name)] {
        if let Some(from) = from {
            copy(from, to).map_err(|e| system_error(to, "cannot copy", &e))?;
        }
    }
    let named = |mut error: OpenError| {
        // The error is about the copy, and so it is true of the source, which is the file that the user has named.
        error.message = error.message.replace(&*new.to_string_lossy(), &source.name.to_string_lossy());
        error.message = error.message.replace("; the file was left as it is", "; nothing was changed");
        error
    };
    files::examine(&new, steps.len()).map_err(named)?;
    let connection = sqlite::connect(&new).map_err(|e| named(OpenError::from_sqlite(&new, "cannot open", &e)))?;
    schema::migrate(&connection, &new, steps).map_err(named)?;
    let contents = verify::require_sound(&connection, &new).map_err(named)?;
    let old = history::read_number_at(file).map_err(|e| system_error(file, "cannot read", &e))?;
    let known = match history.record() {
        Some(record) => record.reserved,
        None => carve::first_free_id(file).map_err(|e| system_error(file, "cannot read", &e))?,
    };
    let reserved = contents.first_free_id.max(known).saturating_add(history::ID_GAP);
    let restore_number =
        history::new_number(old.unwrap_or(0)).map_err(|e| system_error(&new, "cannot choose a number", &e))?;
    finalize_copy(connection, restore_number, reserved)
        .map_err(|e| OpenError::from_sqlite(&new, "cannot write", &e))?;
    File::open(&new).and_then(|made| made.sync_all()).map_err(|e| system_error(&new, "cannot sync", &e))?;
    let before =
        history.record().copied().unwrap_or(HistoryRecord { number: old.unwrap_or(0), ..HistoryRecord::default() });
    Ok((contents, HistoryRecord { restore_number, reserved, ..before }))
}

fn copy(from: &File, to: &Path) -> io::Result<()> {
    let mut target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    let mut from = from;
    io::copy(&mut from, &mut target)?;
    target.sync_all()
}

/// Writes into the copy what makes it the store of this folder, and leaves a single file without a log.
fn finalize_copy(connection: Connection, number: u32, reserved: u64) -> rusqlite::Result<()> {
    let transaction = connection.unchecked_transaction()?;
    sqlite::set_number(&transaction, number)?;
    row::set_reserved(&transaction, reserved)?;
    transaction.commit()?;
    sqlite::truncate_log(&connection)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    connection.close().map_err(|(_, e)| e)
}

/// Gives the old file a second name, under which it remains when another file is renamed to the first.
fn keep_old_file(file: &Path, kept_file: &Path) -> io::Result<()> {
    match fs::hard_link(file, kept_file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        // The file system has no hard links.
        Err(e) if e.kind() != io::ErrorKind::StorageFull => copy(&careful_options().read(true).open(file)?, kept_file),
        other => other,
    }
}

/// The path under which the old store is kept when it is replaced at `at`, in seconds since 1970.
fn kept_path(file: &Path, at: u64) -> PathBuf {
    let time = i64::try_from(at).ok().and_then(|at| jiff::Timestamp::from_second(at).ok()).unwrap_or_default();
    with_suffix(file, &format!(".before-{}", time.strftime("%Y%m%dT%H%M%SZ")))
}

/// Whether one of the names for the files that are kept at `at` is in use.
fn names_taken(file: &Path, at: u64) -> bool {
    let name = kept_path(file, at);
    ["", "-wal", ".log"].iter().any(|tail| fs::symlink_metadata(with_suffix(&name, tail)).is_ok())
}

/// Completes or undoes a restore that was begun. After its rename, the log next to the store is the log of the old
/// store, and is kept with that. Before the rename nothing has changed, and the second name of the store is removed.
/// Returns a text for the log if the store was restored.
pub fn finish_restore(file: &Path, history: &mut History) -> Result<Option<String>, OpenError> {
    let Some(record) = history.record().copied().filter(|record| record.restore_number != 0) else { return Ok(None) };
    let kept_file = kept_path(file, record.restore_time);
    let number = history::read_number_at(file).map_err(|e| system_error(file, "cannot read", &e))?;
    if number != Some(record.restore_number) {
        // It is this restore's own file: nothing had this name when the restore began.
        remove_if_exists(&kept_file).map_err(|e| system_error(&kept_file, "cannot delete", &e))?;
        let record = HistoryRecord { restore_number: 0, restore_time: 0, ..record };
        history.write(record).map_err(|e| system_error(history.path(), "cannot write", &e))?;
        return Ok(None);
    }
    let log = with_suffix(file, "-wal");
    match fs::metadata(&log) {
        Ok(found) if found.len() > 0 => {
            let own = history::read_number_at(&kept_file).ok().flatten().is_some_and(|number| record.matches(number));
            // With the suffix `-wal` SQLite takes it for the log of the file that is kept.
            let kept = with_suffix(&kept_file, if own { "-wal" } else { ".log" });
            fs::rename(&log, &kept).map_err(|e| system_error(&log, "cannot keep the old log", &e))?;
        }
        Ok(_) => remove_if_exists(&log).map_err(|e| system_error(&log, "cannot delete", &e))?,
        Err(_) => {}
    }
    files::sync_folder(file.parent().unwrap_or(Path::new(".")))?;
    let done = HistoryRecord { number: record.restore_number, reserved: record.reserved, ..HistoryRecord::default() };
    history.write(done).map_err(|e| system_error(history.path(), "cannot write", &e))?;
    let name = file.display();
    Ok(Some(format!("{name}: was restored; the store before it is {}", kept_file.display())))
}
