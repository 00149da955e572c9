//! The queues against a model that keeps all messages in one list.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
struct Message {
    id: u64,
    recipient: usize,
    sender: usize,
    at: u64,
    bytes: u64,
    committed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ModelLease {
    session: u64,
    cursor: u64,
    last: u64,
}

/// The model: lists that are searched from the front.
#[derive(Debug, Default)]
struct Model {
    users: [bool; 3],
    being_removed: [bool; 3],
    messages: Vec<Message>,
    leases: [Option<ModelLease>; 3],
    waiters: [Vec<u64>; 3],
}

#[derive(Debug, Clone)]
enum Step {
    Add(usize),
    Admit {
        recipient: usize,
        sender: usize,
        bytes: usize,
    },
    /// The next of a recipient's messages on their way to the store is stored, or is not.
    Outcome {
        recipient: usize,
        stored: bool,
    },
    Remove {
        recipient: usize,
        nth: usize,
    },
    RemoveAll {
        recipient: usize,
        every: usize,
    },
    Lease {
        user: usize,
        session: u64,
    },
    Page {
        user: usize,
        session: u64,
    },
    Wait {
        user: usize,
        session: u64,
    },
    Release {
        user: usize,
        session: u64,
    },
    Grant(usize),
    Expired {
        cutoff: u64,
        limit: usize,
    },
    Select {
        user: usize,
        sender: usize,
    },
    BeginRemoval(usize),
    EndRemoval {
        user: usize,
        removed: bool,
    },
    Later,
}

const NAMES: [&str; 3] = ["a", "b", "c"];

fn name(user: usize) -> Username {
    Username::parse(NAMES[user].as_bytes()).expect("a name")
}

fn session(serial: u64) -> SessionId {
    SessionId { serial, slot: serial as u32 }
}

fn limits() -> Limits {
    Limits {
        queue_messages: 12,
        queue_messages_per_sender: 6,
        messages_per_sender: 10,
        store_bytes: 9000,
        ..Limits::default()
    }
}

impl Model {
    fn queue(&self, user: usize) -> impl Iterator<Item = &Message> {
        self.messages.iter().filter(move |m| m.recipient == user)
    }

    fn committed(&self, user: usize) -> impl Iterator<Item = &Message> {
        self.queue(user).filter(|m| m.committed)
    }

    fn admit(&mut self, message: Message) -> Result<(), QuotaError> {
        let (to, limits) = (message.recipient, limits());
        if !self.users[to] || self.being_removed[to] {
            return Err(QuotaError::NoSuchUser);
        }
        if self.queue(to).count() >= limits.queue_messages as usize {
            return Err(QuotaError::QueueFull);
        }
        let same = self.queue(to).filter(|m| m.sender == message.sender).count();
        if same >= limits.queue_messages_per_sender as usize {
            return Err(QuotaError::SenderFull);
        }
        // One sender may have six messages in a queue here, so none is kept out of the last fifth.
        let all = self.messages.iter().filter(|m| m.sender == message.sender).count();
        if all >= limits.messages_per_sender as usize {
            return Err(QuotaError::SenderTotal);
        }
        if self.messages.iter().map(|m| m.bytes).sum::<u64>() + message.bytes > limits.store_bytes {
            return Err(QuotaError::StoreFull);
        }
        self.messages.push(message);
        Ok(())
    }

    fn lease(&mut self, user: usize, session: u64) -> bool {
        let last = self.committed(user).last().map(|m| m.id);
        match (last, self.leases[user]) {
            (Some(last), None) => {
                self.leases[user] = Some(ModelLease { session, cursor: 0, last });
                true
            }
            _ => false,
        }
    }

    fn page(&mut self, user: usize, session: u64) -> (Option<bool>, Vec<u64>) {
        let Some(lease) = self.leases[user].filter(|lease| lease.session == session) else {
            return (None, Vec::new());
        };
        let left: Vec<Message> =
            self.committed(user).filter(|m| m.id > lease.cursor && m.id <= lease.last).cloned().collect();
        let (mut ids, mut bytes) = (Vec::new(), 0);
        for message in &left {
            bytes += message.bytes as usize;
            if !ids.is_empty() && bytes > PAGE_MAX_BYTES {
                break;
            }
            ids.push(message.id);
        }
        let Some(cursor) = ids.last().copied() else { return (None, ids) };
        self.leases[user] = Some(ModelLease { cursor, ..lease });
        (Some(ids.len() < left.len()), ids)
    }
}

/// The queues and the model, which take the same steps.
struct Pair {
    queues: Queues,
    model: Model,
    next: u64,
    now: u64,
}

impl Pair {
    fn ids(&self, user: usize) -> Vec<u64> {
        self.model.queue(user).map(|m| m.id).collect()
    }

