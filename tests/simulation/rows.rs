//! What the simulated store holds: rows, and how single operations read and change them.

use std::collections::BTreeMap;
use std::rc::Rc;

use cp_proto::values::Username;
use cpd_core::engine::port::{
    AddressKey, AdminAnswer, AdminOp, Batch, LoginRecord, MessageId, MessageRow, Op, Page, PageMessage, UserRow,
};

#[derive(Clone, Default)]
pub struct User {
    pub hash: String,
    pub locked: bool,
    pub last_login: Option<u64>,
    pub seen: Vec<AddressKey>,
}

#[derive(Clone)]
pub struct Message {
    pub recipient: Username,
    pub sender: Username,
    pub queued_at: u64,
    pub body: Rc<[u8]>,
}

/// One change of one row.
pub enum Write {
    Put(u64, Message),
    Delete(u64),
    User(Username, Option<User>),
    Reserve(u64),
}

#[derive(Clone, Default)]
pub struct State {
    pub users: BTreeMap<Username, User>,
    pub messages: BTreeMap<u64, Message>,
    /// Ids below are used.
    pub reserved: u64,
}

impl State {
    pub fn apply(&mut self, write: &Write) {
        match write {
            Write::Put(id, message) => drop(self.messages.insert(*id, message.clone())),
            Write::Delete(id) => drop(self.messages.remove(id)),
            Write::User(name, Some(user)) => drop(self.users.insert(*name, user.clone())),
            Write::User(name, None) => drop(self.users.remove(name)),
            Write::Reserve(below) => self.reserved = *below,
        }
    }

    pub fn page(&self, ids: &[u64]) -> Option<Page> {
        let mut page = Page::default();
        for id in ids {
            let message = self.messages.get(id)?;
            let start = page.bytes.len() as u32;
            page.bytes.extend_from_slice(&message.body);
            let body = start..page.bytes.len() as u32;
            page.messages.push(PageMessage { id: MessageId(*id), sender: message.sender, body });
        }
        Some(page)
    }

    /// Puts the body of another message into the page.
    pub fn mix(&self, page: &mut Option<Page>) {
        let Some(page) = page else { return };
        let Some(first) = page.messages.first_mut() else { return };
        if let Some((_, other)) = self.messages.iter().rev().find(|(id, _)| **id != first.id.0) {
            let start = page.bytes.len() as u32;
            page.bytes.extend_from_slice(&other.body);
            first.body = start..page.bytes.len() as u32;
        }
    }

    pub fn login(&self, name: Username, from: AddressKey) -> Option<Box<LoginRecord>> {
        let user = self.users.get(&name)?;
        let known_address = user.seen.contains(&from);
        Some(Box::new(LoginRecord { hash: user.hash.clone(), locked: user.locked, known_address }))
    }

    pub fn logged_in(&self, name: Username, from: AddressKey, at: u64) -> Option<Write> {
        let mut user = self.users.get(&name)?.clone();
        user.last_login = Some(at);
        if !user.seen.contains(&from) {
            user.seen.push(from);
        }
        Some(Write::User(name, Some(user)))
    }

    pub fn admin(&self, op: &AdminOp, writes: &mut Vec<Write>) -> AdminAnswer {
        match op {
            AdminOp::UserAdd { name, .. } if self.users.contains_key(name) => AdminAnswer::Exists,
            AdminOp::UserAdd { name, hash, .. } => {
                writes.push(Write::User(*name, Some(User { hash: hash.clone(), ..User::default() })));
                AdminAnswer::Done
            }
            AdminOp::UserPasswd { name, hash } => self.change(*name, writes, |user| user.hash.clone_from(hash)),
            AdminOp::UserLock { name, locked } => self.change(*name, writes, |user| user.locked = *locked),
            AdminOp::UserRemove { name, ids } => {
                if !self.users.contains_key(name) {
                    return AdminAnswer::Missing;
                }
                writes.push(Write::User(*name, None));
                // What the engine forgets to name stays, as it would on the disk.
                writes.extend(ids.iter().map(|id| Write::Delete(*id)));
                AdminAnswer::Done
            }
            AdminOp::Users { after, limit } => {
                let rows = self.users.iter().filter(|(name, _)| after.is_none_or(|after| **name > after));
                AdminAnswer::Users(rows.take(*limit as usize).map(row).collect())
            }
            AdminOp::User { name } => match self.users.get(name) {
                Some(user) => AdminAnswer::Users(vec![row((name, user))]),
                None => AdminAnswer::Missing,
            },
            AdminOp::Messages { ids, .. } => {
                let row = |id: &u64| {
                    let m = self.messages.get(id)?;
                    let body = String::from_utf8(m.body.to_vec()).ok();
                    let (id, bytes) = (MessageId(*id), m.body.len() as u32);
                    Some(MessageRow { id, sender: m.sender, queued_at: m.queued_at, bytes, body })
                };
                AdminAnswer::Messages(ids.iter().filter_map(row).collect())
            }
            AdminOp::Purge { ids } => {
                writes.extend(ids.iter().map(|id| Write::Delete(*id)));
                AdminAnswer::Done
            }
            AdminOp::Check { .. } => AdminAnswer::Checked { rows: 0, damaged: Vec::new(), next: None },
            AdminOp::Size => AdminAnswer::Size { bytes: 0 },
            AdminOp::BackupBegin | AdminOp::BackupRead { .. } | AdminOp::BackupEnd { .. } | AdminOp::Shrink => {
                AdminAnswer::Busy
            }
        }
    }

    fn change(&self, name: Username, writes: &mut Vec<Write>, change: impl FnOnce(&mut User)) -> AdminAnswer {
        let Some(user) = self.users.get(&name) else { return AdminAnswer::Missing };
        let mut user = user.clone();
        change(&mut user);
        writes.push(Write::User(name, Some(user)));
        AdminAnswer::Done
    }
}

fn row((name, user): (&Username, &User)) -> UserRow {
    UserRow { name: *name, locked: user.locked, created: 0, last_login: user.last_login }
}

pub fn is_write(op: &Op) -> bool {
    match op {
        Op::Insert { .. } | Op::Delete { .. } | Op::DeleteExpired { .. } | Op::LoggedIn { .. } => true,
        Op::Admin { op, .. } => is_change(op),
        Op::Fetch { .. } | Op::Lookup { .. } => false,
    }
}

/// Whether a login behind it has to see what it does.
pub fn changes_users(op: &Op) -> bool {
    matches!(op, Op::LoggedIn { .. }) || matches!(op, Op::Admin { op, .. } if is_change(op))
}

/// Whether it changes users or messages.
pub fn is_change(op: &AdminOp) -> bool {
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
        | AdminOp::Shrink
        | AdminOp::BackupRead { .. }
        | AdminOp::BackupEnd { .. }
        | AdminOp::Check { .. }
        | AdminOp::Size => false,
    }
}

pub fn inserts_in(batch: &Batch) -> bool {
    batch.ops.iter().any(|op| matches!(op, Op::Insert { .. }))
}

pub fn deletes_in(batch: &Batch) -> bool {
    batch.ops.iter().any(|op| matches!(op, Op::Delete { .. } | Op::DeleteExpired { .. }))
}
