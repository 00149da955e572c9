//! The engine and everything around it, moved by chance.

use std::collections::{BTreeMap, VecDeque};

use cpd::engine::events::{AdminRequest, AdminResult, PurgeFilter};
use cpd::engine::port::{AddressKey, Answer, Batch, FromStore, RequestId, SessionId};
use cpd::engine::settings::Settings;
use cpd::engine::{Engine, Verification};
use cpd::proto::dfa::Dialect;
use cpd::proto::limits::{OUTPUT_HIGH_WATER_BYTES, OVERLAP_MAX_STORES, PDU_MAX_BYTES};
use cpd::proto::session::Closing;
use cpd::proto::types::{Millis, Username};

use super::book::Book;
use super::chance::Chance;
use super::client::{Client, Expect};
use crate::memory_store::MemoryStore;

/// Replies to what the store has of a session, on top of the water mark and one message.
const OUTPUT_MAX_BYTES: usize = OUTPUT_HIGH_WATER_BYTES + PDU_MAX_BYTES + 2 + 80 * (OVERLAP_MAX_STORES as usize + 4);
const CLIENTS_MAX: usize = 30;
/// The one whom administrators lock, purge and remove.
const VICTIM: &str = "u3";

pub struct World {
    chance: Chance,
    engine: Engine,
    store: MemoryStore,
    pub book: Book,
    now: Millis,
    clients: Vec<Client>,
    opened: u64,
    users: Vec<String>,
    batches: VecDeque<Batch>,
    /// From the store, on the way to the engine.
    answers: VecDeque<FromStore>,
    verifications: Vec<Verification>,
    requests: BTreeMap<u64, &'static str>,
    asked: u64,
    calm: bool,
}

fn name(text: &str) -> Username {
    Username::parse(text.as_bytes()).expect("a name")
}

impl World {
    pub fn new(seed: u64) -> World {
        let mut chance = Chance::new(seed);
        let mut settings = Settings::default();
        // A client whose line is thrown away half-way cannot tell its replies apart; conversations play that.
        settings.session.timeouts.pdu = 1 << 40;
        if chance.one_in(3) {
            (settings.limits.queue_messages, settings.limits.queue_messages_per_sender) = (40, 15);
        }
        let mut engine = Engine::new(settings, 1, 0);
        let mut store = MemoryStore::default();
        let users: Vec<String> = ["u0", "u1", "u2", "u3", "g0", "g1"].map(str::to_owned).to_vec();
        for user in &users {
            store.add_user(name(user), format!("pw-{user}"));
            engine.load_user(name(user));
        }
        World {
            chance,
            engine,
            store,
            book: Book::default(),
            now: 0,
            clients: Vec::new(),
            opened: 0,
            users,
            batches: VecDeque::new(),
            answers: VecDeque::new(),
            verifications: Vec::new(),
            requests: BTreeMap::new(),
            asked: 0,
            calm: false,
        }
    }

    pub fn step(&mut self) {
        let client = self.chance.below(self.clients.len());
        match self.chance.below(100) {
            0..4 => self.open(),
            4 if !self.clients.is_empty() => self.hang_up(client),
            5 => self.administer(),
            6..11 => self.pass_time(),
            11..35 if !self.clients.is_empty() => self.act(client),
            35..60 if !self.clients.is_empty() => self.send(client),
            60..75 => self.move_store(),
            75..80 => self.verify(),
            80..84 if !self.clients.is_empty() => self.clients[client].deaf = self.chance.one_in(6),
            84..86 => self.store.fail_next = self.chance.one_in(4),
            _ => self.read_all(),
        }
        self.look();
    }

    fn open(&mut self) {
        if self.clients.len() >= CLIENTS_MAX {
            return;
        }
        self.opened += 1;
        let user = self.users[self.chance.below(self.users.len())].clone();
        let wild = user.starts_with('g');
        let dialect = if wild && self.chance.one_in(3) { Dialect::Classic } else { Dialect::Cp };
        let from = AddressKey::V4(if wild { 1 } else { 2 + (self.opened % 40) as u32 });
        let id = self.engine.open(from, dialect, self.now).expect("far from every limit");
        self.clients.push(Client::new(self.opened, id, &user, wild));
    }

