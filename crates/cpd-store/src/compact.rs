//! Copies a finished copy of the store once more, row by row between batches, to get rid of its free pages.

use std::collections::VecDeque;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Rows, Statement, ToSql};

use super::copy_target::CopyTarget;
use super::files::StoreFiles;
use super::format::PAGE_BYTES;
use super::schema::{self, APPLICATION_ID};

/// Rows that are copied before waiting batches are looked at again.
const STEP_ROWS: usize = 500;
/// For this many free pages or fewer no second copy is made.
const FREE_PAGES_IGNORED_MAX: u32 = 64;
/// Nor is one made if fewer than one page in this many is free.
const FREE_PAGES_MIN_DIVISOR: u32 = 8;

/// The copying of the rows of all tables, one table after another.
pub struct RowCopy<'a> {
    /// The tables that are not complete yet.
    tables: VecDeque<TableCopy<'a>>,
}

impl<'a> RowCopy<'a> {
    /// Takes the statements that [`prepare_statements`] returns.
    pub fn new(selects: &'a mut [Statement<'_>], inserts: Vec<Statement<'a>>) -> RowCopy<'a> {
        let table = |(select, insert): (&'a mut Statement<'_>, Statement<'a>)| {
            let columns = select.column_count();
            TableCopy { rows: select.raw_query(), insert, columns }
        };
        RowCopy { tables: selects.iter_mut().zip(inserts).map(table).collect() }
    }

    /// Copies some rows, and returns whether all tables are complete.
    pub fn step(&mut self) -> rusqlite::Result<bool> {
        while let Some(table) = self.tables.front_mut() {
            if !table.step()? {
                return Ok(false);
            }
            self.tables.pop_front();
        }
        Ok(true)
    }
}

/// The copying of one table.
struct TableCopy<'a> {
    rows: Rows<'a>,
    insert: Statement<'a>,
    columns: usize,
}

impl TableCopy<'_> {
    /// Copies some rows, and returns whether the table is complete.
    fn step(&mut self) -> rusqlite::Result<bool> {
        for _ in 0..STEP_ROWS {
            let Some(row) = self.rows.next()? else { return Ok(true) };
            for column in 0..self.columns {
                self.insert.raw_bind_parameter(column + 1, AsIs(row.get_ref(column)?))?;
            }
            self.insert.raw_execute()?;
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

/// Begins a copy of `source` without its free pages: returns where to copy to, in an open transaction, and the names of
/// the tables to be copied. `None` if a second copy is not worthwhile or cannot be made.
pub fn begin(place: &StoreFiles, source: &Connection) -> Option<(CopyTarget, Vec<String>)> {
    let live_bytes = live_bytes_if_worthwhile(source).ok()??;
    let target = CopyTarget::create(place, live_bytes).ok()?;
    let tables = create_tables(source, &target.connection).ok()?;
    Some((target, tables))
}

/// Prepares what [`RowCopy::new`] takes: for each table, a statement that reads its rows and one that writes them.
pub fn prepare_statements<'a>(
    source: &'a Connection,
    target: &'a Connection,
    tables: &[String],
) -> rusqlite::Result<(Vec<Statement<'a>>, Vec<Statement<'a>>)> {
    tables.iter().map(|table| prepare_table(source, target, table)).collect()
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

fn prepare_table<'a>(
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
