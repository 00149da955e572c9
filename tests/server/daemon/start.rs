//! Starting, and what the arguments that only tell something tell.

use std::os::unix::fs::MetadataExt;
use std::process::Command;

use cpd_testing::wire::descriptors;

use super::running::terminal::Terminal;
use super::running::{Daemon, PATIENCE, Setup, answers, cpd, need, next_address, run, wait_for};

#[test]
fn version_and_help_are_told_on_stdout() {
    let version = run(cpd().arg("--version"), "");
    assert_eq!((version.code(), version.stderr.as_str()), (0, ""));
    assert_eq!(version.stdout, format!("cpd {}\n", env!("CARGO_PKG_VERSION")));
    let help = run(cpd().arg("--help"), "");
    assert_eq!((help.code(), help.stderr.as_str()), (0, ""));
    for option in ["--config", "--data", "--listen", "--check", "--version", "--help"] {
        assert!(help.stdout.contains(option), "{option}");
    }
}

#[test]
fn a_closed_pipe_is_no_reason_to_panic() {
    for argument in ["--help", "--version", "--wrong"] {
        let ended = Command::new("sh")
            .args(["-c", "\"$0\" \"$1\" 2>&1 | true", env!("CARGO_BIN_EXE_cpd"), argument])
            .output()
            .expect("sh runs");
        assert!(ended.stderr.is_empty(), "{ended:?}");
    }
}

#[test]
fn what_cannot_be_told_is_a_failure() {
    for argument in ["--help", "--version"] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("a device");
        let ended = cpd().arg(argument).stdout(full).output().expect("cpd runs");
        assert_eq!(ended.status.code(), Some(71), "{ended:?}");
        let told = String::from_utf8_lossy(&ended.stderr);
        assert!(told.starts_with("cpd: cannot write to standard output: "), "{told}");
    }
}

#[test]
fn the_first_try_needs_no_file_and_no_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("not/there/yet");
    let log = folder.path().join("stderr");
    let mut command = cpd();
    command.arg("--data").arg(&data).stderr(std::fs::File::create(&log).expect("a file"));
    let mut child = command.spawn().expect("cpd runs");
    let told = wait_for("a line of the log", || {
        let text = std::fs::read_to_string(&log).expect("UTF-8");
        (text.contains(" started ") || text.contains("cpd: ")).then_some(text)
    });
    // Another program may have the port: then that is what it says, and makes nothing.
    if told.contains(" cp=127.0.0.1:5035 ") {
        assert_eq!(std::fs::metadata(&data).expect("made").mode() & 0o777, 0o700);
        assert_eq!(std::fs::metadata(data.join("cpd.db")).expect("made").mode() & 0o777, 0o600);
        assert!(!told.contains("another terminal"), "this is none: {told}");
    } else {
        assert!(told.contains("cannot listen on 127.0.0.1:5035: ") && !data.exists(), "{told}");
    }
    // It may have ended by itself.
    let _ = child.kill();
    child.wait().expect("a child");
}

#[test]
fn at_a_terminal_it_says_what_to_type_next_and_that_works() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("try").display().to_string();
    let address = next_address();
    let (ip, port) = (address.ip(), address.port());
    let command = [env!("CARGO_BIN_EXE_cpd"), "--data", &data, "--listen", &address.to_string()];
    let terminal = Terminal::runs(&command, |_| {});
    let user = format!("\n  cpctl --data {data} user add NAME\n");
    let telnet = format!("\n  telnet {ip} {port}\n");
    let shown = wait_for("the start", || Some(terminal.screen()).filter(|shown| shown.contains(" started ")));
    assert!(shown.contains(&user) && shown.contains(&telnet), "{shown}");
    let mut cpctl = Command::new(env!("CARGO_BIN_EXE_cpctl"));
    let added = run(cpctl.args(["--data", &data, "user", "add", "bob", "--password-stdin"]), "hunter2\n");
    assert_eq!(added.code(), 0, "{added:?}");
    super::running::Client::connect(address).logs_in("bob", "hunter2");
    drop(terminal);
    // Who has users already is not told to make one.
    let store = std::path::Path::new(&data).join("cpd.db-lock");
    wait_for("the end", || std::fs::File::open(&store).ok()?.try_lock().ok());
    let terminal = Terminal::runs(&command, |_| {});
    let shown = wait_for("the start", || Some(terminal.screen()).filter(|shown| shown.contains(" started ")));
    assert!(!shown.contains("user add") && shown.contains(&telnet), "{shown}");
}

#[test]
fn listen_takes_the_place_of_the_configured_address_and_the_status_says_where_it_is() {
    let other = next_address();
    let setup = Setup::new("").listen(next_address());
    let daemon = setup.arguments(&["--listen", &other.to_string()]).start();
    super::running::Client::connect(other).asks("USER bob", "220 ");
    assert!(std::net::TcpStream::connect(daemon.address()).is_err(), "the file's address is not used");
    let status = daemon.cpctl(&["status"], "");
    assert!(status.contains(&format!("listens                     cp {other} (cpd)\n")), "{status}");
    let file = daemon.folder.path().join("cpd.toml");
    assert!(status.contains(&format!("configuration               {}\n", file.display())), "{status}");
    assert!(status.contains("only this machine can connect; for all: listen.cp = "), "{status}");
    // What stands on the command line is no change of the file.
    daemon.signal(rustix::process::Signal::HUP);
    daemon.waits_for_log(" configuration reloaded\n");
    assert!(!daemon.log().contains("needs_restart"), "{}", daemon.log());
}