    fn hang_up(&mut self, client: usize) {
        if self.chance.one_in(2) {
            self.clients[client].fin = true;
        } else {
            let id = self.clients[client].id;
            self.forget(id);
            self.engine.close(id, self.now);
        }
    }

    fn forget(&mut self, id: SessionId) {
        self.clients.retain(|client| client.id != id);
    }

    fn act(&mut self, place: usize) {
        let client = &mut self.clients[place];
        if client.input.len() > 4096 || client.fin {
            return;
        }
        let at_once = client.input.is_empty() && self.engine.wants_input(client.id);
        client.act(&self.users, &mut self.chance, &mut self.book, at_once);
        if at_once && self.chance.one_in(2) || matches!(client.expects.back(), None | Some(Expect::Bad)) && !client.wild
        {
            let (id, bytes) = (client.id, std::mem::take(&mut client.input));
            if !bytes.is_empty() && self.engine.wants_input(id) {
                self.engine.receive(id, &bytes, self.now);
            } else {
                self.clients[place].input = bytes;
            }
        }
    }

    /// Some of what a client has sent arrives.
    fn send(&mut self, place: usize) {
        let client = &mut self.clients[place];
        if !self.engine.wants_input(client.id) {
            return;
        }
        if client.input.is_empty() {
            if std::mem::take(&mut client.fin) {
                self.engine.end_of_input(client.id, self.now);
            }
            return;
        }
        let most = client.input.len().min(8192);
        let count = if self.calm || self.chance.one_in(2) { most } else { 1 + self.chance.below(most) };
        let bytes: Vec<u8> = client.input.drain(..count).collect();
        self.engine.receive(client.id, &bytes, self.now);
    }

    fn pass_time(&mut self) {
        let most = match self.chance.below(12) {
            0 => 40_000,
            1..4 => 3_000,
            _ => 60,
        };
        self.now += self.chance.below(most) as Millis;
        if self.engine.next_deadline() <= self.now {
            self.engine.expire(self.now);
        }
    }

    /// One batch to the store, one answer from it; each in order.
    fn move_store(&mut self) {
        if self.chance.one_in(2) || self.calm {
            self.batches.extend(self.engine.next_batch(self.now));
        }
        if (self.chance.one_in(2) || self.calm)
            && let Some(batch) = self.batches.pop_front()
        {
            for mut result in self.store.execute(batch) {
                if !self.calm && self.chance.one_in(25) {
                    self.spoil(&mut result);
                }
                self.answers.push_back(result);
            }
        }
        if (self.chance.one_in(2) || self.calm)
            && let Some(answer) = self.answers.pop_front()
        {
            self.engine.from_store(answer, self.now);
        }
    }

    /// A page that cannot be read, deletes that are not on stable storage yet.
    fn spoil(&mut self, result: &mut FromStore) {
        match result {
            FromStore::Answers(answers) => {
                for answer in answers {
                    if let Answer::Page { page, .. } = answer {
                        *page = None;
                    }
                }
            }
            FromStore::Done(_, outcome) => outcome.deletes = false,
            FromStore::Broken(_) => {}
        }
    }

    fn verify(&mut self) {
        self.verifications.extend(self.engine.next_verification(self.now));
        if !self.verifications.is_empty() && (self.calm || self.chance.one_in(2)) {
            let place = self.chance.below(self.verifications.len());
            let Verification { session, password, hash } = self.verifications.swap_remove(place);
            let ok = hash.is_some_and(|hash| hash.as_bytes() == password.as_bytes());
            self.engine.verified(session, ok, None, self.now);
        }
    }

