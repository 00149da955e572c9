//! A store as the writer's thread over its file: all batches that wait become one transaction, answered when it is
//! synced. A crash keeps of what is not synced whole transactions only, and of those the first ones: what a write-ahead
//! log keeps, whatever became of its last bytes. Commits can be slow, be refused, have an unknown outcome, or break the
//! store; reads can fail. Its twins do on purpose what a store must not.

use std::collections::{BTreeSet, VecDeque};

use cp_proto::values::Username;
use cpd_core::engine::Engine;
use cpd_core::engine::port::{AdminAnswer, Answer, Batch, FromStore, MessageId, Op, Outcome, SessionId, StoredMessage};
use cpd_core::time::Millis;

use super::plan::Twin;
use super::rows::{self, Message, State, User, Write};
use cpd_testing::random::Random;

/// Ids are reserved in blocks, so that none is used twice after a crash.
const RESERVED_IDS: u64 = 1000;
/// Between two attempts to write deletes that have failed.
const RETRY_MS: Millis = 1000;

/// How often something fails: once in so many times, 0 is never.
#[derive(Clone, Copy, Default, Debug)]
pub struct Faults {
    pub commit: u64,
    pub read: u64,
    pub slow: u64,
    pub broken: u64,
}

/// How a transaction will end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Stored,
    /// Certainly not stored; then a second one without its inserts.
    Refused,
    /// The same, and the second one fails too: deletes have to wait.
    NothingWritten,
    /// It may be there or not, until the inserts were taken back.
    Unknown,
    Broken,
}

struct Cycle {
    batches: Vec<Batch>,
    accepted: Vec<bool>,
    /// It has inserts that were accepted.
    inserting: bool,
    answers: Vec<Answer>,
    fate: Fate,
}

pub struct Store {
    twin: Twin,
    pub faults: Faults,
    random: Random,
    /// What reads see.
    visible: State,
    /// What a crash leaves in any case.
    durable: State,
    /// Transactions that are written and not synced.
    log: Vec<Vec<Write>>,
    waiting: VecDeque<Batch>,
    cycle: Option<Cycle>,
    epoch: u32,
    pending: BTreeSet<u64>,
    /// When those are tried again if nothing else comes.
    retry_at: Option<Millis>,
    /// On the way to the engine, each from its time on.
    results: VecDeque<(Millis, FromStore)>,
    announced: usize,
    /// Sessions whose page, record or delete failed.
    pub failed: Vec<SessionId>,
    pub commits: u64,
}

impl Store {
    pub fn new(twin: Twin, faults: Faults, random: Random) -> Store {
        Store {
            twin,
            faults,
            random,
            visible: State::default(),
            durable: State::default(),
            log: Vec::new(),
            waiting: VecDeque::new(),
            cycle: None,
            epoch: 0,
            pending: BTreeSet::new(),
            retry_at: None,
            results: VecDeque::new(),
            announced: 0,
            failed: Vec::new(),
            commits: 0,
        }
    }

    pub fn add_user(&mut self, name: Username, hash: String) {
        let write = Write::User(name, Some(User { hash, ..User::default() }));
        self.visible.apply(&write);
        self.durable.apply(&write);
    }

    /// What a start reads.
    pub fn load(&self, engine: &mut Engine) {
        self.visible.users.keys().for_each(|name| engine.load_user(*name));
        for (id, message) in &self.visible.messages {
            engine.load_message(&StoredMessage {
                id: MessageId(*id),
                recipient: message.recipient,
                sender: message.sender,
                queued_at: message.queued_at,
                bytes: message.body.len() as u16,
            });
        }
        let behind = self.visible.messages.keys().last().map_or(1, |last| last + 1);
        engine.set_next_message(behind.max(self.visible.reserved));
    }

    pub fn submit(&mut self, batch: Batch) {
        self.waiting.push_back(batch);
    }

    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// When the next result is to be taken, each once.
    pub fn next_announcement(&mut self) -> Option<Millis> {
        let (at, _) = self.results.get(self.announced)?;
        self.announced += 1;
        Some(*at)
    }

