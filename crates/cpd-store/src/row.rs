//! Rows and their checksums: no row is used before its checksum was verified.

use cp_proto::values::Username;
use cpd_core::engine::port::{MessageId, StoredMessage};
use cpd_core::sabotage;
use crc32fast::Hasher;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row};

use super::sqlite::{self, TrustedText};

/// Message ids are reserved in blocks of this size, so that the reservation is rarely written.
pub const ID_BLOCK_SIZE: u64 = 65_536;

/// The columns of a message in the order in which [`read_message`] reads them.
pub const MESSAGE_COLUMNS: &str = "id, recipient, sender, queued_at, sum, body";

/// Selects the messages with ids in a range, with the columns of [`MESSAGE_COLUMNS`].
pub const SELECT_MESSAGE_RANGE: &str =
    "SELECT id, recipient, sender, queued_at, sum, body FROM message WHERE id BETWEEN ?1 AND ?2 ORDER BY id";
/// Selects one message by its id, with the columns of [`MESSAGE_COLUMNS`].
pub const SELECT_MESSAGE: &str = "SELECT id, recipient, sender, queued_at, sum, body FROM message WHERE id = ?1";

/// Why a row could not be read.
#[derive(Debug)]
pub enum RowError {
    /// It is missing, or not as it was written; the text names it.
    Damaged(String),
    Sql(rusqlite::Error),
}

impl From<rusqlite::Error> for RowError {
    fn from(error: rusqlite::Error) -> RowError {
        RowError::Sql(error)
    }
}

impl RowError {
    /// The cause as human-readable text.
    pub fn text(&self) -> String {
        match self {
            RowError::Damaged(what) => what.clone(),
            RowError::Sql(error) => sqlite::error_text(error),
        }
    }
}

/// The checksum of a message. It covers the lengths of the fields, so that moving a byte from one field to the next
/// changes it.
pub fn message_sum(id: u64, recipient: &[u8], sender: &[u8], queued_at: u64, body: &[u8]) -> u32 {
    let mut head = [0u8; 32];
    head[0] = b'm';
    head[4..8].copy_from_slice(&length(recipient));
    head[8..12].copy_from_slice(&length(sender));
    head[12..16].copy_from_slice(&length(body));
    head[16..24].copy_from_slice(&id.to_le_bytes());
    head[24..32].copy_from_slice(&queued_at.to_le_bytes());
    let mut hasher = Hasher::new();
    hasher.update(&head);
    hasher.update(recipient);
    hasher.update(sender);
    hasher.update(body);
    hasher.finalize()
}

/// The checksum of a row of another table; `kind` makes the checksums of different tables differ.
pub fn row_sum(kind: &[u8], fields: &[&[u8]]) -> u32 {
    let mut hasher = Hasher::new();
    for field in std::iter::once(&kind).chain(fields) {
        hasher.update(&length(field));
        hasher.update(field);
    }
    hasher.finalize()
}

fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes()
}

/// A message as its row holds it; `queued_at` is in seconds since 1970.
pub struct Message<'r> {
    pub id: u64,
    pub recipient: Username,
    pub sender: Username,
    pub queued_at: u64,
    pub body: &'r [u8],
}

/// Reads and verifies the message in a row of [`MESSAGE_COLUMNS`].
///
/// # Errors
/// The row is damaged or cannot be read.
pub fn read_message<'r>(row: &'r Row<'_>) -> Result<Message<'r>, RowError> {
    let id = read_unsigned(row, 0)?;
    let damaged = || RowError::Damaged(format!("message {id} does not match its checksum"));
    let (recipient, sender, body) = (read_text(row, 1)?, read_text(row, 2)?, read_text(row, 5)?);
    let (Some(recipient), Some(sender), Some(body)) = (recipient, sender, body) else { return Err(damaged()) };
    let queued_at = read_unsigned(row, 3)?;
    let matches = read_unsigned(row, 4)? == u64::from(message_sum(id, recipient, sender, queued_at, body));
    if !matches && !sabotage::is_ordered(sabotage::Fault::TrustedRows) {
        return Err(damaged());
    }
    let (Some(recipient), Some(sender)) = (Username::parse(recipient), Username::parse(sender)) else {
        return Err(RowError::Damaged(format!("message {id} has an impossible name")));
    };
    Ok(Message { id, recipient, sender, queued_at, body })
}

