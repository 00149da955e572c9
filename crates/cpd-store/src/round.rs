//! One round of the writer: the reads that need not wait, then all writes of its batches in one transaction, then the
//! remaining answers.

use cpd_core::engine::port::{AdminAnswer, AdminOp, Answer, Batch, FromStore, Op, Outcome, RequestId};
use rusqlite::{Connection, ffi};

use super::event::StoreEvent;
use super::hot_statements::{HotStatements, NewMessage};
use super::reads::{answer_read, slice};
use super::row::{ID_BLOCK_SIZE, RowError};
use super::sqlite::{self, FaultPoint};
use super::state::WriterState;
use super::transaction::{CommitError, run_transaction};
use super::{admin_ops, disk_space, log_checkpoint, pending_deletes, users};

/// Deletes that may be pending because they could not be written; the store is broken when there are more.
pub const PENDING_DELETES_MAX: usize = 65_536;
/// Bytes that a message takes in its page and in the log, in addition to its body.
const ROW_OVERHEAD_BYTES: u64 = 96;

/// Answers to operators' writes, in the order of the writes.
pub type WriteAnswers = Vec<(RequestId, AdminAnswer)>;

/// How the writes of a round ended.
pub enum RoundOutcome {
    /// The outcome of every write is known.
    Decided,
    /// The outcome of a commit is unknown; the connection must be closed and reopened.
    Unknown(String),
    /// The store cannot continue, for this reason.
    Broken(String),
}

/// The batches of one round and their state. It is used for every round and keeps its allocations.
#[derive(Default)]
pub struct Round {
    pub batches: Vec<RoundBatch>,
    /// Answers to the operators' writes, in the order of the writes.
    pub write_answers: WriteAnswers,
    /// Reads that must see a write of this round: the indices of the batch and of the operation in it.
    deferred: Vec<(usize, usize)>,
    /// There is something to write.
    has_writes: bool,
    /// A buffer in which consecutive deletes are gathered.
    deletes: Vec<u64>,
    /// Bytes that the inserts need, including their overhead.
    insert_bytes: u64,
    /// The current transaction, or the one whose outcome is unknown, has inserts.
    pub inserting: bool,
    /// The inserts were refused because the disk is full.
    no_room: bool,
}

/// A batch of the round.
pub struct RoundBatch {
    pub batch: Batch,
    has_inserts: bool,
    has_deletes: bool,
    /// Its inserts are to be executed.
    pub inserts_accepted: bool,
    /// Its deletes, if it has any, are stored; `false` if they are pending.
    deletes_stored: bool,
}

impl Round {
    /// Adds a batch to the round and returns how many operations it has.
    pub fn add(&mut self, batch: Batch) -> usize {
        let operations = batch.ops.len();
        self.batches.push(RoundBatch {
            batch,
            has_inserts: false,
            has_deletes: false,
            inserts_accepted: true,
            deletes_stored: true,
        });
        operations
    }

    /// Answers the reads that need not see this round's writes, and determines what there is to write.
    pub fn answer_reads(&mut self, core: &mut WriterState, connection: &Connection) {
        let mut answers = Vec::new();
        let mut batches = std::mem::take(&mut self.batches);
        // A login's read must see earlier changes of users; an operator's read must see every earlier write.
        let (mut users_change, mut anything_changes) = (false, false);
        for (b, taken) in batches.iter_mut().enumerate() {
            for (o, op) in taken.batch.ops.iter().enumerate() {
                match op {
                    Op::Insert { body, .. } => {
                        taken.has_inserts = true;
                        anything_changes = true;
                        self.insert_bytes += u64::from(body.end.saturating_sub(body.start)) + ROW_OVERHEAD_BYTES;
                    }
                    Op::Delete { .. } | Op::DeleteExpired { .. } => {
                        (taken.has_deletes, anything_changes) = (true, true)
                    }
                    Op::LoggedIn { .. } => (users_change, anything_changes) = (true, true),
                    Op::Admin { op, .. } if admin_ops::is_write(op) => (users_change, anything_changes) = (true, true),
                    Op::Lookup { .. } if users_change => self.deferred.push((b, o)),
                    Op::Admin { .. } if anything_changes => self.deferred.push((b, o)),
                    Op::Fetch { .. } | Op::Lookup { .. } | Op::Admin { .. } => {
                        answers.extend(answer_read(core, connection, &taken.batch, op));
                    }
                }
            }
        }
        self.batches = batches;
        self.has_writes = anything_changes || !core.pending_deletes.is_empty();
        if !answers.is_empty() {
            core.send(FromStore::Answers(answers));
            (core.wake)();
        }
    }

