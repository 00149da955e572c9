//! Operators' requests. A write is executed in the round's transaction, and once more if it is unknown whether
//! that transaction was stored.

use std::ops::ControlFlow;

use cpd_core::engine::port::{AdminAnswer, AdminOp, MessageId, MessageRow, UserRow};
use rusqlite::Connection;

use super::files::StoreFiles;
use super::hot_statements::HotStatements;
use super::open_error::{OpenErrorKind, open_error_kind};
use super::row::{self, MESSAGE_COLUMNS, RowError};
use super::sqlite;
use super::users::{self, User};

/// Maximum number of users in one answer.
pub const ANSWER_MAX_USERS: u32 = 1000;
/// Maximum number of messages in one answer.
pub const ANSWER_MAX_MESSAGES: usize = 1000;
/// Maximum number of messages that one check reads; the writer does nothing else meanwhile.
pub const CHECK_MAX_ROWS: u32 = 10_000;
/// Maximum number of damaged rows that one answer names.
pub const ANSWER_MAX_DAMAGED: usize = 100;

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

/// Executes a write. A failure that concerns this request alone is an answer.
///
/// # Errors
/// The transaction as a whole has failed.
pub fn write(connection: &Connection, hot: &mut HotStatements<'_>, op: &AdminOp) -> rusqlite::Result<AdminAnswer> {
    match perform(connection, hot, op) {
        Ok(answer) => Ok(answer),
        Err(RowError::Damaged(what)) => Ok(AdminAnswer::Failed(what)),
        Err(RowError::Sql(error)) => Err(error),
    }
}

fn perform(connection: &Connection, hot: &mut HotStatements<'_>, op: &AdminOp) -> Result<AdminAnswer, RowError> {
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

/// Executes a write once more, after it had this answer in a transaction whose outcome is unknown.
pub fn write_again(
    connection: &Connection,
    hot: &mut HotStatements<'_>,
    op: &AdminOp,
    answer: &AdminAnswer,
) -> rusqlite::Result<()> {
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

fn delete(hot: &mut HotStatements<'_>, ids: &[u64]) -> rusqlite::Result<()> {
    ids.iter().try_for_each(|id| hot.delete(*id))
}

/// Answers a read; each damaged row that had to be left out is described to `on_damage`.
pub fn read(connection: &Connection, place: &StoreFiles, op: &AdminOp, on_damage: &dyn Fn(String)) -> AdminAnswer {
    let answer = match op {
        AdminOp::Users { after, limit } => {
            let mut rows: Vec<UserRow> = Vec::new();
            users::each(connection, *after, (*limit).min(ANSWER_MAX_USERS), |user| rows.push(user.to_row()))
                .map(|()| AdminAnswer::Users(rows))
        }
        AdminOp::User { name } => users::find(connection, *name).map(|found| match found {
            Some(user) => AdminAnswer::Users(vec![user.to_row()]),
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
    let mut statement = connection.prepare_cached(row::SELECT_MESSAGE)?;
    let mut found = Vec::with_capacity(ids.len().min(ANSWER_MAX_MESSAGES));
    for id in ids.iter().take(ANSWER_MAX_MESSAGES) {
        let mut rows = statement.query([sqlite::sqlite_integer(*id)?])?;
        match rows.next()?.map(row::read_message).transpose() {
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

/// Verifies up to `limit` messages with ids above `after`, and everything that is not a message if `after` is 0.
fn check(connection: &Connection, after: u64, limit: u32) -> Result<AdminAnswer, RowError> {
    let mut damaged = Vec::new();
    let mut rows = 0;
    let mut name = |what: String| {
        if damaged.len() < ANSWER_MAX_DAMAGED {
            damaged.push(what);
        }
    };
    let next = match check_rows(connection, after, limit.max(1), &mut rows, &mut name) {
        Ok(next) => next,
        // A damaged B-tree cannot be read any further. That is a finding of the check, not a failure.
        Err(error) if open_error_kind(&error) == OpenErrorKind::Damaged => {
            name(format!("the file's structure after message {after}: {}", sqlite::error_text(&error)));
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
        if let ControlFlow::Continue(seen) = report_damage(seen, name)? {
            *count += seen;
        }
        if let ControlFlow::Continue(_) = report_damage(row::reserved(connection), name)? {
            *count += 1;
        }
    }
    let sql = format!("SELECT {MESSAGE_COLUMNS} FROM message WHERE id > ?1 ORDER BY id LIMIT ?2");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query((sqlite::sqlite_integer(after)?, limit))?;
    let (mut read, mut last) = (0, after);
    while let Some(row) = rows.next()? {
        read += 1;
        last = row::read_unsigned(row, 0)?;
        let _ = report_damage(row::read_message(row), name)?;
    }
    *count += u64::from(read);
    Ok((read == limit && last > after).then_some(last))
}

/// Reports a damaged row by `name` and returns `Break`, after which the check continues; other errors end the check.
fn report_damage<T>(found: Result<T, RowError>, name: &mut dyn FnMut(String)) -> rusqlite::Result<ControlFlow<(), T>> {
    match found {
        Ok(found) => Ok(ControlFlow::Continue(found)),
        Err(RowError::Damaged(what)) => {
            name(what);
            Ok(ControlFlow::Break(()))
        }
        Err(RowError::Sql(error)) => Err(error),
    }
}
