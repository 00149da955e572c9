//! What cpd tells a service manager, which here is the test.

use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::running::{Client, Daemon, PATIENCE, Setup, need, wait_for};
use super::sockets::{Activated, names_of_the_units};

struct Manager {
    socket: UnixDatagram,
    folder: tempfile::TempDir,
}

impl Manager {
    fn new() -> Manager {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("set");
        Manager { socket, folder }
    }

    /// What the manager puts into the environment of a service that it watches each `watchdog_usec`.
    fn environment(&self, watchdog_usec: Option<u32>) -> Vec<String> {
        let socket = format!("NOTIFY_SOCKET={}", self.folder.path().join("notify").display());
        std::iter::once(socket).chain(watchdog_usec.map(|usec| format!("WATCHDOG_USEC={usec}"))).collect()
    }

    #[track_caller]
    fn hears(&self) -> String {
        let mut bytes = [0; 4096];
        let length = self.socket.recv(&mut bytes).expect("a message");
        String::from_utf8(bytes[..length].to_vec()).expect("UTF-8")
    }

    /// Takes messages up to one that begins with `what`, and gives all of them.
    #[track_caller]
    fn hears_until(&self, what: &str) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            all.push(self.hears());
            if all.last().is_some_and(|last| last.starts_with(what)) {
                return all;
            }
            assert!(all.len() < 10_000, "no {what}: {:?}", &all[..20]);
        }
    }

    /// How many watchdog messages are there, taking all that is.
    fn watchdogs(&self) -> usize {
        self.socket.set_nonblocking(true).expect("set");
        let mut bytes = [0; 4096];
        let mut count = 0;
        while let Ok(length) = self.socket.recv(&mut bytes) {
            count += usize::from(bytes[..length].starts_with(b"WATCHDOG=1"));
        }
        self.socket.set_nonblocking(false).expect("set");
        count
    }
}

/// A line of one message, such as `MONOTONIC_USEC`.
fn value<'m>(message: &'m str, key: &str) -> Option<&'m str> {
    message.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
}

#[test]
fn it_hears_of_readiness_reload_and_stop() {
    let manager = Manager::new();
    let activated = Activated::start(&names_of_the_units(), "", &manager.environment(None));
    let mut client = Client::connect(activated.address);
    assert_eq!(manager.hears_until("READY=1"), ["READY=1\n"], "readiness comes first");
    client.asks("USER bob", "220 ");
    let status = manager.hears_until("STATUS=");
    assert!(status.last().is_some_and(|last| last.contains("connection") && last.contains("queued")), "{status:?}");

    for (settings, outcome) in [("", " configuration reloaded\n"), ("nonsense", " configuration not reloaded ")] {
        activated.daemon.configure(settings);
        activated.daemon.signal(Signal::HUP);
        let reloading = manager.hears_until("RELOADING=1").pop().expect("the last");
        let usec = value(&reloading, "MONOTONIC_USEC").expect("both in one message, as Type=notify-reload wants them");
        assert!(usec.parse::<u64>().is_ok_and(|usec| usec > 0), "{reloading}");
        manager.hears_until("READY=1");
        activated.daemon.waits_for_log(outcome);
    }

    activated.daemon.signal(Signal::TERM);
    manager.hears_until("STOPPING=1");
    let mut daemon = activated.daemon;
    assert_eq!(daemon.ends().code(), Some(0));
}

/// Not ready, but why not: the manager, and whoever waits at the sockets.
#[test]
fn a_start_that_fails_tells_everybody_who_waits() {
    let manager = Manager::new();
    let names = names_of_the_units();
    let mut activated = Activated::start(&names, "store.path = \"/nonexistent/cpd.db\"\n", &manager.environment(None));
    let mut administrator = UnixStream::connect(&activated.control).expect("connect");
    administrator.write_all(b"{\"v\":1,\"cmd\":\"status\"}\n").expect("ask");
    assert_eq!(activated.daemon.ends().code(), Some(73));
    let mut answer = String::new();
    administrator.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("{\"ok\":false,\"error\":{\"code\":\"unavailable\","), "{answer}");
    assert!(answer.contains("/nonexistent") && answer.contains("systemctl restart cpd"), "{answer}");
    manager.socket.set_nonblocking(true).expect("set");
    let mut told = [0; 1024];
    let length = manager.socket.recv(&mut told).expect("a status");
    let told = String::from_utf8_lossy(&told[..length]);
    assert!(told.starts_with("STATUS=") && told.contains("/nonexistent"), "{told}");
    assert!(manager.socket.recv(&mut [0; 64]).is_err());
}

#[test]
fn the_watchdog_is_fed_while_nothing_happens() {
    let manager = Manager::new();
    let environment = manager.environment(Some(400_000));
    let activated = Activated::start(&names_of_the_units(), "", &environment);
    let mut client = Client::connect(activated.address);
    for _ in 0..10 {
        manager.hears_until("WATCHDOG=1");
    }
    client.asks("USER bob", "220 ");
}

#[test]
fn a_stopped_process_feeds_no_watchdog() {
    let manager = Manager::new();
    let environment = manager.environment(Some(200_000));
    let activated = Activated::start(&names_of_the_units(), "", &environment);
    let _client = Client::connect(activated.address);
    manager.hears_until("WATCHDOG=1");
    activated.daemon.signal(Signal::STOP);
    let stat = format!("/proc/{}/stat", activated.daemon.id());
    wait_for("the process to stand still", || {
        std::fs::read_to_string(&stat).expect("it is there").contains(") T ").then_some(())
    });
    manager.watchdogs();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(manager.watchdogs(), 0);
    activated.daemon.signal(Signal::CONT);
    manager.hears_until("WATCHDOG=1");
}

/// One sync of the store's thread takes many watchdog intervals: no restart mends a disk, so that the watchdog is fed all
/// along.
#[test]
fn a_disk_that_does_not_answer_is_no_reason_to_be_restarted() {
    const STALL_USEC: u32 = 8_000_000;
    const WATCHDOG_USEC: u32 = 1_000_000;
    // The first syncs of each thread are left alone: the start has some as well.
    const STALLED_SYNC: usize = 12;
    need("strace", "strace");
    let folder = {
        let daemon = Daemon::start("");
        daemon.add_user("bob", "hunter2");
        daemon.stop()
    };
    let manager = Manager::new();
    // -D: the process that the test started is cpd, and strace goes with it.
    let inject = format!("inject=fsync,fdatasync:delay_enter={STALL_USEC}:when={STALLED_SYNC}");
    let strace = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-e", &inject];
    let mut setup = Setup::new("").in_folder(folder).wrapped(&strace);
    for one in manager.environment(Some(WATCHDOG_USEC)) {
        let (name, value) = one.split_once('=').expect("a variable");
        setup = setup.env(name, value);
    }
    let daemon = setup.start();
    let mut bob = daemon.connect();
    bob.logs_in("bob", "hunter2");
    let mut longest = (Duration::ZERO, 0);
    for _ in 0..2 * STALLED_SYNC {
        manager.watchdogs();
        let begun = Instant::now();
        bob.asks("SMSG bob:again", "240 ");
        longest = longest.max((begun.elapsed(), manager.watchdogs()));
    }
    let (stall, fed) = longest;
    assert!(stall >= Duration::from_micros(STALL_USEC.into()) / 2, "no sync was stalled: {stall:?}");
    assert!(fed >= 5, "{fed} times within {stall:?}");
    manager.hears_until("WATCHDOG=1");
    bob.asks("RMSG", "RMSGbob:again");
}
