//! What operators ask costs clients no more than a turn, and what they are told of sessions is so.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cpd_core::dfa::Dialect;
use cpd_core::engine::Engine;
use cpd_core::engine::port::{AddressKey, RequestId};
use cpd_core::engine::requests::{AdminResult, Request};
use cpd_core::engine::settings::Settings;
use cpd_testing::running;
use running::Daemon;

#[test]
fn an_operator_who_asks_without_a_pause_does_not_hold_clients_up() {
    const REQUESTS: usize = 20_000;
    let daemon = Daemon::start("");
    daemon.add_user("bob", "hunter2");
    let mut client = daemon.connect();
    client.logs_in("bob", "hunter2");
    let operator = UnixStream::connect(daemon.socket()).expect("the control socket");
    let mut asking = operator.try_clone().expect("a socket");
    let asks = std::thread::spawn(move || {
        asking.write_all(&b"{\"v\":1,\"cmd\":\"session.list\"}\n".repeat(REQUESTS)).expect("all is read");
    });
    let answered = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&answered);
    let reads = std::thread::spawn(move || {
        for line in BufReader::new(operator).lines().take(REQUESTS) {
            assert!(line.expect("an answer").starts_with("{\"ok\":true"));
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    // Each exchange takes a few rounds of the loop. Without turns it would take as long as all that is asked for.
    let mut meanwhile = 0;
    while answered.load(Ordering::SeqCst) < REQUESTS {
        client.asks("NOOP", "500 ");
        meanwhile += 1;
    }
    asks.join().expect("asked");
    reads.join().expect("answered");
    assert!(meanwhile > 100, "a client was answered {meanwhile} times while an operator was {REQUESTS} times");
}

/// Whatever state the session is in; a successor counts on.
#[test]
fn idle_time_counts_from_the_last_complete_pdu() {
    let mut engine = Engine::new(Settings::default(), 1, 0);
    let from = AddressKey::of([127, 0, 0, 1].into());
    let id = engine.open(from, Dialect::Cp, 1000).expect("room");
    let idle = |engine: &mut Engine, now: u64| {
        engine.admin(RequestId(now), Request::SessionList { after: 0, limit: 10 }, now);
        match engine.next_result() {
            Some((_, AdminResult::Sessions { rows, .. })) => (now - rows[0].opened, rows[0].idle),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(idle(&mut engine, 4000), (3000, 3000), "nothing was said yet");
    engine.receive(id, b"USERbob\r\nPA", 5000);
    assert_eq!(idle(&mut engine, 7000), (6000, 2000));
    engine.receive(id, b"SS", 8000);
    assert_eq!(idle(&mut engine, 9000), (8000, 4000), "half a PDU is none");
    engine.pause();
    let record = engine.freeze(id, 9000).expect("nothing is under way");
    let mut successor = Engine::new(Settings::default(), 1, 50_000);
    successor.thaw(&record, from, 50_000).expect("its record");
    assert_eq!(idle(&mut successor, 51_000), (9000, 5000));
}
