//! What is read between the writes: pages of messages, users, and what administrators ask.

use rusqlite::{Connection, ffi};

use super::cycle::{Core, slice};
use super::row::{self, RowError};
use super::{StoreEvent, admin, sqlite, users};
use crate::engine::port::{AdminAnswer, AdminOp, Answer, Batch, MessageId, Op, Page, PageMessage, RequestId};

/// An operation's answer, if it is a read that has one now.
pub fn read(core: &mut Core, connection: &Connection, batch: &Batch, op: &Op) -> Option<Answer> {
    match op {
        Op::Fetch { session, download, ids } => {
            let page = match page(connection, batch, ids.start, ids.end) {
                Ok(page) => Some(page),
                Err(error) => {
                    report(core, &error);
                    None
                }
            };
            Some(Answer::Page { session: *session, download: *download, page })
        }
        Op::Lookup { session, name, from } => {
            let record = users::login(connection, *name, *from).map_err(|error| report(core, &error));
            Some(Answer::Login { session: *session, record })
        }
        Op::Admin { request, op } => {
            let answer = admin_read(core, connection, *request, op)?;
            Some(Answer::Admin { request: *request, answer })
        }
        Op::Insert { .. } | Op::Delete { .. } | Op::Forget { .. } | Op::LoggedIn { .. } => None,
    }
}

fn admin_read(core: &mut Core, connection: &Connection, request: RequestId, op: &AdminOp) -> Option<AdminAnswer> {
    let held = |number: u64| core.held.as_ref().filter(|held| held.number == number);
    Some(match op {
        AdminOp::BackupBegin if core.copying || core.held.is_some() => AdminAnswer::Busy,
        AdminOp::BackupBegin => {
            core.copying = true;
            core.copy_wanted = Some(request);
            return None;
        }
        AdminOp::Shrink if core.copying || core.held.is_some() || core.shrink_wanted.is_some() => AdminAnswer::Busy,
        AdminOp::Shrink => {
            core.shrink_wanted = Some(request);
            return None;
        }
        AdminOp::BackupRead { backup, offset, length } => match held(*backup).map(|h| h.read(*offset, *length)) {
            Some(Ok(bytes)) => AdminAnswer::Bytes(bytes),
            Some(Err(e)) => AdminAnswer::Failed(format!("cannot read the copy: {e}")),
            None => AdminAnswer::Missing,
        },
        AdminOp::BackupEnd { backup } => {
            if held(*backup).is_some() {
                core.held = None;
            }
            AdminAnswer::Done
        }
        _ => admin::read(connection, &core.place, op, &|what| core.event(StoreEvent::DamagedRow(what))),
    })
}

fn report(core: &Core, error: &RowError) {
    core.event(match error {
        RowError::Damaged(what) => StoreEvent::DamagedRow(what.clone()),
        RowError::Sql(error) => StoreEvent::ReadFailed(sqlite::text(error)),
    });
}

/// The messages of a page, all of them or none.
fn page(connection: &Connection, batch: &Batch, start: u32, end: u32) -> Result<Page, RowError> {
    let ids = slice(&batch.ids, start, end)
        .ok_or_else(|| sqlite::error(ffi::SQLITE_MISUSE, "a page lies outside of its batch"))?;
    let mut statement = connection.prepare_cached(row::MESSAGES_BY_ID)?;
    let mut page = Page { messages: Vec::with_capacity(ids.len()), bytes: Vec::new() };
    for run in ids.chunk_by(|a, b| a.checked_add(1) == Some(*b)) {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
        statement.raw_bind_parameter(1, sqlite::rowid(*first)?)?;
        statement.raw_bind_parameter(2, sqlite::rowid(*last)?)?;
        let mut rows = statement.raw_query();
        for id in run {
            let missing = || RowError::Damaged(format!("message {id} is missing"));
            let message = row::message(rows.next()?.ok_or_else(missing)?)?;
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
