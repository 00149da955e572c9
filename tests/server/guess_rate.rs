//! How fast passwords can be guessed (docs/protocol.md section 7), measured on the whole engine with time of the test's
//! making: a day of attack takes a second or two. A guess is a password that was compared with the user's hash; what is
//! throttled is not, whatever it costs. The owner has to get in all the while from an address that has been good before.
//! `HOURS=240 cargo test --test server guess_rate -- --nocapture` attacks for longer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cp_proto::values::Username;
use cpd_core::dfa::Dialect;
use cpd_core::engine::port::{AddressKey, SessionId};
use cpd_core::engine::settings::{Limits, Settings};
use cpd_core::engine::{Engine, Verification};
use cpd_core::time::Millis;
use cpd_testing::environment::number;
use cpd_testing::memory_store;
use memory_store::MemoryStore;

const HOURS: u64 = 24;
const MINUTE: Millis = 60_000;
/// How often the owner logs in during an attack.
const OWNER_EVERY: Millis = 10 * MINUTE;
/// Attempts that an attacker has under way at once.
const SIDE_BY_SIDE: usize = 12;
/// From one look for an opening to the next: a failure is forgotten after twice as long.
const STEP: Millis = 3000;
const HOME: AddressKey = AddressKey::V4(0x0a00_0001);

fn name(text: &str) -> Username {
    Username::parse(text.as_bytes()).expect("a name")
}

fn address(number: usize) -> AddressKey {
    AddressKey::of(IpAddr::V4(Ipv4Addr::from_bits(0xc0a8_0000 + u32::try_from(number).expect("few"))))
}

/// The engine, its store, and a clock. The verifiers take no time: only the engine itself is in the attackers' way.
struct Arena {
    engine: Engine,
    store: MemoryStore,
    settings: Settings,
    now: Millis,
    guesses: u64,
    /// Attempts that were refused without a look at their password.
    blind: u64,
}

impl Arena {
    fn new(limits: Limits, users: &[&str]) -> Arena {
        let settings = Settings { limits, ..Settings::default() };
        let mut store = MemoryStore::default();
        users.iter().for_each(|user| store.add_user(name(user), format!("right-{user}")));
        let mut arena = Arena { engine: Engine::new(settings, 1, 0), store, settings, now: 0, guesses: 0, blind: 0 };
        arena.store.load(&mut arena.engine);
        arena
    }

    /// All attempts at once, each over a connection of its own; how many got in.
    fn wave(&mut self, attempts: &[(AddressKey, String, String)]) -> usize {
        let open = |(from, user, password): &(AddressKey, String, String)| {
            let id = self.engine.open(*from, Dialect::Cp, self.now).expect("room");
            self.engine.receive(id, format!("USER {user}\r\nPASS {password}\r\n").as_bytes(), self.now);
            id
        };
        let sessions: Vec<SessionId> = attempts.iter().map(open).collect();
        self.work();
        let mut got_in = 0;
        for id in sessions {
            let heard = String::from_utf8_lossy(self.engine.output(id)).into_owned();
            let answers: Vec<&str> = heard.lines().collect();
            assert!(answers.len() == 2 && answers[0].starts_with("220 "), "{answers:?}");
            got_in += usize::from(answers[1].starts_with("230 "));
            self.engine.close(id, self.now);
        }
        self.work();
        got_in
    }

    fn work(&mut self) {
        loop {
            while let Some(batch) = self.engine.next_batch(self.now) {
                for result in self.store.execute(batch) {
                    self.engine.from_store(result, self.now);
                }
            }
            // As many side by side as the engine gives: that is the worst that any number of verifiers can do.
            let mut verifications = Vec::new();
            while let Some(verification) = self.engine.next_verification(self.now) {
                verifications.push(verification);
            }
            if verifications.is_empty() {
                break;
            }
            for Verification { session, password, hash } in verifications {
                *(if hash.is_some() { &mut self.guesses } else { &mut self.blind }) += 1;
                let ok = hash.is_some_and(|hash| hash.as_bytes() == password.as_bytes());
                self.engine.verified(session, ok, None, self.now);
            }
        }
        while self.engine.next_event().is_some() {}
        while self.engine.next_dirty().is_some() {}
    }

    fn guess(&mut self, from: AddressKey, user: &str) -> usize {
        self.wave(&[(from, user.to_owned(), "wrong".to_owned())])
    }

    /// Whether the owner gets in.
    fn owner(&mut self, from: AddressKey, user: &str) -> bool {
        self.wave(&[(from, user.to_owned(), format!("right-{user}"))]) == 1
    }

    /// The owner's own look at the hash is no guess.
    fn owner_meanwhile(&mut self, from: AddressKey, user: &str) -> bool {
        let guesses = self.guesses;
        let in_time = self.owner(from, user);
        self.guesses = guesses;
        in_time
    }

    fn pass(&mut self, time: Millis) {
        self.now += time;
        self.engine.expire(self.now);
        self.work();
    }