/// Reads a non-negative integer; anything else becomes `u64::MAX`, for which no checksum matches.
pub fn read_unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    Ok(match row.get_ref(column)? {
        ValueRef::Integer(value) => u64::try_from(value).unwrap_or(u64::MAX),
        _ => u64::MAX,
    })
}

/// Reads the bytes of a text; `None` if the column holds anything else.
pub fn read_text<'r>(row: &'r Row<'_>, column: usize) -> rusqlite::Result<Option<&'r [u8]>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Text(bytes) => Some(bytes),
        _ => None,
    })
}

/// Passes every message to `on_message`, in the order of their ids.
///
/// # Errors
/// A row is damaged or cannot be read; the rows after it are not passed.
pub fn each_message(connection: &Connection, mut on_message: impl FnMut(StoredMessage)) -> Result<(), RowError> {
    let mut statement = connection.prepare(&format!("SELECT {MESSAGE_COLUMNS} FROM message ORDER BY id"))?;
    let mut rows = statement.query([])?;
    let mut last = None;
    while let Some(row) = rows.next()? {
        let message = read_message(row)?;
        // A damaged B-tree can yield a row twice, or out of order.
        if last.is_some_and(|last| message.id <= last) {
            return Err(RowError::Damaged(format!("message {} is out of order", message.id)));
        }
        last = Some(message.id);
        let Ok(bytes) = u16::try_from(message.body.len()) else {
            return Err(RowError::Damaged(format!("message {} is too long", message.id)));
        };
        let Message { id, recipient, sender, queued_at, .. } = message;
        on_message(StoredMessage { id: MessageId(id), recipient, sender, queued_at, bytes });
    }
    Ok(())
}

/// The key under which the table `meta` records the used message ids.
pub const RESERVED_KEY: &str = "reserved";

/// The key of the mark that distinguishes the file from its earlier states: see [`super::watch`].
const MARK_KEY: &str = "mark";

/// Records `mark`, which must be so large that SQLite stores it in eight bytes.
pub fn set_mark(connection: &Connection, mark: u64) -> rusqlite::Result<()> {
    set_meta(connection, MARK_KEY, mark)
}

/// The first message id that is not reserved.
pub fn reserved(connection: &Connection) -> Result<u64, RowError> {
    let damaged = || RowError::Damaged("the record of used message ids does not match its checksum".to_owned());
    let found = connection
        .prepare_cached("SELECT value, sum FROM meta WHERE key = ?1")?
        .query_row([RESERVED_KEY], |row| Ok((read_unsigned(row, 0)?, read_unsigned(row, 1)?)))
        .optional()?;
    match found {
        Some((value, check)) if check == u64::from(meta_sum(RESERVED_KEY, value)) => Ok(value),
        _ => Err(damaged()),
    }
}

/// Records that message ids below `value` may be in use.
pub fn set_reserved(connection: &Connection, value: u64) -> rusqlite::Result<()> {
    set_meta(connection, RESERVED_KEY, value)
}

fn set_meta(connection: &Connection, key: &str, value: u64) -> rusqlite::Result<()> {
    connection.prepare_cached("INSERT OR REPLACE INTO meta(key, value, sum) VALUES(?1, ?2, ?3)")?.execute((
        TrustedText(key.as_bytes()),
        sqlite::sqlite_integer(value)?,
        meta_sum(key, value),
    ))?;
    Ok(())
}

/// The checksum of a row of the table `meta`.
pub fn meta_sum(key: &str, value: u64) -> u32 {
    row_sum(b"meta", &[key.as_bytes(), &value.to_le_bytes()])
}
