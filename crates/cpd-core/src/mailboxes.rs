//! Where messages wait for their recipients: the seam between the sessions and whatever keeps the mailboxes. One kind is
//! [`local::LocalMailboxes`], whose queues belong to this process alone and whose bodies are in its store. The seam
//! promises no more than several processes on one database could keep: a refusal, the lease of a queue and the end of a
//! download may all come later than the call that asks for them.

pub mod local;

use cp_proto::values::Username;

use crate::dfa::Refusal;
use crate::download::{MessageId, Page};
use crate::engine::counters::Counters;
use crate::engine::port::{AddressKey, AdminAnswer, AdminOp, LoginRecord, Origin, RequestId, SessionId};
use crate::engine::requests::{AdminResult, PurgeFilter};
use crate::engine::settings::Limits;
use crate::services::LeaseAnswer;
use crate::time::Millis;

/// Why a message is not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuotaError {
    NoSuchUser,
    QueueFull,
    SenderFull,
    /// The queue is nearly full, and its last fifth is for senders with few messages in it.
    LastFifth,
    /// The sender has too many messages in all queues together.
    SenderTotal,
    /// The sender has sent too many messages in a minute.
    SenderRate,
    StoreFull,
}

/// Why a message does not go to the store now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotStored {
    Refused(QuotaError),
    /// There is no room on the way to the store. [`MailboxEvent::Room`] will say when there may be some.
    NoRoomNow,
}

/// Whom a message is from, and whom it is for.
#[derive(Debug, Clone, Copy)]
pub struct SenderAndRecipient {
    pub sender: Username,
    pub recipient: Username,
}

/// What the mailboxes need in a call: the limits in force, the monotonic clock in milliseconds, and the wall clock in
/// seconds since 1970.
#[derive(Debug, Clone, Copy)]
pub struct MailboxContext<'a> {
    pub limits: &'a Limits,
    pub now: Millis,
    pub wall_seconds: u64,
}

/// What has happened in the mailboxes. For one session, `Stored` events come in the order of its [`Mailboxes::store`] calls,
/// and `Deleted` events in the order of its [`Mailboxes::delete`] calls.
#[derive(Debug)]
pub enum MailboxEvent {
    /// The outcome of one [`Mailboxes::store`]: the message is on stable storage, or why not.
    Stored { session: SessionId, result: Result<(), Refusal> },
    /// The outcome of the next `count` calls of [`Mailboxes::delete`]: whether the deletes are on stable storage.
    Deleted { session: SessionId, count: u32, ok: bool },
    /// The page that [`Mailboxes::read_queue`] asked for. `None`: it could not be read.
    Page { session: SessionId, download: u32, page: Option<Page> },
    /// The session has got the lease for which it waited or asked.
    Granted { session: SessionId },
    /// The session asked for a lease and does not get it: the queue is empty, or another session has its lease.
    Nothing { session: SessionId },
    /// The session, for which there was no room on the way to the store, may try again.
    Room { session: SessionId },
    /// Unsent messages of the session's download were removed by an operator; the ids are in ascending order.
    Purged { session: SessionId, ids: Vec<MessageId> },
    /// The record that [`Mailboxes::look_up`] asked for. `None`: there is no such user, or the record could not be read.
    Login { session: SessionId, record: Option<Box<LoginRecord>> },
    /// The store's answer to [`Mailboxes::ask`].
    Answer { request: RequestId, answer: AdminAnswer },
    /// The result of an operator's request about users or queues. It counts no sessions.
    Result { request: RequestId, result: AdminResult },
}

/// The mailboxes of all users. No method blocks: what takes time is reported by [`Mailboxes::next_event`].
pub trait Mailboxes {
    /// Work for the store, to be submitted in one piece.
    type Batch;
    /// What the store hands back.
    type FromStore;

    /// Offers a message. [`MailboxEvent::Stored`] will tell the outcome. If it brings an error, the messages that the same
    /// session offered after this one are not queued either, and each gets a `Stored` with an error of its own: in the
    /// state table of docs/protocol.md, section 5, an SMSG in Error Processing is not stored.
    ///
    /// # Errors
    /// The message is not queued, and no event will come for it, except [`MailboxEvent::Room`].
    fn store(
        &mut self,
        session: SessionId,
        names: SenderAndRecipient,
        body: &[u8],
        cx: &MailboxContext<'_>,
    ) -> Result<(), NotStored>;

    /// Requests the lease of `user`'s queue for `session`, up to the last message that is queued now. With `wait`, the
    /// session waits for it if it cannot have it now. See [`LeaseAnswer`].
    fn open_download(&mut self, session: SessionId, user: Username, wait: bool) -> LeaseAnswer;

    /// Starts to read the next page of the session's download, which has the number `serial`. Returns whether anything is
    /// read; if so, [`MailboxEvent::Page`] will come.
    fn read_queue(&mut self, session: SessionId, user: Username, serial: u32) -> bool;

