//! The mailboxes of a daemon that has its store to itself: all queues are in this process's memory, message ids are its
//! own, and the bodies are written and read in batches by the store's thread.

pub mod batcher;
mod events;
mod names;
mod operators;
mod queues;
mod sabotage;

use std::collections::{HashMap, VecDeque};
use std::vec;

use cp_proto::values::Username;

use self::batcher::{Batcher, DELETE_DELAY_MS, LOGIN_DELAY_MS};
use self::queues::{PurgedMessages, Queues};
use super::{MailboxContext, MailboxEvent, Mailboxes, NotStored, SenderAndRecipient};
use crate::dfa::Refusal;
use crate::download::MessageId;
use crate::engine::counters::Counters;
use crate::engine::port::{
    AddressKey, AdminOp, Answer, Batch, FromStore, Op, Origin, RequestId, SessionId, StoredMessage,
};
use crate::engine::requests::PurgeFilter;
use crate::services::LeaseAnswer;
use crate::time::Millis;

/// All mailboxes, with what is on its way to the store and back.
#[derive(Debug, Default)]
pub struct LocalMailboxes {
    queues: Queues,
    batcher: Batcher,
    /// The id of the next message. Ids grow in the order of queueing.
    next_message: u64,
    /// Users whose queue may be granted to a session that waits for it.
    grant_candidates: VecDeque<Username>,
    /// Sessions for which there was no room on the way to the store.
    waiting_for_room: VecDeque<SessionId>,
    /// Reads under way, by session and download.
    reads: HashMap<(SessionId, u32), PendingRead>,
    /// Operators' requests about users and queues that are at the store.
    requests: HashMap<RequestId, PendingRequest>,
    /// Answers of the store that were not turned into events yet.
    answers: vec::IntoIter<Answer>,
    /// A batch that came back, whose operations were not all turned into events yet.
    returned: Option<ReturnedBatch>,
    /// Sessions of which [`MailboxEvent::Room`] has to be reported.
    may_retry: VecDeque<SessionId>,
    /// Other events to be reported.
    events: VecDeque<MailboxEvent>,
}

/// A page that the store is reading.
#[derive(Debug)]
struct PendingRead {
    user: Username,
    /// The download has more messages behind the page.
    more: bool,
}

/// A batch that came back from the store.
#[derive(Debug)]
struct ReturnedBatch {
    batch: Batch,
    /// Whether its inserts are stored, or why not.
    inserts: Result<(), Refusal>,
    /// Whether its deletes are on stable storage.
    deletes: bool,
    /// The index of the next operation.
    next: usize,
}

/// What to do with the store's answer to a request.
#[derive(Debug)]
enum PendingRequest {
    /// The user with this name is added to the queues, once it is in the store.
    Addition(Username),
    Removal(Username),
    Purge(Username, PurgedMessages),
    /// The messages of one page. `true`: more follow.
    Messages(bool),
}

impl LocalMailboxes {
    /// Mailboxes without users or messages; `next_message` is the first message id that they may assign.
    pub fn new(next_message: u64) -> LocalMailboxes {
        LocalMailboxes { next_message, ..LocalMailboxes::default() }
    }

    /// Adds a user that the store holds.
    pub fn load_user(&mut self, name: Username) {
        self.queues.add_user(name);
    }

    /// Adds a message that the store holds. Messages must come in the order of their ids.
    pub fn load_message(&mut self, message: &StoredMessage) {
        let StoredMessage { id, recipient, sender, queued_at, bytes } = *message;
        self.queues.load(id, recipient, sender, queued_at, usize::from(bytes));
    }

    /// Sets the first message id that may be assigned.
    pub fn set_next_message(&mut self, id: u64) {
        self.next_message = id;
    }

    /// Ends `session`'s download of `user`'s queue, or its wait for one.
    fn release(&mut self, session: SessionId, user: Username) {
        if self.queues.release(user, session) {
            self.grant_candidates.push_back(user);
        }
    }
}

impl Mailboxes for LocalMailboxes {
    type Batch = Batch;
    type FromStore = FromStore;

    fn store(
        &mut self,
        session: SessionId,
        SenderAndRecipient { sender, recipient }: SenderAndRecipient,
        body: &[u8],
        cx: &MailboxContext<'_>,
    ) -> Result<(), NotStored> {
        if !self.batcher.has_room(body.len()) {
            self.waiting_for_room.push_back(session);
            return Err(NotStored::NoRoomNow);
        }
        let (id, queued_at) = (MessageId(self.next_message), cx.wall_seconds);
        self.queues
            .admit(id, recipient, sender, queued_at, body.len(), (cx.limits, cx.now))
            .map_err(NotStored::Refused)?;
        self.next_message += 1;
        self.batcher.insert(body, |body| Op::Insert { session, id, recipient, sender, queued_at, body });
        Ok(())
    }

