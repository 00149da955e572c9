//! What administrators ask for. A write is executed inside the cycle's transaction and can be executed once more when
//! it is unknown whether that transaction was stored.

use std::ops::ControlFlow;

use rusqlite::Connection;

use super::files::Place;
use super::row::{self, MESSAGE_COLUMNS, RowError};
use super::sqlite::{self, Hot};
use super::users::{self, User};
use crate::engine::port::{AdminAnswer, AdminOp, MessageId, MessageRow, UserRow};

/// Users in one answer.
pub const USERS_MAX: u32 = 1000;
/// Messages in one answer.
pub const MESSAGES_MAX: usize = 1000;
/// Messages that one check reads; the writer does nothing else meanwhile.
pub const CHECK_MAX_ROWS: u32 = 10_000;
/// Damaged rows that one answer names.
pub const DAMAGED_MAX: usize = 100;

/// Whether the request changes the store.
pub fn is_write(op: &AdminOp) -> bool {
    match op {
        AdminOp::UserAdd { .. }
        | AdminOp::UserPasswd { .. }
        | AdminOp::UserLock { .. }
        | AdminOp::UserRemove { .. }
        | AdminOp::Purge { .. } => true,
        AdminOp::Users { .. }
        | AdminOp::User { .. }
        | AdminOp::Messages { .. }
        | AdminOp::BackupBegin
        | AdminOp::BackupRead { .. }
        | AdminOp::BackupEnd { .. }
        | AdminOp::Check { .. }
        | AdminOp::Shrink
        | AdminOp::Size => false,
    }
}

/// Executes a write. `Err`: the transaction cannot be; what concerns this request alone is an answer.
pub fn write(connection: &Connection, hot: &mut Hot<'_>, op: &AdminOp) -> rusqlite::Result<AdminAnswer> {
    match perform(connection, hot, op) {
        Ok(answer) => Ok(answer),
        Err(RowError::Damaged(what)) => Ok(AdminAnswer::Failed(what)),
        Err(RowError::Sql(error)) => Err(error),
    }
}

fn perform(connection: &Connection, hot: &mut Hot<'_>, op: &AdminOp) -> Result<AdminAnswer, RowError> {
    let change = |name, change: &dyn Fn(&mut User)| -> Result<AdminAnswer, RowError> {
        let Some(mut found) = users::find(connection, name)? else { return Ok(AdminAnswer::Missing) };
        change(&mut found);
        users::write(connection, &found)?;
        Ok(AdminAnswer::Done)
    };
    match op {
        AdminOp::UserAdd { name, hash, at } => {
            if users::find(connection, *name)?.is_some() {
                return Ok(AdminAnswer::Exists);
            }
            let user = User { name: *name, hash: hash.clone(), locked: false, created: *at, last_login: None };
            users::write(connection, &user)?;
            Ok(AdminAnswer::Done)
        }
        AdminOp::UserPasswd { name, hash } => change(*name, &|user| user.hash.clone_from(hash)),
        AdminOp::UserLock { name, locked } => change(*name, &|user| user.locked = *locked),
        AdminOp::UserRemove { name, ids } => {
            if users::find(connection, *name)?.is_none() {
                return Ok(AdminAnswer::Missing);
            }
            users::remove(connection, *name)?;
            delete(hot, ids)?;
            Ok(AdminAnswer::Done)
        }
        AdminOp::Purge { ids } => {
            delete(hot, ids)?;
            Ok(AdminAnswer::Done)
        }
        _ => Ok(AdminAnswer::Failed("not a write".to_owned())),
    }
}

/// Executes once more a write that had this answer in a transaction of which nobody knows whether it was stored.
pub fn again(connection: &Connection, hot: &mut Hot<'_>, op: &AdminOp, answer: &AdminAnswer) -> rusqlite::Result<()> {
    if !matches!(answer, AdminAnswer::Done) {
        return Ok(());
    }
    match op {
        AdminOp::UserAdd { name, hash, at } => {
            let user = User { name: *name, hash: hash.clone(), locked: false, created: *at, last_login: None };
            users::write(connection, &user)
        }
        AdminOp::UserRemove { name, ids } => {
            users::remove(connection, *name)?;
            delete(hot, ids)
        }
        _ => write(connection, hot, op).map(|_| ()),
    }
}

fn delete(hot: &mut Hot<'_>, ids: &[u64]) -> rusqlite::Result<()> {
    ids.iter().try_for_each(|id| hot.delete(*id))
}

