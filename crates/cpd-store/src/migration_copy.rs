//! Keeps a copy of the store before a migration changes it, so that the cpd version that wrote it can be used again:
//! `cpd.db.schema-1` is the store of schema 1. The copy gets its name only when it is complete and on stable storage,
//! and the store is changed only after that, so a crash leaves either the old store, or the new one together with the
//! copy.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::files::StoreFiles;
use super::open_error::{OpenError, OpenErrorKind, open_error_kind, system_error};
use super::paths::{BACKUP_SUFFIX, careful_options, remove_if_exists, with_suffix};
use super::sqlite::{FaultPoint, Faults};
use super::watch::Watch;
use super::{history, log_checkpoint, sqlite};

/// Bytes that are copied or compared at once.
const CHUNK_BYTES: usize = 256 * 1024;

/// Keeps a copy of the store before it is migrated from schema `from` to schema `to`, and returns a text for the log.
/// `watch` has the store's file open, and `connection` has the store open.
///
/// # Errors
/// The copy could not be made; the store is still of schema `from`.
pub fn keep_copy(
    place: &StoreFiles,
    watch: &Watch,
    connection: &Connection,
    (from, to): (usize, usize),
    faults: &mut Faults,
) -> Result<String, OpenError> {
    let refused = |kind: OpenErrorKind, cause: &str| {
        let file = place.file().display();
        let message = format!("{file}: is of schema {from}, and cannot be copied before it gets schema {to}: {cause}");
        OpenError::new(kind, format!("{message}; it is still of schema {from}"))
    };
    let sql = |e: rusqlite::Error| match sqlite::is_full(&e) {
        true => refused(OpenErrorKind::CannotCreate, &sqlite::error_text(&e)),
        false => refused(open_error_kind(&e), &sqlite::error_text(&e)),
    };
    let system = |e: io::Error| match e.kind() {
        ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => refused(OpenErrorKind::CannotCreate, &e.to_string()),
        _ => refused(system_error(place.file(), "", &e).kind, &e.to_string()),
    };
    // Once the log has been moved into it, the file alone is the whole store.
    sqlite::require_wal_mode(connection)
        .and_then(|()| log_checkpoint::checkpoint_all(connection, place))
        .map_err(sql)?;
    faults.check(FaultPoint::StartStep).map_err(sql)?;
    let store = watch.file();
    let mut names = names(place.file(), from);
    let kept = loop {
        let Some(name) = names.next() else {
            return Err(refused(OpenErrorKind::CannotCreate, "every name for the copy is taken"));
        };
        match fs::symlink_metadata(&name) {
            // An earlier start has made this copy.
            Ok(found) if found.is_file() && is_copy_of_store(store, &name).map_err(system)? => break name,
            // The name is taken by something else, such as the copy from an earlier migration after which somebody went
            // back to the old schema: what was stored since then is in no copy yet.
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => {
                make_copy(place, store, &name, faults).map_err(|error| match error {
                    CopyFailure::Sql(e) => sql(e),
                    CopyFailure::System(e) => system(e),
                    CopyFailure::NoRoom(bytes) => {
                        refused(OpenErrorKind::CannotCreate, &format!("the disk has no room for its {bytes} bytes"))
                    }
                })?;
                break name;
            }
            Err(e) => return Err(system(e)),
        }
    };
    // This also covers a copy that an earlier start made: its name may not be on stable storage yet.
    place.sync_folder()?;
    faults.check(FaultPoint::StartStep).map_err(sql)?;
    Ok(format!(
        "{}: gets schema {to}; what it was is kept in {kept}; to go back to it, install the cpd of before and run cpd \
         --restore {kept}",
        place.file().display(),
        kept = kept.display()
    ))
}

enum CopyFailure {
    Sql(rusqlite::Error),
    System(io::Error),
    /// The disk has no room for a copy of this many bytes.
    NoRoom(u64),
}

impl From<io::Error> for CopyFailure {
    fn from(error: io::Error) -> CopyFailure {
        CopyFailure::System(error)
    }
}

/// The names for a copy, in the order in which they are tried.
fn names(file: &Path, schema: usize) -> impl Iterator<Item = PathBuf> {
    let first = with_suffix(file, &format!(".schema-{schema}"));
    let more = first.clone();
    std::iter::once(first).chain((2..1000).map(move |number| with_suffix(&more, &format!(".{number}"))))
}

/// Copies `store` to `name`, at which there is nothing yet. If a crash leaves a partial copy, the next start deletes
/// it.
fn make_copy(place: &StoreFiles, store: &File, name: &Path, faults: &mut Faults) -> Result<(), CopyFailure> {
    let bytes = store.metadata()?.len();
    if faults.check(FaultPoint::FreeSpace).is_err() || !place.can_allocate(bytes) {
        return Err(CopyFailure::NoRoom(bytes));
    }
    let (path, copy) = place.create_file(BACKUP_SUFFIX)?;
    let mut fill = || -> Result<(), CopyFailure> {
        each_chunk(store, |at, chunk| {
            copy.write_all_at(chunk, at)?;
            Ok(true)
        })?;
        // This number says that no log belongs to the copy.
        history::set_number(&copy, history::COPY_NUMBER)?;
        faults.check(FaultPoint::StartStep).map_err(CopyFailure::Sql)?;
        copy.sync_all()?;
        faults.check(FaultPoint::StartStep).map_err(CopyFailure::Sql)?;
        fs::rename(&path, name)?;
        faults.check(FaultPoint::StartStep).map_err(CopyFailure::Sql)
    };
    let filled = fill();
    if filled.is_err() {
        // If this fails, the next start deletes the partial copy.
        let _ = remove_if_exists(&path);
    }
    filled
}

/// Whether the file `name` is a complete copy of `store`, apart from the number in its header (see [`history`]).
fn is_copy_of_store(store: &File, name: &Path) -> io::Result<bool> {
    let copy = careful_options().read(true).open(name)?;
    if copy.metadata()?.len() != store.metadata()?.len() || history::read_number(&copy)? != Some(history::COPY_NUMBER) {
        return Ok(false);
    }
    let mut other = vec![0; CHUNK_BYTES];
    each_chunk(store, |at, chunk| {
        let Some(other) = other.get_mut(..chunk.len()) else { return Ok(false) };
        copy.read_exact_at(other, at)?;
        if at == 0 {
            history::zero_number(other);
            history::zero_number(chunk);
        }
        Ok(other == chunk)
    })
}

/// Calls `with` for each chunk of `file` and its offset until it returns `false`. Returns whether the end of the file
/// was reached. The descriptor stays open, because closing one would drop SQLite's locks on the file.
fn each_chunk(file: &File, mut with: impl FnMut(u64, &mut [u8]) -> io::Result<bool>) -> io::Result<bool> {
    let (mut bytes, mut at) = (vec![0; CHUNK_BYTES], 0);
    loop {
        let count = match file.read_at(&mut bytes, at) {
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            read => read?,
        };
        let Some(read) = bytes.get_mut(..count).filter(|read| !read.is_empty()) else { return Ok(true) };
        if !with(at, read)? {
            return Ok(false);
        }
        at += count as u64;
    }
}
