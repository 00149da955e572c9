//! The connection: how it is set up, and what its errors mean.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use cpd_core::sabotage;
use rusqlite::config::DbConfig;
use rusqlite::ffi;
use rusqlite::limits::Limit;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::wal::CheckpointMode;
use rusqlite::{Connection, Error, ErrorCode, OpenFlags, ToSql};

/// SQLite's page cache in KiB. The hot pages are the end of the message table and what is being deleted.
const CACHE_KIB: i64 = 16 * 1024;
/// A log that grew beyond this many bytes is truncated to them when it restarts at its beginning.
const WAL_KEPT_BYTES: i64 = 64 * 1024 * 1024;
/// Longest value in bytes that a row may hold, so that a damaged row cannot make SQLite allocate more.
pub const VALUE_MAX_BYTES: i32 = 64 * 1024;
/// Prepared statements that are cached for the connection's lifetime.
const STATEMENTS_MAX: usize = 64;

/// Opens an existing store. Neither opening it nor, until [`truncate_log`] is called, closing it writes anything.
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
    let synchronous = if sabotage::is_ordered(sabotage::Fault::WeakSync) { "NORMAL" } else { "FULL" };
    // Exclusive mode is set before the first read: then SQLite needs no shared memory, and no other program can read
    // the store.
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

/// Opens a file that nobody writes to, for reading without a trace: SQLite ignores its log, takes no lock, and does not
/// need the file's name any more once it is open.
pub fn open_immutable(path: &Path) -> rusqlite::Result<Connection> {
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

/// Gives the store the number that identifies its file (see [`super::history`]), as a part of the open transaction.
pub fn set_number(connection: &Connection, number: u32) -> rusqlite::Result<()> {
    connection.pragma_update(None, "default_cache_size", number)?;
    // SQLite takes this number for the size of its cache, so the size is set again.
    connection.pragma_update(None, "cache_size", -CACHE_KIB)
}

/// Moves the whole log into the store's file, syncs the file and truncates the log, so that its space goes back to the
/// disk. Whatever an earlier process left unsynced in the log is not needed any more.
pub fn truncate_log(connection: &Connection) -> rusqlite::Result<()> {
    require_wal_mode(connection)?;
    empty_log(connection, CheckpointMode::TRUNCATE)
}

/// As [`truncate_log`], but keeps the log's space: the next commit writes at its beginning.
pub fn restart_log(connection: &Connection) -> rusqlite::Result<()> {
    empty_log(connection, CheckpointMode::RESTART)
}

/// Makes sure that the store uses a write-ahead log.
pub fn require_wal_mode(connection: &Connection) -> rusqlite::Result<()> {
    let mode: String = connection.query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(new_error(ffi::SQLITE_CANTOPEN, "the write-ahead log cannot be used here"));
    }
    Ok(())
}

fn empty_log(connection: &Connection, mode: CheckpointMode) -> rusqlite::Result<()> {
    let (all, moved) = connection.wal_checkpoint_v2(Some("main"), mode)?;
    // A negative count means that there is no log, even though the mode could be set.
    if all < 0 || all != moved {
        return Err(new_error(ffi::SQLITE_BUSY, "the write-ahead log could not be emptied"));
    }
    Ok(())
}

/// The number of frames in the log, and of those that are not in the store's file yet.
pub fn log_frames(connection: &Connection) -> rusqlite::Result<(u64, u64)> {
    let (all, moved) = connection.wal_checkpoint_v2(Some("main"), CheckpointMode::NOOP)?;
    let frames = |count| u64::try_from(count).unwrap_or(0);
    Ok((frames(all), frames(all.saturating_sub(moved))))
}

/// Moves the log into the store's file as far as possible; returns the number of frames that are still to be moved.
pub fn checkpoint(connection: &Connection) -> rusqlite::Result<u64> {
    let (all, moved) = connection.wal_checkpoint_v2(Some("main"), CheckpointMode::PASSIVE)?;
    Ok(u64::try_from(all.saturating_sub(moved)).unwrap_or(0))
}

/// Whether the error means that the file is damaged; further writes would make that worse.
pub fn is_damage(error: &Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

/// Whether the error means that the disk is full. A quota and the limit of file sizes count as such after
/// [`super::log_checkpoint::explain_write_error`].
pub fn is_full(error: &Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DiskFull)
}

/// Whether the error is a failed write, whose cause SQLite does not report.
pub fn is_failed_write(error: &Error) -> bool {
    code(error) == ffi::SQLITE_IOERR_WRITE
}

/// Whether a read-only file system may have caused the error, which SQLite does not report as such.
pub fn may_be_read_only(error: &Error) -> bool {
    // SQLite opens a file on such a file system for reading only and then fails to lock it.
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

/// The same error, but naming the read-only file system as its cause if `read_only` confirms it.
pub fn name_read_only(cause: Error, read_only: impl FnOnce() -> bool) -> Error {
    if may_be_read_only(&cause) && read_only() { new_error(code(&cause), "read-only file system") } else { cause }
}

/// SQLite's extended result code; 0 if the error is not from SQLite.
pub fn code(error: &Error) -> i32 {
    error.sqlite_error().map_or(0, |error| error.extended_code)
}

/// Human-readable text with SQLite's extended result code, because SQLite's texts do not distinguish a failed sync from
/// a failed write.
pub fn error_text(error: &Error) -> String {
    match error {
        Error::SqliteFailure(code, _) => format!("{error} (SQLite {})", code.extended_code),
        other => other.to_string(),
    }
}

/// An error with SQLite's result code `code`, made by cpd itself.
pub fn new_error(code: i32, text: &str) -> Error {
    Error::SqliteFailure(ffi::Error::new(code), Some(text.to_owned()))
}

/// A point at which a test can make the store fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultPoint {
    /// A transaction with inserts is about to execute them.
    Inserts,
    /// A transaction was begun and is about to execute its writes.
    Writes,
    /// COMMIT is about to be executed; a failure here means that nothing of the transaction is stored.
    Commit,
    /// COMMIT has succeeded; a failure here means that everything is stored but the caller gets an error.
    Committed,
    /// A failed transaction is about to be rolled back.
    Rollback,
    /// The connection is about to be reopened.
    Reopen,
    /// The log is about to be moved into the file.
    Checkpoint,
    /// A step of a start is complete; a test can simulate a crash after it.
    StartStep,
    /// The free space of the disk is about to be queried; a failure here means that there is none.
    FreeSpace,
}

type FaultFn = Box<dyn FnMut(FaultPoint) -> Option<i32> + Send>;

/// The failures that a test orders: the function returns SQLite's result code for a point that is to fail. `None`
/// outside of tests.
#[derive(Default)]
pub struct Faults(pub Option<FaultFn>);

impl Faults {
    /// Marks that execution has reached `point`.
    ///
    /// # Errors
    /// A test has ordered a failure at this point.
    pub fn check(&mut self, point: FaultPoint) -> rusqlite::Result<()> {
        match self.0.as_mut().and_then(|fault| fault(point)) {
            Some(code) => Err(new_error(code, "made to fail")),
            None => Ok(()),
        }
    }
}

/// Text that is known to be UTF-8 and is bound without checking it again.
pub struct TrustedText<'a>(pub &'a [u8]);

impl ToSql for TrustedText<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Text(self.0)))
    }
}

/// Converts an id or a time to SQLite's signed integer.
///
/// # Errors
/// The number exceeds the range of `i64`.
pub fn sqlite_integer(id: u64) -> rusqlite::Result<i64> {
    i64::try_from(id).map_err(|_| new_error(ffi::SQLITE_MISUSE, "a number is out of range"))
}