    fn open_download(&mut self, session: SessionId, user: Username, wait: bool) -> LeaseAnswer {
        if self.queues.lease(user, session) {
            LeaseAnswer::Granted
        } else if wait {
            self.queues.add_waiter(user, session);
            LeaseAnswer::Waiting
        } else {
            LeaseAnswer::Nothing
        }
    }

    fn read_queue(&mut self, session: SessionId, user: Username, serial: u32) -> bool {
        let LocalMailboxes { queues, batcher, .. } = self;
        let fill = |ids: &mut Vec<u64>| queues.next_page(user, session, ids);
        let page = batcher.fetch(fill, |ids| Op::Fetch { session, download: serial, ids });
        page.is_some_and(|more| {
            self.reads.insert((session, serial), PendingRead { user, more });
            true
        })
    }

    fn delete(&mut self, session: SessionId, user: Username, id: MessageId, now: Millis) -> bool {
        let there = self.queues.remove(user, id);
        if there {
            self.batcher.write_lazily(Op::Delete { session, id }, now + DELETE_DELAY_MS);
        }
        there
    }

    fn flush(&mut self) {
        self.batcher.flush_lazy();
    }

    fn close_download(&mut self, session: SessionId, user: Username) {
        self.release(session, user);
    }

    fn connection_ended(&mut self, session: SessionId, user: Username, now: Millis) {
        self.inject_forgotten_lease(session, user, now);
        self.release(session, user);
    }

    fn retry_stores(&mut self) {
        self.may_retry.append(&mut self.waiting_for_room);
    }

    fn may_exist(&self, name: Username) -> bool {
        self.queues.exists(name)
    }

    fn look_up(&mut self, session: SessionId, name: Username, from: Origin) {
        self.batcher.read(Op::Lookup { session, name, from });
    }

    fn record_login(
        &mut self,
        name: Username,
        from: AddressKey,
        rehash: Option<Box<(String, String)>>,
        cx: &MailboxContext<'_>,
    ) {
        let op = Op::LoggedIn { name, from, at: cx.wall_seconds, rehash };
        self.batcher.write_lazily(op, cx.now + LOGIN_DELAY_MS);
    }

    fn queued(&self, name: Username) -> u64 {
        self.queues.queued(name)
    }

    fn totals(&self) -> (u64, u64) {
        self.queues.totals()
    }

    fn ask(&mut self, request: RequestId, op: AdminOp) {
        self.ask_store(request, op);
    }

    fn remove_user(&mut self, request: RequestId, name: Username) {
        self.begin_removal(request, name);
    }

    fn list_queues(&mut self, request: RequestId, after: Option<Username>, limit: usize) {
        self.report_queues(request, after, limit);
    }

    fn show_queue(&mut self, request: RequestId, user: Username, after: MessageId, limit: usize, bodies: bool) {
        self.report_messages(request, user, after, (limit, bodies));
    }

    fn purge(&mut self, request: RequestId, user: Username, which: PurgeFilter, wall_seconds: u64) {
        self.begin_purge(request, user, which, wall_seconds);
    }

    fn expire(
        &mut self,
        has_expired: impl Fn(MessageId, u64) -> bool,
        from: usize,
        limit: usize,
        now: Millis,
    ) -> (u64, Option<usize>) {
        let (expired, next) = self.queues.find_expired(has_expired, from, limit);
        let messages = expired.len() as u64;
        for (user, id) in expired {
            self.queues.remove(user, id);
            self.batcher.write_lazily(Op::DeleteExpired { id }, now + DELETE_DELAY_MS);
        }
        (messages, next)
    }

    fn next_deadline(&self) -> Option<Millis> {
        self.batcher.due()
    }

    fn next_batch(&mut self, now: Millis) -> Option<Batch> {
        let batch = self.batcher.next_batch(now);
        self.inject_early_reply(batch.as_ref());
        batch
    }

    fn answered(&mut self, answer: FromStore, counters: &mut Counters) {
        self.take_answer(answer, counters);
    }

    fn next_event(&mut self, counters: &mut Counters, now: Millis) -> Option<MailboxEvent> {
        self.find_event(counters, now)
    }

    fn is_idle(&self) -> bool {
        self.batcher.is_idle()
    }

    fn waiters(&self) -> Vec<SessionId> {
        self.queues.waiters()
    }

    fn lease_end(&self, session: SessionId, user: Username) -> Option<MessageId> {
        self.queues.lease_end(user, session)
    }

    fn resume_wait(&mut self, session: SessionId, user: Username) {
        self.queues.add_waiter(user, session);
        self.grant_candidates.push_back(user);
    }

    fn resume_download(&mut self, session: SessionId, user: Username, sent: MessageId, last: MessageId) -> bool {
        let resumed = self.queues.restore_lease(user, session, sent, last);
        if resumed {
            self.grant_candidates.push_back(user);
        }
        resumed
    }
}
