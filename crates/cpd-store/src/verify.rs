//! Checks whether a store is sound: every row by its checksum, and the file's structure by SQLite's own check. The
//! store may be too damaged for cpd to open, and nothing in it is changed.

use std::fs;
use std::path::Path;

use rusqlite::Connection;

use super::history::read_history;
use super::open_error::{OpenError, OpenErrorKind};
use super::paths::with_suffix;
use super::row::{self, MESSAGE_COLUMNS, RowError};
use super::{file_checks, files, lock, schema, sqlite, users};

/// Maximum number of lines of damage in a report.
pub const LISTED_MAX: usize = 100;

/// What a sound store holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Contents {
    pub users: u64,
    pub messages: u64,
    /// No message has had this id or a higher one, as far as the file shows.
    pub first_free_id: u64,
}

/// The result of a check.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CheckReport {
    pub users: u64,
    pub messages: u64,
    /// Descriptions of the damage, no more than `LISTED_MAX`.
    pub damage: Vec<String>,
    /// The number of further findings, which are not described.
    pub unlisted: u64,
}

impl CheckReport {
    fn add(&mut self, what: String) {
        if self.damage.len() < LISTED_MAX {
            self.damage.push(what);
        } else {
            self.unlisted += 1;
        }
    }
}

/// Verifies everything in a store of the current version.
///
/// # Errors
/// Something is damaged, of which only the first finding is reported, or the store cannot be read.
pub fn require_sound(connection: &Connection, file: &Path) -> Result<Contents, OpenError> {
    let (mut contents, to_open_error) =
        (Contents { users: 0, messages: 0, first_free_id: 0 }, |e| OpenError::from_row(file, &e));
    users::each(connection, None, u32::MAX, |_| contents.users += 1).map_err(to_open_error)?;
    users::check_seen(connection, |what| Err(RowError::Damaged(what))).map_err(to_open_error)?;
    contents.first_free_id = row::reserved(connection).map_err(to_open_error)?;
    row::each_message(connection, |message| {
        contents.messages += 1;
        contents.first_free_id = contents.first_free_id.max(message.id.0.saturating_add(1));
    })
    .map_err(to_open_error)?;
    let mut found = None;
    check_structure(connection, &mut |what| found = found.take().or(Some(what)))
        .map_err(|e| OpenError::from_sqlite(file, "cannot check the file's structure", &e))?;
    match found {
        None => Ok(contents),
        Some(what) => Err(OpenError::from_row(file, &RowError::Damaged(what))),
    }
}

/// Reports everything that is damaged in the store at `path` without changing it.
///
/// # Errors
/// The store is missing or in use, it cannot be read, or it is of a later version.
pub fn check(path: &Path) -> Result<CheckReport, OpenError> {
    let file = file_checks::resolve(path)?;
    let folder = file.parent().map(Path::to_path_buf).unwrap_or_default();
    let _lock = lock::for_tool(&with_suffix(&file, "-lock"), &folder, &file, false)?;
    let mut report = CheckReport::default();
    match files::examine(&file, schema::MIGRATIONS.len()) {
        Ok(true) => {}
        Ok(false) => {
            return Err(OpenError::new(OpenErrorKind::Gone, format!("{}: there is no store", file.display())));
        }
        Err(error) if error.kind == OpenErrorKind::Damaged => {
            report.add(error.message);
            return Ok(report);
        }
        Err(error) => return Err(error),
    }
    let history = read_history(&file)?;
    let own_log = match files::origin(&file, &history) {
        Ok(_) => true,
        Err(error) if error.kind == OpenErrorKind::ForeignLog => {
            report.add(error.message);
            false
        }
        Err(error) => return Err(error),
    };
    let opened = open_read_only(&file, own_log)
        .and_then(|connection| check_open_store(&connection, &file, &mut report).map(|()| connection));
    match opened {
        Ok(_) => Ok(report),
        Err(error) => {
            let error = OpenError::from_sqlite(&file, "cannot read", &error);
            if error.kind != OpenErrorKind::Damaged {
                return Err(error);
            }
            report.add(error.message);
            Ok(report)
        }
    }
}