    /// Another process takes over: what it knows is in the store, and what its predecessor left.
    fn restart(&mut self) {
        self.pass(20);
        let common = self.engine.freeze_common(self.now);
        self.engine = Engine::new(self.settings, 1, 0);
        self.store.load(&mut self.engine);
        self.now = 1000;
        self.engine.thaw_common(&common, self.now).expect("a record of this version");
    }
}

/// Where an attempt comes from and whom it is at, by its number.
type Source = dyn Fn(usize) -> (AddressKey, String);

/// What an attack came to.
#[derive(Clone, Copy, Debug)]
struct Attack {
    guesses: u64,
    minutes: u64,
    /// The owner's attempts from home, and those of them that got in.
    owner: (u64, u64),
}

/// What an attack may have at once, and in each minute after that.
#[derive(Clone, Copy, Debug)]
struct Share {
    at_once: f64,
    a_minute: f64,
}

impl Share {
    /// As many in each minute, and as many at once.
    fn a_minute(number: u32) -> Share {
        Share { at_once: f64::from(number), a_minute: f64::from(number) }
    }

    /// Half at once, and half in each day.
    fn a_day(number: u32) -> Share {
        Share { at_once: f64::from(number) / 2.0, a_minute: f64::from(number) / 2.0 / (24.0 * 60.0) }
    }

    fn in_minutes(self, minutes: u64) -> f64 {
        self.at_once + self.a_minute * minutes as f64
    }
}

/// The rules: no more guesses than the limits allow, and an owner who gets in.
fn faults(attack: Attack, share: Share) -> Vec<String> {
    let most = share.in_minutes(attack.minutes).ceil() as u64;
    let mut faults = Vec::new();
    if attack.guesses > most {
        faults.push(format!("{} guesses in {} minutes, at most {most} are promised", attack.guesses, attack.minutes));
    }
    if attack.owner.0 != attack.owner.1 {
        faults.push(format!("the owner got in {} of {} times", attack.owner.1, attack.owner.0));
    }
    faults
}

/// An attack, by what `source` says of each attempt, as fast as it helps, for so many hours. The owner of `u0` has been
/// at home before.
fn attack(arena: &mut Arena, hours: u64, mut source: impl FnMut(usize) -> (AddressKey, String)) -> Attack {
    assert!(arena.owner(HOME, "u0"), "in peace");
    arena.pass(10 * MINUTE);
    arena.guesses = 0;
    let (minutes, mut owner, mut number, mut passed) = (hours * 60, (0, 0), 0, 0);
    while passed < minutes * MINUTE {
        // Until nobody gets through any more.
        loop {
            let before = arena.guesses;
            let wave: Vec<_> = (number..number + SIDE_BY_SIDE)
                .map(&mut source)
                .map(|(from, user)| (from, user, "wrong".to_owned()))
                .collect();
            number += SIDE_BY_SIDE;
            assert_eq!(arena.wave(&wave), 0, "no guess is right");
            if arena.guesses == before {
                break;
            }
        }
        if passed % OWNER_EVERY == 0 {
            owner.0 += 1;
            owner.1 += u64::from(arena.owner_meanwhile(HOME, "u0"));
            if passed == minutes / 2 / 10 * OWNER_EVERY {
                arena.restart();
            }
        }
        arena.pass(STEP);
        passed += STEP;
    }
    Attack { guesses: arena.guesses, minutes, owner }
}

/// That an attack was one: it got most of what it can get at all.
fn is_earnest(attack: Attack, share: Share) {
    assert!(attack.guesses as f64 >= share.in_minutes(attack.minutes) * 0.9 - 1.0, "{attack:?}");
}

fn report(what: &str, attack: Attack) {
    let Attack { guesses, minutes, owner } = attack;
    let rate = guesses as f64 / minutes as f64;
    let owner = format!("the owner got in {} of {} times", owner.1, owner.0);
    println!("proof: guess rate: {what}: {guesses} guesses in {minutes} minutes, {rate:.2} a minute; {owner}");
}

#[test]
fn one_address_gets_its_share_whomever_it_guesses_at() {
    let limits = Limits::default();
    let one = |_| (address(1), "u0".to_owned());
    let many = |number: usize| (address(1), format!("u{}", number % 500));
    // Of an IPv6 network that one customer has, every address is the same one.
    let v6 = |number: usize| {
        let within = 0x2001_0db8_u128 << 96 | u128::from(number as u64);
        (AddressKey::of(IpAddr::V6(Ipv6Addr::from_bits(within))), format!("u{}", number % 500))
    };
    let by_address = Share::a_minute(limits.failures_per_address);
    // An address has half of an account's.
    let by_day = Share::a_day(limits.failures_per_user_day);
    let half = Share { at_once: by_day.at_once / 2.0, ..by_day };
    let sources: [(&str, &Source, Share); 3] = [
        ("one address at one account", &one, half),
        ("one address at 500 accounts", &many, by_address),
        ("one IPv6 /64 at 500 accounts", &v6, by_address),
    ];
    let users: Vec<String> = (0..500).map(|number| format!("u{number}")).collect();
    let users: Vec<&str> = users.iter().map(String::as_str).collect();
    for (what, source, share) in sources {
        let attack = attack(&mut Arena::new(limits, &users), number("HOURS").unwrap_or(HOURS).div_ceil(4), source);
        assert_eq!(faults(attack, share), Vec::<String>::new(), "{what}");
        is_earnest(attack, share);
        report(what, attack);
    }
}