    fn remove(&mut self, user: usize, ids: &[u64]) {
        self.model.messages.retain(|m| m.recipient != user || !ids.contains(&m.id));
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Later => self.now += 10,
            Step::Add(user) => {
                self.queues.add_user(name(user));
                self.model.users[user] = true;
            }
            Step::Admit { recipient, sender, bytes } => {
                let (id, at) = (self.next, self.now);
                self.next += 1;
                let message = Message { id, recipient, sender, at, bytes: bytes as u64, committed: false };
                let result = self.queues.admit(MessageId(id), name(recipient), name(sender), at, bytes, (&limits(), 0));
                assert_eq!(result, self.model.admit(message));
            }
            Step::Outcome { recipient, stored } => {
                let under_way = self.model.queue(recipient).find(|m| !m.committed).map(|m| m.id);
                let id = under_way.unwrap_or(999_999);
                if stored {
                    let wanted = under_way.is_some() && !self.model.waiters[recipient].is_empty();
                    self.model.messages.iter_mut().filter(|m| m.id == id).for_each(|m| m.committed = true);
                    assert_eq!(self.queues.commit(name(recipient), MessageId(id)).unwrap_or(false), wanted);
                } else {
                    self.remove(recipient, &[id]);
                    assert_eq!(self.queues.remove(name(recipient), MessageId(id)), under_way.is_some());
                }
            }
            Step::Remove { recipient, nth } => {
                let id = self.model.committed(recipient).nth(nth).map(|m| m.id);
                self.remove(recipient, &[id.unwrap_or(0)]);
                assert_eq!(self.queues.remove(name(recipient), MessageId(id.unwrap_or(0))), id.is_some());
            }
            Step::RemoveAll { recipient, every } => {
                let ids: Vec<u64> = self.model.committed(recipient).map(|m| m.id).step_by(every).collect();
                self.remove(recipient, &ids);
                let ids: Vec<MessageId> = ids.into_iter().map(MessageId).collect();
                self.queues.remove_all(name(recipient), &ids);
            }
            Step::BeginRemoval(user) => {
                assert_eq!(self.queues.begin_removal(name(user)), self.ids(user));
                self.model.being_removed[user] = true;
            }
            Step::EndRemoval { user, removed } if self.model.being_removed[user] => {
                self.model.being_removed[user] = false;
                if removed {
                    self.queues.remove_user(name(user));
                    self.remove(user, &self.ids(user));
                    self.model.users[user] = false;
                    (self.model.leases[user], self.model.waiters[user]) = (None, Vec::new());
                } else {
                    self.queues.cancel_removal(name(user));
                }
            }
            Step::EndRemoval { .. } => {}
            Step::Lease { .. } | Step::Page { .. } | Step::Wait { .. } | Step::Release { .. } | Step::Grant(_) => {
                self.download(&step);
            }
            Step::Expired { .. } | Step::Select { .. } => self.question(&step),
        }
    }

    fn download(&mut self, step: &Step) {
        match *step {
            Step::Lease { user, session: serial } => {
                assert_eq!(self.queues.lease(name(user), session(serial)), self.model.lease(user, serial));
            }
            Step::Page { user, session: serial } => {
                let mut ids = Vec::new();
                let more = self.queues.next_page(name(user), session(serial), &mut ids);
                assert_eq!((more, ids), self.model.page(user, serial));
            }
            Step::Wait { user, session: serial } if !self.model.waiters[user].contains(&serial) => {
                self.queues.add_waiter(name(user), session(serial));
                self.model.waiters[user].push(serial);
            }
            Step::Release { user, session: serial } => {
                self.model.leases[user] = self.model.leases[user].filter(|lease| lease.session != serial);
                self.model.waiters[user].retain(|w| *w != serial);
                let wanted = !self.model.waiters[user].is_empty() && self.model.committed(user).count() > 0;
                assert_eq!(self.queues.release(name(user), session(serial)), wanted);
            }
            Step::Grant(user) => {
                let first = self.model.waiters[user].first().copied();
                let granted = first.filter(|first| self.model.lease(user, *first));
                if granted.is_some() {
                    self.model.waiters[user].remove(0);
                }
                assert_eq!(self.queues.grant(name(user)), granted.map(session));
            }
            _ => {}
        }
    }

    fn question(&self, step: &Step) {
        match *step {
            Step::Expired { cutoff, limit } => {
                let old = |user: usize| self.model.committed(user).filter(move |m| m.at < cutoff).map(|m| m.id);
                let idle = (0..NAMES.len()).filter(|user| self.model.leases[*user].is_none());
                let mut expected: Vec<(String, u64)> =
                    idle.flat_map(|user| old(user).map(move |id| (NAMES[user].to_owned(), id))).collect();
                let (found, next) = self.queues.find_expired(|_, at| at < cutoff, 0, limit);
                assert_eq!(next.is_some(), expected.len() > limit);
                let found: Vec<(String, u64)> = found.into_iter().map(|(u, id)| (u.to_string(), id.0)).collect();
                assert_eq!(found.len(), expected.len().min(limit));
                expected.retain(|e| found.contains(e));
                assert_eq!(expected.len(), found.len());
            }
            Step::Select { user, sender } => {
                let expected: Vec<MessageId> =
                    self.model.committed(user).filter(|m| m.sender == sender).map(|m| MessageId(m.id)).collect();
                assert_eq!(self.queues.select(name(user), |m| m.sender == name(sender)), expected);
            }
            _ => {}
        }
    }

