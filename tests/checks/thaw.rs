//! A record of a session that the new process cannot read closes one connection: it is never guessed at, and no bytes
//! make the engine panic. Those that can be read do not stand in each other's way.

use std::net::IpAddr;

use cp_proto::values::Username;
use cpd_core::dfa::Dialect;
use cpd_core::engine::port::{AddressKey, MessageId, StoredMessage};
use cpd_core::engine::settings::Settings;
use cpd_core::engine::{Engine, Verification};
use cpd_testing::memory_store;
use memory_store::MemoryStore;
use proptest::prelude::*;

fn from() -> AddressKey {
    AddressKey::of(IpAddr::from([127, 0, 0, 1]))
}

fn engine() -> Engine {
    let mut engine = Engine::new(Settings::default(), 100, 0);
    let bob = Username::parse(b"bob").expect("a name");
    engine.load_user(bob);
    for id in 1..5 {
        let message = StoredMessage { id: MessageId(id), recipient: bob, sender: bob, queued_at: 0, bytes: 3 };
        engine.load_message(&message);
    }
    engine
}

/// The record of a session that has received `input`.
fn record(input: &[u8]) -> Vec<u8> {
    let mut engine = engine();
    let id = engine.open(from(), Dialect::Cp, 0).expect("room");
    engine.receive(id, input, 0);
    engine.pause();
    engine.freeze(id, 0).expect("nothing is under way").to_vec()
}

#[test]
fn a_record_of_another_version_or_with_anything_behind_it_is_refused() {
    let good = record(b"USERbob\r\nPA");
    assert!(engine().thaw(&good, from(), 0).is_some());
    for end in 0..good.len() {
        assert!(engine().thaw(&good[..end], from(), 0).is_none(), "cut at {end}");
    }
    let longer = [&*good, b"x"].concat();
    assert!(engine().thaw(&longer, from(), 0).is_none());
    let mut other = good.clone();
    other[0] ^= 2;
    assert!(engine().thaw(&other, from(), 0).is_none());
}

#[test]
fn a_record_that_says_more_than_a_session_has_is_refused() {
    let good = record(b"USERbob\r\nPA");
    // Version, age, end of a download; then state and name, dialect, and what the line decoder holds.
    let (end, kind, name, total) = (10, 18, 23, 23 + 3 + 1 + 3 + 8);
    assert!(engine().thaw(&good, from(), 0).is_some());
    assert_eq!((&good[name..name + 3], &good[total..total + 4]), (&b"bob"[..], &[0; 4][..]));
    let changed = |place: usize, to: u8| {
        let mut record = good.clone();
        record[place] = to;
        engine().thaw(&record, from(), 0)
    };
    assert!(changed(end, 1).is_none(), "the end of a download that is none");
    assert!(changed(kind, 0).is_none(), "nobody gave a name, and here is one");
    assert!(changed(total, 1).is_none(), "a line that is no over-long one has no length beside it");
    let mut nameless = good.clone();
    (nameless[kind], nameless[name]) = (0, b'!');
    assert!(engine().thaw(&nameless, from(), 0).is_none(), "a name that no user can have");
}

#[test]
fn failed_logins_with_anything_behind_them_are_refused() {
    let good = engine().freeze_common(0);
    assert!(engine().thaw_common(&good, 0).is_some());
    assert!(engine().thaw_common(&[&*good, b"x"].concat(), 0).is_none());
}

#[test]
fn a_deadline_beyond_all_time_is_refused() {
    let good = record(b"USERbob\r\n");
    // Five deadlines, downloads, failures, FIN, closing, idle time; bad PDUs, a first line, an LF that is owed; what was
    // taken of the output.
    let deadlines = good.len() - (5 * 8 + 4 + 3 + 8 + 3 + 2);
    assert_eq!(good[deadlines..deadlines + 8], u64::MAX.to_le_bytes(), "no PDU has begun");
    let mut late = good.clone();
    late[deadlines..deadlines + 8].copy_from_slice(&(u64::MAX - 1).to_le_bytes());
    assert!(engine().thaw(&late, from(), 5).is_none());
    let mut quick = good.clone();
    let taken = good.len() - 2;
    assert_eq!(good[taken..], [0, 0]);
    quick[taken..].copy_from_slice(&(16 * 1024u16).to_le_bytes());
    assert!(engine().thaw(&quick, from(), 5).is_none(), "with so much taken the timer had begun anew");
}

