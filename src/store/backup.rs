//! A copy of the store, made between batches by the connection that writes: SQLite carries what is committed
//! meanwhile over into the copy, so that it is whole as of its end.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use super::cycle::Core;
use super::files::{self, BACKUP_SUFFIX, Place};
use super::writer::{Exit, Inbox, serve};
use crate::engine::port::{AdminAnswer, RequestId};

/// Pages copied between two looks at what waits.
const STEP_PAGES: i32 = 128;
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
pub type Copying<'a> = Backup<'a, 'a>;

/// What a step of copying came to.
pub enum Step {
    More,
    Whole,
    Failed(String),
}

/// Copies a few more pages.
pub fn step(copy: &Copying<'_>) -> Step {
    match copy.step(STEP_PAGES) {
        Ok(StepResult::Done) => Step::Whole,
        Ok(StepResult::More) => Step::More,
        Ok(_) => Step::Failed("the store is locked".to_owned()),
        Err(e) => Step::Failed(super::sqlite::text(&e)),
    }
}

/// Serves batches and copies between them until the copy is whole or cannot be, and answers `request`.
pub fn copy_while_serving(core: &mut Core, connection: &Connection, request: RequestId, inbox: &mut Inbox) -> Exit {
    let exit = match prepare(&core.place) {
        Err(cause) => Exit::CopyOver(Err(cause)),
        Ok((path, mut target)) => {
            let exit = match Backup::new(connection, &mut target) {
                Ok(copy) => serve(core, connection, inbox, Some(&copy)),
                Err(e) => Exit::CopyOver(Err(super::sqlite::text(&e))),
            };
            let closed = target.close().map_err(|(_, e)| super::sqlite::text(&e));
            match exit {
                Exit::CopyOver(Ok(())) => Exit::CopyOver(closed.and_then(|()| hold(core, &path))),
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

/// Makes the file to copy to.
fn prepare(place: &Place) -> Result<(PathBuf, Connection), String> {
    let free = place.available().map_err(|e| e.to_string())?;
    let needed = place.bytes().saturating_add(super::room::DISK_RESERVE_BYTES);
    if free < needed {
        return Err(format!("the disk has {free} bytes left, the copy needs {needed}"));
    }
    let path = place.make(BACKUP_SUFFIX).map_err(|e| format!("{}: {e}", place.beside(BACKUP_SUFFIX).display()))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = || {
        let target = Connection::open_with_flags(&path, flags)?;
        // Whoever reads the copy syncs what he makes of it; a copy that a crash cuts off is deleted.
        target.execute_batch(
            "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-2048;",
        )?;
        Ok(target)
    };
    open().map(|target| (path.clone(), target)).map_err(|e: rusqlite::Error| super::sqlite::text(&e))
}

/// Takes the finished copy under a new number.
fn hold(core: &mut Core, path: &PathBuf) -> Result<(), String> {
    let open = || -> io::Result<(File, u64)> {
        let file = OpenOptions::new().read(true).open(path)?;
        let bytes = file.metadata()?.len();
        Ok((file, bytes))
    };
    let (file, bytes) = open().map_err(|e| format!("{}: {e}", path.display()))?;
    core.backups += 1;
    core.held = Some(Held { number: core.backups, bytes, file });
    Ok(())
}
