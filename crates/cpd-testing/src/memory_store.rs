//! A store in memory that answers batches as the real one does: for tests of the engine without a disk, and for the
//! yardstick of the event loop without a store.

use std::collections::BTreeMap;

use cp_proto::values::Username;
use cpd_core::engine::port::{
    AddressKey, AdminAnswer, AdminOp, Answer, Batch, FromStore, LoginRecord, MessageId, MessageRow, Op, Outcome, Page,
    PageMessage, UserRow,
};

struct User {
    hash: String,
    locked: bool,
    created: u64,
    last_login: Option<u64>,
    seen: Vec<AddressKey>,
}

struct Message {
    recipient: Username,
    sender: Username,
    queued_at: u64,
    body: Vec<u8>,
}

#[derive(Default)]
pub struct MemoryStore {
    users: BTreeMap<Username, User>,
    messages: BTreeMap<MessageId, Message>,
    epoch: u32,
    /// The next batch's writes fail.
    pub fail_next: bool,
}

impl MemoryStore {
    pub fn add_user(&mut self, name: Username, hash: String) {
        self.users.insert(name, User { hash, locked: false, created: 0, last_login: None, seen: Vec::new() });
    }

    /// Gives an engine what a start reads from the store.
    pub fn load(&self, engine: &mut cpd_core::engine::Engine) {
        self.users.keys().for_each(|name| engine.load_user(*name));
        for (id, message) in &self.messages {
            engine.load_message(&cpd_core::engine::port::StoredMessage {
                id: *id,
                recipient: message.recipient,
                sender: message.sender,
                queued_at: message.queued_at,
                bytes: message.body.len() as u16,
            });
        }
    }

    /// Another engine counts from here on.
    pub fn restarted(&mut self) {
        self.epoch = 0;
    }

    /// Does everything in the batch.
    pub fn execute(&mut self, batch: Batch) -> [FromStore; 2] {
        let mut answers = Vec::new();
        let failing = std::mem::take(&mut self.fail_next);
        if failing {
            self.epoch += 1;
        }
        let inserts = !failing && batch.epoch == self.epoch;
        for op in &batch.ops {
            match op {
                Op::Insert { id, recipient, sender, queued_at, body, .. } if inserts => {
                    let body = batch.bytes[body.start as usize..body.end as usize].to_vec();
                    let message = Message { recipient: *recipient, sender: *sender, queued_at: *queued_at, body };
                    self.messages.insert(*id, message);
                }
                Op::Insert { .. } => {}
                Op::Delete { id, .. } | Op::DeleteExpired { id } => drop(self.messages.remove(id)),
                Op::Fetch { session, download, ids } => {
                    let page = self.page(&batch.ids[ids.start as usize..ids.end as usize]);
                    answers.push(Answer::Page { session: *session, download: *download, page });
                }
                Op::Lookup { session, name, from } => {
                    let record = self.users.get(name).map(|user| {
                        let known_address = user.seen.contains(&from.key);
                        Box::new(LoginRecord { hash: user.hash.clone(), locked: user.locked, known_address })
                    });
                    answers.push(Answer::Login { session: *session, record: Ok(record) });
                }
                Op::LoggedIn { name, from, at, .. } => {
                    if let Some(user) = self.users.get_mut(name) {
                        user.last_login = Some(*at);
                        user.seen.push(*from);
                    }
                }
                Op::Admin { request, op } => {
                    answers.push(Answer::Admin { request: *request, answer: self.admin(op) });
                }
            }
        }
        [
            FromStore::Answers(answers),
            FromStore::Done(batch, Outcome { inserts, no_room: false, deletes: true, epoch: self.epoch }),
        ]
    }

    fn page(&self, ids: &[u64]) -> Option<Page> {
        let mut page = Page::default();
        for id in ids {
            let message = self.messages.get(&MessageId(*id))?;
            let start = page.bytes.len() as u32;
            page.bytes.extend_from_slice(&message.body);
            let body = start..page.bytes.len() as u32;
            page.messages.push(PageMessage { id: MessageId(*id), sender: message.sender, body });
        }
        Some(page)
    }

    fn admin(&mut self, op: &AdminOp) -> AdminAnswer {
        match op {
            AdminOp::UserAdd { name, .. } if self.users.contains_key(name) => AdminAnswer::Exists,
            AdminOp::UserAdd { name, hash, .. } => {
                self.add_user(*name, hash.clone());
                AdminAnswer::Done
            }
            AdminOp::UserPasswd { name, hash } => self.change(name, |user| user.hash.clone_from(hash)),
            AdminOp::UserLock { name, locked } => self.change(name, |user| user.locked = *locked),
            AdminOp::UserRemove { name, ids } => {
                if self.users.remove(name).is_none() {
                    return AdminAnswer::Missing;
                }
                self.messages.retain(|id, message| message.recipient != *name && !ids.contains(&id.0));
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
                let rows = ids.iter().filter_map(|id| self.messages.get(&MessageId(*id)).map(|m| (MessageId(*id), m)));
                let row = |(id, m): (MessageId, &Message)| MessageRow {
                    id,
                    sender: m.sender,
                    queued_at: m.queued_at,
                    bytes: m.body.len() as u32,
                    body: String::from_utf8(m.body.clone()).ok(),
                };
                AdminAnswer::Messages(rows.map(row).collect())
            }
            AdminOp::Purge { ids } => {
                self.messages.retain(|id, _| !ids.contains(&id.0));
                AdminAnswer::Done
            }
            AdminOp::Check { .. } => AdminAnswer::Checked { rows: 0, damaged: Vec::new(), next: None },
            AdminOp::Shrink => AdminAnswer::Shrunk { before: 0, after: 0 },
            AdminOp::Size => AdminAnswer::Size { bytes: 0 },
            AdminOp::BackupBegin | AdminOp::BackupRead { .. } | AdminOp::BackupEnd { .. } => AdminAnswer::Busy,
        }
    }

    fn change(&mut self, name: &Username, change: impl FnOnce(&mut User)) -> AdminAnswer {
        match self.users.get_mut(name) {
            Some(user) => {
                change(user);
                AdminAnswer::Done
            }
            None => AdminAnswer::Missing,
        }
    }
}

fn row((name, user): (&Username, &User)) -> UserRow {
    UserRow { name: *name, locked: user.locked, created: user.created, last_login: user.last_login }
}