    /// What is left of a page with these ids.
    fn compare_page(&self, user: usize, ids: std::ops::Range<u64>) {
        let message = |id| PageMessage { id: MessageId(id), sender: name(user), body: 0..0 };
        let mut left: Vec<PageMessage> = ids.clone().map(message).collect();
        self.queues.retain_queued(name(user), &mut left);
        let there = |id: &u64| self.model.queue(user).any(|m| m.id == *id);
        assert_eq!(left.iter().map(|m| m.id.0).collect::<Vec<u64>>(), ids.filter(there).collect::<Vec<u64>>());
    }

    fn compare(&self) {
        let bytes = self.model.messages.iter().map(|m| m.bytes).sum::<u64>();
        assert_eq!(self.queues.totals(), (self.model.messages.len() as u64, bytes));
        let mut queues = Vec::new();
        for user in 0..NAMES.len() {
            let committed: Vec<&Message> = self.model.committed(user).collect();
            assert_eq!(self.queues.exists(name(user)), self.model.users[user]);
            assert_eq!(self.queues.queued(name(user)), committed.len() as u64);
            assert_eq!(self.queues.leaseholder(name(user)), self.model.leases[user].map(|l| session(l.session)));
            self.compare_page(user, 0..self.next);
            self.compare_page(user, self.next / 2..self.next + 2);
            let (shown, more) = self.queues.show(name(user), MessageId(0), 5);
            let expected = committed.iter().take(5).map(|m| QueuedMessage {
                id: MessageId(m.id),
                sender: name(m.sender),
                at: m.at,
                bytes: m.bytes,
            });
            assert_eq!((shown, more), (expected.collect(), committed.len() > 5));
            if let Some(oldest) = committed.first() {
                queues.push(QueueSummary {
                    user: name(user),
                    messages: committed.len() as u64,
                    bytes: committed.iter().map(|m| m.bytes).sum(),
                    oldest: oldest.at,
                });
            }
        }
        assert_eq!(self.queues.list(None, 10), (queues, false));
    }
}

