//! One round of the writer: reads at once, then every write of the batches taken in one transaction, then the answers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use rusqlite::{Connection, ffi};

use super::backup::Held;
use super::files::Place;
use super::reads::read;
use super::row::{RESERVE_IDS, RowError};
use super::sqlite::{self, Faults, Hot, NewMessage, Point};
use super::watch::{Change, Watch};
use super::writer::{self, Progress};
use super::{StoreEvent, admin, pending, room, settle, users};
use crate::engine::port::{AdminAnswer, AdminOp, Answer, Batch, FromStore, Op, Outcome, RequestId};

/// Deletes that wait for a disk that takes them.
pub const PENDING_MAX: usize = 65_536;
/// What a message takes in its page and on the way through the log, beside its body, in bytes.
const ROW_OVERHEAD_BYTES: u64 = 96;

/// What the writer's thread has beside the connection, over all cycles and reopenings.
pub struct Core {
    pub place: Place,
    pub watch: Watch,
    /// What was done to the store's files.
    pub change: Option<Change>,
    /// The last look at them was refused.
    pub unseen: bool,
    /// Ids below this are recorded as used.
    pub reserved: u64,
    /// Failures counted so far; batches that were made before the last one have their inserts refused.
    pub epoch: u32,
    /// Acknowledged messages whose delete has failed.
    pub pending: BTreeSet<u64>,
    pub disk_low: bool,
    /// Up to which of its bytes the store's file has blocks.
    pub file_reserved: u64,
    /// Up to which of its bytes it is filled at most when the log is moved into it.
    pub file_filled: u64,
    /// The last write failed for want of room where the disk has some.
    pub quota_is_used_up: bool,
    /// Bytes of the log that are not in the store's file.
    pub log_bytes: u64,
    pub checkpoint_fails: bool,
    pub held: Option<Held>,
    pub backups: u64,
    pub copying: bool,
    pub copy_wanted: Option<RequestId>,
    pub shrink_wanted: Option<RequestId>,
    pub results: Sender<FromStore>,
    pub progress: Arc<Progress>,
    pub wake: Box<dyn Fn() + Send>,
    pub on_event: Box<dyn Fn(StoreEvent) + Send>,
    pub faults: Faults,
}

impl Core {
    pub fn event(&self, event: StoreEvent) {
        (self.on_event)(event);
    }

    /// Answers one administrator out of turn.
    pub fn answer(&self, request: RequestId, answer: AdminAnswer) {
        self.send(FromStore::Answers(vec![Answer::Admin { request, answer }]));
        (self.wake)();
    }

    /// Puts a result into the channel. Nobody listens any more once the daemon is going down.
    pub fn send(&self, result: FromStore) {
        let _ = self.results.send(result);
    }
}

/// Answers to administrators' writes, in the order of the writes.
pub type Written = Vec<(RequestId, AdminAnswer)>;

/// Why a transaction was not stored.
pub enum Trouble {
    /// It certainly is not.
    Refused(rusqlite::Error),
    /// It may be or not.
    Unknown(rusqlite::Error),
}

/// How a cycle's writes ended, if they are decided.
pub enum Verdict {
    Decided,
    /// The connection must be closed and opened again.
    Unknown(String),
    Broken(String),
}

/// The batches of one round and what is known of them. Its memory is used again and again.
#[derive(Default)]
pub struct Cycle {
    pub batches: Vec<Taken>,
    /// Answers to the administrators' writes, in their order.
    pub written: Written,
    /// Reads that must see a write of this cycle: the place of the batch and of the operation in it.
    deferred: Vec<(usize, usize)>,
    writes: bool,
    /// Deletes that are gathered; its memory is used again.
    deletes: Vec<u64>,
    /// Bytes that the inserts bring.
    insert_bytes: u64,
    /// The transaction that is executed, or of which nobody knows, had inserts.
    pub inserting: bool,
    /// What was refused met a full disk.
    no_room: bool,
}

/// A batch in work.
pub struct Taken {
    pub batch: Batch,
    has_inserts: bool,
    has_deletes: bool,
    /// Its inserts are to be executed.
    pub accepted: bool,
    deletes_kept: bool,
}

impl Cycle {
    /// Takes a batch into the round and returns how many operations it has.
    pub fn take(&mut self, batch: Batch) -> usize {
        let operations = batch.ops.len();
        self.batches.push(Taken { batch, has_inserts: false, has_deletes: false, accepted: true, deletes_kept: true });
        operations
    }

