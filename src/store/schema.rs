//! The tables, and how an older store becomes a current one.

use std::fs;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::files::{self, NEW_SUFFIX, Place};
use super::{OpenError, OpenErrorKind};

/// "CPd1" in the file's header: what tells a store from any other SQLite file.
pub const APPLICATION_ID: u32 = 0x4350_6431;
/// The version that this code reads and writes.
pub const VERSION: u32 = 1;
/// Bytes of a page: a lone message costs the log one of them.
pub const PAGE_BYTES: u32 = 4096;

/// Brings a store from the version that is its index to the next.
pub type Migration = fn(&Connection) -> rusqlite::Result<()>;

/// Every step there ever was. A store of version n has seen the first n.
pub const MIGRATIONS: &[Migration] = &[first];
const _: () = assert!(MIGRATIONS.len() == VERSION as usize);

/// Version 1. Messages have no index but their id: who has what queued is the engine's to know, and an index on disk
/// makes storing several times slower. Every row carries a checksum (`sum`) over all its other columns.
fn first(connection: &Connection) -> rusqlite::Result<()> {
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
    super::row::set_reserved(connection, 0)
}

/// Makes an empty store. It gets its name only when it is whole, so that a crash leaves none or a good one.
pub fn create(place: &Place) -> Result<(), OpenError> {
    let cannot = |e: &std::io::Error| {
        let kind = match files::system(place.file(), "", e).kind {
            OpenErrorKind::Permission => OpenErrorKind::Permission,
            _ => OpenErrorKind::CannotCreate,
        };
        OpenError::new(kind, format!("{}: cannot create the store: {e}", place.file().display()))
    };
    let (path, file) = place.make(NEW_SUFFIX).map_err(|e| cannot(&e))?;
    fill(&path).map_err(|e| {
        let said = format!("{}: cannot create the store: {}", place.file().display(), super::sqlite::text(&e));
        OpenError::new(OpenErrorKind::CannotCreate, said)
    })?;
    file.sync_all().map_err(|e| cannot(&e))?;
    fs::rename(&path, place.file()).map_err(|e| cannot(&e))?;
    place.sync_folder()
}

pub fn fill(path: &Path) -> rusqlite::Result<()> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.execute_batch(&format!(
        "PRAGMA page_size={PAGE_BYTES};
         PRAGMA locking_mode=EXCLUSIVE;
         PRAGMA application_id={APPLICATION_ID};"
    ))?;
    let _: String = connection.query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0))?;
    apply(&connection, 0, MIGRATIONS)?;
    // Closing does this too, and says nothing when it fails: the file would get its name without its tables.
    super::sqlite::settle(&connection)?;
    connection.close().map_err(|(_, e)| e)
}

/// Migrates an older store in one transaction, refuses a newer one, and requires that the tables are the expected ones.
pub fn bring_up_to_date(connection: &Connection, file: &Path, steps: &[Migration]) -> Result<(), OpenError> {
    if let Some(from) = earlier(connection, file, steps)? {
        apply(connection, from, steps).map_err(|e| OpenError::sql(file, "cannot migrate the store", &e))?;
    }
    check_tables(connection, file, steps)
}

/// The version of an older store, whose tables are those of that version; `None` when it is of the current one. A newer one
/// is refused.
pub fn earlier(connection: &Connection, file: &Path, steps: &[Migration]) -> Result<Option<usize>, OpenError> {
    let as_open = |e: rusqlite::Error| OpenError::sql(file, "cannot read the store", &e);
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(as_open)?;
    let application: i64 = connection.query_row("PRAGMA application_id", [], |row| row.get(0)).map_err(as_open)?;
    if application != i64::from(APPLICATION_ID) {
        return Err(OpenError::new(OpenErrorKind::Damaged, format!("{}: is not a cpd store", file.display())));
    }
    let newest = i64::try_from(steps.len()).unwrap_or(i64::MAX);
    if found > newest {
        let said = format!("{}: is of version {found}, this cpd knows up to {newest}", file.display());
        return Err(OpenError::new(OpenErrorKind::Newer, said));
    }
    let Ok(from) = usize::try_from(found) else {
        return Err(OpenError::new(OpenErrorKind::Damaged, format!("{}: has version {found}", file.display())));
    };
    match steps.get(..from).filter(|seen| seen.len() < steps.len()) {
        Some(seen) => check_tables(connection, file, seen).map(|()| Some(from)),
        None => Ok(None),
    }
}

/// Applies the steps after `from`, all or none.
pub fn apply(connection: &Connection, from: usize, steps: &[Migration]) -> rusqlite::Result<()> {
    let transaction = connection.unchecked_transaction()?;
    for step in steps.iter().skip(from) {
        step(&transaction)?;
    }
    transaction.pragma_update(None, "user_version", i64::try_from(steps.len()).unwrap_or(i64::MAX))?;
    transaction.commit()
}

/// Compares the tables with those of a fresh store: a trigger or a column that is not ours would change what the
/// statements mean.
pub fn check_tables(connection: &Connection, file: &Path, steps: &[Migration]) -> Result<(), OpenError> {
    let as_open = |e: rusqlite::Error| OpenError::sql(file, "cannot read the store's tables", &e);
    let model = Connection::open_in_memory().map_err(as_open)?;
    apply(&model, 0, steps).map_err(as_open)?;
    if tables(connection).map_err(as_open)? != tables(&model).map_err(as_open)? {
        let said = format!("{}: its tables are not those of a cpd store; it was left as it is", file.display());
        return Err(OpenError::new(OpenErrorKind::Damaged, said));
    }
    Ok(())
}

fn tables(connection: &Connection) -> rusqlite::Result<Vec<(String, String, Option<String>)>> {
    // What ANALYZE leaves is harmless.
    let sql = "SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_stat%' ORDER BY type, name";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    rows.collect()
}
