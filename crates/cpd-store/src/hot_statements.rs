//! The statements that a transaction executes by the thousand.

use rusqlite::{CachedStatement, Connection};

use super::row::message_sum;
use super::sqlite::{TrustedText, sqlite_integer};

/// The statements that a transaction executes by the thousand.
pub struct HotStatements<'c> {
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

impl<'c> HotStatements<'c> {
    pub fn prepare(connection: &'c Connection) -> rusqlite::Result<HotStatements<'c>> {
        Ok(HotStatements {
            insert: connection.prepare_cached(
                "INSERT INTO message(id, recipient, sender, queued_at, sum, body) VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
            )?,
            delete: connection.prepare_cached("DELETE FROM message WHERE id = ?1")?,
            delete_run: connection.prepare_cached("DELETE FROM message WHERE id BETWEEN ?1 AND ?2")?,
        })
    }

    pub fn insert(&mut self, m: &NewMessage<'_>) -> rusqlite::Result<()> {
        let sum = message_sum(m.id, m.recipient.as_bytes(), m.sender.as_bytes(), m.queued_at, m.body);
        self.insert.raw_bind_parameter(1, sqlite_integer(m.id)?)?;
        self.insert.raw_bind_parameter(2, TrustedText(m.recipient.as_bytes()))?;
        self.insert.raw_bind_parameter(3, TrustedText(m.sender.as_bytes()))?;
        self.insert.raw_bind_parameter(4, sqlite_integer(m.queued_at)?)?;
        self.insert.raw_bind_parameter(5, i64::from(sum))?;
        self.insert.raw_bind_parameter(6, TrustedText(m.body))?;
        self.insert.raw_execute()?;
        Ok(())
    }

    /// Deletes a message; a message that does not exist is no error.
    pub fn delete(&mut self, id: u64) -> rusqlite::Result<()> {
        self.delete.raw_bind_parameter(1, sqlite_integer(id)?)?;
        self.delete.raw_execute()?;
        Ok(())
    }

    /// Deletes messages by their ids, which must be in ascending order; consecutive ids share one statement.
    pub fn delete_ascending(&mut self, ids: &[u64]) -> rusqlite::Result<()> {
        for run in ids.chunk_by(|a, b| a.checked_add(1) == Some(*b)) {
            match run {
                [] => {}
                [id] => self.delete(*id)?,
                [first, .., last] => {
                    self.delete_run.raw_bind_parameter(1, sqlite_integer(*first)?)?;
                    self.delete_run.raw_bind_parameter(2, sqlite_integer(*last)?)?;
                    self.delete_run.raw_execute()?;
                }
            }
        }
        Ok(())
    }
}