    /// Deletes a message that its recipient has acknowledged. Returns whether it was still queued; only then a
    /// [`MailboxEvent::Deleted`] will count it.
    fn delete(&mut self, session: SessionId, user: Username, id: MessageId, now: Millis) -> bool;

    /// Sends delayed writes to the store now, because somebody waits for them.
    fn flush(&mut self);

    /// Gives back the lease of `user`'s queue, or ends the session's wait for it. Messages that were not deleted stay. No
    /// [`MailboxEvent::Granted`] and no [`MailboxEvent::Nothing`] may come for it any more.
    fn close_download(&mut self, session: SessionId, user: Username);

    /// Does what [`Mailboxes::close_download`] does, because the connection of a session of `user` has ended.
    fn connection_ended(&mut self, session: SessionId, user: Username, now: Millis);

    /// Lets the sessions try again for which there was no room on the way to the store.
    fn retry_stores(&mut self);

    /// Whether there may be such a user; `false` only if there is certainly none.
    fn may_exist(&self, name: Username) -> bool;

    /// Asks for the record against which a login as `name` from `from` is checked.
    fn look_up(&mut self, session: SessionId, name: Username, from: Origin);

    /// Records a login that has just succeeded. If the stored hash is still `rehash.0`, `rehash.1` replaces it. Nobody
    /// waits for that.
    fn record_login(
        &mut self,
        name: Username,
        from: AddressKey,
        rehash: Option<Box<(String, String)>>,
        cx: &MailboxContext<'_>,
    );

    /// The number of messages that wait for `name`.
    fn queued(&self, name: Username) -> u64;

    /// The number of queued messages and the bytes of their bodies, including those on their way to the store.
    fn totals(&self) -> (u64, u64);

    /// Passes an operator's request to the store: one about users, copies, checks or sizes. Removals, purges and lists of
    /// messages have methods of their own. [`MailboxEvent::Answer`] will come.
    fn ask(&mut self, request: RequestId, op: AdminOp);

    /// Removes a user with its queue. [`MailboxEvent::Result`] will come, with the number of messages removed.
    fn remove_user(&mut self, request: RequestId, name: Username);

    /// Lists up to `limit` queues that are not empty, in the order of names, after `after`.
    /// [`MailboxEvent::Result`] will come.
    fn list_queues(&mut self, request: RequestId, after: Option<Username>, limit: usize);

    /// Lists up to `limit` messages of `user`'s queue with ids above `after`, with their `bodies` if asked.
    /// [`MailboxEvent::Result`] will come.
    fn show_queue(&mut self, request: RequestId, user: Username, after: MessageId, limit: usize, bodies: bool);

    /// Deletes the messages of `user`'s queue that `which` selects at `wall_seconds`. [`MailboxEvent::Result`] will come.
    fn purge(&mut self, request: RequestId, user: Username, which: PurgeFilter, wall_seconds: u64);

    /// Deletes up to `limit` messages for whose id and time of queueing `has_expired` is true, except from queues that are
    /// being downloaded. Begins at `from`, and returns the number of messages and where to continue, `None` at the end.
    fn expire(
        &mut self,
        has_expired: impl Fn(MessageId, u64) -> bool,
        from: usize,
        limit: usize,
        now: Millis,
    ) -> (u64, Option<usize>);

    /// When [`Mailboxes::next_batch`] has to be called for the sake of delayed writes. `None`: there are none, or too many
    /// batches are under way.
    fn next_deadline(&self) -> Option<Millis>;

    /// The next batch for the store. `None`: there is none, or too many are under way.
    fn next_batch(&mut self, now: Millis) -> Option<Self::Batch>;

    /// Takes what the store has handed back. Events may follow. Counts `store_batches` and `store_failures`.
    fn answered(&mut self, result: Self::FromStore, counters: &mut Counters);

    /// The next event. Counts `messages_accepted`, and `messages_removed` for one whose recipient was removed while it was
    /// being stored; all other counters are the engine's.
    fn next_event(&mut self, counters: &mut Counters, now: Millis) -> Option<MailboxEvent>;

    /// Whether nothing waits for the store or is under way in it.
    fn is_idle(&self) -> bool;

    /// For a hand-over, the sessions that wait for messages; those of one user are in the order in which they wait.
    fn waiters(&self) -> Vec<SessionId>;

    /// For a hand-over, the last message of `session`'s download of `user`'s queue. `None`: it has no lease.
    fn lease_end(&self, session: SessionId, user: Username) -> Option<MessageId>;

    /// Lets a session wait that waited in the predecessor.
    fn resume_wait(&mut self, session: SessionId, user: Username);

    /// Gives the lease of `user`'s queue to a session that had it in the predecessor, from behind the message `sent` up
    /// to `last`. `false`: the queue is leased already.
    fn resume_download(&mut self, session: SessionId, user: Username, sent: MessageId, last: MessageId) -> bool;
}
