//! What cpd 0.1.0 leaves when it is replaced: tests/checks/heritage/cpd-0.1.0 holds what its own code wrote of ten sessions and
//! of failed logins, and each of them goes on as if nothing had happened.

use std::net::IpAddr;

use cp_proto::values::Username;
use cpd::daemon::fd_store::{parse_records, write_records};
use cpd_core::dfa::Dialect;
use cpd_core::engine::Engine;
use cpd_core::engine::port::{AddressKey, Origin, SessionId};
use cpd_core::engine::settings::Settings;
use cpd_testing::memory_store;
use memory_store::MemoryStore;

const LEFT: &[u8] = include_bytes!("heritage/cpd-0.1.0");
/// The clock of the process that takes it up.
const NOW: u64 = 500_000;

fn name(text: &str) -> Username {
    Username::parse(text.as_bytes()).expect("a name")
}

fn origin(text: &str) -> Origin {
    Origin::of(text.parse::<IpAddr>().expect("an address"))
}

struct House {
    engine: Engine,
    store: MemoryStore,
    now: u64,
}

impl House {
    /// Everybody is there, and what was queued: one message of bob's and two of her own for alice.
    fn new(settings: Settings) -> House {
        let mut store = MemoryStore::default();
        ["bob", "alice", "carol"].iter().for_each(|user| store.add_user(name(user), "secret".to_owned()));
        let mut house = House { engine: Engine::new(settings, 1, NOW), store, now: NOW };
        house.store.load(&mut house.engine);
        for (user, messages) in [("bob", "SMSGalice:hello\n"), ("alice", "SMSGalice:two\nSMSGalice:three\n")] {
            let id = house.engine.open(AddressKey::V4(1), Dialect::Cp, NOW).expect("room");
            house.says(id, format!("USER{user}\nPASSsecret\n{messages}TERM\n").as_bytes());
            house.engine.close(id, NOW);
        }
        let mut engine = Engine::new(settings, 4, NOW);
        house.store.load(&mut engine);
        house.store.restarted();
        House { engine, ..house }
    }

    /// What is heard after this was said, and what follows from it was done.
    fn says(&mut self, id: SessionId, bytes: &[u8]) -> String {
        self.engine.receive(id, bytes, self.now);
        self.hears(id)
    }

    fn hears(&mut self, id: SessionId) -> String {
        for _ in 0..64 {
            // Writes that nobody waits for are given some time.
            self.now += 20;
            let results = self.engine.next_batch(self.now).map(|batch| self.store.execute(batch));
            results.into_iter().flatten().for_each(|result| self.engine.from_store(result, self.now));
            while let Some(login) = self.engine.next_verification(self.now) {
                self.engine.verified(login.session, login.hash.is_some(), None, self.now);
            }
        }
        let heard = String::from_utf8(self.engine.output(id).to_vec()).expect("text");
        self.engine.sent(id, heard.len(), self.now);
        let lines = heard.lines().map(|line| if line.starts_with("RMSG") { line } else { &line[..3] });
        lines.collect::<Vec<_>>().join(" ")
    }
}

/// The sessions in the order in which they were opened, taken up.
fn taken_up(house: &mut House) -> Vec<SessionId> {
    let (common, records) = parse_records(LEFT).expect("it can be read");
    house.engine.thaw_common(&common, NOW).expect("the failed logins can be read");
    // Who waits comes first, then who downloads.
    let order = [8, 7, 0, 1, 2, 3, 4, 5, 6, 9];
    let mut taken = vec![None; order.len()];
    assert_eq!(records.len(), order.len());
    for (place, record) in order.into_iter().zip(&records) {
        let id = house.engine.thaw(record, origin("127.0.0.1"), NOW);
        taken[place] = Some(id.unwrap_or_else(|| panic!("session {place} is refused")));
    }
    house.engine.finish_handover(NOW);
    taken.into_iter().flatten().collect()
}

#[test]
fn every_session_of_0_1_0_goes_on_where_it_was() {
    let mut house = House::new(Settings::default());
    let ids = taken_up(&mut house);
    for (place, bytes, heard) in [
        (0, &b"USERbob\r\n"[..], "220"),
        // Half a password, one whose CR has come, and one whose CR NUL has.
        (1, b"cret\r\n", "230"),
        (2, b"\n", "230"),
        (3, b"\r\n", "230"),
        (4, b"x\r\n201\r\n", "540 201"),
        // RM, and an IAC: NOP.
        (5, b"\xf1SG\r\n", "256"),
        (6, b"SMSGalice:x\r\n201\r\n", "500 201"),
        (7, b"250\r\n", "RMSGalice:three"),
        (7, b"250\r\n250\r\n", "255"),
        // It waits on.
        (8, b"250\r\n", ""),
        (6, b"SMSGcarol:at last\r\n", "240"),
        (8, b"", "RMSGbob:at last"),
        (8, b"250\r\n", "255"),
        (9, b" of it\r\n", "240"),
        (5, b"RMSG\r\n", "RMSGcarol:half of it"),
    ] {
        assert_eq!(house.says(ids[place], bytes), heard, "session {place}, {bytes:?}");
    }
}

#[test]
fn the_silence_of_the_classic_dialect_and_the_timers_go_on_too() {
    let mut house = House::new(Settings::default());
    let ids = taken_up(&mut house);
    house.now += 50;
    house.engine.arm(ids[9]);
    house.engine.expire(house.now);
    assert_eq!(house.hears(ids[9]), "240", "half a line, and silence");
    // A second of the time to log in had passed.
    house.now = NOW + 59_000;
    house.engine.arm(ids[0]);
    house.engine.expire(house.now);
    assert!(!house.engine.wants_input(ids[0]), "a minute is over");
}

#[test]
fn failures_that_0_1_0_counted_go_on_counting() {
    let mut settings = Settings::default();
    settings.limits.failures_per_address = 1;
    let mut house = House::new(settings);
    taken_up(&mut house);
    for (from, user, throttled) in [
        ("192.0.2.9", "alice", true),
        // An address that counted as another one then.
        ("2002:c000:209:ffff::1", "alice", true),
        ("2001:db8::2", "alice", true),
        ("198.51.100.1", "alice", false),
    ] {
        let id = house.engine.open(origin(from), Dialect::Cp, house.now).expect("room");
        let heard = house.says(id, format!("USER{user}\r\nPASSsecret\r\n").as_bytes());
        assert_eq!(heard, if throttled { "220 565" } else { "220 230" }, "{from}");
    }
}

#[test]
fn what_is_written_now_is_nothing_for_0_1_0() {
    let (common, records) = parse_records(LEFT).expect("it can be read");
    let written = write_records(&common, records.iter().map(|record| &**record));
    assert!(LEFT.starts_with(b"cpd succession 1\n") && written.starts_with(b"cpd succession 3\n"));
    assert_eq!(written[17..], LEFT[17..], "the rest has the same form");
}
