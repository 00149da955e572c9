//! A copy of the store, made between batches by the connection that writes: SQLite carries what is committed
//! meanwhile over into the copy, so that it is whole as of its end. Where much of it is empty pages, what it holds is then
//! copied once more, without them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use super::cycle::Core;
use super::files::{self, BACKUP_SUFFIX, Place};
use super::history;
use super::squeeze::{self, Squeeze};
use super::writer::{Exit, Inbox, serve};
use crate::engine::port::{AdminAnswer, RequestId};

/// Pages copied between two looks at what waits.
const STEP_PAGES: i32 = 128;
/// Where a SQLite file says that it has a write-ahead log.
const FORMAT_OFFSET: u64 = 18;
/// Bytes of one answer to a read.
pub const READ_MAX_BYTES: u32 = 1024 * 1024;

/// A finished copy. Its file has no name any more: it is gone when this value is, whatever happens.
pub struct Held {
    pub number: u64,
    pub bytes: u64,
    file: File,
}

impl Held {
    /// Up to `length` bytes from `offset`; fewer at the end.
    pub fn read(&self, offset: u64, length: u32) -> io::Result<Vec<u8>> {
        let wanted = u64::from(length.min(READ_MAX_BYTES)).min(self.bytes.saturating_sub(offset));
        let mut bytes = vec![0; usize::try_from(wanted).unwrap_or(0)];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }
}

/// A copy under way, as the writer's loop sees it.
pub enum Copying<'a> {
    /// The pages of the store, as they are.
    Pages(Backup<'a, 'a>),
    /// What the pages hold.
    Rows(Squeeze<'a>),
}

/// What a step of copying came to.
pub enum Step {
    More,
    Whole,
    Failed(String),
}

/// Copies a little more.
pub fn step(copy: &Copying<'_>) -> Step {
    match copy {
        Copying::Pages(copy) => match copy.step(STEP_PAGES) {
            Ok(StepResult::Done) => Step::Whole,
            Ok(StepResult::More) => Step::More,
            Ok(_) => Step::Failed("the store is locked".to_owned()),
            Err(e) => Step::Failed(super::sqlite::text(&e)),
        },
        Copying::Rows(squeeze) => match squeeze.step() {
            Ok(true) => Step::Whole,
            Ok(false) => Step::More,
            Err(e) => Step::Failed(super::sqlite::text(&e)),
        },
    }
}

/// Serves batches and copies between them until the copy is whole or cannot be, and answers `request`.
pub fn copy_while_serving(core: &mut Core, connection: &Connection, request: RequestId, inbox: &mut Inbox) -> Exit {
    let exit = match Target::make(&core.place, core.place.bytes()) {
        Err(cause) => Exit::CopyOver(Err(cause)),
        Ok(mut target) => {
            let exit = match Backup::new(connection, &mut target.connection) {
                Ok(copy) => serve(core, connection, inbox, Some(&Copying::Pages(copy))),
                Err(e) => Exit::CopyOver(Err(super::sqlite::text(&e))),
            };
            match exit {
                Exit::CopyOver(Ok(())) => without_gaps(core, connection, inbox, target),
                other => other,
            }
        }
    };
    // Once it is open it needs no name; if it is not whole nobody needs it.
    let _ = files::remove(&core.place.beside(BACKUP_SUFFIX));
    core.copying = false;
    let (answer, exit) = match exit {
        Exit::CopyOver(Ok(())) => match &core.held {
            Some(held) => (AdminAnswer::Backup { backup: held.number, bytes: held.bytes }, Exit::Again),
            None => (AdminAnswer::Failed("the copy is gone".to_owned()), Exit::Again),
        },
        Exit::CopyOver(Err(cause)) => (AdminAnswer::Failed(format!("cannot copy the store: {cause}")), Exit::Again),
        other => (AdminAnswer::Failed("the copy was broken off; try again".to_owned()), other),
    };
    core.answer(request, answer);
    exit
}

/// Copies what the whole copy holds once more, if that is worth it, and holds the better one of both.
fn without_gaps(core: &mut Core, connection: &Connection, inbox: &mut Inbox, copy: Target) -> Exit {
    let Target { connection: writing, file } = copy;
    if let Err((_, e)) = writing.close() {
        return Exit::CopyOver(Err(super::sqlite::text(&e)));
    }
    // Read from its file alone, it needs no log; and once it is open, no name.
    let path = core.place.beside(BACKUP_SUFFIX);
    let reading = super::sqlite::view(&path);
    let squeezed = match reading.map(|reading| squeeze::run(core, connection, inbox, &reading)) {
        Ok(Ok(squeezed)) => squeezed,
        Ok(Err(exit)) => return exit,
        Err(_) => None,
    };
    Exit::CopyOver(match squeezed.map(|Target { connection, file, .. }| (connection.close(), file)) {
        Some((Ok(()), squeezed)) => hold(core, squeezed),
        _ => hold(core, file),
    })
}

/// A file to copy to. Its name goes as soon as it is not needed; one that a killed process leaves the next start deletes.
pub struct Target {
    pub connection: Connection,
    file: File,
}

impl Target {
    /// Makes one, if the disk has room for `bytes`.
    pub fn make(place: &Place, bytes: u64) -> Result<Target, String> {
        let free = place.available().map_err(|e| e.to_string())?;
        let needed = bytes.saturating_add(super::room::DISK_RESERVE_BYTES);
        if free < needed {
            return Err(format!("the disk has {free} bytes left, the copy needs {needed}"));
        }
        let named = |e: io::Error| format!("{}: {e}", place.beside(BACKUP_SUFFIX).display());
        let (path, file) = place.make(BACKUP_SUFFIX).map_err(named)?;
        Target::open(&path, file)
    }

    fn open(path: &Path, file: File) -> Result<Target, String> {
        let flags =
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let open = || -> rusqlite::Result<Connection> {
            let connection = Connection::open_with_flags(path, flags)?;
            // Whoever reads the copy syncs what he makes of it.
            connection.execute_batch(
                "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;
                 PRAGMA cache_size=-2048;",
            )?;
            Ok(connection)
        };
        open().map(|connection| Target { connection, file }).map_err(|e: rusqlite::Error| super::sqlite::text(&e))
    }
}

/// Takes the finished copy under a new number.
fn hold(core: &mut Core, file: File) -> Result<(), String> {
    let mark = || -> io::Result<u64> {
        history::set_number(&file, history::NO_LOG)?;
        // As the store itself: to open it with a log needs no change of it.
        file.write_all_at(&[2, 2], FORMAT_OFFSET)?;
        Ok(file.metadata()?.len())
    };
    let bytes = mark().map_err(|e| e.to_string())?;
    core.backups += 1;
    core.held = Some(Held { number: core.backups, bytes, file });
    Ok(())
}