#[test]
fn a_thousand_addresses_together_get_no_more_at_one_account() {
    let limits = Limits::default();
    let source = |number: usize| (address(number % 1000), "u0".to_owned());
    let by_day = attack(&mut Arena::new(limits, &["u0"]), number("HOURS").unwrap_or(HOURS), source);
    let share = Share::a_day(limits.failures_per_user_day);
    assert_eq!(faults(by_day, share), Vec::<String>::new());
    is_earnest(by_day, share);
    report("1000 addresses at one account", by_day);
    // Where no day's limit comes first, a minute's is left.
    let limits = Limits { failures_per_user_day: 1_000_000, ..limits };
    let by_minute = attack(&mut Arena::new(limits, &["u0"]), number("HOURS").unwrap_or(HOURS).div_ceil(4), source);
    let share = Share::a_minute(limits.failures_per_user);
    assert_eq!(faults(by_minute, share), Vec::<String>::new());
    is_earnest(by_minute, share);
    report("1000 addresses at one account, without a limit for a day", by_minute);
}

#[test]
fn without_limits_the_same_attack_is_reported() {
    let most = u32::MAX;
    let limits = Limits {
        failures_per_address: most,
        failures_per_user: most,
        failures_per_user_day: most,
        ..Limits::default()
    };
    let default = Limits::default();
    let attack = attack_briefly(&mut Arena::new(limits, &["u0"]));
    assert_eq!(faults(attack, Share::a_minute(default.failures_per_user)).len(), 1, "the twin passes: {attack:?}");
    report("twin without limits, caught", attack);
}

/// Without limits nobody ever stops getting through: a wave every second.
fn attack_briefly(arena: &mut Arena) -> Attack {
    let mut owner = (0, 0);
    for second in 0..600 {
        for number in 0..100 {
            arena.guess(address(second * 100 + number), "u0");
        }
        arena.pass(1000);
    }
    owner.0 += 1;
    owner.1 += u64::from(arena.owner_meanwhile(HOME, "u0"));
    Attack { guesses: arena.guesses, minutes: 10, owner }
}

#[test]
fn an_owner_who_is_not_remembered_is_locked_out_and_that_is_reported() {
    let limits = Limits::default();
    let mut arena = Arena::new(limits, &["u0"]);
    // Nobody has been good before: the owner is one of the thousand.
    let (mut owner, mut number) = ((0, 0), 0);
    for _ in 0..60 {
        for _ in 0..2 * limits.failures_per_user {
            number += 1;
            arena.guess(address(number % 1000), "u0");
        }
        owner.0 += 1;
        owner.1 += u64::from(arena.owner_meanwhile(HOME, "u0"));
        arena.pass(1000);
    }
    let attack = Attack { guesses: arena.guesses, minutes: 1, owner };
    assert_eq!(faults(attack, Share::a_day(limits.failures_per_user_day)).len(), 1, "the twin passes: {attack:?}");
    println!("proof: guess rate: twin of an owner at a new address: caught, in {} of {} times", owner.1, owner.0);
}

#[test]
fn no_number_of_addresses_and_names_locks_an_owner_out() {
    let mut arena = Arena::new(Limits::default(), &["u0", "u1"]);
    assert!(arena.owner(HOME, "u0"), "in peace");
    arena.pass(MINUTE);
    // More than the tables hold, all at once.
    const TRIED: usize = 70_000;
    for number in 0..TRIED {
        arena.guess(address(number), &format!("n{number}"));
    }
    for number in 0..1000 {
        arena.guess(address(TRIED + number), "u0");
    }
    assert!(!arena.owner_meanwhile(AddressKey::V6(1), "u0"), "a stranger's guesses at u0 are not throttled");
    assert!(arena.owner_meanwhile(AddressKey::V6(2), "u1"), "a newcomer whose name nobody has tried");
    let owner = (1, u64::from(arena.owner_meanwhile(HOME, "u0")));
    assert_eq!(owner, (1, 1), "the owner is kept out");
    arena.restart();
    assert!(arena.owner_meanwhile(HOME, "u0"), "after a restart");
    assert!(!arena.owner_meanwhile(AddressKey::V6(3), "u0"), "the restart has forgotten the failures");
    println!(
        "proof: guess rate: {TRIED} addresses and as many names at once: the owner and a newcomer got in, the owner also \
         after a restart"
    );
}

#[test]
fn one_address_cannot_keep_a_newcomer_out() {
    let mut arena = Arena::new(Limits::default(), &["u0"]);
    for _ in 0..24 * 60 {
        for _ in 0..20 {
            arena.guess(address(1), "u0");
        }
        arena.pass(MINUTE);
    }
    assert!(arena.owner_meanwhile(address(2), "u0"), "the first login, from another address");
    println!("proof: guess rate: 28800 attempts of one address in a day: a first login from another one gets in");
}
