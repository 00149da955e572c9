//! The file that a copy of the store is made in.

use std::fs::File;
use std::io;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::disk_space::DISK_RESERVE_BYTES;
use super::files::StoreFiles;
use super::paths::BACKUP_SUFFIX;
use super::sqlite;

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
        let needed = bytes.saturating_add(DISK_RESERVE_BYTES);
        if free < needed {
            return Err(format!("the disk has {free} bytes left, the copy needs {needed}"));
        }
        let named = |e: io::Error| format!("{}: {e}", place.sibling(BACKUP_SUFFIX).display());
        let (path, file) = place.create_file(BACKUP_SUFFIX).map_err(named)?;
        CopyTarget::open(&path, file)
    }

    /// Closes the connection, and returns the file.
    ///
    /// # Errors
    /// The cause as text.
    pub fn close(self) -> Result<File, String> {
        self.connection.close().map_err(|(_, e)| sqlite::error_text(&e))?;
        Ok(self.file)
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