fn step() -> impl Strategy<Value = Step> {
    let (user, sender) = (0..NAMES.len(), 0..NAMES.len());
    let session = 1u64..4;
    prop_oneof![
        2 => user.clone().prop_map(Step::Add),
        14 => (user.clone(), sender.clone(), prop_oneof![1usize..40, Just(1009usize)])
            .prop_map(|(recipient, sender, bytes)| Step::Admit { recipient, sender, bytes }),
        14 => (user.clone(), prop::bool::weighted(0.85))
            .prop_map(|(recipient, stored)| Step::Outcome { recipient, stored }),
        5 => (user.clone(), 0usize..4).prop_map(|(recipient, nth)| Step::Remove { recipient, nth }),
        1 => (user.clone(), 1usize..4).prop_map(|(recipient, every)| Step::RemoveAll { recipient, every }),
        5 => (user.clone(), session.clone()).prop_map(|(user, session)| Step::Lease { user, session }),
        6 => (user.clone(), session.clone()).prop_map(|(user, session)| Step::Page { user, session }),
        3 => (user.clone(), session.clone()).prop_map(|(user, session)| Step::Wait { user, session }),
        4 => (user.clone(), session).prop_map(|(user, session)| Step::Release { user, session }),
        4 => user.clone().prop_map(Step::Grant),
        2 => (0u64..200, 1usize..8).prop_map(|(cutoff, limit)| Step::Expired { cutoff, limit }),
        2 => (user.clone(), sender).prop_map(|(user, sender)| Step::Select { user, sender }),
        1 => user.clone().prop_map(Step::BeginRemoval),
        2 => (user, any::<bool>()).prop_map(|(user, removed)| Step::EndRemoval { user, removed }),
        3 => Just(Step::Later),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn queues_do_what_lists_would_do(steps in prop::collection::vec(step(), 1..150)) {
        let mut pair = Pair { queues: Queues::default(), model: Model::default(), next: 1, now: 0 };
        for user in 0..NAMES.len() {
            pair.step(Step::Add(user));
        }
        for step in steps {
            pair.step(step);
            pair.compare();
        }
    }
}

#[test]
fn a_page_is_bounded_in_bytes_and_messages() {
    let mut queues = Queues::default();
    let user = name(0);
    queues.add_user(user);
    for id in 1..=(PAGE_MAX_MESSAGES as u64 + 10) {
        queues.load(MessageId(id), user, user, 0, 10);
    }
    let mut ids = Vec::new();
    assert!(queues.lease(user, session(1)));
    assert_eq!(queues.next_page(user, session(1), &mut ids), Some(true));
    assert_eq!(ids.len(), PAGE_MAX_MESSAGES);
    // What comes after the lease is not part of it.
    queues.load(MessageId(5000), user, user, 0, 10);
    assert_eq!(queues.next_page(user, session(1), &mut ids), Some(false));
    assert_eq!(ids.len(), PAGE_MAX_MESSAGES + 10);
    assert_eq!(queues.next_page(user, session(1), &mut ids), None);

    let other = name(1);
    queues.add_user(other);
    for id in 6000..6040 {
        queues.load(MessageId(id), other, user, 0, 1009);
    }
    ids.clear();
    assert!(queues.lease(other, session(1)));
    assert_eq!(queues.next_page(other, session(1), &mut ids), Some(true));
    assert_eq!(ids.len(), PAGE_MAX_BYTES / 1009);
}

#[test]
fn a_stamp_of_a_wrong_clock_holds_no_older_message_back() {
    let mut queues = Queues::default();
    let user = name(0);
    queues.add_user(user);
    for (id, at) in [(1, 900), (2, 5), (3, 7), (4, 2000), (5, 8)] {
        queues.load(MessageId(id), user, user, at, 10);
    }
    let (found, next) = queues.find_expired(|_, at| at < 100, 0, 10);
    assert_eq!((found, next), (vec![(user, MessageId(2)), (user, MessageId(3)), (user, MessageId(5))], None));
}

#[test]
fn an_expiry_scan_ends_after_a_bounded_number() {
    let mut queues = Queues::default();
    let mut id = 0;
    for user in 0..3 {
        queues.add_user(name(user));
        for _ in 0..EXPIRY_SCAN_MAX {
            id += 1;
            queues.load(MessageId(id), name(user), name(user), 1000, 1);
        }
    }
    assert_eq!(queues.find_expired(|_, at| at < 100, 0, 10), (Vec::new(), Some(1)));
    assert_eq!(queues.find_expired(|_, at| at < 100, 1, 10), (Vec::new(), Some(2)));
    assert_eq!(queues.find_expired(|_, at| at < 100, 2, 10), (Vec::new(), None));
}

#[test]
fn the_last_fifth_of_a_queue_is_for_those_with_few_in_it() {
    let limits = Limits { queue_messages: 50, queue_messages_per_sender: 30, ..Limits::default() };
    let mut queues = Queues::default();
    queues.add_user(name(0));
    let mut id = 0;
    let mut send = |sender: usize, limits: &Limits| {
        id += 1;
        queues.admit(MessageId(id), name(0), name(sender), 0, 1, (limits, 0))
    };
    assert!((0..30).all(|_| send(1, &limits).is_ok()));
    assert_eq!(send(1, &limits), Err(QuotaError::SenderFull));
    // With these there are forty: a sender with ten messages in the queue may not send more.
    assert!((0..10).all(|_| send(2, &limits).is_ok()));
    assert_eq!(send(2, &limits), Err(QuotaError::LastFifth));
    assert!((0..10).all(|_| send(0, &limits).is_ok()), "who has none there finds room");
    assert_eq!(send(0, &limits), Err(QuotaError::QueueFull));
    // One sender may fill a queue of ten on its own.
    let limits = Limits { queue_messages: 10, ..limits };
    let mut queues = Queues::default();
    queues.add_user(name(0));
    let sent = (0..20).filter(|id| queues.admit(MessageId(*id), name(0), name(1), 0, 1, (&limits, 0)).is_ok());
    assert_eq!(sent.count(), 10);
}

#[test]
fn a_sender_has_a_rate_limit() {
    let limits = Limits { messages_per_sender_minute: 60, ..Limits::default() };
    let mut queues = Queues::default();
    (0..3).for_each(|user| queues.add_user(name(user)));
    let mut id = 0;
    let mut send = |sender: usize, now: Millis| {
        id += 1;
        queues.admit(MessageId(id), name(id as usize % 2), name(sender), 0, 1, (&limits, now))
    };
    assert_eq!((0..100).filter(|_| send(0, 5000).is_ok()).count(), 60);
    assert_eq!(send(0, 5999), Err(QuotaError::SenderRate));
    assert_eq!(send(1, 5999), Ok(()), "others go on");
    assert_eq!((send(0, 6000), send(0, 6000)), (Ok(()), Err(QuotaError::SenderRate)));
    assert_eq!((0..100).filter(|_| send(0, 100_000).is_ok()).count(), 60);
}