    /// Executes the round's writes in one transaction. If it is rolled back, tries again without the inserts; if that
    /// fails too, the deletes become pending.
    pub fn execute_writes(&mut self, core: &mut WriterState, connection: &Connection) -> RoundOutcome {
        if !self.has_writes {
            return RoundOutcome::Decided;
        }
        self.accept_inserts(core, connection);
        self.inserting = self.batches.iter().any(|t| t.has_inserts && t.inserts_accepted);
        let cause = match self.try_transaction(core, connection) {
            Ok(()) => return RoundOutcome::Decided,
            Err(CommitError::Unknown(error)) => return RoundOutcome::Unknown(sqlite::error_text(&error)),
            Err(CommitError::RolledBack(error)) => error,
        };
        // The disk has room, so something else limits what may be written: a quota, for instance.
        core.quota_is_used_up |= sqlite::is_full(&cause) && !core.disk_low;
        if sqlite::is_damage(&cause) {
            return RoundOutcome::Broken(sqlite::error_text(&cause));
        }
        if !self.inserting && !sqlite::is_full(&cause) {
            return self.postpone_deletes(core, connection, &cause, "");
        }
        let logged_cause = sqlite::error_text(&cause);
        if !self.batches.is_empty() {
            core.event(StoreEvent::CommitFailed(logged_cause.clone()));
        }
        if self.inserting {
            self.refuse_inserts(core, sqlite::is_full(&cause));
        }
        if sqlite::is_full(&cause) {
            // A log that is moved completely restarts at its beginning and has room inside for deletes.
            log_checkpoint::checkpoint(core, connection);
        }
        match self.try_transaction(core, connection) {
            Ok(()) => RoundOutcome::Decided,
            Err(CommitError::Unknown(error)) => RoundOutcome::Unknown(sqlite::error_text(&error)),
            Err(CommitError::RolledBack(error)) => self.postpone_deletes(core, connection, &error, &logged_cause),
        }
    }

    /// Counts a failure and refuses every insert of the round; `no_room`: because the disk is full.
    pub fn refuse_inserts(&mut self, core: &mut WriterState, no_room: bool) {
        core.epoch = core.epoch.wrapping_add(1);
        (self.inserting, self.no_room) = (false, no_room);
        for taken in self.batches.iter_mut().filter(|t| t.has_inserts) {
            taken.inserts_accepted = false;
        }
    }

    /// Decides whose inserts are executed: those of batches made after the latest failure, if the disk has room for all
    /// of them.
    fn accept_inserts(&mut self, core: &mut WriterState, connection: &Connection) {
        for taken in &mut self.batches {
            taken.inserts_accepted = taken.batch.epoch >= core.epoch;
        }
        if !self.batches.iter().any(|t| t.has_inserts && t.inserts_accepted) {
            return;
        }
        let available = match core.faults.check(FaultPoint::FreeSpace) {
            Ok(()) => core.available().unwrap_or(u64::MAX),
            Err(_) => 0,
        };
        let inserts = self.insert_bytes + if core.disk_low { disk_space::RESUME_MARGIN_BYTES } else { 0 };
        let needed = disk_space::needed_bytes(&core.files, connection, available, core.unmoved_log_bytes, inserts);
        let available = core.available_for_inserts(available, needed);
        let low = available < needed || !core.reserve_file(connection, inserts);
        if low != core.disk_low {
            core.disk_low = low;
            core.event(if low { StoreEvent::DiskLow { available, needed } } else { StoreEvent::DiskOk });
        }
        if low {
            self.refuse_inserts(core, true);
        }
    }

    /// Executes everything that is accepted, and all pending deletes, in one transaction.
    fn try_transaction(&mut self, core: &mut WriterState, connection: &Connection) -> Result<(), CommitError> {
        self.write_answers.clear();
        let mut deletes = std::mem::take(&mut self.deletes);
        let mut mark = None;
        let stored = run_transaction(core, connection, |core, hot| {
            mark = Some(core.write_mark(connection)?);
            if self.inserting {
                core.faults.check(FaultPoint::Inserts)?;
            }
            deletes.clear();
            deletes.extend(core.pending_deletes.iter().copied());
            execute_deletes(hot, &mut deletes)?;
            let mut highest = None;
            for taken in &self.batches {
                execute_batch_writes(connection, hot, taken, &mut deletes, &mut self.write_answers, &mut highest)?;
                core.progress.note_step();
            }
            match highest {
                Some(id) if id >= core.reserved => {
                    let reserved = (id / ID_BLOCK_SIZE + 1).saturating_mul(ID_BLOCK_SIZE);
                    core.files.reserve_ids(connection, reserved)?;
                    Ok(reserved)
                }
                _ => Ok(core.reserved),
            }
        });
        self.deletes = deletes;
        core.reserved = stored?;
        core.watch.mark = mark;
        core.pending_deletes.clear();
        Ok(())
    }

