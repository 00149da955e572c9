//! A copy of the store, made between batches by the connection that writes. SQLite carries commits that are made
//! meanwhile over into the copy, so that it is consistent as of the moment when it is complete. If many of its pages
//! are empty, its contents are copied once more without them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use cpd_core::engine::port::{AdminAnswer, RequestId};
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use super::compact::{self, TableCopy};
use super::files::StoreFiles;
use super::paths::{BACKUP_SUFFIX, remove_if_exists};
use super::round::WriterState;
use super::writer::{Inbox, ServeExit, serve};
use super::{disk_space, history, sqlite};

/// Pages copied before waiting batches are served again.
const STEP_PAGES: i32 = 128;
/// Offset of the two bytes that say whether a SQLite file uses a write-ahead log.
const FORMAT_OFFSET: u64 = 18;
/// Maximum number of bytes in one answer to a read.
pub const BACKUP_READ_MAX_BYTES: u32 = 1024 * 1024;

/// A finished copy. Its file has no name any more, so it disappears with this value or with the process.
pub struct HeldBackup {
    pub number: u64,
    pub bytes: u64,
    file: File,
}

impl HeldBackup {
    /// Reads up to `length` bytes from `offset`, at most [`BACKUP_READ_MAX_BYTES`]; fewer at the end of the copy.
    pub fn read(&self, offset: u64, length: u32) -> io::Result<Vec<u8>> {
        let wanted = u64::from(length.min(BACKUP_READ_MAX_BYTES)).min(self.bytes.saturating_sub(offset));
        let mut bytes = vec![0; usize::try_from(wanted).unwrap_or(0)];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }
}

/// A copy in progress, as the writer's loop sees it.
pub enum CopyInProgress<'a> {
    /// Copies the pages of the store as they are.
    Pages(Backup<'a, 'a>),
    /// Copies the rows of one table, without empty pages.
    Rows(TableCopy<'a>),
}

/// The result of one step of copying.
pub enum CopyStep {
    /// There is more to copy.
    More,
    /// The copy is complete.
    Complete,
    /// The copy has failed for this reason.
    Failed(String),
}

/// Copies a little more.
pub fn copy_step(copy: &CopyInProgress<'_>) -> CopyStep {
    match copy {
        CopyInProgress::Pages(copy) => match copy.step(STEP_PAGES) {
            Ok(StepResult::Done) => CopyStep::Complete,
            Ok(StepResult::More) => CopyStep::More,
            Ok(_) => CopyStep::Failed("the store is locked".to_owned()),
            Err(e) => CopyStep::Failed(sqlite::error_text(&e)),
        },
        CopyInProgress::Rows(table) => match table.step() {
            Ok(true) => CopyStep::Complete,
            Ok(false) => CopyStep::More,
            Err(e) => CopyStep::Failed(sqlite::error_text(&e)),
        },
    }
}

/// Serves batches and copies between them until the copy is complete or has failed, then answers `request`.
pub fn copy_while_serving(
    core: &mut WriterState,
    connection: &Connection,
    request: RequestId,
    inbox: &mut Inbox,
) -> ServeExit {
    let exit = match CopyTarget::create(&core.files, core.files.bytes()) {
        Err(cause) => ServeExit::CopyEnded(Err(cause)),
        Ok(mut target) => {
            let exit = match Backup::new(connection, &mut target.connection) {
                Ok(copy) => serve(core, connection, inbox, Some(&CopyInProgress::Pages(copy))),
                Err(e) => ServeExit::CopyEnded(Err(sqlite::error_text(&e))),
            };
            match exit {
                ServeExit::CopyEnded(Ok(())) => compact_copy(core, connection, inbox, target),
                other => other,
            }
        }
    };
    // A complete copy is open and needs no name; an incomplete one is not needed at all.
    let _ = remove_if_exists(&core.files.sibling(BACKUP_SUFFIX));
    core.backup_active = false;
    let (answer, exit) = match exit {
        ServeExit::CopyEnded(Ok(())) => match &core.held_backup {
            Some(held) => (AdminAnswer::Backup { backup: held.number, bytes: held.bytes }, ServeExit::Continue),
            None => (AdminAnswer::Failed("the copy is gone".to_owned()), ServeExit::Continue),
        },
        ServeExit::CopyEnded(Err(cause)) => {
            (AdminAnswer::Failed(format!("cannot copy the store: {cause}")), ServeExit::Continue)
        }
        other => (AdminAnswer::Failed("the copy was broken off; try again".to_owned()), other),
    };
    core.answer(request, answer);
    exit
}

