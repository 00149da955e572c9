//! Puts a copy in the place of a store that no cpd serves. Until the copy is whole, checked and on stable storage nothing of
//! the old store is touched; then one rename decides. A process that is killed before it leaves the old store, one that is
//! killed after it the new one, and what is then left to be done the next start does.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::files::{self, NEW_SUFFIX, system, with_suffix};
use super::history::{self, History, Record};
use super::schema::{self, Migration};
use super::{OpenError, OpenErrorKind, carve, entry, lock, row, sqlite, verify};

/// The file to restore, opened by whoever may read it, with its log where it has one: what a restore kept aside may.
#[derive(Debug)]
pub struct Source {
    name: PathBuf,
    file: File,
    log: Option<File>,
}

/// What was restored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Restored {
    pub users: u64,
    pub messages: u64,
    /// Where the old files are now.
    pub kept: Vec<PathBuf>,
}

impl Source {
    pub fn open(name: &Path) -> Result<Source, OpenError> {
        // By a link as well; opening a pipe would wait for whoever writes into it.
        let read =
            |path: &Path| OpenOptions::new().read(true).custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits()).open(path);
        let cannot = |path: &Path, e: &io::Error| match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                OpenError::new(OpenErrorKind::NoInput, format!("{}: {e}", path.display()))
            }
            _ => system(path, "cannot read", e),
        };
        // Opening a device may do something to it.
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
            let known = files::read_history(name)?;
            files::origin(name, &known)?;
        }
        Ok(Source { name: name.to_owned(), file, log })
    }

    fn bytes(&self) -> io::Result<u64> {
        let log = self.log.as_ref().map_or(Ok(0), |log| log.metadata().map(|found| found.len()))?;
        Ok(self.file.metadata()?.len().saturating_add(log))
    }
}

/// Puts `source` in the place of the store at `path`; `now`, in seconds since 1970, names the files that are kept.
pub fn restore(path: &Path, source: &Source, now: u64) -> Result<Restored, OpenError> {
    restore_as(path, source, now, schema::MIGRATIONS)
}

/// A source of an earlier version is brought up to date in the copy, and stays what it is.
pub fn restore_as(path: &Path, source: &Source, now: u64, steps: &[Migration]) -> Result<Restored, OpenError> {
    let file = entry::claim(path, Some(nix::unistd::geteuid().as_raw()))?;
    let folder = file.parent().map(Path::to_path_buf).unwrap_or_default();
    // Whosever it is: it goes aside.
    entry::look_beside(&file, None)?;
    let _lock = lock::for_tool(&with_suffix(&file, "-lock"), &folder, &file, true)?;
    refuse_itself(&file, source)?;
    let mut history = files::read_history(&file)?;
    finish(&file, &mut history)?;
    files::delete_leftovers(&file)?;
    let made = prepare(&file, &folder, source, &history, steps);
    if made.is_err() {
        // The next run would do it as well.
        let _ = files::delete_leftovers(&file);
    }
    let (contents, mut record) = made?;
    record.put_at = (now..).find(|at| !names_taken(&file, *at)).unwrap_or(now);
    let aside = aside(&file, record.put_at);
    history.write(record).map_err(|e| system(history.path(), "cannot write", &e))?;
    let placed = keep(&file, &aside).map_err(|e| system(&aside, "cannot keep the old store", &e)).and_then(|()| {
        files::sync_folder(&folder)?;
        let new = with_suffix(&file, NEW_SUFFIX);
        fs::rename(&new, &file).map_err(|e| system(&file, "cannot replace", &e))
    });
    // What was begun is ended, or undone.
    files::sync_folder(&folder)?;
    finish(&file, &mut history)?;
    files::delete_leftovers(&file)?;
    placed?;
    let kept = [aside.clone(), with_suffix(&aside, "-wal"), with_suffix(&aside, ".log")];
    let kept = kept.into_iter().filter(|path| fs::symlink_metadata(path).is_ok()).collect();
    Ok(Restored { users: contents.users, messages: contents.messages, kept })
}

fn refuse_itself(file: &Path, source: &Source) -> Result<(), OpenError> {
    let same = match (fs::metadata(file), source.file.metadata()) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    };
    match same {
        true => Err(OpenError::new(OpenErrorKind::NoInput, format!("{}: is the store itself", source.name.display()))),
        false => Ok(()),
    }
}