    /// Answers what can be read before the writes, and learns what there is to write.
    pub fn begin(&mut self, core: &mut Core, connection: &Connection) {
        let mut answers = Vec::new();
        let mut batches = std::mem::take(&mut self.batches);
        // A login's read has to see earlier changes of users, an administrator's read everything earlier.
        let (mut users_change, mut anything_changes) = (false, false);
        for (b, taken) in batches.iter_mut().enumerate() {
            for (o, op) in taken.batch.ops.iter().enumerate() {
                match op {
                    Op::Insert { body, .. } => {
                        taken.has_inserts = true;
                        anything_changes = true;
                        self.insert_bytes += u64::from(body.end.saturating_sub(body.start)) + ROW_OVERHEAD_BYTES;
                    }
                    Op::Delete { .. } | Op::Forget { .. } => (taken.has_deletes, anything_changes) = (true, true),
                    Op::LoggedIn { .. } => (users_change, anything_changes) = (true, true),
                    Op::Admin { op, .. } if admin::is_write(op) => (users_change, anything_changes) = (true, true),
                    Op::Lookup { .. } if users_change => self.deferred.push((b, o)),
                    Op::Admin { .. } if anything_changes => self.deferred.push((b, o)),
                    Op::Fetch { .. } | Op::Lookup { .. } | Op::Admin { .. } => {
                        answers.extend(read(core, connection, &taken.batch, op));
                    }
                }
            }
        }
        self.batches = batches;
        self.writes = anything_changes || !core.pending.is_empty();
        if !answers.is_empty() {
            core.send(FromStore::Answers(answers));
            (core.wake)();
        }
    }

    /// Executes the writes.
    pub fn write(&mut self, core: &mut Core, connection: &Connection) -> Verdict {
        if !self.writes {
            return Verdict::Decided;
        }
        self.accept(core, connection);
        self.inserting = self.batches.iter().any(|t| t.has_inserts && t.accepted);
        let cause = match self.attempt(core, connection) {
            Ok(()) => return Verdict::Decided,
            Err(Trouble::Unknown(error)) => return Verdict::Unknown(sqlite::text(&error)),
            Err(Trouble::Refused(error)) => error,
        };
        // Where the disk said that there was room, something else bounds what may be written.
        core.quota_is_used_up |= sqlite::is_full(&cause) && !core.disk_low;
        if sqlite::is_damage(&cause) {
            return Verdict::Broken(sqlite::text(&cause));
        }
        if !self.inserting && !sqlite::is_full(&cause) {
            return self.postpone(core, connection, &cause, "");
        }
        let said = sqlite::text(&cause);
        if !self.batches.is_empty() {
            core.event(StoreEvent::CommitFailed(said.clone()));
        }
        if self.inserting {
            self.refuse_inserts(core, sqlite::is_full(&cause));
        }
        if sqlite::is_full(&cause) {
            // A log that is moved as a whole is begun anew, and has room inside for deletes.
            writer::checkpoint(core, connection);
        }
        match self.attempt(core, connection) {
            Ok(()) => Verdict::Decided,
            Err(Trouble::Unknown(error)) => Verdict::Unknown(sqlite::text(&error)),
            Err(Trouble::Refused(error)) => self.postpone(core, connection, &error, &said),
        }
    }

    /// Counts a failure and drops every insert of the cycle; `no_room`: the disk is full.
    pub fn refuse_inserts(&mut self, core: &mut Core, no_room: bool) {
        core.epoch = core.epoch.wrapping_add(1);
        (self.inserting, self.no_room) = (false, no_room);
        for taken in self.batches.iter_mut().filter(|t| t.has_inserts) {
            taken.accepted = false;
        }
    }

    /// Decides whose inserts are executed.
    fn accept(&mut self, core: &mut Core, connection: &Connection) {
        for taken in &mut self.batches {
            taken.accepted = taken.batch.epoch >= core.epoch;
        }
        if !self.batches.iter().any(|t| t.has_inserts && t.accepted) {
            return;
        }
        let available = match core.faults.at(Point::Space) {
            Ok(()) => core.available().unwrap_or(u64::MAX),
            Err(_) => 0,
        };
        let inserts = self.insert_bytes + if core.disk_low { room::AGAIN_BYTES } else { 0 };
        let needed = room::needed(&core.place, connection, available, core.log_bytes, inserts);
        let available = core.room(available, needed);
        let low = available < needed || !core.reserve_file(connection, inserts);
        if low != core.disk_low {
            core.disk_low = low;
            core.event(if low { StoreEvent::DiskLow { available, needed } } else { StoreEvent::DiskOk });
        }
        if low {
            self.refuse_inserts(core, true);
        }
    }