/// Copies the contents of a complete copy once more if many of its pages are empty, and holds the better of the two.
fn compact_copy(core: &mut WriterState, connection: &Connection, inbox: &mut Inbox, copy: CopyTarget) -> ServeExit {
    let CopyTarget { connection: writing, file } = copy;
    if let Err((_, e)) = writing.close() {
        return ServeExit::CopyEnded(Err(sqlite::error_text(&e)));
    }
    // The copy is opened without a log. Once open, it needs no name, and the second copy can take that name.
    let path = core.files.sibling(BACKUP_SUFFIX);
    let reading = sqlite::open_immutable(&path);
    let compacted = match reading.map(|reading| compact::run(core, connection, inbox, &reading)) {
        Ok(Ok(compacted)) => compacted,
        Ok(Err(exit)) => return exit,
        Err(_) => None,
    };
    ServeExit::CopyEnded(match compacted.map(|CopyTarget { connection, file, .. }| (connection.close(), file)) {
        Some((Ok(()), compacted)) => hold_copy(core, compacted),
        _ => hold_copy(core, file),
    })
}

/// A file to copy to. Its name is removed as soon as it is not needed; if a killed process leaves it, the next start
/// deletes it.
pub struct CopyTarget {
    pub connection: Connection,
    file: File,
}

impl CopyTarget {
    /// Creates one.
    ///
    /// # Errors
    /// The cause as text: the disk has no room for `bytes` bytes, or the file cannot be created.
    pub fn create(place: &StoreFiles, bytes: u64) -> Result<CopyTarget, String> {
        let free = place.available().map_err(|e| e.to_string())?;
        let needed = bytes.saturating_add(disk_space::DISK_RESERVE_BYTES);
        if free < needed {
            return Err(format!("the disk has {free} bytes left, the copy needs {needed}"));
        }
        let named = |e: io::Error| format!("{}: {e}", place.sibling(BACKUP_SUFFIX).display());
        let (path, file) = place.create_file(BACKUP_SUFFIX).map_err(named)?;
        CopyTarget::open(&path, file)
    }

    fn open(path: &Path, file: File) -> Result<CopyTarget, String> {
        let flags =
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let open = || -> rusqlite::Result<Connection> {
            let connection = Connection::open_with_flags(path, flags)?;
            // No sync is needed: whoever fetches the copy syncs their own file.
            connection.execute_batch(
                "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;
                 PRAGMA cache_size=-2048;",
            )?;
            Ok(connection)
        };
        open().map(|connection| CopyTarget { connection, file }).map_err(|e: rusqlite::Error| sqlite::error_text(&e))
    }
}

/// Keeps the finished copy in `core` under a new number.
fn hold_copy(core: &mut WriterState, file: File) -> Result<(), String> {
    let mark = || -> io::Result<u64> {
        history::set_number(&file, history::COPY_NUMBER)?;
        // The copy is to use a write-ahead log like the store itself, so that opening it as a store does not change it.
        file.write_all_at(&[2, 2], FORMAT_OFFSET)?;
        Ok(file.metadata()?.len())
    };
    let bytes = mark().map_err(|e| e.to_string())?;
    core.last_backup += 1;
    core.held_backup = Some(HeldBackup { number: core.last_backup, bytes, file });
    Ok(())
}
