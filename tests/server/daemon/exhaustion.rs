//! Limits of connections and of descriptors: who is over a limit hears 500, and who waits is served later.

use super::running::{Daemon, Setup, wait_for};

#[test]
fn a_connection_over_the_limit_hears_500_and_the_end() {
    let daemon = Daemon::start("limits.connections = 2\n");
    daemon.add_user("bob", "hunter2");
    is_limited(&daemon, "limits.connections");
}

#[test]
fn who_has_not_logged_in_makes_way_for_the_next() {
    let daemon = Daemon::start("limits.connections = 3\n");
    daemon.add_user("bob", "hunter2");
    let mut inside = daemon.connect();
    inside.logs_in("bob", "hunter2");
    let mut silent = [daemon.connect(), daemon.connect()];
    silent.iter_mut().for_each(|client| client.asks("USER bob", "220 "));
    for number in 0..10 {
        let mut next = daemon.connect();
        next.asks("USER bob", "220 ");
        let mut first = std::mem::replace(&mut silent[number % 2], next);
        assert!(first.line().starts_with("500 "));
        first.is_closed();
    }
    inside.asks("SMSG bob:still here", "240 ");
    daemon.waits_for_log("limit reached limit=limits.connections more=0 closed=\"the oldest\" addr=127.0.0.1 port=");
}

#[test]
fn so_does_one_over_the_limit_of_its_address() {
    let daemon = Daemon::start("limits.connections_per_address = 2\n");
    daemon.add_user("bob", "hunter2");
    is_limited(&daemon, "limits.connections_per_address");
}

fn is_limited(daemon: &Daemon, key: &str) {
    let mut inside = [daemon.connect(), daemon.connect()];
    inside.iter_mut().for_each(|client| client.logs_in("bob", "hunter2"));
    for _ in 0..3 {
        let mut over = daemon.connect();
        assert!(over.line().starts_with("500 "));
        over.is_closed();
    }
    daemon.waits_for_log(&format!("limit reached limit={key} more=0\n"));
    for client in &mut inside {
        client.asks("SMSG bob:still here", "240 ");
    }
    let [leaves, _stays] = inside;
    drop(leaves);
    wait_for("room for one more", || {
        let mut client = daemon.connect();
        client.send("USER bob");
        client.line().starts_with("220 ").then_some(())
    });
    assert_eq!(daemon.log().matches("limit reached").count(), 1, "told once, then counted");
}

#[test]
fn without_descriptors_accepting_pauses_and_goes_on() {
    const FILES: usize = 64;
    let limited = format!("ulimit -n {FILES} && exec \"$0\" \"$@\"");
    let daemon = Setup::new("").wrapped(&["sh", "-c", &limited]).start();
    assert!(daemon.log().contains("limits.connections lowered to=32 configured=10000"), "{}", daemon.log());
    daemon.add_user("bob", "hunter2");
    // More than it can have descriptors: some are inside, some are refused, and some wait unaccepted.
    let mut all = vec![daemon.connect()];
    all[0].logs_in("bob", "hunter2");
    all.extend((0..2 * FILES).map(|_| daemon.connect()));
    daemon.waits_for_log(" warn accepting paused cause=");
    all[0].asks("SMSG bob:still here", "240 ");
    // Administrators are served one at a time, as often as they come.
    for name in ["eve", "mallory", "trent"] {
        daemon.add_user(name, "hunter2");
    }
    assert!(!daemon.log().contains("cannot accept, trying again"), "{}", daemon.log());
    // Whoever waits is accepted as others leave, and the last one is served.
    let mut last = all.pop().expect("many");
    drop(all);
    last.send("USER bob");
    let said = last.line();
    assert!(said.starts_with("220 ") || said.starts_with("500 "), "{said}");
    wait_for("a connection like before", || {
        let mut client = daemon.connect();
        client.send("USER bob");
        client.line().starts_with("220 ").then_some(())
    });
    // At a reload it is said again that what is configured is not what is in force.
    daemon.configure("limits.connections = 5000\n");
    daemon.signal(rustix::process::Signal::HUP);
    daemon.waits_for_log("limits.connections lowered to=32 configured=5000");
    daemon.connect().logs_in("bob", "hunter2");
    daemon.stop();
}