    /// Nothing can be written: the deletes become pending, and operators' writes fail.
    /// `logged_cause` is the cause that this round has logged already, or empty.
    fn postpone_deletes(
        &mut self,
        core: &mut WriterState,
        connection: &Connection,
        cause: &rusqlite::Error,
        logged_cause: &str,
    ) -> RoundOutcome {
        let text = sqlite::error_text(cause);
        if sqlite::is_damage(cause) {
            return RoundOutcome::Broken(text);
        }
        // Logged only if it is new, not at each attempt to write pending deletes.
        if !self.batches.is_empty() && text != logged_cause {
            core.event(StoreEvent::CommitFailed(text.clone()));
        }
        for taken in &mut self.batches {
            taken.deletes_stored = !taken.has_deletes;
            for op in &taken.batch.ops {
                if let Op::Delete { id, .. } | Op::DeleteExpired { id } = op {
                    core.pending_deletes.insert(id.0);
                }
            }
        }
        if sqlite::is_full(cause)
            && let Err(cause) = pending_deletes::write_in_pieces(core, connection)
        {
            return RoundOutcome::Unknown(cause);
        }
        if core.pending_deletes.is_empty() {
            self.batches.iter_mut().for_each(|taken| taken.deletes_stored = true);
        }
        if core.pending_deletes.len() > PENDING_DELETES_MAX {
            return RoundOutcome::Broken(format!(
                "{} deletes could not be written: {text}",
                core.pending_deletes.len()
            ));
        }
        if self.batches.iter().any(|t| !t.deletes_stored) {
            core.event(StoreEvent::DeletesPending { count: core.pending_deletes.len() });
        }
        self.write_answers.clear();
        for (request, op) in self.batches.iter().flat_map(|t| &t.batch.ops).filter_map(admin_write) {
            debug_assert!(admin_ops::is_write(op));
            self.write_answers.push((request, AdminAnswer::Failed(text.clone())));
        }
        RoundOutcome::Decided
    }

    /// Answers what waited for the writes, and hands the batches back in their order.
    pub fn hand_back(&mut self, core: &mut WriterState, connection: &Connection) {
        let write_answers = self.write_answers.drain(..).map(|(request, answer)| Answer::Admin { request, answer });
        let mut answers: Vec<Answer> = write_answers.collect();
        for (b, o) in self.deferred.drain(..) {
            let Some(batch) = self.batches.get(b).map(|t| &t.batch) else { continue };
            answers.extend(batch.ops.get(o).and_then(|op| answer_read(core, connection, batch, op)));
        }
        let answered = !answers.is_empty();
        if answered {
            core.send(FromStore::Answers(answers));
        }
        let done = self.batches.len();
        for taken in self.batches.drain(..) {
            let inserts = taken.inserts_accepted || !taken.has_inserts;
            let no_room = !inserts && (self.no_room || core.disk_low);
            let outcome = Outcome { inserts, no_room, deletes: taken.deletes_stored, epoch: core.epoch };
            core.progress.note_batch_done();
            core.send(FromStore::Done(taken.batch, outcome));
        }
        if answered || done > 0 {
            (core.wake)();
        }
        (self.has_writes, self.inserting, self.no_room, self.insert_bytes) = (false, false, false, 0);
    }
}

/// The id and the operation of an operator's write; `None` for any other operation.
pub fn admin_write(op: &Op) -> Option<(RequestId, &AdminOp)> {
    match op {
        Op::Admin { request, op } if admin_ops::is_write(op) => Some((*request, op)),
        _ => None,
    }
}

/// Executes the writes of one batch. Consecutive deletes are gathered and executed together.
/// Answers go to `write_answers`, and `highest` becomes the highest id inserted.
fn execute_batch_writes(
    connection: &Connection,
    hot: &mut HotStatements<'_>,
    taken: &RoundBatch,
    deletes: &mut Vec<u64>,
    write_answers: &mut WriteAnswers,
    highest: &mut Option<u64>,
) -> rusqlite::Result<()> {
    let batch = &taken.batch;
    for op in &batch.ops {
        if let Op::Delete { id, .. } | Op::DeleteExpired { id } = op {
            deletes.push(id.0);
            continue;
        }
        execute_deletes(hot, deletes)?;
        match op {
            Op::Insert { id, recipient, sender, queued_at, body, .. } => {
                if !taken.inserts_accepted {
                    continue;
                }
                let body = slice(&batch.bytes, body.start, body.end)
                    .ok_or_else(|| sqlite::new_error(ffi::SQLITE_MISUSE, "a message lies outside of its batch"))?;
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
                ignore_damage(users::record_login(connection, *name, *from, *at, rehash.as_deref()))?;
            }
            Op::Admin { request, op } if admin_ops::is_write(op) => {
                write_answers.push((*request, admin_ops::write(connection, hot, op)?));
            }
            Op::Delete { .. } | Op::DeleteExpired { .. } | Op::Fetch { .. } | Op::Lookup { .. } | Op::Admin { .. } => {}
        }
    }
    execute_deletes(hot, deletes)
}

/// Executes the gathered deletes in the order of their ids, which is their order in the file, and empties `deletes`.
fn execute_deletes(hot: &mut HotStatements<'_>, deletes: &mut Vec<u64>) -> rusqlite::Result<()> {
    if !deletes.is_empty() {
        deletes.sort_unstable();
        deletes.dedup();
        hot.delete_ascending(deletes)?;
        deletes.clear();
    }
    Ok(())
}

/// Ignores damage found by [`users::record_login`]: nobody waits for the record of a login, and the damage is reported
/// when the row is read.
pub fn ignore_damage(result: Result<(), RowError>) -> rusqlite::Result<()> {
    match result {
        Ok(()) | Err(RowError::Damaged(_)) => Ok(()),
        Err(RowError::Sql(error)) => Err(error),
    }
}
