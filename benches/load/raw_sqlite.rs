//! SQLite alone: the rows that cpd writes, in its durable mode, with nothing around them.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};

use crate::scripts::MESSAGE_BYTES;

/// Inserts rows for about `time`, `batch` to a commit, in a fresh database in `folder`.
pub fn rows_per_second(folder: &Path, batch: usize, time: Duration) -> Result<f64, String> {
    let path = folder.join(format!("raw-{batch}.db"));
    measure(&path, batch, time).map_err(|e| format!("{}: {e}", path.display()))
}

fn measure(path: &Path, batch: usize, time: Duration) -> rusqlite::Result<f64> {
    let mut database = Connection::open(path)?;
    database.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    database.pragma_update(None, "journal_mode", "WAL")?;
    database.pragma_update(None, "synchronous", "FULL")?;
    database.execute_batch(
        "CREATE TABLE message (id INTEGER PRIMARY KEY, recipient TEXT NOT NULL, sender TEXT NOT NULL,
                               queued_at INTEGER NOT NULL, checksum INTEGER NOT NULL, body BLOB NOT NULL) STRICT",
    )?;
    let body = vec![b'm'; MESSAGE_BYTES];
    let begun = Instant::now();
    let mut rows = 0_u64;
    while begun.elapsed() < time {
        let transaction = database.transaction()?;
        let mut insert = transaction.prepare_cached(
            "INSERT INTO message (recipient, sender, queued_at, checksum, body) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?;
        for _ in 0..batch {
            insert.execute(params!["u0001", "u0002", 1_700_000_000, 0xdead_beef_u32, body])?;
        }
        drop(insert);
        transaction.commit()?;
        rows += batch as u64;
    }
    Ok(rows as f64 / begun.elapsed().as_secs_f64())
}
