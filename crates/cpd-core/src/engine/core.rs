//! The state that all sessions share, and the services that it offers to each of them.

use std::collections::{HashMap, VecDeque};

use cp_proto::reply::Reply;
use cp_proto::values::{Password, Username};

use super::counters::Counters;
use super::counts::Counts;
use super::events::{Limit, LogEvent};
use super::logins::Logins;
use super::port::{AddressKey, Origin, RequestId, SessionId};
use super::requests::AdminResult;
use super::settings::Limits;
use crate::dfa::Refusal;
use crate::download::MessageId;
use crate::mailboxes::{MailboxContext, Mailboxes, NotStored, QuotaError, SenderAndRecipient};
use crate::services::{Admission, LeaseAnswer, Services};
use crate::time::Millis;

/// The mailboxes, the logins, and the events and results that wait to be fetched.
#[derive(Debug)]
pub(super) struct Core<M> {
    pub mailboxes: M,
    pub logins: Logins,
    /// The number of logged-in sessions of each user.
    pub per_user: Counts<Username>,
    pub limits: Limits,
    pub counters: Counters,
    pub events: VecDeque<LogEvent>,
    /// The time that was passed to the current call.
    pub now: Millis,
    /// The wall clock as it was last set, in seconds since 1970.
    pub wall_seconds: u64,
    /// The store does not respond at present.
    pub stalled: bool,
    /// What a session's address counted as in 0.1.0, for the few sessions where that was something else.
    pub former_keys: HashMap<SessionId, AddressKey>,
    pub pending: HashMap<RequestId, Pending>,
    pub results: VecDeque<(RequestId, AdminResult)>,
}

/// What to do with the answer to a request.
#[derive(Debug)]
pub(super) enum Pending {
    UserAdd {
        name: Username,
    },
    UserPasswd {
        name: Username,
        keep_sessions: bool,
    },
    UserLock {
        name: Username,
        locked: bool,
    },
    UserRemove {
        name: Username,
    },
    Users {
        limit: usize,
    },
    Purge,
    Status,
    /// The answer is the result.
    Plain,
}

impl<M: Mailboxes> Core<M> {
    pub fn new(mailboxes: M, limits: Limits) -> Core<M> {
        Core {
            mailboxes,
            logins: Logins::default(),
            per_user: Counts::default(),
            limits,
            counters: Counters::default(),
            events: VecDeque::new(),
            now: 0,
            wall_seconds: 0,
            stalled: false,
            former_keys: HashMap::new(),
            pending: HashMap::new(),
            results: VecDeque::new(),
        }
    }

    /// The mailboxes, and the context of a call for them.
    pub fn mailboxes(&mut self) -> (&mut M, MailboxContext<'_>) {
        let Core { mailboxes, limits, now, wall_seconds, .. } = self;
        (mailboxes, MailboxContext { limits, now: *now, wall_seconds: *wall_seconds })
    }

    fn refuse_for_quota(&mut self, quota: QuotaError, sender: Username, recipient: Username) -> Refusal {
        let (from, to) = (Some(sender), Some(recipient));
        let (limit, refusal, user, queue) = match quota {
            QuotaError::NoSuchUser => return Refusal::NoSuchUser,
            QuotaError::QueueFull => (Limit::QueueMessages, Refusal::QueueFull, None, to),
            // The configured limit that is close is the queue's, not the sender's.
            QuotaError::LastFifth => (Limit::QueueMessages, Refusal::SenderFull, from, to),
            QuotaError::SenderFull => (Limit::QueueMessagesPerSender, Refusal::SenderFull, from, to),
            QuotaError::SenderTotal => (Limit::MessagesPerSender, Refusal::SenderLimit, from, None),
            QuotaError::SenderRate => (Limit::MessagesPerSenderMinute, Refusal::SenderLimit, from, None),
            QuotaError::StoreFull => (Limit::StoreBytes, Refusal::NoRoom, None, None),
        };
        self.events.push_back(LogEvent::Limit { limit, user, queue });
        refusal
    }
}

/// The services of one session for the length of one call.
pub(super) struct SessionServices<'a, M> {
    pub core: &'a mut Core<M>,
    pub session: SessionId,
    pub from: AddressKey,
}

impl<M: Mailboxes> Services for SessionServices<'_, M> {
    fn verify(&mut self, name: Username, password: Option<Password>) {
        self.core.logins.begin(self.session, name, self.from, password);
        let from = Origin { key: self.from, former_key: self.core.former_keys.get(&self.session).copied() };
        self.core.mailboxes.look_up(self.session, name, from);
    }

    fn store(&mut self, sender: Username, recipient: Username, body: &[u8]) -> Admission {
        if self.core.stalled && self.core.mailboxes.may_exist(recipient) {
            return Admission::Refused(Refusal::Stalled);
        }
        let (mailboxes, cx) = self.core.mailboxes();
        match mailboxes.store(self.session, SenderAndRecipient { sender, recipient }, body, &cx) {
            Ok(()) => Admission::Admitted,
            Err(NotStored::NoRoomNow) => Admission::Full,
            Err(NotStored::Refused(quota)) => Admission::Refused(self.core.refuse_for_quota(quota, sender, recipient)),
        }
    }

    fn open_download(&mut self, user: Username, wait: bool) -> LeaseAnswer {
        self.core.mailboxes.open_download(self.session, user, wait)
    }

    fn read_queue(&mut self, user: Username, serial: u32) -> bool {
        self.core.mailboxes.read_queue(self.session, user, serial)
    }

    fn delete(&mut self, user: Username, id: MessageId) -> bool {
        let there = self.core.mailboxes.delete(self.session, user, id, self.core.now);
        self.core.counters.messages_delivered += u64::from(there);
        there
    }

    fn flush_deletes(&mut self) {
        self.core.mailboxes.flush();
    }

    fn count_reply(&mut self, reply: Reply) {
        self.core.counters.bad_commands += u64::from(matches!(reply, Reply::BadCommand(..)));
        self.core.counters.messages_refused += u64::from(reply.refuses_message());
    }

    fn logged_in(&mut self, user: Username) {
        self.core.per_user.increment(user);
    }

    fn logged_out(&mut self, user: Username) {
        self.core.per_user.decrement(user);
    }

    fn close_download(&mut self, user: Username) {
        self.core.mailboxes.close_download(self.session, user);
    }
}