    /// The next result.
    pub fn take_result(&mut self) -> Option<FromStore> {
        self.announced = self.announced.saturating_sub(1);
        self.results.pop_front().map(|(_, result)| result)
    }

    pub fn is_busy(&self) -> bool {
        self.cycle.is_some() || !self.waiting.is_empty() || !self.results.is_empty()
    }

    /// Deletes are left that have failed.
    pub fn owes_deletes(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Begins a round if it can. When it will be over.
    pub fn begin(&mut self, now: Millis) -> Option<Millis> {
        let again = self.retry_at.is_some_and(|at| now >= at);
        if self.cycle.is_some() || (self.waiting.is_empty() && !again) {
            return None;
        }
        self.retry_at = None;
        let mut batches: Vec<Batch> = self.waiting.drain(..).collect();
        if batches.len() > 1 && self.random.one_in(4) {
            let rest = batches.split_off(batches.len() - 1);
            self.waiting.extend(rest);
        }
        self.read(&batches, now);
        let accepted: Vec<bool> = batches.iter().map(|batch| batch.epoch >= self.epoch).collect();
        let writes = batches.iter().flat_map(|batch| &batch.ops).any(rows::is_write) || !self.pending.is_empty();
        let inserting = batches.iter().zip(&accepted).any(|(batch, accepted)| *accepted && rows::inserts_in(batch));
        let fate = match if writes { self.draw_fate() } else { Fate::Stored } {
            // Nothing is left to try without.
            Fate::Refused if !inserting => Fate::NothingWritten,
            fate => fate,
        };
        let mut cycle = Cycle { batches, accepted, inserting, answers: Vec::new(), fate };
        if writes && matches!(fate, Fate::Stored | Fate::Unknown | Fate::Broken) {
            self.write(&mut cycle);
        }
        self.cycle = Some(cycle);
        let slow = self.faults.slow > 0 && self.random.one_in(self.faults.slow);
        let length = match (writes, slow) {
            (false, _) => 0,
            (true, true) => self.random.between(50, 3000),
            (true, false) => self.random.between(1, 6),
        };
        Some(now + length + if fate == Fate::Unknown { self.random.between(0, 400) } else { 0 })
    }

    fn draw_fate(&mut self) -> Fate {
        if self.random.one_in(self.faults.broken) {
            return Fate::Broken;
        }
        if !self.random.one_in(self.faults.commit) {
            return Fate::Stored;
        }
        *self.random.pick(&[Fate::Refused, Fate::Refused, Fate::NothingWritten, Fate::Unknown, Fate::Unknown])
    }

    /// Ends the round. `false`: the store is broken.
    pub fn finish(&mut self, now: Millis) -> bool {
        let Some(mut cycle) = self.cycle.take() else { return true };
        match cycle.fate {
            Fate::Stored => {
                self.commits += 1;
                self.pending.clear();
            }
            Fate::Broken => return false,
            Fate::Refused | Fate::Unknown | Fate::NothingWritten => {
                if cycle.fate == Fate::Unknown {
                    self.log.pop();
                    self.rebuild();
                }
                // A failure counts if it took inserts with it.
                if cycle.inserting {
                    cycle.accepted.iter_mut().for_each(|accepted| *accepted = false);
                    self.epoch += 1;
                }
                if cycle.fate == Fate::NothingWritten {
                    self.postpone(&mut cycle);
                } else {
                    self.write(&mut cycle);
                    self.pending.clear();
                }
            }
        }
        if self.twin != Twin::Unsynced || self.random.one_in(6) {
            self.sync();
        }
        self.answer(cycle, now);
        true
    }

    /// When deletes that have failed are to be tried again.
    pub fn retry_at(&mut self, now: Millis) -> Option<Millis> {
        self.retry_at = (!self.pending.is_empty()).then_some(now + RETRY_MS);
        self.retry_at
    }

    /// The power goes, or the process: what is left is what a successor finds. How many transactions were lost.
    pub fn crash(&mut self) -> usize {
        let kept = self.random.below(self.log.len() as u64 + 1) as usize;
        let lost = self.log.len() - kept;
        for write in self.log.drain(..).take(kept).flatten() {
            self.durable.apply(&write);
        }
        if self.twin == Twin::Forgetful
            && let Some(id) = self.durable.messages.keys().last().copied()
        {
            self.durable.messages.remove(&id);
        }
        self.visible = self.durable.clone();
        self.waiting.clear();
        self.results.clear();
        self.announced = 0;
        self.pending.clear();
        self.retry_at = None;
        self.failed.clear();
        self.cycle = None;
        self.epoch = 0;
        lost
    }

    /// The process ends in order: everything that was submitted is written, and what had failed before.
    pub fn close(&mut self, now: Millis) {
        let faults = std::mem::take(&mut self.faults);
        self.finish(now);
        loop {
            self.retry_at(now);
            if self.begin(now + RETRY_MS).is_none() {
                break;
            }
            self.finish(now);
        }
        self.sync();
        self.results.clear();
        self.announced = 0;
        self.failed.clear();
        (self.epoch, self.faults) = (0, faults);
    }

    /// Messages that are there and whose delete is not among these.
    pub fn bodies_without_delete<'a>(&'a self, deletes: &'a BTreeSet<u64>) -> impl Iterator<Item = &'a [u8]> {
        self.visible.messages.iter().filter(|(id, _)| !deletes.contains(id)).map(|(_, message)| &*message.body)
    }

    fn sync(&mut self) {
        for write in self.log.drain(..).flatten() {
            self.durable.apply(&write);
        }
    }

    fn rebuild(&mut self) {
        self.visible = self.durable.clone();
        self.log.iter().flatten().for_each(|write| self.visible.apply(write));
    }

    /// Answers what does not depend on the writes of this round. (Others are answered behind them.)
    fn read(&mut self, batches: &[Batch], now: Millis) {
        let mut answers = Vec::new();
        let (mut users_change, mut anything_changes) = (false, false);
        for batch in batches {
            for op in &batch.ops {
                match op {
                    Op::Fetch { session, download, ids } => {
                        let ids = &batch.ids[ids.start as usize..ids.end as usize];
                        let mut page = self.visible.page(ids);
                        if self.twin == Twin::Mixing && self.random.one_in(30) {
                            self.visible.mix(&mut page);
                        }
                        if self.random.one_in(self.faults.read) {
                            page = None;
                        }
                        if page.is_none() {
                            self.failed.push(*session);
                        }
                        answers.push(Answer::Page { session: *session, download: *download, page });
                    }
                    Op::Lookup { session, name, from } if !users_change => {
                        let mut record = Ok(self.visible.login(*name, from.key));
                        if self.random.one_in(self.faults.read) {
                            self.failed.push(*session);
                            record = Err(());
                        }
                        answers.push(Answer::Login { session: *session, record });
                    }
                    Op::Admin { request, op } if !rows::is_change(op) && !anything_changes => {
                        answers
                            .push(Answer::Admin { request: *request, answer: self.visible.admin(op, &mut Vec::new()) });
                    }
                    Op::LoggedIn { .. } | Op::Admin { .. } => {}
                    Op::Lookup { .. } | Op::Insert { .. } | Op::Delete { .. } | Op::DeleteExpired { .. } => {}
                }
                users_change |= rows::changes_users(op);
                anything_changes |= rows::is_write(op);
            }
        }
        if !answers.is_empty() {
            self.send(now, FromStore::Answers(answers));
        }
    }

    /// Puts the transaction into the log.
    fn write(&mut self, cycle: &mut Cycle) {
        let mut writes: Vec<Write> = self.pending.iter().map(|id| Write::Delete(*id)).collect();
        writes.iter().for_each(|write| self.visible.apply(write));
        cycle.answers.clear();
        for (batch, accepted) in cycle.batches.iter().zip(&cycle.accepted) {
            for op in &batch.ops {
                let first = writes.len();
                match op {
                    Op::Insert { id, recipient, sender, queued_at, body, .. } if *accepted => {
                        let body = batch.bytes[body.start as usize..body.end as usize].into();
                        let (recipient, sender, queued_at) = (*recipient, *sender, *queued_at);
                        writes.push(Write::Put(id.0, Message { recipient, sender, queued_at, body }));
                        if id.0 >= self.visible.reserved {
                            writes.push(Write::Reserve((id.0 / RESERVED_IDS + 1) * RESERVED_IDS));
                        }
                    }
                    Op::Delete { id, .. } | Op::DeleteExpired { id } => writes.push(Write::Delete(id.0)),
                    Op::LoggedIn { name, from, at, .. } => writes.extend(self.visible.logged_in(*name, *from, *at)),
                    Op::Admin { request, op } if rows::is_change(op) => {
                        let answer = self.visible.admin(op, &mut writes);
                        cycle.answers.push(Answer::Admin { request: *request, answer });
                    }
                    Op::Insert { .. } | Op::Fetch { .. } | Op::Lookup { .. } | Op::Admin { .. } => {}
                }
                writes[first..].iter().for_each(|write| self.visible.apply(write));
            }
        }
        self.log.push(writes);
    }

    /// Nothing can be written: deletes are kept for later, administrators are told.
    fn postpone(&mut self, cycle: &mut Cycle) {
        for batch in &cycle.batches {
            for op in &batch.ops {
                match op {
                    Op::Delete { id, session } => {
                        self.failed.push(*session);
                        self.pending.insert(id.0);
                    }
                    Op::DeleteExpired { id } => drop(self.pending.insert(id.0)),
                    Op::Admin { request, op } if rows::is_change(op) => {
                        let answer = AdminAnswer::Failed("no room".to_owned());
                        cycle.answers.push(Answer::Admin { request: *request, answer });
                    }
                    Op::Insert { .. }
                    | Op::Fetch { .. }
                    | Op::Lookup { .. }
                    | Op::LoggedIn { .. }
                    | Op::Admin { .. } => {}
                }
            }
        }
    }

    /// What waited for the writes, then the batches in their order.
    fn answer(&mut self, cycle: Cycle, now: Millis) {
        let Cycle { batches, accepted, mut answers, fate, .. } = cycle;
        answers.extend(self.deferred(&batches));
        let now = now + if self.random.one_in(3) { self.random.between(0, 3) } else { 0 };
        if !answers.is_empty() {
            self.send(now, FromStore::Answers(answers));
        }
        for (batch, accepted) in batches.into_iter().zip(accepted) {
            let deletes = fate != Fate::NothingWritten || !rows::deletes_in(&batch);
            let inserts = accepted || !rows::inserts_in(&batch);
            let outcome = Outcome { inserts, no_room: false, deletes, epoch: self.epoch };
            self.send(now, FromStore::Done(batch, outcome));
        }
    }

    /// Logins that were looked up behind a change of users, and what administrators read behind any change.
    fn deferred(&mut self, batches: &[Batch]) -> Vec<Answer> {
        let (mut users_change, mut anything_changes) = (false, false);
        let mut answers = Vec::new();
        for op in batches.iter().flat_map(|batch| &batch.ops) {
            match op {
                Op::Lookup { session, name, from } if users_change => {
                    let mut record = Ok(self.visible.login(*name, from.key));
                    if self.random.one_in(self.faults.read) {
                        self.failed.push(*session);
                        record = Err(());
                    }
                    answers.push(Answer::Login { session: *session, record });
                }
                Op::Admin { request, op } if anything_changes && !rows::is_change(op) => {
                    answers.push(Answer::Admin { request: *request, answer: self.visible.admin(op, &mut Vec::new()) });
                }
                _ => {}
            }
            users_change |= rows::changes_users(op);
            anything_changes |= rows::is_write(op);
        }
        answers
    }

    fn send(&mut self, at: Millis, result: FromStore) {
        let at = self.results.back().map_or(at, |(last, _)| at.max(*last));
        self.results.push_back((at, result));
    }
}
