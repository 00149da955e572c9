//! TERM, INT, HUP and PIPE.

use rustix::process::Signal;

use super::running::{Daemon, Setup, cpd, run, wait_for};

#[test]
fn term_and_int_stop_it_with_0() {
    for (signal, name) in [(Signal::TERM, "TERM"), (Signal::INT, "INT")] {
        let mut daemon = Daemon::start("");
        daemon.add_user("bob", "hunter2");
        let mut bob = daemon.connect();
        bob.logs_in("bob", "hunter2");
        daemon.signal(signal);
        assert_eq!(daemon.ends().code(), Some(0), "{}", daemon.log());
        bob.is_closed();
        let log = daemon.log();
        assert!(log.contains(&format!(" stopping signal={name}\n")) && log.ends_with(" info stopped\n"), "{log}");
        assert!(!daemon.socket().exists(), "the control socket stays");
    }
}

#[test]
fn what_is_being_committed_is_finished() {
    const MESSAGES: usize = 150;
    let mut daemon = Daemon::start("");
    daemon.add_user("bob", "hunter2");
    daemon.add_user("alice", "sesame");
    let mut bob = daemon.connect();
    bob.logs_in("bob", "hunter2");
    let lines: Vec<String> = (0..MESSAGES).map(|number| format!("SMSG alice:{number}")).collect();
    bob.send(&lines.join("\r\n"));
    assert!(bob.line().starts_with("240 "));
    daemon.signal(Signal::TERM);
    let mut answered = 1;
    loop {
        let line = bob.line();
        if line.is_empty() {
            break;
        }
        assert!(line.starts_with("240 "), "{line}");
        answered += 1;
    }
    assert_eq!(daemon.ends().code(), Some(0), "{}", daemon.log());

    let folder = daemon.into_folder();
    let daemon = Daemon::start_in(folder, "");
    let mut alice = daemon.connect();
    alice.logs_in("alice", "sesame");
    alice.send("RMSG");
    let mut kept = 0;
    while alice.line() == format!("RMSGbob:{kept}") {
        kept += 1;
        alice.send("250");
    }
    assert!(kept >= answered, "{answered} were answered with 240, {kept} are there");
}

#[test]
fn hup_takes_up_a_changed_limit() {
    let daemon = Daemon::start("limits.queue_messages = 1\n");
    daemon.add_user("bob", "hunter2");
    let mut bob = daemon.connect();
    bob.logs_in("bob", "hunter2");
    bob.asks("SMSG bob:one", "240 ");
    bob.asks("SMSG bob:two", "540 ");
    bob.asks("201", "201 ");
    daemon.configure("limits.queue_messages = 2\n");
    daemon.signal(Signal::HUP);
    daemon.waits_for_log(" configuration reloaded\n");
    bob.asks("SMSG bob:two", "240 ");
    bob.asks("SMSG bob:three", "540 ");
}

#[test]
fn hup_with_a_bad_file_changes_nothing_and_says_so() {
    let daemon = Daemon::start("limits.queue_messages = 1\n");
    daemon.add_user("bob", "hunter2");
    let mut bob = daemon.connect();
    bob.logs_in("bob", "hunter2");
    bob.asks("SMSG bob:one", "240 ");
    daemon.configure("limits.queue_messages = 2\nlog.level = \"loud\"\n");
    daemon.signal(Signal::HUP);
    daemon.waits_for_log(" error configuration not reloaded cause=\"");
    let status = daemon.cpctl(&["status"], "");
    assert!(status.contains("not in force") && status.contains("cpd.toml:6: log.level: "), "{status}");
    let status: serde_json::Value = serde_json::from_str(&daemon.cpctl(&["status", "--json"], "")).expect("JSON");
    let since = status["configuration"]["problem_since"].as_str().expect("a time").to_owned();
    assert!(since.ends_with('Z') && status["configuration"]["problem"].as_str().expect("text").contains("log.level"));
    let log = daemon.log();
    let said = log.lines().find(|line| line.contains("not reloaded")).expect("waited for");
    assert!(said.contains("cpd.toml:6: log.level: ") && said.contains("debug"), "{said}");
    bob.asks("SMSG bob:two", "540 ");
    // And a good one after it is taken up.
    daemon.configure("limits.queue_messages = 2\n");
    daemon.signal(Signal::HUP);
    daemon.waits_for_log(" configuration reloaded\n");
    bob.asks("201", "201 ");
    bob.asks("SMSG bob:two", "240 ");
    let status = daemon.cpctl(&["status"], "");
    assert!(!status.contains("not in force"), "{status}");
}

