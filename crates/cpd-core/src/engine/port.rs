//! What passes between the engine and the store: plain values, no behaviour. The engine fills a [`Batch`]; the store
//! answers its reads with [`Answer`]s and hands it back once its writes are on stable storage or have failed. Batches
//! come back in the order in which they were submitted.

use std::ops::Range;

pub use super::address::{AddressKey, Origin};
pub use crate::download::{MessageId, Page, PageMessage};
use cp_proto::values::Username;

/// Known addresses that the engine remembers, at most: the latest.
pub const KNOWN_ADDRESSES_MAX: usize = 65_536;

/// The id of a session: `slot` is its index in the engine's table, `serial` is never used twice within a run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionId {
    pub serial: u64,
    pub slot: u32,
}

/// The id of an operator's request; never used twice within a run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId(pub u64);

/// One operation for the store. Ranges index the batch's `bytes` or `ids`.
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
    /// Write: delete a message that its recipient has acknowledged.
    Delete { session: SessionId, id: MessageId },
    /// Write for which nobody waits: delete a message that is older than `message_age`.
    DeleteExpired { id: MessageId },
    /// Read: the messages `ids[ids]`, in that order. Answered by [`Answer::Page`].
    Fetch { session: SessionId, download: u32, ids: Range<u32> },
    /// Read: the record against which a login as `name` from `from` is checked. Answered by [`Answer::Login`].
    Lookup { session: SessionId, name: Username, from: Origin },
    /// Write for which nobody waits: a login succeeded at `at` (seconds since 1970). If the stored hash is still
    /// `rehash.0`, `rehash.1` replaces it.
    LoggedIn { name: Username, from: AddressKey, at: u64, rehash: Option<Box<(String, String)>> },
    /// Read or write for an operator. Answered by [`Answer::Admin`], after the commit if it writes.
    Admin { request: RequestId, op: Box<AdminOp> },
}

/// Operations for the store, in order. `epoch` is the number of failed commits that the engine knows of: a store that
/// has counted more refuses the batch's inserts, so that no message is stored that was sent after one that failed.
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
    /// The deletes are on stable storage. `false`: not yet; the store keeps trying.
    pub deletes: bool,
    /// The number of failed commits that the store has counted. The engine uses it for the batches that follow.
    pub epoch: u32,
}

/// A result from the store.
#[derive(Debug)]
pub enum FromStore {
    /// Answers to reads and to operators' requests.
    Answers(Vec<Answer>),
    /// A batch whose writes have succeeded or failed, handed back whole.
    Done(Batch, Outcome),
    /// The store cannot continue, for this cause; the daemon exits with code 71.
    Broken(String),
    /// Somebody has changed the store's files, as `what` says; the daemon exits with code 65, and batches that were not
    /// handed back are not known to be stored. `saved`: every acknowledged message is in the file that the store had
    /// open, wherever that is now.
    Changed { what: String, saved: bool },
}

/// The answer to a read, or to an operator's request.
#[derive(Debug)]
pub enum Answer {
    /// The messages that [`Op::Fetch`] asked for. `None`: not all of them could be read unaltered.
    Page {
        session: SessionId,
        download: u32,
        page: Option<Page>,
    },
    /// The user's record, or `None` if there is no such user. `Err`: the store could not read it.
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

/// An operator's request to the store, answered by [`AdminAnswer::Failed`] if the store cannot do it.
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
    /// Makes a consistent copy of the store, between batches. [`AdminAnswer::Backup`] when the copy is complete, or
    /// [`AdminAnswer::Busy`] while another is being made or held.
    BackupBegin,
    /// Read: up to `length` bytes of the copy from `offset`. [`AdminAnswer::Bytes`], or [`AdminAnswer::Missing`].
    BackupRead { backup: u64, offset: u64, length: u32 },
    /// The copy is no longer needed. [`AdminAnswer::Done`].
    BackupEnd { backup: u64 },
    /// Read: verify up to `limit` messages with ids above `after`, and everything but messages if `after` is 0.
    /// [`AdminAnswer::Checked`].
    Check { after: u64, limit: u32 },
    /// Gives the space of deleted messages back to the file system. [`AdminAnswer::Shrunk`], or [`AdminAnswer::Busy`]
    /// while a copy is being made or held or another request to shrink waits.
    Shrink,
    /// Read. [`AdminAnswer::Size`].
    Size,
}

/// The store's answer to an [`AdminOp`].
#[derive(Debug)]
pub enum AdminAnswer {
    Done,
    Exists,
    Missing,
    Busy,
    /// The store could not do it; the text says why.
    Failed(String),
    Users(Vec<UserRow>),
    Messages(Vec<MessageRow>),
    Backup {
        backup: u64,
        bytes: u64,
    },
    Bytes(Vec<u8>),
    /// `damaged` names rows that do not match their checksums (bounded in number). `next` is the `after` with which to
    /// continue, `None` at the end.
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

/// A user, with times in seconds since 1970.
#[derive(Debug, Clone)]
pub struct UserRow {
    pub name: Username,
    pub locked: bool,
    pub created: u64,
    pub last_login: Option<u64>,
}

/// A message. `body` is `None` if it was not asked for.
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
