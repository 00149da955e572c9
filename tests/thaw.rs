//! A record of a session that the new process cannot read closes one connection: it is never guessed at, and no bytes
//! make the engine panic.

use std::net::IpAddr;

use cpd::engine::Engine;
use cpd::engine::port::{AddressKey, MessageId, StoredMessage};
use cpd::engine::settings::Settings;
use cpd::proto::dfa::Dialect;
use cpd::proto::types::Username;
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
    engine.freeze(id, 5).expect("nothing is under way")
}

#[test]
fn a_record_of_another_version_or_with_anything_behind_it_is_refused() {
    let good = record(b"USERbob\r\nPA");
    assert!(engine().thaw(&good, from(), 0).is_some());
    for end in 0..good.len() {
        assert!(engine().thaw(&good[..end], from(), 0).is_none(), "cut at {end}");
    }
    let longer = [good.as_slice(), b"x"].concat();
    assert!(engine().thaw(&longer, from(), 0).is_none());
    let mut other = good.clone();
    other[0] ^= 2;
    assert!(engine().thaw(&other, from(), 0).is_none());
}

proptest! {
    #[test]
    fn no_bytes_make_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        engine().thaw(&bytes, from(), 0);
        engine().thaw_failures(&bytes, 0);
    }

    #[test]
    fn a_damaged_record_is_refused_or_serves_on(place in any::<prop::sample::Index>(), to in any::<u8>(), later in 0u64..100_000) {
        let mut damaged = record(b"USERbob\r\nNOOP\r\n\xff\xfaUSER");
        let place = place.index(damaged.len());
        damaged[place] = to;
        let mut engine = engine();
        if let Some(id) = engine.thaw(&damaged, from(), 0) {
            engine.succeeded(0);
            engine.receive(id, b"x\r\nTERM\r\n250\r\nRMSG\r\n", 0);
            engine.arm(id);
            engine.expire(later);
            engine.sent(id, engine.output(id).len(), later);
            engine.close(id, later);
            prop_assert_eq!(engine.connections(), 0);
        }
    }
}
