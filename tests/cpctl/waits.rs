//! How long cpctl waits, for whom, and what it says then; which daemon it means.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cpd_control::answer::{Backup, Done};
use cpd_control::{ErrorCode, Request, encode_error, encode_ok};
use cpd_testing::fake_daemon;
use fake_daemon::{FakeDaemon, run, small};

/// Far more than a time-out of a test, and far less than what cpctl once waited.
const GENEROUS: Duration = Duration::from_secs(60);

fn never() -> ! {
    loop {
        std::thread::park();
    }
}

#[test]
fn a_silent_daemon_is_69_after_the_time_given() {
    let daemon = FakeDaemon::start(|_| never());
    let begun = Instant::now();
    let file = daemon.path().join("copy.db");
    let file = file.to_str().expect("text");
    for line in [
        &["status"][..],
        &["ping"],
        &["user", "list"],
        &["session", "list"],
        &["store", "check"],
        &["store", "backup", file],
        &["user", "lock", "bob"],
        &["user", "remove", "bob", "--yes"],
        &["user", "add", "bob", "--generate"],
    ] {
        let (code, out, err) = run(daemon.cpctl(&["--timeout", "200ms"]).args(line));
        assert_eq!((code, out.as_str()), (69, ""), "{line:?}: {err}");
        assert!(err.contains("no answer within 0.2 s (--timeout)"), "{line:?}: {err}");
        let changes = matches!(line, ["user", "lock" | "remove" | "add", ..] | ["store", "backup", _]);
        assert_eq!(err.contains("whether it was done is not known"), changes, "{line:?}: {err}");
    }
    let (code, out, err) = run(&mut daemon.cpctl(&["--json", "--timeout", "200ms", "status"]));
    assert!(code == 69 && err.starts_with("cpctl: "), "{err}");
    assert!(out.starts_with("{\"error\":{\"code\":\"timeout\",\"message\":\"") && out.ends_with("}}\n"), "{out}");
    assert!(begun.elapsed() < GENEROUS, "it was not the time given that ended it");
}

#[test]
fn a_daemon_that_accepts_nobody_is_69_too() {
    use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("control.sock");
    let full = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    bind(std::os::fd::AsRawFd::as_raw_fd(&full), &UnixAddr::new(&path).expect("short")).expect("bound");
    listen(&full, Backlog::new(0).expect("a backlog")).expect("listens");
    let cpctl = || {
        let mut cpctl = Command::new(env!("CARGO_BIN_EXE_cpctl"));
        cpctl.arg("--socket").arg(&path).args(["--timeout", "200ms", "status"]);
        cpctl
    };
    let (code, _, err) = run(&mut cpctl());
    assert!(code == 69 && err.contains("no answer within"), "the one that has a place is not answered: {err}");
    // It has left, but its place is taken until somebody accepts.
    let (code, _, err) = run(&mut cpctl());
    assert!(code == 69 && err.contains("accepts no connection"), "{err}");
}

#[test]
fn what_takes_long_is_waited_for_while_the_daemon_answers_others() {
    for answers_pings in [true, false] {
        let pings = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&pings);
        let daemon = FakeDaemon::start(move |request| match request {
            // An older daemon knows no such question; its refusal is an answer all the same.
            Request::Ping => {
                counted.fetch_add(1, Ordering::SeqCst);
                if answers_pings { small(request) } else { encode_error(ErrorCode::UnknownCommand, "no such command") }
            }
            Request::StoreBackup | Request::UserAdd { .. } => {
                let before = counted.load(Ordering::SeqCst);
                while counted.load(Ordering::SeqCst) < before + 3 {
                    std::thread::yield_now();
                }
                match request {
                    Request::StoreBackup => encode_ok(&Backup { backup: 5, bytes: 11 }),
                    _ => encode_ok(&Done {}),
                }
            }
            other => small(other),
        });
        let file = daemon.path().join("copy.db");
        let (code, _, err) = run(daemon.cpctl(&["--timeout", "100ms", "store", "backup"]).arg(&file));
        assert_eq!((code, err.as_str()), (0, ""));
        let (code, _, err) = run(&mut daemon.cpctl(&["--timeout", "100ms", "user", "add", "eve", "--generate"]));
        assert_eq!((code, err.as_str()), (0, ""));
        assert!(pings.load(Ordering::SeqCst) >= 6);
    }
}

