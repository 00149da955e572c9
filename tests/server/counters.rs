//! What the counters of `cpctl status` say adds up: every message that was accepted or found at the start is queued,
//! delivered, expired, purged or removed.

use cpd_testing::running;
use running::{Daemon, wait_for};
use serde_json::Value;

/// The counters and the number of queued messages.
fn status(daemon: &Daemon) -> impl Fn(&str) -> u64 + use<> {
    let status: Value = serde_json::from_str(&daemon.cpctl(&["--json", "status"], "")).expect("JSON");
    move |name| {
        let found = if name == "queued_messages" { &status[name] } else { &status["counters"][name] };
        found.as_u64().unwrap_or_else(|| panic!("no {name}: {status}"))
    }
}

#[track_caller]
fn adds_up(daemon: &Daemon, expected: [(&str, u64); 7]) {
    let number = status(daemon);
    for (name, value) in expected {
        assert_eq!(number(name), value, "{name}");
    }
    let came = number("messages_at_start") + number("messages_accepted");
    let gone = ["delivered", "expired", "purged", "removed"].map(|way| number(&format!("messages_{way}")));
    assert_eq!(came, number("queued_messages") + gone.iter().sum::<u64>());
}

#[test]
fn every_message_is_in_one_counter() {
    let daemon = Daemon::start("");
    let names = ["ann", "bob", "carol", "dave", "eve"];
    for name in names {
        daemon.add_user(name, name);
    }
    let mut ann = daemon.connect();
    ann.logs_in("ann", "ann");
    for (recipient, count) in [("bob", 3), ("carol", 4), ("dave", 5), ("eve", 6)] {
        for number in 0..count {
            ann.asks(&format!("SMSG{recipient}:{number}"), "240 ");
        }
    }
    ann.asks("SMSGnobody:x", "545 ");
    let mut bob = daemon.connect();
    bob.logs_in("bob", "bob");
    bob.asks("RMSG", "RMSGann:0");
    bob.asks("250", "RMSGann:1");
    bob.send("550");
    bob.asks("201", "201 ");
    daemon.cpctl(&["queue", "purge", "carol", "--yes"], "");
    daemon.cpctl(&["user", "remove", "dave", "--yes"], "");
    let counts = [
        ("messages_accepted", 18),
        ("messages_at_start", 0),
        ("queued_messages", 8),
        ("messages_delivered", 1),
        ("messages_purged", 4),
        ("messages_removed", 5),
        ("messages_expired", 0),
    ];
    adds_up(&daemon, counts);

    // After a restart the counters begin anew, with what is there.
    let daemon = Daemon::start_in(daemon.stop(), "limits.message_age = \"1s\"\n");
    wait_for("the messages expire", || (status(&daemon)("messages_expired") == 8).then_some(()));
    let mut eve = daemon.connect();
    eve.logs_in("eve", "eve");
    eve.asks("RMSG", "256 ");
    let counts = [
        ("messages_accepted", 0),
        ("messages_at_start", 8),
        ("queued_messages", 0),
        ("messages_delivered", 0),
        ("messages_purged", 0),
        ("messages_removed", 0),
        ("messages_expired", 8),
    ];
    adds_up(&daemon, counts);
}