/// Copies the source beside the store, checks the copy and gives it its number and its first message id. Returns what is in
/// it and what is to be recorded before it gets its place.
fn prepare(
    file: &Path,
    folder: &Path,
    source: &Source,
    history: &History,
    steps: &[Migration],
) -> Result<(verify::Contents, Record), OpenError> {
    let new = with_suffix(file, NEW_SUFFIX);
    let bytes = source.bytes().map_err(|e| system(&source.name, "cannot read", &e))?;
    if let Ok(found) = nix::sys::statvfs::statvfs(folder) {
        let free = found.blocks_available().saturating_mul(found.fragment_size());
        if free < bytes {
            let said = format!("{}: has {free} bytes left, the copy needs {bytes}", folder.display());
            return Err(OpenError::new(OpenErrorKind::CannotCreate, said));
        }
    }
    let log_name = with_suffix(&new, "-wal");
    for (from, to) in [(Some(&source.file), &new), (source.log.as_ref(), &log_name)] {
        if let Some(from) = from {
            copy(from, to).map_err(|e| system(to, "cannot copy", &e))?;
        }
    }
    let named = |mut error: OpenError| {
        // What is said of the copy is true of what was copied.
        error.message = error.message.replace(&*new.to_string_lossy(), &source.name.to_string_lossy());
        error.message = error.message.replace("; the file was left as it is", "; nothing was changed");
        error
    };
    files::examine(&new, steps.len()).map_err(named)?;
    let connection = sqlite::connect(&new).map_err(|e| named(OpenError::sql(&new, "cannot open", &e)))?;
    schema::bring_up_to_date(&connection, &new, steps).map_err(named)?;
    let contents = verify::whole(&connection, &new).map_err(named)?;
    let old = history::number_at(file).map_err(|e| system(file, "cannot read", &e))?;
    let known = match history.record() {
        Some(record) => record.reserved,
        None => carve::first_free_id(file).map_err(|e| system(file, "cannot read", &e))?,
    };
    let reserved = contents.first_free_id.max(known).saturating_add(history::IDS_APART);
    let put = history::new_number(old.unwrap_or(0)).map_err(|e| system(&new, "cannot choose a number", &e))?;
    seal(connection, put, reserved).map_err(|e| OpenError::sql(&new, "cannot write", &e))?;
    File::open(&new).and_then(|made| made.sync_all()).map_err(|e| system(&new, "cannot sync", &e))?;
    let before = history.record().copied().unwrap_or(Record { number: old.unwrap_or(0), ..Record::default() });
    Ok((contents, Record { put, reserved, ..before }))
}

fn copy(from: &File, to: &Path) -> io::Result<()> {
    let mut target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    let mut from = from;
    io::copy(&mut from, &mut target)?;
    target.sync_all()
}

/// Writes what makes the copy this folder's store, and leaves one file without a log.
fn seal(connection: Connection, number: u32, reserved: u64) -> rusqlite::Result<()> {
    let transaction = connection.unchecked_transaction()?;
    sqlite::set_number(&transaction, number)?;
    row::set_reserved(&transaction, reserved)?;
    transaction.commit()?;
    sqlite::settle(&connection)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    connection.close().map_err(|(_, e)| e)
}

/// Gives the old file a second name, so that a rename over the first leaves it there.
fn keep(file: &Path, aside: &Path) -> io::Result<()> {
    match fs::hard_link(file, aside) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        // A file system without links.
        Err(e) if e.kind() != io::ErrorKind::StorageFull => copy(&entry::carefully().read(true).open(file)?, aside),
        other => other,
    }
}

/// The name under which the store of that moment is kept.
fn aside(file: &Path, at: u64) -> PathBuf {
    let time = i64::try_from(at).ok().and_then(|at| jiff::Timestamp::from_second(at).ok()).unwrap_or_default();
    with_suffix(file, &format!(".before-{}", time.strftime("%Y%m%dT%H%M%SZ")))
}

fn names_taken(file: &Path, at: u64) -> bool {
    let name = aside(file, at);
    ["", "-wal", ".log"].iter().any(|tail| fs::symlink_metadata(with_suffix(&name, tail)).is_ok())
}

/// Ends what a restore has begun: after its rename the log beside the store is the old store's and is kept with that;
/// before, nothing has happened, and the second name of the store is taken away again. Returns what is to be said.
pub fn finish(file: &Path, history: &mut History) -> Result<Option<String>, OpenError> {
    let Some(record) = history.record().copied().filter(|record| record.put != 0) else { return Ok(None) };
    let aside = aside(file, record.put_at);
    let number = history::number_at(file).map_err(|e| system(file, "cannot read", &e))?;
    if number != Some(record.put) {
        // Nothing had this name when the restore began.
        files::remove(&aside).map_err(|e| system(&aside, "cannot delete", &e))?;
        let record = Record { put: 0, put_at: 0, ..record };
        history.write(record).map_err(|e| system(history.path(), "cannot write", &e))?;
        return Ok(None);
    }
    let log = with_suffix(file, "-wal");
    match fs::metadata(&log) {
        Ok(found) if found.len() > 0 => {
            let own = history::number_at(&aside).ok().flatten().is_some_and(|number| record.knows(number));
            // Under this name SQLite takes it for the log of the file that is kept.
            let kept = with_suffix(&aside, if own { "-wal" } else { ".log" });
            fs::rename(&log, &kept).map_err(|e| system(&log, "cannot keep the old log", &e))?;
        }
        Ok(_) => files::remove(&log).map_err(|e| system(&log, "cannot delete", &e))?,
        Err(_) => {}
    }
    files::sync_folder(file.parent().unwrap_or(Path::new(".")))?;
    let done = Record { number: record.put, reserved: record.reserved, ..Record::default() };
    history.write(done).map_err(|e| system(history.path(), "cannot write", &e))?;
    let name = file.display();
    Ok(Some(format!("{name}: was restored; the store before it is {}", aside.display())))
}
