//! Peers whose packets vanish: no end, no reset, nothing. cpd runs in a network namespace of its own with two wires; one
//! of them is cut.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::ledger::{Ledger, Parting};
use crate::rounds::client::{Client, Manner, Site};
use crate::rounds::random::Random;
use crate::running::{Client as Plain, Daemon, PORT, run, wait_for};
use crate::wire::{status, verdict};

/// Set where the test runs inside its namespace.
const INSIDE: &str = "CPD_PROOF_NAMESPACE";
/// cpd's ends of the wires.
const CUT: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const WHOLE: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 1);

/// Runs `test`, whose name is `name`, in a network namespace of its own, which goes with it.
pub fn in_a_namespace(name: &str, test: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return test();
    }
    let mut command = Command::new("unshare");
    command.arg("--net").arg(std::env::current_exe().expect("this test"));
    let ended = run(command.args(["--exact", name, "--nocapture"]).env(INSIDE, "1"), "");
    print!("{}", ended.stdout);
    assert!(ended.status.success() && ended.stdout.contains("1 passed"), "{}", ended.stderr);
}

/// Clients in every state lose their wire; with all timers at `timeout` each is ended, and what they held is given to
/// others. `Err`: what is wrong.
pub fn vanish(timeout: &str, patience: Duration) -> Result<String, String> {
    let timeouts = ["pdu", "login", "ack", "recover", "idle", "write"].map(|key| format!("{key} = \"{timeout}\""));
    let settings = format!("timeouts = {{ {} }}\n", timeouts.join(", "));
    let daemon = wired(&settings);
    for name in ["bob", "alice", "carol", "dave"] {
        daemon.add_user(name, name);
    }
    let ledger = Mutex::new(Ledger::default());
    let near = Site::new(SocketAddrV4::new(WHOLE, PORT), &ledger);
    let mut alice = Client::login(&near, "alice").expect("served");
    let letters: Vec<_> = (0..20).map(|number| ("bob", format!("letter {number}"))).collect();
    alice.send(&letters).expect("served");
    alice.close(Parting::Torn);

    // Whoever is logged in keeps its timers from running out by being the last to do something before the cut.
    let far = SocketAddrV4::new(CUT, PORT);
    let _silent = Plain::connect(far);
    let mut half = Plain::connect(far);
    half.send("USER bob");
    let user = |name: &str, last: &str, answer: &str| {
        let mut client = Plain::connect(far);
        client.logs_in(name, name);
        client.send(last);
        assert!(answer.is_empty() || client.line().starts_with(answer), "{last}");
        client
    };
    let _waits = user("carol", "WMSG2", "");
    let _recovers = user("dave", "SMSGnobody:x", "545 ");
    let _idle = user("dave", "RMSG", "256 ");
    let session = ledger.lock().expect("no panic").session("bob");
    let mut holds = user("bob", "RMSG4", "");
    {
        let mut book = ledger.lock().expect("no panic");
        book.downloading(session, 4);
        for number in 0..4 {
            assert_eq!(holds.line(), format!("RMSGalice:letter {number}"));
            book.received(session, "alice", format!("letter {number}").as_bytes());
        }
        book.closed(session, Parting::Torn);
    }
    ip(&["link", "set", "cpd-cut", "down"]);

    let (cut, mut left, mut ends) = (Instant::now(), status(&daemon, "connections"), Vec::new());
    let begun = left;
    while left > 0 && cut.elapsed() < patience {
        // Others are served meanwhile.
        let mut near = Plain::connect(SocketAddrV4::new(WHOLE, PORT));
        near.logs_in("alice", "alice");
        near.send("TERM");
        near.is_closed();
        let now = status(&daemon, "connections");
        (now..left).for_each(|_| ends.push(format!("{:.1}", cut.elapsed().as_secs_f64())));
        left = left.min(now);
        std::thread::sleep(Duration::from_millis(50));
    }
    let figures = format!("{begun} cut off, {left} left after {:.1} s, ended after {}", seconds(cut), ends.join(" "));
    if left > 0 {
        return Err(figures);
    }
    let mut bob = Client::login(&near, "bob").expect("served");
    while bob.download(&Manner::WHOLE, &mut Random::new(0, 0)).expect("served") {}
    bob.close(Parting::Torn);
    let mut book = ledger.into_inner().expect("no panic");
    book.drained();
    verdict(&book)?;
    let given_back = book.counts().given_back;
    if given_back == 4 { Ok(format!("{figures} s; {given_back} messages given back")) } else { Err(figures) }
}

fn seconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}

/// A cpd in a namespace of its own, at the other end of two wires.
fn wired(settings: &str) -> Daemon {
    // An earlier cpd's namespace lives on while the kernel still tries to tell vanished peers of their end.
    for wire in ["cpd-cut", "cpd-whole"].into_iter().filter(|wire| there_is(wire)) {
        ip(&["link", "delete", wire]);
    }
    let script = "until ip link show cut && ip link show whole; do sleep 0.02; done >/dev/null 2>&1
        ip link set lo up && ip addr add 10.99.0.1/24 dev cut && ip addr add 10.98.0.1/24 dev whole &&
        ip link set cut up && ip link set whole up && exec \"$0\" \"$@\"";
    let folder = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::launch(folder, settings, |command| {
        let file = std::path::PathBuf::from(command.get_args().last().expect("the configuration"));
        let text = std::fs::read_to_string(&file).expect("written");
        // Of the loopback, which is not where the clients come from.
        let listen = text.find('\n').expect("a line");
        std::fs::write(&file, format!("listen.cp = [\"0.0.0.0:{PORT}\"]{}", &text[listen..])).expect("written");
        Daemon::under(command, &["unshare", "--net", "sh", "-c", script]);
    });
    let pid = daemon.child.id().to_string();
    // Until then the shell is still in this namespace.
    let outside = std::fs::read_link("/proc/self/ns/net").expect("a namespace");
    wait_for("the namespace", || {
        let inside = std::fs::read_link(format!("/proc/{pid}/ns/net")).ok()?;
        (inside != outside).then_some(())
    });
    for (ours, theirs, address) in [("cpd-cut", "cut", "10.99.0.2/24"), ("cpd-whole", "whole", "10.98.0.2/24")] {
        ip(&["link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", &pid]);
        ip(&["addr", "add", address, "dev", ours]);
        ip(&["link", "set", ours, "up"]);
    }
    daemon.waits_for_log(" started ");
    daemon
}

fn there_is(wire: &str) -> bool {
    run(Command::new("ip").args(["link", "show", wire]), "").status.success()
}

fn ip(arguments: &[&str]) {
    let ended = run(Command::new("ip").args(arguments), "");
    assert!(ended.status.success(), "ip {arguments:?}: {}", ended.stderr);
}