#[test]
fn an_answer_that_comes_in_pieces_is_no_silence() {
    use std::io::{BufRead, BufReader, Write};
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("control.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).expect("bind");
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("somebody");
        BufReader::new(stream.try_clone().expect("a second handle")).read_line(&mut String::new()).expect("a request");
        for byte in small(&Request::Ping) {
            // Less than the time given for each, more than it for all.
            std::thread::sleep(Duration::from_millis(60));
            stream.write_all(&[byte]).expect("sent");
        }
        never()
    });
    let mut cpctl = Command::new(env!("CARGO_BIN_EXE_cpctl"));
    let (code, out, err) = run(cpctl.arg("--socket").arg(&path).args(["--timeout", "1s", "ping"]));
    assert_eq!((code, out.as_str(), err.as_str()), (0, "cpd 0.1.0 answers\n", ""));
}

#[test]
fn ping_asks_an_older_daemon_what_that_understands() {
    let daemon = FakeDaemon::start(|request| match request {
        Request::Ping => encode_error(ErrorCode::UnknownCommand, "there is no command 'ping'"),
        other => small(other),
    });
    let (code, out, err) = run(&mut daemon.cpctl(&["ping"]));
    assert_eq!((code, out.as_str(), err.as_str()), (0, "cpd 0.1.0 answers\n", ""));
    let (code, out, _) = run(&mut daemon.cpctl(&["ping", "--json"]));
    assert_eq!((code, out.as_str()), (0, "{\"version\":\"0.1.0\"}\n"));
}

/// What cpd 0.1.0 answers, as it was recorded.
#[test]
fn the_status_of_an_older_daemon_is_shown_as_far_as_it_goes() {
    const STATUS: &str = concat!(
        r#"{"ok":true,"version":"0.1.0","uptime_seconds":77,"connections":28,"sessions":{"idle":1,"user_validated":2,"#,
        r#""authentication_validated":3,"process_command":4,"sending_message":5,"receiving_message":6,"#,
        r#""error_processing":7},"queued_messages":21,"store_bytes":23,"counters":{"connections_accepted":1,"#,
        r#""connections_refused":2,"logins":3,"login_failures":4,"logins_throttled":5,"messages_accepted":6,"#,
        r#""messages_refused":7,"messages_delivered":8,"messages_expired":9,"messages_purged":10,"bad_commands":11,"#,
        r#""timeouts":12,"store_batches":13,"store_failures":14}}"#
    );
    let daemon = FakeDaemon::start(|request| match request {
        Request::Status { details: false } => format!("{STATUS}\n").into_bytes(),
        _ => encode_error(ErrorCode::UnknownField, "status has no field 'details'"),
    });
    let (code, out, err) = run(&mut daemon.cpctl(&["status"]));
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(
        out.starts_with("version                     0.1.0\nuptime                      1m 17s\nconnections "),
        "{out}"
    );
    let (code, out, _) = run(&mut daemon.cpctl(&["status", "--json"]));
    assert_eq!((code, out), (0, format!("{}\n", STATUS.replacen("\"ok\":true,", "", 1))));
}

#[test]
fn data_means_the_socket_in_that_folder_and_stands_alone() {
    let daemon = FakeDaemon::start(small);
    let cpctl = |line: &[&str]| {
        let mut cpctl = Command::new(env!("CARGO_BIN_EXE_cpctl"));
        cpctl.env("CPCTL_SOCKET", "/nowhere/control.sock").stdin(Stdio::null()).args(line);
        cpctl
    };
    let folder = daemon.path().to_str().expect("text");
    assert_eq!(run(&mut cpctl(&["--data", folder, "ping"])).0, 0);
    assert_eq!(run(&mut cpctl(&["ping", &format!("--data={folder}")])).0, 0);
    assert_eq!(run(cpctl(&["--data", ".", "ping"]).current_dir(folder)).0, 0);
    let (code, _, err) = run(&mut cpctl(&["--data", folder, "--socket", "/nowhere", "ping"]));
    assert!(code == 2 && err.contains("cannot be used with"), "{err}");
    for line in [&["--data", "", "ping"][..], &["--timeout", "5", "ping"], &["--timeout", "0s", "ping"]] {
        assert_eq!(run(&mut cpctl(line)).0, 2, "{line:?}");
    }
    let nothing: PathBuf = daemon.path().join("none");
    let (code, _, err) = run(cpctl(&["ping", "--data"]).arg(&nothing));
    assert_eq!(code, 69);
    assert!(err.contains(&format!("start it with 'cpd --data {}'", nothing.display())), "{err}");
    assert!(!err.contains("systemctl"), "it is not systemd's: {err}");
}
