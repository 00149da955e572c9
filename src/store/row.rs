//! Rows and their checksums: nothing that is read is believed before its sum matches.

use crc32fast::Hasher;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row};

use super::sqlite::Text;
use crate::engine::port::{MessageId, StoredMessage};
use crate::proto::types::Username;
use crate::sabotage;

/// Message ids are reserved in blocks of this many, so that the reservation is rarely written.
pub const RESERVE_IDS: u64 = 65_536;

/// The columns of a message in the order that [`message`] reads.
pub const MESSAGE_COLUMNS: &str = "id, recipient, sender, queued_at, sum, body";

/// A message by its id, in the same columns.
pub const MESSAGES_BY_ID: &str =
    "SELECT id, recipient, sender, queued_at, sum, body FROM message WHERE id BETWEEN ?1 AND ?2 ORDER BY id";
pub const MESSAGE_BY_ID: &str = "SELECT id, recipient, sender, queued_at, sum, body FROM message WHERE id = ?1";

/// Why a row could not be had.
#[derive(Debug)]
pub enum RowError {
    /// It is not what was written.
    Damaged(String),
    Sql(rusqlite::Error),
}

impl From<rusqlite::Error> for RowError {
    fn from(error: rusqlite::Error) -> RowError {
        RowError::Sql(error)
    }
}

impl RowError {
    /// The cause for people.
    pub fn text(&self) -> String {
        match self {
            RowError::Damaged(what) => what.clone(),
            RowError::Sql(error) => super::sqlite::text(error),
        }
    }
}

/// The checksum of a message. Lengths come before what they measure, so that no byte can move from one field to
/// another unseen.
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

/// The checksum of a row of another table, `kind` telling them apart.
pub fn sum(kind: &[u8], fields: &[&[u8]]) -> u32 {
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

/// A message as it stands in its row.
pub struct Message<'r> {
    pub id: u64,
    pub recipient: Username,
    pub sender: Username,
    pub queued_at: u64,
    pub body: &'r [u8],
}

/// The message in a row of [`MESSAGE_COLUMNS`], verified.
pub fn message<'r>(row: &'r Row<'_>) -> Result<Message<'r>, RowError> {
    let id = number(row, 0)?;
    let damaged = || RowError::Damaged(format!("message {id} does not match its checksum"));
    let (recipient, sender, body) = (text(row, 1)?, text(row, 2)?, text(row, 5)?);
    let (Some(recipient), Some(sender), Some(body)) = (recipient, sender, body) else { return Err(damaged()) };
    let queued_at = number(row, 3)?;
    let matches = number(row, 4)? == u64::from(message_sum(id, recipient, sender, queued_at, body));
    if !matches && !sabotage::is(sabotage::Fault::TrustedRows) {
        return Err(damaged());
    }
    let (Some(recipient), Some(sender)) = (Username::parse(recipient), Username::parse(sender)) else {
        return Err(RowError::Damaged(format!("message {id} has an impossible name")));
    };
    Ok(Message { id, recipient, sender, queued_at, body })
}

/// A whole number of 0 or more; others are the maximum, which no checksum matches.
pub fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    Ok(match row.get_ref(column)? {
        ValueRef::Integer(value) => u64::try_from(value).unwrap_or(u64::MAX),
        _ => u64::MAX,
    })
}

/// The bytes of a text; `None` when the column holds anything else.
pub fn text<'r>(row: &'r Row<'_>, column: usize) -> rusqlite::Result<Option<&'r [u8]>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Text(bytes) => Some(bytes),
        _ => None,
    })
}

/// Hands every message to `on_message`, in the order of their ids; ends at the first that is damaged.
pub fn each_message(connection: &Connection, mut on_message: impl FnMut(StoredMessage)) -> Result<(), RowError> {
    let mut statement = connection.prepare(&format!("SELECT {MESSAGE_COLUMNS} FROM message ORDER BY id"))?;
    let mut rows = statement.query([])?;
    let mut last = None;
    while let Some(row) = rows.next()? {
        let message = message(row)?;
        // A damaged tree can hand out a row twice, or out of order.
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

/// The key of the record of used ids.
pub const RESERVED: &str = "reserved";

/// What the file is told by from its earlier states: see [`super::watch`].
const MARK: &str = "mark";

/// Records `mark`, which takes all of eight bytes.
pub fn set_mark(connection: &Connection, mark: u64) -> rusqlite::Result<()> {
    set_meta(connection, MARK, mark)
}

/// The first id that is not reserved.
pub fn reserved(connection: &Connection) -> Result<u64, RowError> {
    let damaged = || RowError::Damaged("the record of used message ids does not match its checksum".to_owned());
    let found = connection
        .prepare_cached("SELECT value, sum FROM meta WHERE key = ?1")?
        .query_row([RESERVED], |row| Ok((number(row, 0)?, number(row, 1)?)))
        .optional()?;
    match found {
        Some((value, check)) if check == u64::from(meta_sum(RESERVED, value)) => Ok(value),
        _ => Err(damaged()),
    }
}

/// Records that ids below `value` may be in use.
pub fn set_reserved(connection: &Connection, value: u64) -> rusqlite::Result<()> {
    set_meta(connection, RESERVED, value)
}

fn set_meta(connection: &Connection, key: &str, value: u64) -> rusqlite::Result<()> {
    connection.prepare_cached("INSERT OR REPLACE INTO meta(key, value, sum) VALUES(?1, ?2, ?3)")?.execute((
        Text(key.as_bytes()),
        super::sqlite::rowid(value)?,
        meta_sum(key, value),
    ))?;
    Ok(())
}

/// The checksum of such a record.
pub fn meta_sum(key: &str, value: u64) -> u32 {
    sum(b"meta", &[key.as_bytes(), &value.to_le_bytes()])
}
