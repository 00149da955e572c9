//! The tables, and how an older store is migrated to the current version.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::format::PAGE_BYTES;
use super::open_error::{OpenError, OpenErrorKind};
use super::{row, sqlite};

/// "CPd1" in the file's header, which distinguishes a store from any other SQLite file.
pub const APPLICATION_ID: u32 = 0x4350_6431;
/// The version of the tables that this code reads and writes.
pub const VERSION: u32 = 1;

/// Migrates a store from the version that is the function's index in [`MIGRATIONS`] to the next one.
pub type Migration = fn(&Connection) -> rusqlite::Result<()>;

/// All migrations there ever were. A store of version n has had the first n applied.
pub const MIGRATIONS: &[Migration] = &[create_version_1];
const _: () = assert!(MIGRATIONS.len() == VERSION as usize);

/// Version 1. Messages have no index but their id: the engine knows which messages each user has, and an index on disk
/// makes storing several times slower. Every row has a checksum (`sum`) over all its other columns.
fn create_version_1(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
        "CREATE TABLE message(
            id INTEGER PRIMARY KEY,
            recipient TEXT NOT NULL,
            sender TEXT NOT NULL,
            queued_at INTEGER NOT NULL,
            sum INTEGER NOT NULL,
            body TEXT NOT NULL
        ) STRICT;
        CREATE TABLE user(
            name TEXT NOT NULL PRIMARY KEY,
            hash TEXT NOT NULL,
            locked INTEGER NOT NULL,
            created INTEGER NOT NULL,
            last_login INTEGER,
            sum INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE seen(
            user TEXT NOT NULL,
            address TEXT NOT NULL,
            at INTEGER NOT NULL,
            sum INTEGER NOT NULL,
            PRIMARY KEY(user, address)
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE meta(
            key TEXT NOT NULL PRIMARY KEY,
            value INTEGER NOT NULL,
            sum INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID;",
    )?;
    row::set_reserved(connection, 0)
}

/// Creates the tables in the empty file at `path` and leaves its log empty.
pub fn create_schema(path: &Path) -> rusqlite::Result<()> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.execute_batch(&format!(
        "PRAGMA page_size={PAGE_BYTES};
         PRAGMA locking_mode=EXCLUSIVE;
         PRAGMA application_id={APPLICATION_ID};"
    ))?;
    let _: String = connection.query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0))?;
    apply_migrations(&connection, 0, MIGRATIONS)?;
    // Closing would do this too, but would not report a failure: the file would get its name without its tables.
    sqlite::truncate_log(&connection)?;
    connection.close().map_err(|(_, e)| e)
}

/// Migrates an older store in one transaction.
///
/// # Errors
/// The store is newer, its tables are not the expected ones, or it cannot be read or written.
pub fn migrate(connection: &Connection, file: &Path, steps: &[Migration]) -> Result<(), OpenError> {
    if let Some(from) = older_version(connection, file, steps)? {
        apply_migrations(connection, from, steps)
            .map_err(|e| OpenError::from_sqlite(file, "cannot migrate the store", &e))?;
    }
    check_tables(connection, file, steps)
}

/// The version of an older store, or `None` if the store is of the current version.
///
/// # Errors
/// The file is not a store, it is a newer one, the tables of an older one are not those of its version, or it cannot be
/// read.
pub fn older_version(connection: &Connection, file: &Path, steps: &[Migration]) -> Result<Option<usize>, OpenError> {
    let to_open_error = |e: rusqlite::Error| OpenError::from_sqlite(file, "cannot read the store", &e);
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(to_open_error)?;
    let application: i64 =
        connection.query_row("PRAGMA application_id", [], |row| row.get(0)).map_err(to_open_error)?;
    if application != i64::from(APPLICATION_ID) {
        return Err(OpenError::new(OpenErrorKind::Damaged, format!("{}: is not a cpd store", file.display())));
    }
    let newest = i64::try_from(steps.len()).unwrap_or(i64::MAX);
    if found > newest {
        let message = format!("{}: is of version {found}, this cpd knows up to {newest}", file.display());
        return Err(OpenError::new(OpenErrorKind::Newer, message));
    }
    let Ok(from) = usize::try_from(found) else {
        return Err(OpenError::new(OpenErrorKind::Damaged, format!("{}: has version {found}", file.display())));
    };
    match steps.get(..from).filter(|seen| seen.len() < steps.len()) {
        Some(seen) => check_tables(connection, file, seen).map(|()| Some(from)),
        None => Ok(None),
    }
}

/// Applies the migrations from index `from` on, all or none.
pub fn apply_migrations(connection: &Connection, from: usize, steps: &[Migration]) -> rusqlite::Result<()> {
    let transaction = connection.unchecked_transaction()?;
    for step in steps.iter().skip(from) {
        step(&transaction)?;
    }
    transaction.pragma_update(None, "user_version", i64::try_from(steps.len()).unwrap_or(i64::MAX))?;
    transaction.commit()
}

/// Compares the tables with those of a new store: a trigger or a column that is not ours would change the meaning of
/// the statements.
///
/// # Errors
/// The tables differ, or cannot be read.
pub fn check_tables(connection: &Connection, file: &Path, steps: &[Migration]) -> Result<(), OpenError> {
    let to_open_error = |e: rusqlite::Error| OpenError::from_sqlite(file, "cannot read the store's tables", &e);
    let model = Connection::open_in_memory().map_err(to_open_error)?;
    apply_migrations(&model, 0, steps).map_err(to_open_error)?;
    if table_definitions(connection).map_err(to_open_error)? != table_definitions(&model).map_err(to_open_error)? {
        let message = format!("{}: its tables are not those of a cpd store; it was left as it is", file.display());
        return Err(OpenError::new(OpenErrorKind::Damaged, message));
    }
    Ok(())
}

fn table_definitions(connection: &Connection) -> rusqlite::Result<Vec<(String, String, Option<String>)>> {
    // The tables that ANALYZE creates are harmless.
    let sql = "SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_stat%' ORDER BY type, name";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    rows.collect()
}