/// Answers a read. `on_damage` hears of rows that had to be left out.
pub fn read(connection: &Connection, place: &Place, op: &AdminOp, on_damage: &dyn Fn(String)) -> AdminAnswer {
    let answer = match op {
        AdminOp::Users { after, limit } => {
            let mut rows: Vec<UserRow> = Vec::new();
            users::each(connection, *after, (*limit).min(USERS_MAX), |user| rows.push(user.row()))
                .map(|()| AdminAnswer::Users(rows))
        }
        AdminOp::User { name } => users::find(connection, *name).map(|found| match found {
            Some(user) => AdminAnswer::Users(vec![user.row()]),
            None => AdminAnswer::Missing,
        }),
        AdminOp::Messages { ids, bodies } => messages(connection, ids, *bodies, on_damage),
        AdminOp::Check { after, limit } => check(connection, *after, (*limit).min(CHECK_MAX_ROWS)),
        AdminOp::Size => Ok(AdminAnswer::Size { bytes: place.bytes() }),
        _ => Ok(AdminAnswer::Failed("not a read".to_owned())),
    };
    answer.unwrap_or_else(|error| AdminAnswer::Failed(error.text()))
}

fn messages(
    connection: &Connection,
    ids: &[u64],
    bodies: bool,
    on_damage: &dyn Fn(String),
) -> Result<AdminAnswer, RowError> {
    let mut statement = connection.prepare_cached(row::MESSAGE_BY_ID)?;
    let mut found = Vec::with_capacity(ids.len().min(MESSAGES_MAX));
    for id in ids.iter().take(MESSAGES_MAX) {
        let mut rows = statement.query([sqlite::rowid(*id)?])?;
        match rows.next()?.map(row::message).transpose() {
            Ok(None) => {}
            Ok(Some(message)) => found.push(MessageRow {
                id: MessageId(message.id),
                sender: message.sender,
                queued_at: message.queued_at,
                bytes: u32::try_from(message.body.len()).unwrap_or(u32::MAX),
                body: bodies.then(|| String::from_utf8_lossy(message.body).into_owned()),
            }),
            Err(RowError::Damaged(what)) => on_damage(what),
            Err(error) => return Err(error),
        }
    }
    Ok(AdminAnswer::Messages(found))
}

/// Verifies messages after `after`, and what is not a message when that is 0.
fn check(connection: &Connection, after: u64, limit: u32) -> Result<AdminAnswer, RowError> {
    let mut damaged = Vec::new();
    let mut rows = 0;
    let mut name = |what: String| {
        if damaged.len() < DAMAGED_MAX {
            damaged.push(what);
        }
    };
    let next = match check_rows(connection, after, limit.max(1), &mut rows, &mut name) {
        Ok(next) => next,
        // A damaged tree ends the way through it: say so rather than fail, it is what was asked.
        Err(error) if sqlite::kind(&error) == super::OpenErrorKind::Damaged => {
            name(format!("the file's structure after message {after}: {}", sqlite::text(&error)));
            None
        }
        Err(error) => return Err(RowError::Sql(error)),
    };
    Ok(AdminAnswer::Checked { rows, damaged, next })
}

fn check_rows(
    connection: &Connection,
    after: u64,
    limit: u32,
    count: &mut u64,
    name: &mut dyn FnMut(String),
) -> rusqlite::Result<Option<u64>> {
    if after == 0 {
        *count += users::check(connection, &mut *name)?;
        let seen = users::check_seen(connection, |what| {
            name(what);
            Ok(())
        });
        if let ControlFlow::Continue(seen) = note(seen, name)? {
            *count += seen;
        }
        if let ControlFlow::Continue(_) = note(row::reserved(connection), name)? {
            *count += 1;
        }
    }
    let sql = format!("SELECT {MESSAGE_COLUMNS} FROM message WHERE id > ?1 ORDER BY id LIMIT ?2");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query((sqlite::rowid(after)?, limit))?;
    let (mut read, mut last) = (0, after);
    while let Some(row) = rows.next()? {
        read += 1;
        last = row::number(row, 0)?;
        let _ = note(row::message(row), name)?;
    }
    *count += u64::from(read);
    Ok((read == limit && last > after).then_some(last))
}

/// Names a damaged row and goes on; other errors end the check.
fn note<T>(found: Result<T, RowError>, name: &mut dyn FnMut(String)) -> rusqlite::Result<ControlFlow<(), T>> {
    match found {
        Ok(found) => Ok(ControlFlow::Continue(found)),
        Err(RowError::Damaged(what)) => {
            name(what);
            Ok(ControlFlow::Break(()))
        }
        Err(RowError::Sql(error)) => Err(error),
    }
}
