//! The sessions need no mailboxes that answer at once: with a kind that asks somebody else about every lease and learns
//! only later that a recipient does not exist, clients see the same replies.

use std::collections::{HashMap, VecDeque};

use cp_proto::values::Username;
use cpd_core::dfa::{Dialect, Refusal};
use cpd_core::download::{MessageId, Page, PageMessage};
use cpd_core::engine::Engine;
use cpd_core::engine::counters::Counters;
use cpd_core::engine::port::{
    AddressKey, AdminOp, Answer, Batch, FromStore, LoginRecord, Op, Origin, Outcome, RequestId, SessionId,
};
use cpd_core::engine::requests::PurgeFilter;
use cpd_core::engine::settings::Settings;
use cpd_core::mailboxes::local::LocalMailboxes;
use cpd_core::mailboxes::{MailboxContext, MailboxEvent, Mailboxes, NotStored, QuotaError, SenderAndRecipient};
use cpd_core::services::LeaseAnswer;
use cpd_core::time::Millis;

/// Mailboxes whose answers about leases and unknown recipients come when [`Mailboxes::next_batch`] is called.
struct LateMailboxes {
    local: LocalMailboxes,
    /// Whether a message is refused, or its outcome comes from `local`, for each message under way of each session.
    stores: HashMap<SessionId, VecDeque<Option<Refusal>>>,
    held_back: VecDeque<MailboxEvent>,
    due: VecDeque<MailboxEvent>,
}

impl LateMailboxes {
    fn new(local: LocalMailboxes) -> LateMailboxes {
        LateMailboxes { local, stores: HashMap::new(), held_back: VecDeque::new(), due: VecDeque::new() }
    }

    /// The refusals of which the session may learn now, because what it stored before them has its outcome.
    fn report_refusals(&mut self, session: SessionId) {
        let under_way = self.stores.entry(session).or_default();
        while let Some(Some(refusal)) = under_way.front().copied() {
            under_way.pop_front();
            self.due.push_back(MailboxEvent::Stored { session, result: Err(refusal) });
        }
    }
}

impl Mailboxes for LateMailboxes {
    type Batch = Batch;
    type FromStore = FromStore;

    fn store(
        &mut self,
        session: SessionId,
        names: SenderAndRecipient,
        body: &[u8],
        cx: &MailboxContext<'_>,
    ) -> Result<(), NotStored> {
        let under_way = self.stores.entry(session).or_default();
        if under_way.iter().any(Option::is_some) {
            under_way.push_back(Some(Refusal::OutcomeUnknown));
            return Ok(());
        }
        match self.local.store(session, names, body, cx) {
            Err(NotStored::Refused(QuotaError::NoSuchUser)) => under_way.push_back(Some(Refusal::NoSuchUser)),
            Err(other) => return Err(other),
            Ok(()) => under_way.push_back(None),
        }
        Ok(())
    }

    fn open_download(&mut self, session: SessionId, user: Username, wait: bool) -> LeaseAnswer {
        let event = match self.local.open_download(session, user, wait) {
            LeaseAnswer::Granted => MailboxEvent::Granted { session },
            LeaseAnswer::Nothing => MailboxEvent::Nothing { session },
            LeaseAnswer::Waiting | LeaseAnswer::Asked => return LeaseAnswer::Asked,
        };
        self.held_back.push_back(event);
        LeaseAnswer::Asked
    }

    fn read_queue(&mut self, session: SessionId, user: Username, serial: u32) -> bool {
        self.local.read_queue(session, user, serial)
    }

    fn delete(&mut self, session: SessionId, user: Username, id: MessageId, now: Millis) -> bool {
        self.local.delete(session, user, id, now)
    }

    fn flush(&mut self) {
        self.local.flush();
    }

    fn close_download(&mut self, session: SessionId, user: Username) {
        let is_of_it = |event: &MailboxEvent| match event {
            MailboxEvent::Granted { session: of } | MailboxEvent::Nothing { session: of } => *of == session,
            _ => false,
        };
        self.held_back.retain(|event| !is_of_it(event));
        self.local.close_download(session, user);
    }

    fn connection_ended(&mut self, session: SessionId, user: Username, _: Millis) {
        self.close_download(session, user);
    }

    fn retry_stores(&mut self) {
        self.local.retry_stores();
    }

    fn may_exist(&self, _: Username) -> bool {
        true
    }

    fn look_up(&mut self, session: SessionId, name: Username, from: Origin) {
        self.local.look_up(session, name, from);
    }

    fn record_login(
        &mut self,
        name: Username,
        from: AddressKey,
        rehash: Option<Box<(String, String)>>,
        cx: &MailboxContext<'_>,
    ) {
        self.local.record_login(name, from, rehash, cx);
    }