proptest! {
    #[test]
    fn no_bytes_make_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        engine().thaw(&bytes, from(), 0);
        engine().thaw_common(&bytes, 0);
    }

    #[test]
    fn a_damaged_record_is_refused_or_serves_on(place in any::<prop::sample::Index>(), to in any::<u8>(), later in 0u64..100_000) {
        let mut damaged = record(b"USERbob\r\nNOOP\r\n\xff\xfaUSER");
        let place = place.index(damaged.len());
        damaged[place] = to;
        let mut engine = engine();
        if let Some(id) = engine.thaw(&damaged, from(), 0) {
            engine.finish_handover(0);
            engine.receive(id, b"x\r\nTERM\r\n250\r\nRMSG\r\n", 0);
            engine.arm(id);
            engine.expire(later);
            engine.sent(id, engine.output(id).len(), later);
            engine.close(id, later);
            prop_assert_eq!(engine.connections(), 0);
        }
    }
}

/// Everything that is under way at `now`: the store's answers, verified passwords.
fn settle(engine: &mut Engine, store: &mut MemoryStore, now: u64) {
    while !engine.is_idle() {
        let results = engine.next_batch(now).map(|batch| store.execute(batch));
        results.into_iter().flatten().for_each(|result| engine.from_store(result, now));
        while let Some(Verification { session, .. }) = engine.next_verification(now) {
            engine.verified(session, true, None, now);
        }
    }
}

#[test]
fn a_download_is_taken_up_before_an_rmsg_that_was_not_read_yet() {
    let bob = Username::parse(b"bob").expect("a name");
    let mut store = MemoryStore::default();
    store.add_user(bob, "secret".to_owned());
    let mut old = Engine::new(Settings::default(), 1, 0);
    store.load(&mut old);
    let [first, second] = [0, 0].map(|now| old.open(from(), Dialect::Cp, now).expect("room"));
    for id in [first, second] {
        old.receive(id, b"USERbob\r\nPASSsecret\r\nSMSGbob:hello\r\n", 0);
        settle(&mut old, &mut store, 20);
    }
    old.receive(second, b"RMSG\r\n", 0);
    settle(&mut old, &mut store, 20);
    // While its SMSG is being stored, its RMSG has to wait; and the pause comes first.
    old.receive(first, b"SMSGbob:more\r\nRMSG\r\n", 0);
    old.pause();
    settle(&mut old, &mut store, 20);

    let mut new = Engine::new(Settings::default(), 4, 20);
    store.load(&mut new);
    let order = old.handover_order();
    let records = order.iter().map(|id| old.freeze(*id, 20).expect("nothing is under way"));
    let taken: Vec<_> = records.map(|record| new.thaw(&record, from(), 20)).collect();
    assert!(taken.iter().all(Option::is_some), "{taken:?} of {order:?}");
    new.finish_handover(20);
    let taken_up = |id| taken[order.iter().position(|old| *old == id).expect("it was there")].expect("it is there");
    assert!(new.output(taken_up(first)).ends_with(b"256 no new messages\r\n"));
    let (second, before) = (taken_up(second), new.output(taken_up(second)).len());
    new.receive(second, b"250\r\n", 20);
    // Later: nobody waits for the delete, it goes to the store in its own time.
    settle(&mut new, &mut store, 100);
    assert_eq!(new.output(second)[before..], *b"RMSGbob:hello\r\n", "it goes on where it was");
}
