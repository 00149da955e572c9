//! The connection: how it is set up, what its errors mean, and the statements of the hot path.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::ffi;
use rusqlite::limits::Limit;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::wal::CheckpointMode;
use rusqlite::{CachedStatement, Connection, Error, ErrorCode, OpenFlags, ToSql};

use super::OpenErrorKind;
use super::row::message_sum;
use crate::sabotage;

/// SQLite's page cache in KiB. The hot pages are the end of the message table and what is being deleted.
const CACHE_KIB: i64 = 16 * 1024;
/// A log that grew beyond this many bytes is cut when it begins anew.
const WAL_KEPT_BYTES: i64 = 64 * 1024 * 1024;
/// Longest value in bytes that a row may hold; a damaged row cannot ask for more memory.
pub const VALUE_MAX_BYTES: i32 = 64 * 1024;
/// Prepared statements kept for the connection's life.
const STATEMENTS_MAX: usize = 64;

/// Opens an existing store. Nothing is written: neither here nor, until [`settle`], by closing it.
pub fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW
        | OpenFlags::SQLITE_OPEN_EXRESCODE;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, VALUE_MAX_BYTES)?;
    connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    connection.busy_timeout(Duration::ZERO)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    let synchronous = if sabotage::is(sabotage::Fault::WeakSync) { "NORMAL" } else { "FULL" };
    // Exclusive before the first read: then there is no shared memory, and no other program reads along.
    connection.execute_batch(&format!(
        "PRAGMA locking_mode=EXCLUSIVE;
         PRAGMA synchronous={synchronous};
         PRAGMA secure_delete=ON;
         PRAGMA cell_size_check=ON;
         PRAGMA temp_store=MEMORY;
         PRAGMA wal_autocheckpoint=0;
         PRAGMA journal_size_limit={WAL_KEPT_BYTES};
         PRAGMA cache_size=-{CACHE_KIB};"
    ))?;
    Ok(connection)
}

/// Opens a file to which nobody writes, to be read without a trace: without its log, without a lock, and without a name
/// once it is open.
pub fn view(path: &Path) -> rusqlite::Result<Connection> {
    let mut name = String::from("file:");
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => name.push(char::from(*byte)),
            other => name.push_str(&format!("%{other:02x}")),
        }
    }
    name.push_str("?immutable=1");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_EXRESCODE;
    let connection = Connection::open_with_flags(name, flags)?;
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, VALUE_MAX_BYTES)?;
    connection.execute_batch("PRAGMA cell_size_check=ON; PRAGMA trusted_schema=OFF; PRAGMA temp_store=MEMORY;")?;
    Ok(connection)
}

/// Gives the store the number by which its file is known (`history`), as a part of the transaction that is open.
pub fn set_number(connection: &Connection, number: u32) -> rusqlite::Result<()> {
    connection.pragma_update(None, "default_cache_size", number)?;
    // SQLite believes that this is the size of its cache.
    connection.pragma_update(None, "cache_size", -CACHE_KIB)
}

/// Moves the whole log into the store's file, synced, and begins a new one: what may be unsynced below is no longer
/// needed by what follows. The log's room goes back to the disk.
pub fn settle(connection: &Connection) -> rusqlite::Result<()> {
    wal_mode(connection)?;
    empty_log(connection, CheckpointMode::TRUNCATE)
}

/// As [`settle`], and keeps the log's room: the next commit begins at its beginning.
pub fn restart_log(connection: &Connection) -> rusqlite::Result<()> {
    empty_log(connection, CheckpointMode::RESTART)
}

/// That the store has a log.
pub fn wal_mode(connection: &Connection) -> rusqlite::Result<()> {
    let mode: String = connection.query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(error(ffi::SQLITE_CANTOPEN, "the write-ahead log cannot be used here"));
    }
    Ok(())
}

