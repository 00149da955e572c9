//! What all sessions share, and what it does for each of them.

use std::collections::{HashMap, VecDeque};

use super::admin::Pending;
use super::counts::Counts;
use super::events::{AdminResult, Counters, Event, Limit};
use super::logins::Logins;
use super::port::{AddressKey, Op, Origin, RequestId, SessionId};
use super::queues::{Queues, Quota};
use super::settings::Limits;
use super::work::Work;
use crate::proto::dfa::Refusal;
use crate::proto::download::MessageId;
use crate::proto::reply::Reply;
use crate::proto::services::{Admission, Opening, Services};
use crate::proto::types::{Millis, Password, Username};

/// Queues, work for the store, logins and what there is to tell.
#[derive(Debug, Default)]
pub(super) struct Core {
    pub queues: Queues,
    pub work: Work,
    pub logins: Logins,
    /// Sessions that have logged in.
    pub per_user: Counts<Username>,
    pub limits: Limits,
    pub counters: Counters,
    pub events: VecDeque<Event>,
    pub next_message: u64,
    /// The time of the call that runs.
    pub now: Millis,
    /// Seconds since 1970, as of the call that runs.
    pub wall: u64,
    /// Users whose queue may have to be given to a session that waits for it.
    pub grants: VecDeque<Username>,
    /// Sessions whose next PDU waits for room on the way to the store.
    pub starved: VecDeque<SessionId>,
    /// The store does not answer.
    pub stalled: bool,
    /// What a few sessions' addresses counted as in 0.1.0.
    pub formers: HashMap<SessionId, AddressKey>,
    pub pending: HashMap<RequestId, Pending>,
    pub results: VecDeque<(RequestId, AdminResult)>,
}

impl Core {
    /// Ends `session`'s download of `user`'s queue, or its wait for one.
    pub fn release(&mut self, user: Username, session: SessionId) {
        if self.queues.release(user, session) {
            self.grants.push_back(user);
        }
    }

    fn refuse(&mut self, quota: Quota, sender: Username, recipient: Username) -> Refusal {
        let (from, to) = (Some(sender), Some(recipient));
        let (limit, refusal, user, queue) = match quota {
            Quota::NoSuchUser => return Refusal::NoSuchUser,
            Quota::QueueFull => (Limit::QueueMessages, Refusal::QueueFull, None, to),
            // It is the queue's own limit that is near.
            Quota::LastFifth => (Limit::QueueMessages, Refusal::SenderFull, from, to),
            Quota::SenderFull => (Limit::QueueMessagesPerSender, Refusal::SenderFull, from, to),
            Quota::SenderTotal => (Limit::MessagesPerSender, Refusal::SenderLimit, from, None),
            Quota::SenderRate => (Limit::MessagesPerSenderMinute, Refusal::SenderLimit, from, None),
            Quota::StoreFull => (Limit::StoreBytes, Refusal::NoRoom, None, None),
        };
        self.events.push_back(Event::Limit { limit, user, queue });
        refusal
    }
}

/// The services of one session for the length of one call.
pub(super) struct Desk<'a> {
    pub core: &'a mut Core,
    pub session: SessionId,
    pub from: AddressKey,
}

impl Services for Desk<'_> {
    fn verify(&mut self, name: Username, password: Option<Password>) {
        self.core.logins.begin(self.session, name, self.from, password);
        let from = Origin { key: self.from, former: self.core.formers.get(&self.session).copied() };
        self.core.work.read(Op::Lookup { session: self.session, name, from });
    }

    fn store(&mut self, sender: Username, recipient: Username, body: &[u8]) -> Admission {
        if self.core.stalled && self.core.queues.exists(recipient) {
            return Admission::Refused(Refusal::Stalled);
        }
        let Core { queues, work, limits, next_message, wall, now, .. } = &mut *self.core;
        if !work.has_room(body.len()) {
            self.core.starved.push_back(self.session);
            return Admission::Full;
        }
        let id = MessageId(*next_message);
        match queues.admit(id, recipient, sender, *wall, body.len(), (limits, *now)) {
            Ok(()) => {
                *next_message += 1;
                let (session, queued_at) = (self.session, *wall);
                work.insert(body, |body| Op::Insert { session, id, recipient, sender, queued_at, body });
                Admission::Admitted
            }
            Err(quota) => Admission::Refused(self.core.refuse(quota, sender, recipient)),
        }
    }

    fn open_download(&mut self, user: Username, wait: bool) -> Opening {
        if self.core.queues.lease(user, self.session) {
            Opening::Opened
        } else if wait {
            self.core.queues.wait(user, self.session);
            Opening::Waiting
        } else {
            Opening::Nothing
        }
    }

    fn read_queue(&mut self, user: Username, serial: u32) -> Option<bool> {
        let Core { queues, work, .. } = &mut *self.core;
        let session = self.session;
        work.fetch(|ids| queues.next_page(user, session, ids), |ids| Op::Fetch { session, download: serial, ids })
    }

    fn delete(&mut self, user: Username, id: MessageId) -> bool {
        let there = self.core.queues.remove(user, id);
        if there {
            self.core.counters.acknowledged += 1;
            let op = Op::Delete { session: self.session, id };
            self.core.work.write_lazily(op, self.core.now);
        }
        there
    }

    fn hurry(&mut self) {
        self.core.work.hurry();
    }

    fn replied(&mut self, reply: Reply) {
        match reply {
            Reply::BadCommand(..) => self.core.counters.bad_commands += 1,
            Reply::SendError(_) | Reply::NoSuchUser | Reply::TooManyColons => self.core.counters.refused_sends += 1,
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
        self.core.per_user.add(user);
    }

    fn logged_out(&mut self, user: Username) {
        self.core.per_user.take(user);
    }

    fn close_download(&mut self, user: Username) {
        self.core.release(user, self.session);
    }
}