    /// One transaction with all that is accepted.
    fn attempt(&mut self, core: &mut Core, connection: &Connection) -> Result<(), Trouble> {
        self.written.clear();
        let mut deletes = std::mem::take(&mut self.deletes);
        let mut mark = None;
        let stored = transaction(core, connection, |core, hot| {
            mark = Some(core.mark(connection)?);
            if self.inserting {
                core.faults.at(Point::Inserts)?;
            }
            deletes.clear();
            deletes.extend(core.pending.iter().copied());
            delete_gathered(hot, &mut deletes)?;
            let mut highest = None;
            for taken in &self.batches {
                execute(connection, hot, taken, &mut deletes, &mut self.written, &mut highest)?;
                core.progress.step();
            }
            match highest {
                Some(id) if id >= core.reserved => {
                    let reserved = (id / RESERVE_IDS + 1).saturating_mul(RESERVE_IDS);
                    core.place.reserve_ids(connection, reserved)?;
                    Ok(reserved)
                }
                _ => Ok(core.reserved),
            }
        });
        self.deletes = deletes;
        core.reserved = stored?;
        core.watch.mark = mark;
        core.pending.clear();
        Ok(())
    }

    /// Nothing can be written: the deletes are kept for later, the rest is refused. `said`: what this round has told.
    fn postpone(&mut self, core: &mut Core, connection: &Connection, cause: &rusqlite::Error, said: &str) -> Verdict {
        let text = sqlite::text(cause);
        if sqlite::is_damage(cause) {
            return Verdict::Broken(text);
        }
        // Said when there is news, not at each attempt to write what is pending.
        if !self.batches.is_empty() && text != said {
            core.event(StoreEvent::CommitFailed(text.clone()));
        }
        for taken in &mut self.batches {
            taken.deletes_kept = !taken.has_deletes;
            for op in &taken.batch.ops {
                if let Op::Delete { id, .. } | Op::Forget { id } = op {
                    core.pending.insert(id.0);
                }
            }
        }
        if sqlite::is_full(cause)
            && let Err(cause) = pending::in_pieces(core, connection)
        {
            return Verdict::Unknown(cause);
        }
        if core.pending.is_empty() {
            self.batches.iter_mut().for_each(|taken| taken.deletes_kept = true);
        }
        if core.pending.len() > PENDING_MAX {
            return Verdict::Broken(format!("{} deletes could not be written: {text}", core.pending.len()));
        }
        if self.batches.iter().any(|t| !t.deletes_kept) {
            core.event(StoreEvent::DeletesPending { count: core.pending.len() });
        }
        self.written.clear();
        for (request, op) in self.batches.iter().flat_map(|t| &t.batch.ops).filter_map(admin_write) {
            debug_assert!(admin::is_write(op));
            self.written.push((request, AdminAnswer::Failed(text.clone())));
        }
        Verdict::Decided
    }

    /// Answers what waited for the writes, and hands the batches back in their order.
    pub fn finish(&mut self, core: &mut Core, connection: &Connection) {
        let written = self.written.drain(..).map(|(request, answer)| Answer::Admin { request, answer });
        let mut answers: Vec<Answer> = written.collect();
        for (b, o) in self.deferred.drain(..) {
            let Some(batch) = self.batches.get(b).map(|t| &t.batch) else { continue };
            answers.extend(batch.ops.get(o).and_then(|op| read(core, connection, batch, op)));
        }
        let answered = !answers.is_empty();
        if answered {
            core.send(FromStore::Answers(answers));
        }
        let done = self.batches.len();
        for taken in self.batches.drain(..) {
            let inserts = taken.accepted || !taken.has_inserts;
            let no_room = !inserts && (self.no_room || core.disk_low);
            let outcome = Outcome { inserts, no_room, deletes: taken.deletes_kept, epoch: core.epoch };
            core.progress.done();
            core.send(FromStore::Done(taken.batch, outcome));
        }
        if answered || done > 0 {
            (core.wake)();
        }
        (self.writes, self.inserting, self.no_room, self.insert_bytes) = (false, false, false, 0);
    }
}

