//! Whether a store is sound: every row against its checksum, and SQLite's own check of the file's structure. Of a store that
//! need not open, without changing anything of it.

use std::fs;
use std::path::Path;

use rusqlite::Connection;

use super::files::{self, with_suffix};
use super::row::{self, MESSAGE_COLUMNS, RowError};
use super::{OpenError, OpenErrorKind, entry, lock, schema, sqlite, users};

/// Lines of damage that are named.
pub const NAMED_MAX: usize = 100;

/// What a sound store holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Contents {
    pub users: u64,
    pub messages: u64,
    /// No message has had this id, nor any above, as far as the file knows.
    pub first_free_id: u64,
}

/// What a check has found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    pub users: u64,
    pub messages: u64,
    /// What is damaged, the first [`NAMED_MAX`] of it.
    pub damage: Vec<String>,
    /// What is damaged beside.
    pub more: u64,
}

impl Report {
    fn add(&mut self, what: String) {
        if self.damage.len() < NAMED_MAX {
            self.damage.push(what);
        } else {
            self.more += 1;
        }
    }
}

/// Verifies everything of a store of the current version; ends at the first damage.
pub fn whole(connection: &Connection, file: &Path) -> Result<Contents, OpenError> {
    let (mut contents, as_open) = (Contents { users: 0, messages: 0, first_free_id: 0 }, |e| OpenError::row(file, &e));
    users::each(connection, None, u32::MAX, |_| contents.users += 1).map_err(as_open)?;
    users::check_seen(connection, |what| Err(RowError::Damaged(what))).map_err(as_open)?;
    contents.first_free_id = row::reserved(connection).map_err(as_open)?;
    row::each_message(connection, |message| {
        contents.messages += 1;
        contents.first_free_id = contents.first_free_id.max(message.id.0.saturating_add(1));
    })
    .map_err(as_open)?;
    let mut found = None;
    structure(connection, &mut |what| found = found.take().or(Some(what)))
        .map_err(|e| OpenError::sql(file, "cannot check the file's structure", &e))?;
    match found {
        None => Ok(contents),
        Some(what) => Err(OpenError::row(file, &RowError::Damaged(what))),
    }
}

/// Names everything that is damaged in the store at `path`, which no cpd serves. Changes nothing. Errors: it cannot be read,
/// or is of a later version.
pub fn check(path: &Path) -> Result<Report, OpenError> {
    let file = entry::resolve(path)?;
    let folder = file.parent().map(Path::to_path_buf).unwrap_or_default();
    let _lock = lock::for_tool(&with_suffix(&file, "-lock"), &folder, &file, false)?;
    let mut report = Report::default();
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
    let history = files::read_history(&file)?;
    let own_log = match files::origin(&file, &history) {
        Ok(_) => true,
        Err(error) if error.kind == OpenErrorKind::Foreign => {
            report.add(error.message);
            false
        }
        Err(error) => return Err(error),
    };
    let opened = view(&file, own_log).and_then(|connection| look(&connection, &file, &mut report).map(|()| connection));
    match opened {
        Ok(_) => Ok(report),
        Err(error) => {
            let error = OpenError::sql(&file, "cannot read", &error);
            if error.kind != OpenErrorKind::Damaged {
                return Err(error);
            }
            report.add(error.message);
            Ok(report)
        }
    }
}

/// Opens a store to be read, without a trace of that; with its log, if that is its own and has anything in it.
fn view(file: &Path, own_log: bool) -> rusqlite::Result<Connection> {
    if own_log && fs::metadata(with_suffix(file, "-wal")).is_ok_and(|log| log.len() > 0) {
        return sqlite::connect(file);
    }
    sqlite::view(file)
}

fn look(connection: &Connection, file: &Path, report: &mut Report) -> rusqlite::Result<()> {
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
    let name =
        |report: &mut Report, table: &str, what: String| report.add(format!("{}: {table}: {what}", file.display()));
    structure(connection, &mut |what| name(report, "structure", what))?;
    let read = users::check(connection, |what| name(report, "table user", what));
    match read {
        Ok(count) => report.users = count,
        Err(error) => name(report, "table user", sqlite::text(&error)),
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
    messages(connection, report, &name);
    Ok(())
}

/// Verifies every message that the table hands out.
fn messages(connection: &Connection, report: &mut Report, name: &dyn Fn(&mut Report, &str, String)) {
    const TABLE: &str = "table message";
    let mut last = 0;
    let mut read = || -> rusqlite::Result<()> {
        let mut statement = connection.prepare(&format!("SELECT {MESSAGE_COLUMNS} FROM message ORDER BY id"))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let id = row::number(row, 0)?;
            report.messages += 1;
            match row::message(row) {
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
        name(report, TABLE, format!("after message {last}: {}", sqlite::text(&error)));
    }
}

/// SQLite's own check, with the tables by name.
fn structure(connection: &Connection, on_damage: &mut dyn FnMut(String)) -> rusqlite::Result<()> {
    let mut roots = Vec::new();
    let mut statement = connection.prepare("SELECT name, rootpage FROM sqlite_schema WHERE rootpage > 0")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        roots.push((row.get::<_, String>(0)?, row.get::<_, i64>(1)?));
    }
    let mut statement = connection.prepare(&format!("PRAGMA integrity_check({NAMED_MAX})"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let said: String = row.get(0)?;
        for line in said.lines().filter(|line| *line != "ok" && !line.starts_with("*** in database")) {
            let tree = line.strip_prefix("Tree ").and_then(|rest| rest.split(' ').next()?.parse::<i64>().ok());
            let table = tree.and_then(|tree| roots.iter().find(|(_, root)| *root == tree));
            on_damage(table.map_or_else(|| line.to_owned(), |(name, _)| format!("table {name}: {line}")));
        }
    }
    Ok(())
}
