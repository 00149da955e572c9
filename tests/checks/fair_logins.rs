//! Floods of logins against the whole engine, on virtual time: who comes from an address from which somebody has logged in
//! before hardly notices them, and who comes from a new one waits neither for those who have had a turn nor, once the first
//! wave is over, for all of it to have had one.
//!
//! The twin is a cpd with one queue for all, which has to be caught:
//! `CPD_SABOTAGE=one-queue EXPECT_VIOLATION=1 cargo test --features sabotage --test checks flood`.

use std::collections::{BTreeMap, HashMap};

use cp_proto::values::Username;
use cpd_core::dfa::Dialect;
use cpd_core::engine::Engine;
use cpd_core::engine::port::{AddressKey, Answer, FromStore, LoginRecord, Op, Outcome, SessionId};
use cpd_core::engine::settings::Settings;
use cpd_core::session::Closing;
use cpd_core::time::Millis;

/// What verifying one password takes, on each of so many verifiers.
const VERIFY_MS: Millis = 25;
const VERIFIERS: usize = 1;
/// Addresses that flood, and bytes a second that all of them send together: `USERx` and `PASSx` with their ends are 30.
const ATTACKERS: u32 = 6000;
const LOGINS_A_SECOND: u64 = 5000 / 30;
/// Honest logins of each kind, one a second.
const TRIES: u64 = 200;
/// Until the last attacker has arrived; most of them have had no turn by then.
const FIRST_WAVE_MS: Millis = ATTACKERS as u64 * 1000 / LOGINS_A_SECOND + 1000;
/// Of a flood from few networks nobody has to see the end.
const FEW_NETWORKS_MS: Millis = 2000;
const OWNER: AddressKey = AddressKey::V4(1);
const NEWCOMERS: u32 = 0x0a00_0000;
const FLOOD: u32 = 0xc000_0000;

/// Milliseconds within which honest logins are answered, of a hundred all but one.
const OWNER_MS: Millis = 1000;
const NEWCOMER_MS: Millis = 10_000;

struct World {
    engine: Engine,
    now: Millis,
    verifying: BTreeMap<(Millis, u64), (SessionId, bool)>,
    number: u64,
    /// Honest logins under way.
    begun: HashMap<SessionId, (Kind, Millis)>,
    waited: HashMap<Kind, Vec<Millis>>,
    /// Each attacker has an IPv4 /24 of its own; if not, there are 256 in each.
    spread: bool,
    /// The attackers' sessions, and which of them are connected.
    flooding: HashMap<SessionId, u32>,
    connected: Vec<bool>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Kind {
    Owner,
    Newcomer,
}

fn guess(attacker: u32) -> String {
    format!("USERu{attacker}\r\nPASSwrong\r\n")
}

fn name(text: &str) -> Username {
    Username::parse(text.as_bytes()).expect("a name")
}

impl World {
    fn new() -> World {
        let mut settings = Settings::default();
        settings.limits.connections = 100_000;
        let mut engine = Engine::new(settings, 1, 0);
        engine.load_user(name("bob"));
        engine.load_known_address(OWNER);
        World {
            engine,
            now: 0,
            verifying: BTreeMap::new(),
            number: 0,
            begun: HashMap::new(),
            waited: HashMap::new(),
            spread: true,
            flooding: HashMap::new(),
            connected: vec![false; ATTACKERS as usize],
        }
    }

    /// Does what is due now.
    fn pump(&mut self) {
        self.engine.expire(self.now);
        while let Some(batch) = self.engine.next_batch(self.now) {
            let answers = batch.ops.iter().filter_map(|op| match op {
                Op::Lookup { session, name: who, from } => {
                    let known_address = from.key == OWNER;
                    let record = LoginRecord { hash: "bob".to_owned(), locked: false, known_address };
                    let record = (*who == name("bob")).then(|| Box::new(record));
                    Some(Answer::Login { session: *session, record: Ok(record) })
                }
                _ => None,
            });
            let answers = answers.collect();
            self.engine.from_store(FromStore::Answers(answers), self.now);
            let outcome = Outcome { inserts: true, no_room: false, deletes: true, epoch: 0 };
            self.engine.from_store(FromStore::Done(batch, outcome), self.now);
        }
        while self.verifying.len() < VERIFIERS {
            let Some(next) = self.engine.next_verification(self.now) else { break };
            self.number += 1;
            let ok = next.hash.is_some_and(|hash| hash.as_bytes() == next.password.as_bytes());
            self.verifying.insert((self.now + VERIFY_MS, self.number), (next.session, ok));
        }
        while let Some(id) = self.engine.next_dirty() {
            self.look(id);
        }
        while self.engine.next_event().is_some() {}
    }

    fn look(&mut self, id: SessionId) {
        let output = self.engine.output(id).to_vec();
        self.engine.sent(id, output.len(), self.now);
        let said = |code: &[u8]| output.windows(4).any(|part| part == code);
        if let Some((kind, begun)) = self.begun.get(&id).copied()
            && said(b"230 ")
        {
            self.waited.entry(kind).or_default().push(self.now - begun);
            self.begun.remove(&id);
            self.engine.close(id, self.now);
        } else if self.flooding.contains_key(&id) && said(b"565 ") {
            // It goes on at once.
            let login = guess(self.flooding[&id]);
            self.engine.receive(id, login.as_bytes(), self.now);
        }
        if matches!(self.engine.next_close_step(id), Closing::Now | Closing::Flush) {
            if let Some(attacker) = self.flooding.remove(&id) {
                self.connected[attacker as usize] = false;
            }
            self.engine.close(id, self.now);
        } else {
            self.engine.arm(id);
        }
    }