    fn administer(&mut self) {
        let victim = name(VICTIM);
        let (what, request) = match self.chance.below(12) {
            0 => ("lock", AdminRequest::UserLock { name: victim, locked: true }),
            1 | 2 => ("unlock", AdminRequest::UserLock { name: victim, locked: false }),
            3 => ("purge", AdminRequest::QueuePurge { user: victim, filter: PurgeFilter::default() }),
            4 => ("remove", AdminRequest::UserRemove { name: victim }),
            5 | 6 => ("add", AdminRequest::UserAdd { name: victim, hash: format!("pw-{VICTIM}") }),
            7 => {
                let (name, hash) = (victim, format!("pw-{VICTIM}"));
                ("passwd", AdminRequest::UserPasswd { name, hash, keep_sessions: self.chance.one_in(2) })
            }
            8 => match self.clients.first() {
                Some(client) => ("close", AdminRequest::SessionClose { serial: client.id.serial }),
                None => return,
            },
            9 => ("list", AdminRequest::SessionList { after: 0, limit: 10 }),
            10 => ("show", AdminRequest::QueueShow { user: victim, after: 0, limit: 5, bodies: self.chance.one_in(2) }),
            _ => ("status", AdminRequest::Status),
        };
        if matches!(what, "purge" | "remove") {
            self.book.take(VICTIM, false);
        }
        self.asked += 1;
        self.requests.insert(self.asked, what);
        self.engine.admin(RequestId(self.asked), request, self.now);
    }

    fn read_all(&mut self) {
        let ids: Vec<(SessionId, bool)> = self.clients.iter().map(|client| (client.id, client.deaf)).collect();
        for (id, deaf) in ids {
            let length = self.engine.output(id).len();
            if length == 0 || deaf && !self.calm {
                continue;
            }
            let count = if self.calm || self.chance.one_in(2) { length } else { 1 + self.chance.below(length) };
            // What was said before is heard before what follows from reading it.
            self.hear(id);
            self.engine.sent(id, count, self.now);
            let client = self.clients.iter_mut().find(|client| client.id == id).expect("the one above");
            client.seen -= count;
            self.hear(id);
            self.look_at(id);
        }
    }

    fn hear(&mut self, id: SessionId) {
        let Some(client) = self.clients.iter_mut().find(|client| client.id == id) else { return };
        let output = self.engine.output(id);
        assert!(output.len() <= OUTPUT_MAX_BYTES, "{} bytes of output", output.len());
        client.hear(&output[client.seen..], &mut self.book);
        client.seen = output.len();
    }

    /// What the daemon does with a session that something happened to.
    fn look_at(&mut self, id: SessionId) {
        // What a session that ends at once has left to say is never sent.
        if self.engine.closing(id) != Closing::Now {
            self.hear(id);
        }
        match self.engine.closing(id) {
            Closing::Now | Closing::Flush => {
                self.forget(id);
                self.engine.close(id, self.now);
            }
            Closing::Open | Closing::Stopping | Closing::Paused => self.engine.arm(id),
        }
    }

    fn look(&mut self) {
        // What was said before an administrator had his answer is heard before it.
        while let Some(id) = self.engine.next_dirty() {
            self.look_at(id);
        }
        while let Some((RequestId(request), result)) = self.engine.next_result() {
            let what = self.requests.remove(&request).expect("an answer without a question");
            if what == "remove" && matches!(result, AdminResult::Gone { .. }) {
                self.book.take(VICTIM, true);
            }
            assert!(!matches!(result, AdminResult::Failed(_)), "{what}: {result:?}");
        }
        while self.engine.next_event().is_some() {}
        for client in &self.clients {
            assert_eq!(self.engine.output(client.id).len(), client.seen, "output that nobody was told of");
            let closing = self.engine.closing(client.id);
            assert!(matches!(closing, Closing::Open | Closing::Stopping), "an end that nobody was told of");
        }
        assert_eq!(self.engine.connections() as usize, self.clients.len());
        for user in &self.users {
            // One that is being closed, but has output left, acknowledges nothing any more.
            let open = |client: &&Client| self.engine.closing(client.id) == Closing::Open;
            let holders = self.clients.iter().filter(|c| c.user == *user && c.holds_messages()).filter(open);
            let holders: Vec<u64> = holders.map(|client| client.number).collect();
            assert!(holders.len() <= 1, "{user} is downloaded by {holders:?}");
        }
    }