    fn queued(&self, name: Username) -> u64 {
        self.local.queued(name)
    }

    fn totals(&self) -> (u64, u64) {
        self.local.totals()
    }

    fn ask(&mut self, request: RequestId, op: AdminOp) {
        self.local.ask(request, op);
    }

    fn remove_user(&mut self, request: RequestId, name: Username) {
        self.local.remove_user(request, name);
    }

    fn list_queues(&mut self, request: RequestId, after: Option<Username>, limit: usize) {
        self.local.list_queues(request, after, limit);
    }

    fn show_queue(&mut self, request: RequestId, user: Username, after: MessageId, limit: usize, bodies: bool) {
        self.local.show_queue(request, user, after, limit, bodies);
    }

    fn purge(&mut self, request: RequestId, user: Username, which: PurgeFilter, wall_seconds: u64) {
        self.local.purge(request, user, which, wall_seconds);
    }

    fn expire(
        &mut self,
        has_expired: impl Fn(MessageId, u64) -> bool,
        from: usize,
        limit: usize,
        now: Millis,
    ) -> (u64, Option<usize>) {
        self.local.expire(has_expired, from, limit, now)
    }

    fn next_deadline(&self) -> Option<Millis> {
        self.local.next_deadline()
    }

    fn next_batch(&mut self, now: Millis) -> Option<Batch> {
        self.due.append(&mut self.held_back);
        let sessions: Vec<SessionId> = self.stores.keys().copied().collect();
        sessions.into_iter().for_each(|session| self.report_refusals(session));
        self.local.next_batch(now)
    }

    fn answered(&mut self, answer: FromStore, counters: &mut Counters) {
        self.local.answered(answer, counters);
    }

    fn next_event(&mut self, counters: &mut Counters, now: Millis) -> Option<MailboxEvent> {
        if let Some(event) = self.due.pop_front() {
            return Some(event);
        }
        let event = self.local.next_event(counters, now)?;
        if let MailboxEvent::Stored { session, .. } = event {
            self.stores.entry(session).or_default().pop_front();
            self.report_refusals(session);
        }
        Some(event)
    }

    fn is_idle(&self) -> bool {
        self.held_back.is_empty() && self.stores.values().all(VecDeque::is_empty) && self.local.is_idle()
    }

    fn waiters(&self) -> Vec<SessionId> {
        self.local.waiters()
    }

    fn lease_end(&self, session: SessionId, user: Username) -> Option<MessageId> {
        self.local.lease_end(session, user)
    }

    fn resume_wait(&mut self, session: SessionId, user: Username) {
        self.local.resume_wait(session, user);
    }

    fn resume_download(&mut self, session: SessionId, user: Username, sent: MessageId, last: MessageId) -> bool {
        self.local.resume_download(session, user, sent, last)
    }
}

/// An engine with one kind of mailboxes, and a store that does at once what it is asked for.
struct Server<M: Mailboxes<Batch = Batch, FromStore = FromStore>> {
    engine: Engine<M>,
    bodies: HashMap<u64, (Username, Vec<u8>)>,
    now: Millis,
}

impl<M: Mailboxes<Batch = Batch, FromStore = FromStore>> Server<M> {
    fn new(mailboxes: M) -> Server<M> {
        let engine = Engine::with_mailboxes(Settings::default(), mailboxes, MessageId(1), 0);
        Server { engine, bodies: HashMap::new(), now: 0 }
    }

    fn connect(&mut self, name: &str) -> SessionId {
        let session = self.engine.open(AddressKey::of([192, 0, 2, 1].into()), Dialect::Cp, 0).expect("a session");
        let said = self.ask(session, &format!("USER{name}\r\nPASSsecret\r\n"));
        assert!(said.starts_with("220 ") && said.contains("\n230 "), "{said}");
        session
    }

    /// What the client of that session is told when it sends this.
    fn ask(&mut self, session: SessionId, text: &str) -> String {
        self.engine.receive(session, text.as_bytes(), self.now);
        self.settle();
        self.hear(session)
    }

    fn hear(&mut self, session: SessionId) -> String {
        let said = String::from_utf8_lossy(self.engine.output(session)).into_owned();
        self.engine.sent(session, said.len(), self.now);
        said
    }

    /// Lets the store and the verifiers work until there is nothing left to do.
    fn settle(&mut self) {
        for _ in 0..100 {
            // Delayed writes are due by then.
            self.now += 20;
            let now = self.now;
            if let Some(batch) = self.engine.next_batch(now) {
                for answer in self.execute(batch) {
                    self.engine.from_store(answer, now);
                }
            } else if let Some(verification) = self.engine.next_verification(now) {
                self.engine.verified(verification.session, verification.hash.is_some(), None, now);
            } else if self.engine.is_idle() {
                return;
            }
        }
        panic!("the engine does not come to rest");
    }