    fn connect(&mut self, from: AddressKey, login: &str) -> SessionId {
        let id = self.engine.open(from, Dialect::Cp, self.now).expect("a place");
        self.engine.arm(id);
        self.engine.receive(id, login.as_bytes(), self.now);
        id
    }

    fn verified(&mut self) {
        while let Some(entry) = self.verifying.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let (session, ok) = entry.remove();
            self.engine.verified(session, ok, None, self.now);
        }
    }

    fn flood(&mut self, attacker: u32) {
        if std::mem::replace(&mut self.connected[attacker as usize], true) {
            return;
        }
        let from = FLOOD + if self.spread { attacker << 8 } else { attacker };
        let id = self.connect(AddressKey::V4(from), &guess(attacker));
        self.flooding.insert(id, attacker);
    }

    fn honest(&mut self, kind: Kind, number: u64) {
        let from = match kind {
            Kind::Owner => OWNER,
            Kind::Newcomer => AddressKey::V4(NEWCOMERS + ((number as u32) << 8)),
        };
        let id = self.connect(from, "USERbob\r\nPASSbob\r\n");
        self.begun.insert(id, (kind, self.now));
    }
}

fn shown(wait: Millis) -> String {
    if wait == Millis::MAX { "never".to_owned() } else { format!("{wait} ms") }
}

/// Milliseconds within which all but one of a hundred were in; who never was counts as the longest.
fn p99(world: &World, kind: Kind) -> Millis {
    let mut waited = world.waited.get(&kind).cloned().unwrap_or_default();
    waited.resize(TRIES as usize, Millis::MAX);
    waited.sort_unstable();
    waited[TRIES as usize * 99 / 100 - 1]
}

/// A flood from addresses that are `spread` over as many networks or not, in which honest clients come after `start`.
fn flood(spread: bool, start: Millis) {
    let mut world = World { spread, ..World::new() };
    let (mut attacker, mut tried) = (0, 0);
    let end = start + TRIES * 1000 + 30_000;
    while world.now < end {
        world.now += 1;
        world.verified();
        if (world.now * LOGINS_A_SECOND) / 1000 > ((world.now - 1) * LOGINS_A_SECOND) / 1000 {
            world.flood(attacker % ATTACKERS);
            attacker += 1;
        }
        if world.now > start && tried < TRIES && world.now.is_multiple_of(1000) {
            tried += 1;
            world.honest(Kind::Owner, tried);
            world.honest(Kind::Newcomer, tried);
        }
        world.pump();
    }
    let (owner, newcomer) = (p99(&world, Kind::Owner), p99(&world, Kind::Newcomer));
    let (owners, newcomers) = (shown(owner), shown(newcomer));
    let networks = if spread { ATTACKERS } else { ATTACKERS.div_ceil(256) };
    let told = format!(
        "{attacker} logins of {ATTACKERS} addresses in {networks} networks, honest ones after {start} ms; p99 of an owner \
         {owners}, of a newcomer {newcomers}"
    );
    if std::env::var_os("EXPECT_VIOLATION").is_some() {
        assert!(owner > OWNER_MS && newcomer > NEWCOMER_MS, "not caught: {told}");
        println!("proof: flood of logins: twin one-queue caught: {told}");
    } else {
        assert!(owner <= OWNER_MS && newcomer <= NEWCOMER_MS, "{told}");
        println!("proof: flood of logins: {told}");
    }
}

#[test]
fn a_flood_of_logins_keeps_nobody_out() {
    flood(true, FIRST_WAVE_MS);
}

#[test]
fn a_flood_from_few_networks_keeps_nobody_out_from_its_beginning() {
    flood(false, FEW_NETWORKS_MS);
}

/// Users with all the sessions that they may have, from many addresses, leave places for addresses that are known.
#[test]
fn some_places_are_for_addresses_that_are_known() {
    let mut settings = Settings::default();
    settings.limits.connections = 100;
    let mut engine = Engine::new(settings, 1, 0);
    engine.load_known_address(OWNER);
    // Who has logged in makes no way: here, as a predecessor's sessions.
    let mut other = Engine::new(settings, 1, 0);
    for engine in [&mut engine, &mut other] {
        (0..10).for_each(|user| engine.load_user(name(&format!("u{user}"))));
    }
    let mut world = World { engine: other, ..World::new() };
    let mut records = Vec::new();
    for number in 0..95 {
        let id = world.connect(AddressKey::V4(FLOOD + number), &format!("USERu{}\r\nPASSx\r\n", number % 10));
        while let Some(batch) = world.engine.next_batch(world.now) {
            let record = LoginRecord { hash: "x".to_owned(), locked: false, known_address: false };
            let answer = Answer::Login { session: id, record: Ok(Some(Box::new(record))) };
            world.engine.from_store(FromStore::Answers(vec![answer]), world.now);
            let outcome = Outcome { inserts: true, no_room: false, deletes: true, epoch: 0 };
            world.engine.from_store(FromStore::Done(batch, outcome), world.now);
        }
        let next = world.engine.next_verification(world.now).expect("a login");
        world.engine.verified(next.session, true, None, world.now);
        world.engine.sent(id, world.engine.output(id).len(), world.now);
        let record = world.engine.freeze(id, world.now).expect("a record");
        records.push((AddressKey::V4(FLOOD + number), record));
    }
    for (from, record) in &records {
        engine.thaw(record, *from, 0).expect("taken up");
    }
    assert!(
        engine.open(AddressKey::V4(FLOOD + 200), Dialect::Cp, 0).is_err(),
        "a stranger took one of the last places"
    );
    for _ in 0..5 {
        engine.open(OWNER, Dialect::Cp, 0).expect("a place for whom is known");
    }
}