/// The request and the work of an administrator's write.
pub fn admin_write(op: &Op) -> Option<(RequestId, &AdminOp)> {
    match op {
        Op::Admin { request, op } if admin::is_write(op) => Some((*request, op)),
        _ => None,
    }
}

/// Runs `work` as one transaction, and says whether it is certain that nothing of it is stored.
pub fn transaction<T>(
    core: &mut Core,
    connection: &Connection,
    work: impl FnOnce(&mut Core, &mut Hot<'_>) -> rusqlite::Result<T>,
) -> Result<T, Trouble> {
    let simple = |sql: &str| connection.prepare_cached(sql)?.raw_execute();
    let undo = |core: &mut Core, error| {
        let rollback = |core: &mut Core| core.faults.at(Point::Rollback).and_then(|()| simple("ROLLBACK"));
        match connection.is_autocommit() || rollback(core).is_ok() {
            true => Trouble::Refused(error),
            false => Trouble::Unknown(error),
        }
    };
    simple("BEGIN IMMEDIATE").map_err(|error| undo(core, error))?;
    let worked = Hot::prepare(connection).and_then(|mut hot| {
        core.faults.at(Point::Writes)?;
        work(core, &mut hot)
    });
    let found = worked.map_err(|error| undo(core, settle::full_or(&core.place, error)))?;
    core.progress.step();
    let committed = core.faults.at(Point::Commit).and_then(|()| simple("COMMIT"));
    let committed = committed.and_then(|_| core.faults.at(Point::Committed));
    match committed.map_err(|error| settle::full_or(&core.place, error)) {
        Ok(()) => Ok(found),
        // The write of a frame found no room, and the frame that makes a commit is the last: this one is not there.
        Err(error) if sqlite::is_full(&error) => Err(undo(core, error)),
        Err(error) => Err(Trouble::Unknown(error)),
    }
}

/// The writes of one batch.
fn execute(
    connection: &Connection,
    hot: &mut Hot<'_>,
    taken: &Taken,
    deletes: &mut Vec<u64>,
    written: &mut Written,
    highest: &mut Option<u64>,
) -> rusqlite::Result<()> {
    let batch = &taken.batch;
    for op in &batch.ops {
        if let Op::Delete { id, .. } | Op::Forget { id } = op {
            deletes.push(id.0);
            continue;
        }
        delete_gathered(hot, deletes)?;
        match op {
            Op::Insert { id, recipient, sender, queued_at, body, .. } => {
                if !taken.accepted {
                    continue;
                }
                let body = slice(&batch.bytes, body.start, body.end)
                    .ok_or_else(|| sqlite::error(ffi::SQLITE_MISUSE, "a message lies outside of its batch"))?;
                hot.insert(&NewMessage {
                    id: id.0,
                    recipient: recipient.as_str(),
                    sender: sender.as_str(),
                    queued_at: *queued_at,
                    body,
                })?;
                *highest = (*highest).max(Some(id.0));
            }
            Op::LoggedIn { name, from, at, rehash } => {
                logged_in(users::logged_in(connection, *name, *from, *at, rehash.as_deref()))?;
            }
            Op::Admin { request, op } if admin::is_write(op) => {
                written.push((*request, admin::write(connection, hot, op)?));
            }
            Op::Delete { .. } | Op::Forget { .. } | Op::Fetch { .. } | Op::Lookup { .. } | Op::Admin { .. } => {}
        }
    }
    delete_gathered(hot, deletes)
}

/// Deletes that stand side by side are executed in the order of their places.
fn delete_gathered(hot: &mut Hot<'_>, deletes: &mut Vec<u64>) -> rusqlite::Result<()> {
    if !deletes.is_empty() {
        deletes.sort_unstable();
        deletes.dedup();
        hot.delete_all(deletes)?;
        deletes.clear();
    }
    Ok(())
}

/// Nobody waits for the record of a login: one that meets a damaged row is dropped, the row is named when it is read.
pub fn logged_in(result: Result<(), RowError>) -> rusqlite::Result<()> {
    match result {
        Ok(()) | Err(RowError::Damaged(_)) => Ok(()),
        Err(RowError::Sql(error)) => Err(error),
    }
}

/// What a range of a batch's operation names.
pub fn slice<T>(all: &[T], start: u32, end: u32) -> Option<&[T]> {
    all.get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
}
