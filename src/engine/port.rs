//! What passes between the engine and the store: plain values, no behaviour. The engine fills a [`Batch`], the store
//! answers reads with [`Answer`]s and hands the batch back, in the order in which it got them, once its writes are on
//! stable storage or have failed.

use std::ops::Range;

pub use super::address::{AddressKey, Origin};
pub use crate::proto::download::{MessageId, Page, PageMessage};
use crate::proto::types::Username;

/// Addresses from which somebody has logged in, of which the engine keeps the latest.
pub const KNOWN_ADDRESSES_MAX: usize = 65_536;

/// A connection's session: `slot` is its place in the table, `serial` is never used twice within a run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionId {
    pub serial: u64,
    pub slot: u32,
}

/// A control request that waits for an answer; never used twice within a run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId(pub u64);

/// One piece of work for the store. Ranges index the batch's `bytes` or `ids`.
#[derive(Debug)]
pub enum Op {
    /// Write: queue a message; its body is `bytes[body]`. `queued_at` in seconds since 1970.
    Insert {
        session: SessionId,
        id: MessageId,
        recipient: Username,
        sender: Username,
        queued_at: u64,
        body: Range<u32>,
    },
    /// Write: the recipient has the message.
    Delete { session: SessionId, id: MessageId },
    /// Write, nobody waits: the message is older than `message_age`, or its recipient's session acknowledged it before
    /// it ended.
    Forget { id: MessageId },
    /// Read: the messages `ids[ids]`, in that order. Answered by [`Answer::Page`].
    Fetch { session: SessionId, download: u32, ids: Range<u32> },
    /// Read: what a login as `name` from `from` is to be checked against. Answered by [`Answer::Login`].
    Lookup { session: SessionId, name: Username, from: Origin },
    /// Write, nobody waits: a login succeeded at `at` (seconds since 1970); `rehash` replaces the stored hash if that
    /// is still `rehash.0`.
    LoggedIn { name: Username, from: AddressKey, at: u64, rehash: Option<Box<(String, String)>> },
    /// Read or write for an administrator. Answered by [`Answer::Admin`], after the commit if it writes.
    Admin { request: RequestId, op: Box<AdminOp> },
}

/// Work for the store in order. `epoch` is the engine's view of how often a commit failed: a store that counted more
/// failures refuses the batch's inserts, so that nothing is stored which was sent behind a failure.
#[derive(Debug, Default)]
pub struct Batch {
    pub epoch: u32,
    pub ops: Vec<Op>,
    pub bytes: Vec<u8>,
    pub ids: Vec<u64>,
}

impl Batch {
    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.ops.clear();
        self.bytes.clear();
        self.ids.clear();
    }
}

/// What became of a batch's writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// The inserts are on stable storage. `false`: none of them is stored.
    pub inserts: bool,
    /// The inserts are not stored because there is no room for them, and that is certain.
    pub no_room: bool,
    /// The deletes are on stable storage. `false`: they are not yet, the store goes on trying.
    pub deletes: bool,
    /// The number of failures the store has counted; the engine uses it for the batches that follow.
    pub epoch: u32,
}

/// What comes back from the store.
#[derive(Debug)]
pub enum FromStore {
    /// Answers to reads and to administrators.
    Answers(Vec<Answer>),
    /// A batch whose writes are decided, handed back whole.
    Done(Batch, Outcome),
    /// The store cannot go on; the daemon ends with exit code 71.
    Broken(String),
    /// Somebody changed the store's files, as `what` says; the daemon ends with exit code 65, and what was not handed back
    /// is not known to be stored. `saved`: everything that was acknowledged is in the store's file, wherever that is now.
    Changed { what: String, saved: bool },
}

#[derive(Debug)]
pub enum Answer {
    /// The messages asked for by [`Op::Fetch`], or `None` when they could not be read whole and unaltered.
    Page {
        session: SessionId,
        download: u32,
        page: Option<Page>,
    },
    /// The user's record, or `None` when there is no such user. `Err`: the store could not say.
    Login {
        session: SessionId,
        record: Result<Option<Box<LoginRecord>>, ()>,
    },
    Admin {
        request: RequestId,
        answer: AdminAnswer,
    },
}