fn empty_log(connection: &Connection, mode: CheckpointMode) -> rusqlite::Result<()> {
    let (all, moved) = connection.wal_checkpoint_v2(Some("main"), mode)?;
    // Below 0 there is no log, whatever the mode was said to be.
    if all < 0 || all != moved {
        return Err(error(ffi::SQLITE_BUSY, "the write-ahead log could not be emptied"));
    }
    Ok(())
}

/// Frames in the log, and how many of them are not in the store's file yet.
pub fn log(connection: &Connection) -> rusqlite::Result<(u64, u64)> {
    let (all, moved) = connection.wal_checkpoint_v2(Some("main"), CheckpointMode::NOOP)?;
    let frames = |count| u64::try_from(count).unwrap_or(0);
    Ok((frames(all), frames(all.saturating_sub(moved))))
}

/// Moves the log into the store's file as far as that goes, and returns what is left of it in frames.
pub fn checkpoint(connection: &Connection) -> rusqlite::Result<u64> {
    let (all, moved) = connection.wal_checkpoint_v2(Some("main"), CheckpointMode::PASSIVE)?;
    Ok(u64::try_from(all.saturating_sub(moved)).unwrap_or(0))
}

/// What an error means for a store that is being opened.
pub fn kind(error: &Error) -> OpenErrorKind {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::TooBig | ErrorCode::TypeMismatch) => {
            OpenErrorKind::Damaged
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => OpenErrorKind::Busy,
        Some(ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => OpenErrorKind::Permission,
        Some(ErrorCode::CannotOpen) => OpenErrorKind::CannotCreate,
        Some(_) => OpenErrorKind::System,
        // Not SQLite's: a value of the wrong type or out of range.
        None => OpenErrorKind::Damaged,
    }
}

/// Whether the file itself is at fault: going on would make it worse.
pub fn is_damage(error: &Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

/// Whether the disk, or the limit of file sizes, is.
pub fn is_full(error: &Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DiskFull)
}

/// Whether a write failed of which SQLite does not say why.
pub fn is_failed_write(error: &Error) -> bool {
    code(error) == ffi::SQLITE_IOERR_WRITE
}

/// What a store on a read-only file system gives, without a word of that.
pub fn may_be_read_only(error: &Error) -> bool {
    // SQLite opens such a file for reading alone, and cannot lock that.
    let failed = [
        ffi::SQLITE_IOERR_WRITE,
        ffi::SQLITE_IOERR_FSYNC,
        ffi::SQLITE_IOERR_DIR_FSYNC,
        ffi::SQLITE_IOERR_TRUNCATE,
        ffi::SQLITE_IOERR_LOCK,
    ];
    let main = error.sqlite_error_code();
    matches!(main, Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen)) || failed.contains(&code(error))
}

/// The same error with its cause, the file system, if `read_only`.
pub fn read_only_or(cause: Error, read_only: impl FnOnce() -> bool) -> Error {
    if may_be_read_only(&cause) && read_only() { error(code(&cause), "read-only file system") } else { cause }
}

/// SQLite's number for it; 0 for what is not SQLite's.
pub fn code(error: &Error) -> i32 {
    error.sqlite_error().map_or(0, |error| error.extended_code)
}

/// The error for people, with SQLite's number: its texts alone do not tell a failed sync from a failed write.
pub fn text(error: &Error) -> String {
    match error {
        Error::SqliteFailure(code, _) => format!("{error} (SQLite {})", code.extended_code),
        other => other.to_string(),
    }
}

/// An error of SQLite's kind `code`, made here.
pub fn error(code: i32, text: &str) -> Error {
    Error::SqliteFailure(ffi::Error::new(code), Some(text.to_owned()))
}

/// Where a test can make the store fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Point {
    /// A transaction with inserts is about to execute them.
    Inserts,
    /// A transaction is about to execute its other writes.
    Writes,
    /// Before COMMIT: nothing of the transaction will be stored.
    Commit,
    /// After COMMIT has succeeded: all of it is stored, but the caller hears of a failure.
    Committed,
    /// A transaction that failed is about to be taken back.
    Rollback,
    /// The connection is about to be opened again.
    Reopen,
    /// The log is about to be moved into the file.
    Checkpoint,
    /// A step of a start is done that a crash may come after.
    Started,
    /// The disk is asked for its room; a failure here means that there is none.
    Space,
}

