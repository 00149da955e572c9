//! Messages older than `limits.message_age`, which an operator sets, expire, are counted and logged; younger ones, and
//! those being downloaded, stay.

use cp_proto::values::Username;
use cpd_core::engine::Engine;
use cpd_core::engine::events::LogEvent;
use cpd_core::engine::port::{MessageId, Op, StoredMessage};
use cpd_core::engine::settings::{Limits, Settings};

const AGE: u64 = 100;
const NOW: u64 = 1_000_000;

fn engine() -> Engine {
    let limits = Limits { message_age: AGE, ..Limits::default() };
    let mut engine = Engine::new(Settings { limits, ..Settings::default() }, 10, 0);
    let bob = Username::parse(b"bob").unwrap();
    engine.load_user(bob);
    for (id, queued_at) in [(1, NOW - AGE - 50), (2, NOW - AGE - 1), (3, NOW - AGE), (4, NOW)] {
        engine.load_message(&StoredMessage { id: MessageId(id), recipient: bob, sender: bob, queued_at, bytes: 5 });
    }
    engine.set_wall_clock(NOW);
    engine
}

fn forgotten(engine: &mut Engine, now: u64) -> Vec<u64> {
    let mut ids = Vec::new();
    while let Some(batch) = engine.next_batch(now) {
        ids.extend(batch.ops.iter().filter_map(|op| match op {
            Op::DeleteExpired { id } => Some(id.0),
            _ => None,
        }));
    }
    ids
}

#[test]
fn what_is_too_old_goes_and_is_told() {
    let mut engine = engine();
    assert_eq!(engine.queued_messages(), 4);
    let due = engine.next_deadline();
    engine.expire(due);
    assert_eq!(engine.queued_messages(), 2);
    assert_eq!(engine.next_event(), Some(LogEvent::Expired { messages: 2 }));
    assert_eq!(forgotten(&mut engine, due + 1000), [1, 2]);

    engine.set_wall_clock(NOW + AGE + 1);
    let mut now = due;
    while engine.queued_messages() > 0 {
        now = engine.next_deadline();
        assert!(now < due + 3_600_000, "it looks again within the hour");
        engine.expire(now);
    }
    assert_eq!(forgotten(&mut engine, now + 1000), [3, 4]);
}

#[test]
fn a_clock_that_leaps_deletes_nothing() {
    let mut engine = engine();
    let mut now = engine.next_deadline();
    engine.expire(now);
    assert_eq!(engine.queued_messages(), 2);
    // Ten years ahead, and right again within the day.
    engine.set_wall_clock(NOW + 3652 * 86_400);
    let mut sweep = |engine: &mut Engine, sweeps: u64| {
        for _ in 0..sweeps {
            now += 10_000;
            engine.expire(now);
        }
    };
    sweep(&mut engine, 6);
    assert_eq!(engine.queued_messages(), 1, "a minute later only the one that has its age by now is gone");
    engine.set_wall_clock(NOW + 60);
    sweep(&mut engine, 1);
    assert_eq!(engine.queued_messages(), 1);
    engine.set_wall_clock(NOW + AGE + 1);
    sweep(&mut engine, 1);
    assert_eq!(engine.queued_messages(), 0, "now the other one is old");
}

#[test]
fn nothing_expires_unless_an_age_is_set() {
    let mut engine = engine();
    engine.configure(Settings::default());
    engine.set_wall_clock(u64::MAX);
    engine.expire(10_000_000);
    assert_eq!(engine.queued_messages(), 4);
}