/// Opens a store for reading without a trace; with its log if `own_log` says that it belongs to the file and the log is
/// not empty.
fn open_read_only(file: &Path, own_log: bool) -> rusqlite::Result<Connection> {
    if own_log && fs::metadata(with_suffix(file, "-wal")).is_ok_and(|log| log.len() > 0) {
        return sqlite::connect(file);
    }
    sqlite::open_immutable(file)
}

/// Verifies the tables, the structure and every row, and adds what is damaged to `report`.
fn check_open_store(connection: &Connection, file: &Path, report: &mut CheckReport) -> rusqlite::Result<()> {
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let steps = usize::try_from(version).ok().and_then(|version| schema::MIGRATIONS.get(..version));
    match steps.filter(|steps| !steps.is_empty()).map(|steps| schema::check_tables(connection, file, steps)) {
        Some(Ok(())) => {}
        Some(Err(error)) => {
            report.add(error.message);
            return Ok(());
        }
        None => {
            report.add(format!("{}: has version {version}", file.display()));
            return Ok(());
        }
    }
    let name = |report: &mut CheckReport, table: &str, what: String| {
        report.add(format!("{}: {table}: {what}", file.display()))
    };
    check_structure(connection, &mut |what| name(report, "structure", what))?;
    let read = users::check(connection, |what| name(report, "table user", what));
    match read {
        Ok(count) => report.users = count,
        Err(error) => name(report, "table user", sqlite::error_text(&error)),
    }
    let seen = users::check_seen(connection, |what| {
        name(report, "table seen", what);
        Ok(())
    });
    if let Err(error) = seen {
        name(report, "table seen", error.text());
    }
    if let Err(error) = row::reserved(connection) {
        name(report, "table meta", error.text());
    }
    check_messages(connection, report, &name);
    Ok(())
}

/// Verifies every message that the table yields.
fn check_messages(connection: &Connection, report: &mut CheckReport, name: &dyn Fn(&mut CheckReport, &str, String)) {
    const TABLE: &str = "table message";
    let mut last = 0;
    let mut read = || -> rusqlite::Result<()> {
        let mut statement = connection.prepare(&format!("SELECT {MESSAGE_COLUMNS} FROM message ORDER BY id"))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let id = row::read_unsigned(row, 0)?;
            report.messages += 1;
            match row::read_message(row) {
                Ok(_) if id <= last => name(report, TABLE, format!("message {id} is out of order")),
                Ok(_) => {}
                Err(RowError::Damaged(what)) => name(report, TABLE, what),
                Err(RowError::Sql(error)) => return Err(error),
            }
            last = id;
        }
        Ok(())
    };
    if let Err(error) = read() {
        name(report, TABLE, format!("after message {last}: {}", sqlite::error_text(&error)));
    }
}

/// Runs SQLite's own check; its findings are passed on with the names of the tables that they concern.
fn check_structure(connection: &Connection, on_damage: &mut dyn FnMut(String)) -> rusqlite::Result<()> {
    let mut roots = Vec::new();
    let mut statement = connection.prepare("SELECT name, rootpage FROM sqlite_schema WHERE rootpage > 0")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        roots.push((row.get::<_, String>(0)?, row.get::<_, i64>(1)?));
    }
    let mut statement = connection.prepare(&format!("PRAGMA integrity_check({LISTED_MAX})"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let finding: String = row.get(0)?;
        for line in finding.lines().filter(|line| *line != "ok" && !line.starts_with("*** in database")) {
            let tree = line.strip_prefix("Tree ").and_then(|rest| rest.split(' ').next()?.parse::<i64>().ok());
            let table = tree.and_then(|tree| roots.iter().find(|(_, root)| *root == tree));
            on_damage(table.map_or_else(|| line.to_owned(), |(name, _)| format!("table {name}: {line}")));
        }
    }
    Ok(())
}