type Fault = Box<dyn FnMut(Point) -> Option<i32> + Send>;

/// Failures that a test wants: returns SQLite's result code for a point that is to fail. Empty outside of tests.
#[derive(Default)]
pub struct Faults(pub Option<Fault>);

impl Faults {
    pub fn at(&mut self, point: Point) -> rusqlite::Result<()> {
        match self.0.as_mut().and_then(|fault| fault(point)) {
            Some(code) => Err(error(code, "made to fail")),
            None => Ok(()),
        }
    }
}

/// Text that is known to be UTF-8 and is bound without looking at it again.
pub struct Text<'a>(pub &'a [u8]);

impl ToSql for Text<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Text(self.0)))
    }
}

/// An id as SQLite counts; ids beyond its range are not ids.
pub fn rowid(id: u64) -> rusqlite::Result<i64> {
    i64::try_from(id).map_err(|_| error(ffi::SQLITE_MISUSE, "a number is out of range"))
}

/// The statements that a transaction executes by the thousand.
pub struct Hot<'c> {
    insert: CachedStatement<'c>,
    delete: CachedStatement<'c>,
    delete_run: CachedStatement<'c>,
}

/// A message to be stored.
pub struct NewMessage<'a> {
    pub id: u64,
    pub recipient: &'a str,
    pub sender: &'a str,
    pub queued_at: u64,
    pub body: &'a [u8],
}

impl<'c> Hot<'c> {
    pub fn prepare(connection: &'c Connection) -> rusqlite::Result<Hot<'c>> {
        Ok(Hot {
            insert: connection.prepare_cached(
                "INSERT INTO message(id, recipient, sender, queued_at, sum, body) VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
            )?,
            delete: connection.prepare_cached("DELETE FROM message WHERE id = ?1")?,
            delete_run: connection.prepare_cached("DELETE FROM message WHERE id BETWEEN ?1 AND ?2")?,
        })
    }

    pub fn insert(&mut self, m: &NewMessage<'_>) -> rusqlite::Result<()> {
        let sum = message_sum(m.id, m.recipient.as_bytes(), m.sender.as_bytes(), m.queued_at, m.body);
        self.insert.raw_bind_parameter(1, rowid(m.id)?)?;
        self.insert.raw_bind_parameter(2, Text(m.recipient.as_bytes()))?;
        self.insert.raw_bind_parameter(3, Text(m.sender.as_bytes()))?;
        self.insert.raw_bind_parameter(4, rowid(m.queued_at)?)?;
        self.insert.raw_bind_parameter(5, i64::from(sum))?;
        self.insert.raw_bind_parameter(6, Text(m.body))?;
        self.insert.raw_execute()?;
        Ok(())
    }

    /// Deletes a message; that it is gone already is no error.
    pub fn delete(&mut self, id: u64) -> rusqlite::Result<()> {
        self.delete.raw_bind_parameter(1, rowid(id)?)?;
        self.delete.raw_execute()?;
        Ok(())
    }

    /// Deletes messages by their ids, in ascending order; neighbours go together.
    pub fn delete_all(&mut self, ids: &[u64]) -> rusqlite::Result<()> {
        for run in ids.chunk_by(|a, b| a.checked_add(1) == Some(*b)) {
            match run {
                [] => {}
                [id] => self.delete(*id)?,
                [first, .., last] => {
                    self.delete_run.raw_bind_parameter(1, rowid(*first)?)?;
                    self.delete_run.raw_bind_parameter(2, rowid(*last)?)?;
                    self.delete_run.raw_execute()?;
                }
            }
        }
        Ok(())
    }
}
