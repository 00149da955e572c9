//! Peers whose packets vanish: no end, no reset, nothing. cpd runs in a network namespace of its own with two wires; one
//! of them is cut.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::findings::{Findings, Verdict, Wrong, found, messages};
use crate::ledger::{Ledger, Parting};
use crate::rounds::client::{Client, Manner, Site};
use crate::rounds::random::Random;
use crate::running::{Client as Plain, Daemon, PORT, Setup, run, wait_for};
use crate::wire::status;

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
    assert!(ended.status.success() && ended.stdout.contains("ok. 1 passed"), "{}", ended.stderr);
}

/// How long WMSG waits, and how many messages are held.
const WAIT: Duration = Duration::from_secs(2);
const HELD: usize = 4;
/// How much earlier than its time an end may be seen: cpd's clock begins with the round in which it reads.
const EARLY_MAX: Duration = Duration::from_millis(250);
/// How much later: who looks asks cpctl, on a busy machine.
const LATE_MAX: Duration = Duration::from_secs(3);

/// A client that is going to be cut off.
struct Lost {
    name: &'static str,
    client: Plain,
    /// Before and after its last word: its time began between them.
    since: (Instant, Instant),
    time: Duration,
    ended: Option<Instant>,
}

/// Clients in every state lose their wire; with all timers at `timer` each is ended at its time, and what they held is
/// given to others. It is looked at for so long behind that time.
pub fn vanish(timer: Duration, patience: Duration) -> Verdict {
    let timeouts =
        ["pdu", "login", "ack", "recover", "idle", "write"].map(|key| format!("{key} = \"{}s\"", timer.as_secs()));
    let daemon = wired(&format!("timeouts = {{ {} }}\n", timeouts.join(", ")));
    for name in ["bob", "alice", "carol", "dave"] {
        daemon.add_user(name, name);
    }
    let ledger = Mutex::new(Ledger::default());
    let near = Site::new(SocketAddrV4::new(WHOLE, PORT), &ledger);
    let mut alice = Client::login(&near, "alice").expect("served");
    let letters: Vec<_> = (0..20).map(|number| ("bob", format!("letter {number}"))).collect();
    alice.send(&letters).expect("served");
    alice.close(Parting::Torn);
    let mut all = clients(&daemon, &ledger, timer);
    // A client that was timed out before the cut would not be one that vanished.
    let there = ports(&daemon);
    let gone: Vec<&str> =
        all.iter().filter(|lost| !there.contains(&lost.client.port())).map(|lost| lost.name).collect();
    assert!(gone.is_empty(), "{gone:?} are ended before the wire is cut: the machine is too busy for this");
    ip(&["link", "set", "cpd-cut", "down"]);

    let cut = Instant::now();
    while all.iter().any(|lost| lost.ended.is_none()) && cut.elapsed() < patience {
        // Others are served meanwhile.
        let mut near = Plain::connect(SocketAddrV4::new(WHOLE, PORT));
        near.logs_in("alice", "alice");
        near.send("TERM");
        near.is_closed();
        let there = ports(&daemon);
        for lost in all.iter_mut().filter(|lost| lost.ended.is_none() && !there.contains(&lost.client.port())) {
            lost.ended = Some(Instant::now());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut findings = Findings::default();
    let ends: Vec<String> = all.iter().filter_map(|lost| lost.judge(&mut findings)).collect();
    let figures = findings.or(|| format!("{} of {} cut off ended: {}", ends.len(), all.len(), ends.join(", ")))?;
    let mut bob = Client::login(&near, "bob").expect("served");
    while bob.download(&Manner::WHOLE, &mut Random::new(0, 0)).expect("served") {}
    bob.close(Parting::Torn);
    let mut book = ledger.into_inner().expect("no panic");
    book.drained();
    messages(&book)?;
    let given_back = book.counts().given_back;
    let figures = format!("{figures}; {given_back} messages given back");
    if given_back == HELD as u64 { Ok(figures) } else { found(Wrong::Miscounted, figures) }
}

impl Lost {
    /// When it was ended, behind its last word.
    fn judge(&self, findings: &mut Findings) -> Option<String> {
        let (before, after) = self.since;
        let Some(ended) = self.ended else {
            findings.unless(false, Wrong::NotEnded, || self.name.to_owned());
            return None;
        };
        let figures = format!("{} after {:.2} s of {:?}", self.name, (ended - before).as_secs_f64(), self.time);
        findings.unless(ended - before + EARLY_MAX >= self.time, Wrong::Early, || figures.clone());
        findings.unless(ended - after <= self.time + LATE_MAX, Wrong::Late, || figures.clone());
        Some(figures)
    }
}

/// One in each state, over the wire that is going to be cut.
fn clients(daemon: &Daemon, ledger: &Mutex<Ledger>, timer: Duration) -> Vec<Lost> {
    let far = SocketAddrV4::new(CUT, PORT);
    // All log in first: what takes long on a busy machine is over before anybody's time runs.
    let mut users = ["carol", "dave", "dave", "bob"].map(|name| {
        let mut client = Plain::connect(far);
        client.logs_in(name, name);
        client
    });
    let [waits, recovers, idle, holds] = &mut users;
    let mut since = Vec::new();
    let mut timed = |what: &mut dyn FnMut()| {
        let before = Instant::now();
        what();
        since.push((before, Instant::now()));
    };
    timed(&mut || waits.send(&format!("WMSG{}", WAIT.as_secs())));
    timed(&mut || recovers.asks("SMSGnobody:x", "545 "));
    timed(&mut || idle.asks("RMSG", "256 "));
    timed(&mut || {
        let mut book = ledger.lock().expect("no panic");
        let session = book.session("bob");
        book.downloading(session, HELD);
        holds.send(&format!("RMSG{HELD}"));
        for number in 0..HELD {
            assert_eq!(holds.line(), format!("RMSGalice:letter {number}"));
            book.received(session, "alice", format!("letter {number}").as_bytes());
        }
        book.closed(session, Parting::Torn);
    });
    let mut strangers = Vec::new();
    timed(&mut || strangers.push(Plain::connect(far)));
    timed(&mut || {
        let mut half = Plain::connect(far);
        half.asks("USER bob", "220 ");
        strangers.push(half);
    });
    // Until all of them are accepted their time has not begun.
    wait_for("all to be accepted", || (status(daemon, "connections") == 6).then_some(()));
    // WMSG stands still for the idle time, which goes on behind it.
    let times = [WAIT + timer, timer, timer, timer, timer, timer];
    let names = ["in WMSG", "in Error Processing", "idle", "holding messages", "silent", "with a name"];
    let clients = users.into_iter().chain(strangers).zip(since);
    let named = clients.zip(names).zip(times);
    named.map(|(((client, since), name), time)| Lost { name, client, since, time, ended: None }).collect()
}

/// The ports of the clients whom cpd has over the wire that is cut.
fn ports(daemon: &Daemon) -> Vec<u16> {
    let text = daemon.cpctl(&["--json", "session", "list"], "");
    let sessions: Vec<serde_json::Value> = serde_json::from_str(&text).expect("a list");
    let addresses = sessions.iter().filter_map(|session| session["address"].as_str()?.parse::<SocketAddrV4>().ok());
    addresses.filter(|address| address.ip().octets()[1] == CUT.octets()[1]).map(|address| address.port()).collect()
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
    // The loopback is not where the clients come from.
    let everywhere = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, PORT);
    let daemon = Setup::new(settings).listen(everywhere).wrapped(&["unshare", "--net", "sh", "-c", script]).launch();
    let pid = daemon.id().to_string();
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