/// What cpctl 0.1.0 sends, as it was recorded, is answered as 0.1.0 answered it: with no field that it did not have.
#[test]
fn an_older_cpctl_is_answered_as_ever() {
    use std::io::{BufRead, BufReader, Write};
    let daemon = Daemon::start("");
    daemon.add_user("bob", "hunter2");
    let mut stream = std::os::unix::net::UnixStream::connect(daemon.socket()).expect("it answers");
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    let mut ask = |request: &str| {
        stream.write_all(format!("{request}\n").as_bytes()).expect("sent");
        let mut line = String::new();
        reader.read_line(&mut line).expect("an answer");
        let answer: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(answer["ok"], true, "{request}: {line}");
        let mut names: Vec<String> = answer.as_object().expect("an object").keys().cloned().collect();
        names.sort();
        names.join(" ")
    };
    assert_eq!(
        ask(r#"{"v":1,"cmd":"status"}"#),
        "connections counters ok queued_messages sessions store_bytes uptime_seconds version"
    );
    assert_eq!(ask(r#"{"v":1,"cmd":"user.show","name":"bob"}"#), "created last_login locked name ok queued throttled");
    assert_eq!(ask(r#"{"v":1,"cmd":"user.list","limit":256}"#), "next ok rows");
    assert_eq!(ask(r#"{"v":1,"cmd":"session.list","after":0,"limit":256}"#), "next ok rows");
    assert_eq!(ask(r#"{"v":1,"cmd":"user.passwd","name":"bob","password":"x","keep_sessions":false}"#), "ok sessions");
    assert_eq!(ask(r#"{"v":1,"cmd":"store.check","after":0,"limit":256}"#), "damaged next ok rows");
}

#[test]
fn a_data_directory_is_kept_and_found_again_by_another_name() {
    let daemon = Daemon::start("");
    daemon.add_user("bob", "hunter2");
    let folder = daemon.stop();
    let daemon = Daemon::start_in(folder, "");
    daemon.connect().logs_in("bob", "hunter2");
    let folder = daemon.stop();
    std::fs::rename(folder.path().join("data"), folder.path().join("moved")).expect("renamed");
    std::os::unix::fs::symlink("moved", folder.path().join("data")).expect("linked");
    let daemon = Daemon::start_in(folder, "");
    daemon.connect().logs_in("bob", "hunter2");
}

#[test]
fn it_serves_with_stdin_stdout_and_stderr_closed() {
    let setup = Setup::new("log.target = \"stderr\"\n").listen(next_address());
    // The shell closes all three; what would be the log is lost.
    let mut daemon = setup.wrapped(&["sh", "-c", "exec \"$0\" \"$@\" <&- >&- 2>&-"]).launch();
    let socket = daemon.socket();
    wait_for("the control socket", || answers(&socket).then_some(()));
    daemon.add_user("bob", "hunter2");
    daemon.add_user("alice", "sesame");
    let mut bob = daemon.connect();
    bob.logs_in("bob", "hunter2");
    bob.asks("SMSG alice:Lunch at one?", "240 ");
    bob.asks("SMSG alcie:Lunch at one?", "545 ");
    assert!(daemon.runs());
    assert_eq!(daemon.cpctl(&["store", "check"], "").lines().last().map(|l| l.ends_with(" 0 damaged")), Some(true));
    // Nothing of the log has gone into the store or to a client.
    let mut alice = daemon.connect();
    alice.logs_in("alice", "sesame");
    alice.asks("RMSG", "RMSGbob:Lunch at one?");
    alice.asks("250", "255 ");
    daemon.stop();
}

#[test]
fn a_log_that_nobody_reads_any_more_ends_nothing() {
    let mut daemon = Setup::new("").listen(next_address()).stderr_piped().launch();
    let socket = daemon.socket();
    wait_for("the control socket", || answers(&socket).then_some(()));
    drop(daemon.child.stderr.take());
    daemon.add_user("bob", "hunter2");
    for _ in 0..3 {
        daemon.connect().logs_in("bob", "hunter2");
    }
    assert!(daemon.runs(), "within {PATIENCE:?}");
    daemon.stop();
}

/// Whoever counts its descriptors from here on counts nothing that was still to be opened.
#[test]
fn everything_is_open_when_it_says_that_it_has_started() {
    need("strace", "strace");
    // The descriptor in reserve is opened last, and takes its time here. -D: the process that was started is cpd.
    let strace = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-P", "/dev/null", "-e", "trace=openat", "-e"];
    let late = [&strace[..], &["inject=openat:delay_enter=500000"]].concat();
    let daemon = Setup::new("").wrapped(&late).start();
    let open = descriptors(daemon.id());
    let mut client = daemon.connect();
    client.asks("NOOP", "500 ");
    assert_eq!(descriptors(daemon.id()), open + 1, "what was open, and the connection");
}
