//! Too many sessions of a user, and too many failed logins: what the client hears, the log says and cpctl lifts.

use super::running::{Daemon, wait_for};

#[test]
fn a_user_has_so_many_sessions() {
    let daemon = Daemon::start("limits.sessions_per_user = 2\n");
    daemon.add_user("bob", "hunter2");
    daemon.add_user("eve", "hunter2");
    let mut inside = [daemon.connect(), daemon.connect()];
    inside.iter_mut().for_each(|client| client.logs_in("bob", "hunter2"));
    let mut third = daemon.connect();
    third.asks("USER bob", "220 ");
    third.asks("PASS hunter2", "500 bad command: too many sessions of this user");
    third.is_closed();
    daemon.waits_for_log("limit reached limit=limits.sessions_per_user more=0 user=bob addr=127.");
    assert!(daemon.cpctl(&["--json", "status"], "").contains("\"login_failures\":0"), "it is no failed login");
    daemon.connect().logs_in("eve", "hunter2");
    let [mut leaves, mut stays] = inside;
    leaves.send("TERM");
    leaves.is_closed();
    wait_for("room for one more", || {
        let mut client = daemon.connect();
        client.asks("USER bob", "220 ");
        client.send("PASS hunter2");
        client.line().starts_with("230 ").then_some(())
    });
    stays.asks("SMSG bob:still here", "240 ");
}

/// How often the address is told 565 to a wrong password, each time over another connection.
fn fails(daemon: &Daemon, name: &str, times: usize) {
    for _ in 0..times {
        let mut client = daemon.connect();
        client.asks(&format!("USER {name}"), "220 ");
        client.asks("PASS wrong", "565 ");
    }
}

#[test]
fn an_address_that_is_throttled_is_told_in_one_line_with_a_number() {
    let daemon = Daemon::start("limits.failures_per_address = 3\n");
    fails(&daemon, "nobody", 20);
    daemon.waits_for_log("limit reached limit=limits.failures_per_address more=0 addr=127.0.0.1");
    // Ten seconds later the others are told.
    daemon.waits_for_log("auth failure user=nobody addr=127.0.0.1 more=");
    let log = daemon.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("auth failure")).collect();
    assert!((3..=5).contains(&lines.len()), "{log}");
    let told: usize = lines.iter().filter_map(|line| line.split_once(" more=")?.1.parse::<usize>().ok()).sum();
    let alone = lines.iter().filter(|line| line.contains(" port=")).count();
    assert_eq!(told + alone, 20, "{log}");
    // The check fails for an address that is not throttled.
    let twin = Daemon::start("limits.failures_per_address = 1000\n");
    (0..20).for_each(|number| fails(&twin, &format!("n{number}"), 1));
    wait_for("a line for each", || (twin.log().matches("auth failure").count() == 20).then_some(()));
}

#[test]
fn what_was_counted_is_told_at_the_end() {
    let daemon = Daemon::start("limits.failures_per_address = 3\n");
    fails(&daemon, "nobody", 12);
    let log = daemon.folder.path().join("stderr");
    let _folder = daemon.stop();
    let log = std::fs::read_to_string(log).expect("a log");
    assert!(log.contains("auth failure user=nobody addr=127.0.0.1 more=9\n"), "{log}");
}

#[test]
fn an_operator_sees_who_is_throttled_and_lifts_it() {
    let daemon = Daemon::start("limits = { failures_per_address = 1000, failures_per_user = 2 }\n");
    daemon.add_user("bob", "hunter2");
    fails(&daemon, "bob", 3);
    let refused = |name: &str| {
        let mut client = daemon.connect();
        client.asks(&format!("USER {name}"), "220 ");
        client.send("PASS hunter2");
        client.line().starts_with("565 ")
    };
    // One address uses up half of what a name has; another one gets in, this one does not.
    assert!(refused("bob"));
    let list = daemon.cpctl(&["--json", "throttle", "list"], "");
    assert!(list.contains("\"user\":\"bob\",\"address\":\"127.0.0.1\""), "{list}");
    let shown = daemon.cpctl(&["--json", "user", "show", "bob"], "");
    assert!(shown.contains("\"throttled\":null"), "{shown}");
    daemon.configure("limits = { failures_per_address = 1, failures_per_user = 2 }\n");
    daemon.signal(rustix::process::Signal::HUP);
    daemon.waits_for_log("configuration reloaded");
    let address_is_throttled = || {
        let list = daemon.cpctl(&["--json", "throttle", "list"], "");
        list.contains("\"user\":null,\"address\":\"127.0.0.1\"")
    };
    // What the address failed under the wider limit fills this one for some milliseconds.
    wait_for("room for one more failure", || (!address_is_throttled()).then_some(()));
    fails(&daemon, "eve", 1);
    assert!(address_is_throttled());
    daemon.add_user("eve", "hunter2");
    assert!(refused("eve"));
    daemon.cpctl(&["throttle", "clear", "--address", "127.0.0.1"], "");
    assert!(!refused("eve") && !refused("bob"), "what the address had of bob's is forgotten, too");
    // Known there by now, bob has all of the name's failures to himself.
    fails(&daemon, "bob", 2);
    assert!(refused("bob"));
    daemon.cpctl(&["throttle", "clear", "--user", "bob"], "");
    let nothing = daemon.cpctl(&["throttle", "clear", "--user", "nobody"], "");
    assert_eq!(nothing, "failed logins for nobody: there are none\n");
    daemon.cpctl(&["throttle", "clear", "--all"], "");
    assert!(!refused("bob"));
    daemon.waits_for_log("admin cmd=throttle.clear user=bob uid=");
    daemon.waits_for_log("admin cmd=throttle.clear all=true uid=");
    let list = daemon.cpctl(&["--json", "throttle", "list"], "");
    assert_eq!(list.trim(), r#"{"throttles":[],"more":false}"#);
}