/// What a login is checked against.
#[derive(Debug, Clone)]
pub struct LoginRecord {
    /// The argon2id hash in PHC form.
    pub hash: String,
    pub locked: bool,
    /// This user has logged in from this address before.
    pub known_address: bool,
}

/// An administrator's request to the store.
#[derive(Debug)]
pub enum AdminOp {
    /// Write. [`AdminAnswer::Done`], or [`AdminAnswer::Exists`].
    UserAdd { name: Username, hash: String, at: u64 },
    /// Write. [`AdminAnswer::Done`], or [`AdminAnswer::Missing`].
    UserPasswd { name: Username, hash: String },
    /// Write. [`AdminAnswer::Done`], or [`AdminAnswer::Missing`].
    UserLock { name: Username, locked: bool },
    /// Write: the user and every message for it, in one transaction. [`AdminAnswer::Done`] or [`AdminAnswer::Missing`].
    UserRemove { name: Username, ids: Vec<u64> },
    /// Read: up to `limit` users after `after` in the order of their names. [`AdminAnswer::Users`].
    Users { after: Option<Username>, limit: u32 },
    /// Read. [`AdminAnswer::Users`] with one row, or [`AdminAnswer::Missing`].
    User { name: Username },
    /// Read: these messages, those that still exist, with their bodies if asked. [`AdminAnswer::Messages`].
    Messages { ids: Vec<u64>, bodies: bool },
    /// Write: delete these messages. [`AdminAnswer::Done`].
    Purge { ids: Vec<u64> },
    /// Begins a consistent copy of the store; goes on between batches, answered when the copy is whole with
    /// [`AdminAnswer::Backup`], or [`AdminAnswer::Busy`] while another is held.
    BackupBegin,
    /// Read: up to `length` bytes of the copy from `offset`. [`AdminAnswer::Bytes`], or [`AdminAnswer::Missing`].
    BackupRead { backup: u64, offset: u64, length: u32 },
    /// The copy is no longer needed. [`AdminAnswer::Done`].
    BackupEnd { backup: u64 },
    /// Read: verify up to `limit` messages with ids above `after`, and all users when `after` is 0.
    /// [`AdminAnswer::Checked`].
    Check { after: u64, limit: u32 },
    /// Gives the room of what is gone back to the disk. [`AdminAnswer::Shrunk`], [`AdminAnswer::Busy`] while a copy is
    /// made, or [`AdminAnswer::Failed`] with the reason why it cannot be.
    Shrink,
    /// Read. [`AdminAnswer::Size`].
    Size,
}

#[derive(Debug)]
pub enum AdminAnswer {
    Done,
    Exists,
    Missing,
    Busy,
    /// The store could not do it; the cause for people.
    Failed(String),
    Users(Vec<UserRow>),
    Messages(Vec<MessageRow>),
    Backup {
        backup: u64,
        bytes: u64,
    },
    Bytes(Vec<u8>),
    /// `damaged` names what does not match its checksum (bounded in number); `next` is where to go on, `None` at the
    /// end.
    Checked {
        rows: u64,
        damaged: Vec<String>,
        next: Option<u64>,
    },
    /// The sizes of the store's files in bytes, before and after.
    Shrunk {
        before: u64,
        after: u64,
    },
    /// The sizes of the store's files in bytes.
    Size {
        bytes: u64,
    },
}

/// Times in seconds since 1970.
#[derive(Debug, Clone)]
pub struct UserRow {
    pub name: Username,
    pub locked: bool,
    pub created: u64,
    pub last_login: Option<u64>,
}

#[derive(Debug, Clone)]
pub struct MessageRow {
    pub id: MessageId,
    pub sender: Username,
    pub queued_at: u64,
    pub bytes: u32,
    pub body: Option<String>,
}

/// What the store holds of one message when the daemon starts.
#[derive(Debug, Clone, Copy)]
pub struct StoredMessage {
    pub id: MessageId,
    pub recipient: Username,
    pub sender: Username,
    pub queued_at: u64,
    pub bytes: u16,
}
