//! The state that all sessions share, and the services that it offers to each of them.

use std::collections::{HashMap, VecDeque};

use cp_proto::reply::Reply;
use cp_proto::values::{Password, Username};

use super::admin::Pending;
use super::batcher::Batcher;
use super::counters::Counters;
use super::counts::Counts;
use super::events::{Limit, LogEvent};
use super::logins::Logins;
use super::port::{AddressKey, Op, Origin, RequestId, SessionId};
use super::queues::{AdmitError, Queues};
use super::requests::AdminResult;
use super::settings::Limits;
use crate::dfa::Refusal;
use crate::download::MessageId;
use crate::services::{Admission, LeaseAnswer, Services};
use crate::time::Millis;

/// The queues, the batches for the store, the logins, and the events and results that wait to be fetched.
#[derive(Debug, Default)]
pub(super) struct Core {
    pub queues: Queues,
    pub batcher: Batcher,
    pub logins: Logins,
    /// The number of logged-in sessions of each user.
    pub per_user: Counts<Username>,
    pub limits: Limits,
    pub counters: Counters,
    pub events: VecDeque<LogEvent>,
    pub next_message: u64,
    /// The time that was passed to the current call.
    pub now: Millis,
    /// The wall clock as it was last set, in seconds since 1970.
    pub wall_seconds: u64,
    /// Users whose queue may be granted to a session that waits for it.
    pub grant_candidates: VecDeque<Username>,
    /// Sessions whose next PDU waits until another message can be submitted to the store.
    pub waiting_for_room: VecDeque<SessionId>,
    /// The store does not respond at present.
    pub stalled: bool,
    /// What a session's address counted as in 0.1.0, for the few sessions where that was something else.
    pub former_keys: HashMap<SessionId, AddressKey>,
    pub pending: HashMap<RequestId, Pending>,
    pub results: VecDeque<(RequestId, AdminResult)>,
}

impl Core {
    /// Ends `session`'s download of `user`'s queue, or its wait for one.
    pub fn release(&mut self, user: Username, session: SessionId) {
        if self.queues.release(user, session) {
            self.grant_candidates.push_back(user);
        }
    }

    fn refuse_for_quota(&mut self, quota: AdmitError, sender: Username, recipient: Username) -> Refusal {
        let (from, to) = (Some(sender), Some(recipient));
        let (limit, refusal, user, queue) = match quota {
            AdmitError::NoSuchUser => return Refusal::NoSuchUser,
            AdmitError::QueueFull => (Limit::QueueMessages, Refusal::QueueFull, None, to),
            // The configured limit that is close is the queue's, not the sender's.
            AdmitError::LastFifth => (Limit::QueueMessages, Refusal::SenderFull, from, to),
            AdmitError::SenderFull => (Limit::QueueMessagesPerSender, Refusal::SenderFull, from, to),
            AdmitError::SenderTotal => (Limit::MessagesPerSender, Refusal::SenderLimit, from, None),
            AdmitError::SenderRate => (Limit::MessagesPerSenderMinute, Refusal::SenderLimit, from, None),
            AdmitError::StoreFull => (Limit::StoreBytes, Refusal::NoRoom, None, None),
        };
        self.events.push_back(LogEvent::Limit { limit, user, queue });
        refusal
    }
}

/// The services of one session for the length of one call.
pub(super) struct SessionServices<'a> {
    pub core: &'a mut Core,
    pub session: SessionId,
    pub from: AddressKey,
}

impl Services for SessionServices<'_> {
    fn verify(&mut self, name: Username, password: Option<Password>) {
        self.core.logins.begin(self.session, name, self.from, password);
        let from = Origin { key: self.from, former_key: self.core.former_keys.get(&self.session).copied() };
        self.core.batcher.read(Op::Lookup { session: self.session, name, from });
    }

    fn store(&mut self, sender: Username, recipient: Username, body: &[u8]) -> Admission {
        if self.core.stalled && self.core.queues.exists(recipient) {
            return Admission::Refused(Refusal::Stalled);
        }
        let Core { queues, batcher, limits, next_message, wall_seconds, now, .. } = &mut *self.core;
        if !batcher.has_room(body.len()) {
            self.core.waiting_for_room.push_back(self.session);
            return Admission::Full;
        }
        let id = MessageId(*next_message);
        match queues.admit(id, recipient, sender, *wall_seconds, body.len(), (limits, *now)) {
            Ok(()) => {
                *next_message += 1;
                let (session, queued_at) = (self.session, *wall_seconds);
                batcher.insert(body, |body| Op::Insert { session, id, recipient, sender, queued_at, body });
                Admission::Admitted
            }
            Err(quota) => Admission::Refused(self.core.refuse_for_quota(quota, sender, recipient)),
        }
    }

    fn open_download(&mut self, user: Username, wait: bool) -> LeaseAnswer {
        if self.core.queues.lease(user, self.session) {
            LeaseAnswer::Granted
        } else if wait {
            self.core.queues.add_waiter(user, self.session);
            LeaseAnswer::Waiting
        } else {
            LeaseAnswer::Nothing
        }
    }

    fn read_queue(&mut self, user: Username, serial: u32) -> Option<bool> {
        let Core { queues, batcher, .. } = &mut *self.core;
        let session = self.session;
        batcher.fetch(|ids| queues.next_page(user, session, ids), |ids| Op::Fetch { session, download: serial, ids })
    }

    fn delete(&mut self, user: Username, id: MessageId) -> bool {
        let there = self.core.queues.remove(user, id);
        if there {
            self.core.counters.messages_delivered += 1;
            let op = Op::Delete { session: self.session, id };
            self.core.batcher.write_lazily(op, self.core.now);
        }
        there
    }

    fn flush_deletes(&mut self) {
        self.core.batcher.flush_lazy();
    }

    fn count_reply(&mut self, reply: Reply) {
        match reply {
            Reply::BadCommand(..) => self.core.counters.bad_commands += 1,
            Reply::SendError(_) | Reply::NoSuchUser | Reply::TooManyColons => self.core.counters.messages_refused += 1,
            Reply::Recovered
            | Reply::Help(_)
            | Reply::UserReceived
            | Reply::Authenticated
            | Reply::Sent
            | Reply::End
            | Reply::NoMessages
            | Reply::DownloadError(_)
            | Reply::UserError
            | Reply::AuthError => {}
        }
    }

    fn logged_in(&mut self, user: Username) {
        self.core.per_user.increment(user);
    }

    fn logged_out(&mut self, user: Username) {
        self.core.per_user.decrement(user);
    }

    fn close_download(&mut self, user: Username) {
        self.core.release(user, self.session);
    }
}