    /// Everything that can happen without time passing.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            for place in (0..self.clients.len()).rev() {
                if place < self.clients.len() {
                    self.send(place);
                }
                self.look();
            }
            self.move_store();
            self.look();
            self.verify();
            self.read_all();
            self.look();
            let quiet = self.clients.iter().all(|c| c.input.is_empty() || !self.engine.wants_input(c.id));
            if quiet && !self.engine.is_idle() && self.batches.is_empty() && self.answers.is_empty() {
                // Deletes that nobody waits for leave when their time has come.
                self.now += 1;
            }
            if quiet && self.engine.is_idle() && self.batches.is_empty() && self.answers.is_empty() {
                let waiting = self.clients.iter().any(|c| c.expects.iter().any(|e| matches!(e, Expect::Pass)));
                if self.verifications.is_empty() && !waiting {
                    return;
                }
            }
        }
        let stuck: Vec<_> = self.clients.iter().map(|c| (c.number, &c.user, c.input.len(), &c.expects)).collect();
        panic!("the engine does not come to rest: {stuck:?}");
    }

    /// Nothing fails any more; everybody goes; then everybody downloads everything.
    pub fn end(&mut self) {
        self.calm = true;
        self.store.fail_next = false;
        self.settle();
        for client in &self.clients {
            let stuck = client.expects.iter().find(|expect| !matches!(expect, Expect::Download(_)));
            let behind_a_download = client.expects.iter().any(|expect| matches!(expect, Expect::Download(_)));
            assert!(client.wild || stuck.is_none() || behind_a_download, "{} waits for {stuck:?}", client.number);
        }
        let ids: Vec<SessionId> = self.clients.iter().map(|client| client.id).collect();
        for id in ids {
            self.forget(id);
            self.engine.close(id, self.now);
        }
        self.settle();
        self.bring_back_the_victim();
        assert!(self.requests.is_empty(), "never answered: {:?}", self.requests);
        self.download_everything();
        self.book.close();
        if self.chance.one_in(2) {
            self.stop();
        }
    }

    fn bring_back_the_victim(&mut self) {
        let victim = name(VICTIM);
        let add = AdminRequest::UserAdd { name: victim, hash: format!("pw-{VICTIM}") };
        for request in [add, AdminRequest::UserLock { name: victim, locked: false }] {
            self.asked += 1;
            self.requests.insert(self.asked, "bring back");
            self.engine.admin(RequestId(self.asked), request, self.now);
            self.settle();
        }
    }

    fn download_everything(&mut self) {
        for user in ["u0", "u1", "u2", VICTIM, "g0", "g1"] {
            // Failures of wild clients are forgotten by then.
            self.now += 200_000;
            self.engine.expire(self.now);
            let id = self.engine.open(AddressKey::V4(99), Dialect::Cp, self.now).expect("room");
            self.opened += 1;
            self.clients.push(Client::new(self.opened, id, user, false));
            let users = self.users.clone();
            for round in 0..2000 {
                let client = &mut self.clients[0];
                if client.expects.is_empty() && client.logged_in {
                    if round > 20 && self.engine.queued_messages() == 0 {
                        break;
                    }
                    client.download("RMSG256");
                } else {
                    client.act(&users, &mut self.chance, &mut self.book, false);
                }
                self.settle();
                assert!(!self.clients.is_empty(), "{user} was thrown out");
                if round > 30 && self.clients[0].expects.is_empty() {
                    break;
                }
            }
            self.forget(id);
            self.engine.close(id, self.now);
            self.settle();
        }
    }

    fn stop(&mut self) {
        for _ in 0..8 {
            self.open();
        }
        for _ in 0..200 {
            self.calm = false;
            self.step();
        }
        self.calm = true;
        self.engine.stop();
        self.look();
        for client in &mut self.clients {
            client.input.clear();
            client.deaf = false;
        }
        for _ in 0..200 {
            self.move_store();
            self.read_all();
            self.look();
        }
        assert!(self.clients.is_empty(), "{} sessions survive the stop", self.clients.len());
        assert!(self.engine.is_idle());
    }
}
