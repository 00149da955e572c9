//! A copy of a copy that holds what is alive and no empty pages, made row by row between batches.

use std::cell::RefCell;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Rows, Statement, ToSql};

use super::backup::{Copying, Target};
use super::cycle::Core;
use super::schema::{self, APPLICATION_ID, PAGE_BYTES};
use super::writer::{Exit, Inbox, serve};

/// Rows copied between two looks at what waits.
const STEP_ROWS: usize = 500;
/// Empty pages that are not worth a second copy.
const EMPTY_MAX_PAGES: u32 = 64;
/// The part of all pages that may be empty is one in this many.
const EMPTY_PART: u32 = 8;

/// A table on its way.
pub struct Squeeze<'a> {
    rows: RefCell<Rows<'a>>,
    insert: RefCell<Statement<'a>>,
    columns: usize,
}

impl Squeeze<'_> {
    /// Copies some rows; whether there are no more.
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

/// A value as it stands in its row, sound or not.
struct AsIs<'r>(ValueRef<'r>);

impl ToSql for AsIs<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(self.0))
    }
}

/// Serves batches and makes a copy of `source` between them. `None`: it is not worth it, or cannot be; `source` will do.
/// `Err`: serving came to an end.
pub fn run(
    core: &mut Core,
    connection: &Connection,
    inbox: &mut Inbox,
    source: &Connection,
) -> Result<Option<Target>, Exit> {
    let Ok(Some(alive)) = worth(source) else { return Ok(None) };
    let Ok(target) = Target::make(&core.place, alive) else { return Ok(None) };
    let Ok(tables) = begin(source, &target.connection) else { return Ok(None) };
    for table in tables {
        let Ok((mut select, insert)) = statements(source, &target.connection, &table) else {
            return Ok(None);
        };
        let columns = select.column_count();
        let copy = Squeeze { rows: RefCell::new(select.raw_query()), insert: RefCell::new(insert), columns };
        match serve(core, connection, inbox, Some(&Copying::Rows(copy))) {
            Exit::CopyOver(Ok(())) => {}
            Exit::CopyOver(Err(_)) => return Ok(None),
            other => return Err(other),
        }
    }
    Ok(target.connection.execute_batch("COMMIT").is_ok().then_some(target))
}

/// Bytes of the pages that hold something, if the others are many.
fn worth(connection: &Connection) -> rusqlite::Result<Option<u64>> {
    let pages = |pragma: &str| connection.query_row(pragma, [], |row| row.get::<_, u32>(0));
    let (all, empty) = (pages("PRAGMA page_count")?, pages("PRAGMA freelist_count")?);
    let worth = empty > EMPTY_MAX_PAGES && empty >= all / EMPTY_PART;
    Ok(worth.then(|| u64::from(all.saturating_sub(empty)).saturating_mul(u64::from(PAGE_BYTES))))
}

/// Makes the tables in the one transaction that all goes into; their names.
fn begin(source: &Connection, target: &Connection) -> rusqlite::Result<Vec<String>> {
    target.execute_batch(&format!("PRAGMA page_size={PAGE_BYTES}; PRAGMA application_id={APPLICATION_ID};"))?;
    schema::apply(target, 0, schema::MIGRATIONS)?;
    let mut statement =
        source.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")?;
    let tables = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
    target.execute_batch("BEGIN")?;
    Ok(tables)
}

fn statements<'a>(
    source: &'a Connection,
    target: &'a Connection,
    table: &str,
) -> rusqlite::Result<(Statement<'a>, Statement<'a>)> {
    // In the order of its tree, so that the new one is filled page by page.
    let select = source.prepare(&format!("SELECT * FROM \"{table}\""))?;
    let places: Vec<String> = (1..=select.column_count()).map(|number| format!("?{number}")).collect();
    // What a new store has in it already is the record of used ids.
    let insert = format!("INSERT OR REPLACE INTO \"{table}\" VALUES({})", places.join(", "));
    Ok((select, target.prepare(&insert)?))
}
