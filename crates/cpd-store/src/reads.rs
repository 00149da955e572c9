//! Reads, which are executed between the writes: pages of messages, users, and operators' requests.

use cpd_core::engine::port::{AdminAnswer, AdminOp, Answer, Batch, MessageId, Op, Page, PageMessage, RequestId};
use rusqlite::{Connection, ffi};

use super::event::StoreEvent;
use super::row::{self, RowError};
use super::state::WriterState;
use super::{admin_ops, sqlite, users};

/// The answer to an operation; `None` if it is a write, or if it is a backup or a shrink, which is answered later.
pub fn answer_read(core: &mut WriterState, connection: &Connection, batch: &Batch, op: &Op) -> Option<Answer> {
    match op {
        Op::Fetch { session, download, ids } => {
            let page = match read_page(connection, batch, ids.start, ids.end) {
                Ok(page) => Some(page),
                Err(error) => {
                    report(core, &error);
                    None
                }
            };
            Some(Answer::Page { session: *session, download: *download, page })
        }
        Op::Lookup { session, name, from } => {
            let record = users::login_record(connection, *name, *from).map_err(|error| report(core, &error));
            Some(Answer::Login { session: *session, record })
        }
        Op::Admin { request, op } => {
            let answer = admin_read(core, connection, *request, op)?;
            Some(Answer::Admin { request: *request, answer })
        }
        Op::Insert { .. } | Op::Delete { .. } | Op::DeleteExpired { .. } | Op::LoggedIn { .. } => None,
    }
}

fn admin_read(
    core: &mut WriterState,
    connection: &Connection,
    request: RequestId,
    op: &AdminOp,
) -> Option<AdminAnswer> {
    let held = |number: u64| core.held_backup.as_ref().filter(|held| held.number == number);
    Some(match op {
        AdminOp::BackupBegin if core.backup_active || core.held_backup.is_some() => AdminAnswer::Busy,
        AdminOp::BackupBegin => {
            core.backup_active = true;
            core.backup_requested = Some(request);
            return None;
        }
        AdminOp::Shrink if core.backup_active || core.held_backup.is_some() || core.shrink_requested.is_some() => {
            AdminAnswer::Busy
        }
        AdminOp::Shrink => {
            core.shrink_requested = Some(request);
            return None;
        }
        AdminOp::BackupRead { backup, offset, length } => match held(*backup).map(|h| h.read(*offset, *length)) {
            Some(Ok(bytes)) => AdminAnswer::Bytes(bytes),
            Some(Err(e)) => AdminAnswer::Failed(format!("cannot read the copy: {e}")),
            None => AdminAnswer::Missing,
        },
        AdminOp::BackupEnd { backup } => {
            if held(*backup).is_some() {
                core.held_backup = None;
            }
            AdminAnswer::Done
        }
        _ => admin_ops::read(connection, &core.files, op, &|what| core.event(StoreEvent::DamagedRow(what))),
    })
}

fn report(core: &WriterState, error: &RowError) {
    core.event(match error {
        RowError::Damaged(what) => StoreEvent::DamagedRow(what.clone()),
        RowError::Sql(error) => StoreEvent::ReadFailed(sqlite::error_text(error)),
    });
}

/// Reads the messages of a page.
///
/// # Errors
/// One of them is missing, damaged, or cannot be read: no part of a page is handed out.
fn read_page(connection: &Connection, batch: &Batch, start: u32, end: u32) -> Result<Page, RowError> {
    let ids = slice(&batch.ids, start, end)
        .ok_or_else(|| sqlite::new_error(ffi::SQLITE_MISUSE, "a page lies outside of its batch"))?;
    let mut statement = connection.prepare_cached(row::SELECT_MESSAGE_RANGE)?;
    let mut page = Page { messages: Vec::with_capacity(ids.len()), ..Page::default() };
    for run in ids.chunk_by(|a, b| a.checked_add(1) == Some(*b)) {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
        statement.raw_bind_parameter(1, sqlite::sqlite_integer(*first)?)?;
        statement.raw_bind_parameter(2, sqlite::sqlite_integer(*last)?)?;
        let mut rows = statement.raw_query();
        for id in run {
            let missing = || RowError::Damaged(format!("message {id} is missing"));
            let message = row::read_message(rows.next()?.ok_or_else(missing)?)?;
            if message.id != *id {
                return Err(missing());
            }
            let begin = u32::try_from(page.bytes.len()).unwrap_or(u32::MAX);
            page.bytes.extend_from_slice(message.body);
            let body = begin..u32::try_from(page.bytes.len()).unwrap_or(u32::MAX);
            page.messages.push(PageMessage { id: MessageId(message.id), sender: message.sender, body });
        }
    }
    Ok(page)
}

/// The part of a batch's `bytes` or `ids` that a range of one of its operations names; `None` if it lies outside.
pub fn slice<T>(all: &[T], start: u32, end: u32) -> Option<&[T]> {
    all.get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
}