#[test]
fn a_first_try_ends_with_its_terminal() {
    let mut daemon = Setup::new("").wrapped(&["env", "--default-signal=HUP"]).start();
    daemon.signal(Signal::HUP);
    assert_eq!(daemon.ends().code(), Some(0), "{}", daemon.log());
    assert!(daemon.log().contains(" stopping signal=HUP\n") && !daemon.socket().exists(), "{}", daemon.log());
}

#[test]
fn hup_says_what_needs_a_restart() {
    let mut daemon = Daemon::start("");
    daemon.configure("auth.threads = 2\ntimeouts.idle = \"1m\"\n");
    // CHEAP sets the threads as well: twice the same key is a fault.
    let text = std::fs::read_to_string(daemon.folder.path().join("cpd.toml")).expect("UTF-8");
    let changed = text.replacen("auth.threads = 1\n", "", 1);
    std::fs::write(daemon.folder.path().join("cpd.toml"), changed).expect("written");
    daemon.signal(Signal::HUP);
    daemon.waits_for_log(" configuration reloaded\n");
    assert!(daemon.log().contains(" warn configuration needs_restart=auth.threads\n"), "{}", daemon.log());
    assert!(!daemon.log().contains("needs_restart=timeouts"), "{}", daemon.log());
    let status = daemon.cpctl(&["status"], "");
    assert!(status.contains("needs a restart             auth.threads\n"), "{status}");
    assert!(daemon.runs());
}

#[test]
fn many_hups_are_taken_up_in_the_end() {
    let daemon = Daemon::start("");
    daemon.add_user("bob", "hunter2");
    for limit in 1..=30 {
        daemon.configure(&format!("limits.queue_messages = {limit}\n"));
        daemon.signal(Signal::HUP);
    }
    let mut bob = daemon.connect();
    bob.logs_in("bob", "hunter2");
    let reloads = || daemon.log().matches(" configuration reloaded\n").count();
    wait_for("a reload", || (reloads() > 0).then_some(()));
    // A last one, to know when all of them are over.
    daemon.configure("limits.queue_messages = 1\nlog.level = \"error\"\n");
    daemon.signal(Signal::HUP);
    bob.asks("SMSG bob:one", "240 ");
    wait_for("the last limit", || {
        bob.send("SMSG bob:another");
        let refused = bob.line().starts_with("540 ");
        if refused {
            bob.asks("201", "201 ");
        }
        refused.then_some(())
    });
}

#[test]
fn pipe_means_nothing() {
    let mut daemon = Daemon::start("");
    daemon.add_user("bob", "hunter2");
    daemon.signal(Signal::PIPE);
    // Clients that leave without reading their answers.
    for _ in 0..20 {
        let mut client = daemon.connect();
        client.send("USER bob\r\nPASS wrong\r\nnonsense\r\nnonsense");
    }
    daemon.connect().logs_in("bob", "hunter2");
    assert!(daemon.runs());
    daemon.stop();
}

#[test]
fn a_configuration_that_is_a_pipe_is_refused_and_the_next_reload_reads_anew() {
    let daemon = Daemon::start("");
    let config = daemon.folder.path().join("cpd.toml");
    let good = std::fs::read(&config).expect("read");
    std::fs::remove_file(&config).expect("removed");
    nix::unistd::mkfifo(&config, nix::sys::stat::Mode::S_IRWXU).expect("made");
    daemon.signal(Signal::HUP);
    daemon.waits_for_log("is not a file");
    let ended = run(cpd().arg("--check").arg("--config").arg(&config), "");
    assert!(ended.code() == 78 && ended.stderr.contains("is not a file"), "{ended:?}");
    std::fs::remove_file(&config).expect("removed");
    std::fs::write(&config, good).expect("written");
    daemon.signal(Signal::HUP);
    daemon.waits_for_log("configuration reloaded");
}

#[test]
fn a_manager_that_does_not_read_does_not_keep_it_from_its_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).expect("bound");
    let setup = Setup::new("").env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "100000000").env("FDSTORE", "8");
    let mut daemon = setup.start();
    // Nothing more fits.
    let full = std::os::unix::net::UnixDatagram::unbound().expect("a socket");
    full.set_nonblocking(true).expect("set");
    while full.send_to(b"STATUS=full", &path).is_ok() {}
    daemon.signal(Signal::TERM);
    daemon.ends();
    assert!(daemon.log().contains(" info stopped"), "{}", daemon.log());
    drop(manager);
}
