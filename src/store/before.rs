//! What the store was before a migration is kept beside it, so that the cpd that wrote it can go on with it: `cpd.db.schema-1`
//! is the store of schema 1. The copy gets its name when it is whole and on stable storage, and only then the store is
//! changed, so that a crash leaves the old store, or the new one and the copy.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::files::{self, BACKUP_SUFFIX, Place, with_suffix};
use super::sqlite::{Faults, Point};
use super::watch::Watch;
use super::{OpenError, OpenErrorKind, entry, history, settle, sqlite};

/// Bytes that are copied or compared at once.
const CHUNK_BYTES: usize = 256 * 1024;

/// Keeps a copy of the store, which is of schema `from` and is about to become one of schema `to`. Returns what is to be
/// said of it. `watch` has the store's file open, `connection` has its log.
pub fn keep(
    place: &Place,
    watch: &Watch,
    connection: &Connection,
    (from, to): (usize, usize),
    faults: &mut Faults,
) -> Result<String, OpenError> {
    let refused = |kind: OpenErrorKind, cause: &str| {
        let file = place.file().display();
        let said = format!("{file}: is of schema {from}, and cannot be copied before it gets schema {to}: {cause}");
        OpenError::new(kind, format!("{said}; it is still of schema {from}"))
    };
    let sql = |e: rusqlite::Error| match sqlite::is_full(&e) {
        true => refused(OpenErrorKind::CannotCreate, &sqlite::text(&e)),
        false => refused(sqlite::kind(&e), &sqlite::text(&e)),
    };
    let system = |e: io::Error| match e.kind() {
        ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => refused(OpenErrorKind::CannotCreate, &e.to_string()),
        _ => refused(files::system(place.file(), "", &e).kind, &e.to_string()),
    };
    // With the log in it the file alone is the store.
    sqlite::wal_mode(connection).and_then(|()| settle::moved(connection, place)).map_err(sql)?;
    faults.at(Point::Started).map_err(sql)?;
    let store = watch.file();
    let mut names = names(place.file(), from);
    let kept = loop {
        let Some(name) = names.next() else {
            return Err(refused(OpenErrorKind::CannotCreate, "every name for the copy is taken"));
        };
        match fs::symlink_metadata(&name) {
            // A start before this one came as far as that.
            Ok(found) if found.is_file() && is_copy(store, &name).map_err(system)? => break name,
            // It is of an earlier time: somebody went back to that schema, and what came after is in no copy yet.
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => {
                make(place, store, &name, faults).map_err(|error| match error {
                    Failure::Sql(e) => sql(e),
                    Failure::System(e) => system(e),
                    Failure::NoRoom(bytes) => {
                        refused(OpenErrorKind::CannotCreate, &format!("the disk has no room for its {bytes} bytes"))
                    }
                })?;
                break name;
            }
            Err(e) => return Err(system(e)),
        }
    };
    // Also of one that was there: its name may not be on the disk yet.
    place.sync_folder()?;
    faults.at(Point::Started).map_err(sql)?;
    Ok(format!(
        "{}: gets schema {to}; what it was is kept in {kept}; to go back to it, install the cpd of before and run cpd \
         --restore {kept}",
        place.file().display(),
        kept = kept.display()
    ))
}

enum Failure {
    Sql(rusqlite::Error),
    System(io::Error),
    NoRoom(u64),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::System(error)
    }
}

/// The names that a copy may have.
fn names(file: &Path, schema: usize) -> impl Iterator<Item = PathBuf> {
    let first = with_suffix(file, &format!(".schema-{schema}"));
    let more = first.clone();
    std::iter::once(first).chain((2..1000).map(move |number| with_suffix(&more, &format!(".{number}"))))
}

/// Copies `store` to `name`, which nothing has. What a crash leaves half made the next start deletes.
fn make(place: &Place, store: &File, name: &Path, faults: &mut Faults) -> Result<(), Failure> {
    let bytes = store.metadata()?.len();
    if faults.at(Point::Space).is_err() || !place.can_grow(bytes) {
        return Err(Failure::NoRoom(bytes));
    }
    let (path, copy) = place.make(BACKUP_SUFFIX)?;
    let mut fill = || -> Result<(), Failure> {
        each_chunk(store, |at, chunk| {
            copy.write_all_at(chunk, at)?;
            Ok(true)
        })?;
        // No log belongs to it.
        history::set_number(&copy, history::NO_LOG)?;
        faults.at(Point::Started).map_err(Failure::Sql)?;
        copy.sync_all()?;
        faults.at(Point::Started).map_err(Failure::Sql)?;
        fs::rename(&path, name)?;
        faults.at(Point::Started).map_err(Failure::Sql)
    };
    let filled = fill();
    if filled.is_err() {
        // The next start would do it as well.
        let _ = files::remove(&path);
    }
    filled
}

/// Whether the file `name` is a whole copy of `store`, but for the number.
fn is_copy(store: &File, name: &Path) -> io::Result<bool> {
    let copy = entry::carefully().read(true).open(name)?;
    if copy.metadata()?.len() != store.metadata()?.len() || history::number_of(&copy)? != Some(history::NO_LOG) {
        return Ok(false);
    }
    let mut other = vec![0; CHUNK_BYTES];
    each_chunk(store, |at, chunk| {
        let Some(other) = other.get_mut(..chunk.len()) else { return Ok(false) };
        copy.read_exact_at(other, at)?;
        if at == 0 {
            history::blank_number(other);
            history::blank_number(chunk);
        }
        Ok(other == chunk)
    })
}

/// Hands out what is in `file`, with where that is, as long as it is answered `true`. Returns the last answer. The
/// descriptor stays open: closing one would take SQLite's locks from the file.
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
