//! Copies a finished copy of the store once more, row by row between batches, to get rid of its free pages.

use std::cell::RefCell;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Rows, Statement, ToSql};

use super::backup::{CopyInProgress, CopyTarget};
use super::format::PAGE_BYTES;
use super::round::WriterState;
use super::schema::{self, APPLICATION_ID};
use super::writer::{Inbox, ServeExit, serve};

/// Rows that are copied before waiting batches are looked at again.
const STEP_ROWS: usize = 500;
/// As many free pages as this are not worth a second copy.
const FREE_PAGES_IGNORED_MAX: u32 = 64;
/// Nor are free pages that are fewer than one in this many of all pages.
const FREE_PAGES_MIN_DIVISOR: u32 = 8;

/// The copying of one table.
pub struct TableCopy<'a> {
    rows: RefCell<Rows<'a>>,
    insert: RefCell<Statement<'a>>,
    columns: usize,
}

impl TableCopy<'_> {
    /// Copies some rows, and returns whether the table is complete.
    pub fn step(&self) -> rusqlite::Result<bool> {
        let (mut rows, mut insert) = (self.rows.borrow_mut(), self.insert.borrow_mut());
        for _ in 0..STEP_ROWS {
            let Some(row) = rows.next()? else { return Ok(true) };
            for column in 0..self.columns {
                insert.raw_bind_parameter(column + 1, AsIs(row.get_ref(column)?))?;
            }
            insert.raw_execute()?;
        }
        Ok(false)
    }
}

/// A column's value, copied as it is, sound or not.
struct AsIs<'r>(ValueRef<'r>);

impl ToSql for AsIs<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(self.0))
    }
}

/// Serves batches and makes a copy of `source` between them. Returns `None` if a second copy is not worthwhile or
/// cannot be made; then `source` itself is to be used.
///
/// # Errors
/// Serving has ended, for the reason returned.
pub fn run(
    core: &mut WriterState,
    connection: &Connection,
    inbox: &mut Inbox,
    source: &Connection,
) -> Result<Option<CopyTarget>, ServeExit> {
    let Ok(Some(live_bytes)) = live_bytes_if_worthwhile(source) else { return Ok(None) };
    let Ok(target) = CopyTarget::create(&core.files, live_bytes) else { return Ok(None) };
    let Ok(tables) = create_tables(source, &target.connection) else { return Ok(None) };
    for table in tables {
        let Ok((mut select, insert)) = prepare_statements(source, &target.connection, &table) else {
            return Ok(None);
        };
        let columns = select.column_count();
        let copy = TableCopy { rows: RefCell::new(select.raw_query()), insert: RefCell::new(insert), columns };
        match serve(core, connection, inbox, Some(&CopyInProgress::Rows(copy))) {
            ServeExit::CopyEnded(Ok(())) => {}
            ServeExit::CopyEnded(Err(_)) => return Ok(None),
            other => return Err(other),
        }
    }
    Ok(target.connection.execute_batch("COMMIT").is_ok().then_some(target))
}

/// Bytes of the pages in use. `None`: there are too few free pages to make a copy worthwhile.
fn live_bytes_if_worthwhile(connection: &Connection) -> rusqlite::Result<Option<u64>> {
    let pages = |pragma: &str| connection.query_row(pragma, [], |row| row.get::<_, u32>(0));
    let (all, empty) = (pages("PRAGMA page_count")?, pages("PRAGMA freelist_count")?);
    let worth = empty > FREE_PAGES_IGNORED_MAX && empty >= all / FREE_PAGES_MIN_DIVISOR;
    Ok(worth.then(|| u64::from(all.saturating_sub(empty)).saturating_mul(u64::from(PAGE_BYTES))))
}

/// Creates the tables, begins the transaction into which all rows go, and returns the names of the tables.
fn create_tables(source: &Connection, target: &Connection) -> rusqlite::Result<Vec<String>> {
    target.execute_batch(&format!("PRAGMA page_size={PAGE_BYTES}; PRAGMA application_id={APPLICATION_ID};"))?;
    schema::apply_migrations(target, 0, schema::MIGRATIONS)?;
    let mut statement =
        source.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")?;
    let tables = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
    target.execute_batch("BEGIN")?;
    Ok(tables)
}

fn prepare_statements<'a>(
    source: &'a Connection,
    target: &'a Connection,
    table: &str,
) -> rusqlite::Result<(Statement<'a>, Statement<'a>)> {
    // Rows are read in the order of the table's b-tree, so that the new one is filled page by page.
    let select = source.prepare(&format!("SELECT * FROM \"{table}\""))?;
    let places: Vec<String> = (1..=select.column_count()).map(|number| format!("?{number}")).collect();
    // A new store contains one row already, the record of used ids; it is replaced.
    let insert = format!("INSERT OR REPLACE INTO \"{table}\" VALUES({})", places.join(", "));
    Ok((select, target.prepare(&insert)?))
}