    fn execute(&mut self, batch: Batch) -> [FromStore; 2] {
        let mut answers = Vec::new();
        for op in &batch.ops {
            match op {
                Op::Insert { id, sender, body, .. } => {
                    let body = batch.bytes[body.start as usize..body.end as usize].to_vec();
                    self.bodies.insert(id.0, (*sender, body));
                }
                Op::Delete { id, .. } | Op::DeleteExpired { id } => {
                    self.bodies.remove(&id.0);
                }
                Op::Fetch { session, download, ids } => {
                    let mut page = Page::default();
                    for id in &batch.ids[ids.start as usize..ids.end as usize] {
                        let (sender, body) = &self.bodies[id];
                        let start = page.bytes.len() as u32;
                        page.bytes.extend_from_slice(body);
                        let body = start..page.bytes.len() as u32;
                        page.messages.push(PageMessage { id: MessageId(*id), sender: *sender, body });
                    }
                    answers.push(Answer::Page { session: *session, download: *download, page: Some(page) });
                }
                Op::Lookup { session, .. } => {
                    let record = LoginRecord { hash: "hash".to_owned(), locked: false, known_address: false };
                    answers.push(Answer::Login { session: *session, record: Ok(Some(Box::new(record))) });
                }
                Op::LoggedIn { .. } | Op::Admin { .. } => {}
            }
        }
        let outcome = Outcome { inserts: true, no_room: false, deletes: true, epoch: 0 };
        [FromStore::Answers(answers), FromStore::Done(batch, outcome)]
    }
}

fn name(text: &str) -> Username {
    Username::parse(text.as_bytes()).expect("a name")
}

fn local() -> LocalMailboxes {
    let mut mailboxes = LocalMailboxes::new(1);
    ["ann", "bob"].into_iter().for_each(|user| mailboxes.load_user(name(user)));
    mailboxes
}

/// What ann and bob are told, line by line.
fn conversation<M: Mailboxes<Batch = Batch, FromStore = FromStore>>(mailboxes: M) -> Vec<String> {
    let mut server = Server::new(mailboxes);
    let (ann, bob) = (server.connect("ann"), server.connect("bob"));
    let mut said = Vec::new();
    let mut ask = |server: &mut Server<M>, session, text: &str| said.push(server.ask(session, text));
    ask(&mut server, ann, "RMSG\r\n");
    ask(&mut server, ann, "SMSGbob:one\r\nSMSGnobody:two\r\nSMSGbob:three\r\n");
    ask(&mut server, ann, "201\r\nSMSGbob:four\r\n");
    ask(&mut server, bob, "RMSG2\r\nNOOP\r\n");
    ask(&mut server, bob, "250\r\n250\r\n");
    // Another session of bob's finds the queue leased, one that waits gets what comes next.
    ask(&mut server, ann, "SMSGbob:five\r\n");
    ask(&mut server, bob, "RMSG\r\n");
    let second = server.connect("bob");
    ask(&mut server, second, "RMSG\r\n");
    ask(&mut server, second, "WMSG60\r\n");
    ask(&mut server, bob, "250\r\n");
    ask(&mut server, ann, "SMSGbob:six\r\n");
    said.push(server.hear(second));
    said
}

#[test]
fn clients_cannot_tell_late_mailboxes_from_others() {
    let said = conversation(LateMailboxes::new(local()));
    assert_eq!(said, conversation(local()));
    let codes =
        |text: &String| text.lines().map(|line| line.split(' ').next().unwrap_or("").to_owned()).collect::<Vec<_>>();
    let codes: Vec<String> = said.iter().map(|text| codes(text).join(" ")).collect();
    let expected = [
        "256",
        "240 545 500",
        "201 240",
        "RMSGann:one RMSGann:four 500",
        "255",
        "240",
        "RMSGann:five",
        "256",
        "",
        "255",
        "240",
        "RMSGann:six",
    ];
    assert_eq!(codes, expected);
}

#[test]
fn nothing_is_said_before_a_late_answer() {
    let mut server = Server::new(LateMailboxes::new(local()));
    let ann = server.connect("ann");
    server.engine.receive(ann, b"RMSG\r\n", 0);
    assert_eq!(server.hear(ann), "", "the lease was asked for, and nothing is said before the answer");
    server.settle();
    assert_eq!(server.hear(ann), "256 no new messages\r\n");
}
