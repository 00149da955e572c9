//! cpctl as a person at a terminal sees it, over a pseudo-terminal: prompts, no echo, and the terminal as it was.

mod fake_daemon;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cpd::control::{ErrorCode, Request, encode_error};
use fake_daemon::{FakeDaemon, small};
use nix::pty::openpty;
use nix::sys::termios::{LocalFlags, tcgetattr};
use rustix::process::{Pid, Signal, kill_process};

const PATIENCE: Duration = Duration::from_secs(20);

/// cpctl with a terminal of its own; its stdout and stderr are pipes, as with `$(cpctl …)`.
struct Person {
    keyboard: File,
    slave: OwnedFd,
    screen: Arc<Mutex<Vec<u8>>>,
    child: Child,
}

impl Person {
    fn runs(daemon: &FakeDaemon, arguments: &[&str]) -> Person {
        let pty = openpty(None, None).expect("a pseudo-terminal");
        let slave = pty.slave.try_clone().expect("a second handle");
        // setsid makes its standard input the controlling terminal of the session in which cpctl then runs.
        let child = Command::new("setsid")
            .args(["--ctty", env!("CARGO_BIN_EXE_cpctl"), "--socket"])
            .arg(&daemon.socket)
            .args(arguments)
            .stdin(Stdio::from(pty.slave))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("setsid of util-linux");
        let keyboard = File::from(pty.master);
        let (mut reader, screen) = (keyboard.try_clone().expect("a second handle"), Arc::default());
        let shown: Arc<Mutex<Vec<u8>>> = Arc::clone(&screen);
        std::thread::spawn(move || {
            let mut bytes = [0u8; 256];
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                shown.lock().expect("not poisoned").extend_from_slice(&bytes[..count]);
            }
        });
        Person { keyboard, slave, screen, child }
    }

    fn sees(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().expect("not poisoned")).into_owned()
    }

    #[track_caller]
    fn waits_for(&self, text: &str) {
        let begin = Instant::now();
        while !self.sees().contains(text) {
            assert!(begin.elapsed() < PATIENCE, "no {text:?} in {:?}", self.sees());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn types(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).expect("typed");
    }

    /// Its end, stdout, stderr, and what was on the screen. The terminal must echo again.
    #[track_caller]
    fn ends(self) -> (ExitStatus, String, String, String) {
        let output = self.child.wait_with_output().expect("it ends");
        let flags = tcgetattr(&self.slave).expect("a terminal").local_flags;
        assert!(flags.contains(LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG), "{flags:?}");
        std::thread::sleep(Duration::from_millis(20));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let screen = text(&self.screen.lock().expect("not poisoned"));
        (output.status, text(&output.stdout), text(&output.stderr), screen)
    }
}

#[test]
fn a_password_is_asked_twice_and_never_shown() {
    let daemon = FakeDaemon::start(small);
    let mut person = Person::runs(&daemon, &["user", "add", "bob"]);
    person.waits_for("New password for bob: ");
    person.types("op\u{e9}n sesame\n");
    person.waits_for("The same again: ");
    person.types("op\u{e9}n sesame\n");
    let (status, out, err, screen) = person.ends();
    assert_eq!((status.code(), out.as_str(), err.as_str()), (Some(0), "user bob added\n", ""));
    assert!(!screen.contains("sesame") && !screen.contains("op"), "{screen:?}");
    assert!(daemon.requests()[0].contains("\"password\":\"op\u{e9}n sesame\""), "{:?}", daemon.requests());
}

#[test]
fn a_password_typed_ahead_of_the_second_prompt_counts_and_is_not_shown() {
    let daemon = FakeDaemon::start(small);
    let mut person = Person::runs(&daemon, &["user", "passwd", "bob"]);
    person.waits_for("New password for bob: ");
    person.types("sesame\nsesame\n");
    let (status, out, _, screen) = person.ends();
    assert_eq!((status.code(), out.as_str()), (Some(0), "password of bob changed, 1 session ended\n"));
    assert!(!screen.contains("sesame"), "{screen:?}");
}

#[test]
fn two_passwords_that_differ_and_one_that_none_can_have_change_nothing() {
    let daemon = FakeDaemon::start(small);
    let mut person = Person::runs(&daemon, &["user", "passwd", "bob"]);
    person.waits_for("New password for bob: ");
    person.types("sesame\n");
    person.waits_for("The same again: ");
    person.types("simsim\n");
    let (status, out, err, screen) = person.ends();
    assert_eq!((status.code(), out.as_str()), (Some(1), ""));
    assert_eq!(err, "cpctl: the two are not the same; nothing was changed\n");
    assert!(!screen.contains("sesame") && !screen.contains("simsim"), "{screen:?}");

    let mut person = Person::runs(&daemon, &["user", "add", "bob"]);
    person.waits_for("New password for bob: ");
    person.types("much-too-long-to-be-one\n");
    let (status, _, err, screen) = person.ends();
    assert_eq!(status.code(), Some(2));
    assert!(err.contains("1 to 15 bytes"), "{err}");
    assert!(!screen.contains("The same again") && !screen.contains("much-too"), "{screen:?}");
    assert!(daemon.requests().is_empty());
}

#[test]
fn an_interrupt_at_the_prompt_gives_the_terminal_back() {
    let daemon = FakeDaemon::start(small);
    for typed in ["\u{3}", "half\u{3}", "whole\n\u{3}"] {
        let mut person = Person::runs(&daemon, &["user", "add", "bob"]);
        person.waits_for("New password for bob: ");
        person.types(typed);
        let (status, out, _, screen) = person.ends();
        assert_eq!((status.signal(), out.as_str()), (Some(2), ""));
        assert!(!screen.contains("half") && !screen.contains("whole"), "{screen:?}");
    }
    assert!(daemon.requests().is_empty());
}

#[test]
fn a_signal_from_elsewhere_gives_the_terminal_back_too() {
    let daemon = FakeDaemon::start(small);
    for signal in [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT, Signal::ALARM] {
        let mut person = Person::runs(&daemon, &["user", "add", "bob"]);
        person.waits_for("New password for bob: ");
        person.types("half");
        kill_process(Pid::from_child(&person.child), signal).expect("it runs");
        let (status, out, _, screen) = person.ends();
        assert_eq!((status.signal(), out.as_str()), (Some(signal.as_raw()), ""));
        assert!(!screen.contains("half"), "{screen:?}");
    }
    assert!(daemon.requests().is_empty());
}

#[test]
fn removing_and_purging_ask_and_say_how_many_messages_go() {
    let daemon = FakeDaemon::start(small);
    let question = "Remove bob and the 3 messages in its queue? [y/N] ";
    for (answer, code, says) in [
        ("y\n", 0, "user bob removed, and 3 messages in its queue; 1 session ended\n"),
        ("YES\n", 0, "user bob removed, and 3 messages in its queue; 1 session ended\n"),
        ("n\n", 1, ""),
        ("\n", 1, ""),
        ("yesterday\n", 1, ""),
        ("\u{4}", 1, ""),
    ] {
        let before = daemon.requests().iter().filter(|line| line.contains("user.remove")).count();
        let mut person = Person::runs(&daemon, &["user", "remove", "bob"]);
        person.waits_for(question);
        person.types(answer);
        let (status, out, err, _) = person.ends();
        assert_eq!((status.code(), out.as_str()), (Some(code), says), "{answer:?}");
        assert_eq!(err.is_empty(), code == 0, "{err}");
        let after = daemon.requests().iter().filter(|line| line.contains("user.remove")).count();
        assert_eq!(after - before, usize::from(code == 0));
    }
    for (flags, question) in [
        (&[][..], "Delete the 3 messages queued for bob? [y/N] "),
        (&["--id", "8"], "Of the 3 messages queued for bob, delete those with id 8? [y/N] "),
        (
            &["--from", "alice", "--older-than", "90m"],
            "Of the 3 messages queued for bob, delete those from alice older than 1h 30m? [y/N] ",
        ),
    ] {
        let line: Vec<&str> = ["queue", "purge", "bob"].iter().chain(flags).copied().collect();
        let mut person = Person::runs(&daemon, &line);
        person.waits_for(question);
        person.types("y\n");
        let (status, out, _, _) = person.ends();
        assert_eq!((status.code(), out.as_str()), (Some(0), "1 message deleted from the queue of bob\n"));
    }
}

#[test]
fn nobody_is_asked_for_what_cannot_be_done() {
    let daemon = FakeDaemon::start(|request| match request {
        Request::UserShow { .. } => encode_error(ErrorCode::NoSuchUser, "there is no user 'bob'"),
        _ => Vec::new(),
    });
    let (status, _, err, screen) = Person::runs(&daemon, &["user", "remove", "bob"]).ends();
    assert_eq!((status.code(), screen.as_str()), (Some(1), ""), "{err}");
    std::fs::remove_file(&daemon.socket).expect("removed");
    let (status, _, err, screen) = Person::runs(&daemon, &["user", "add", "bob"]).ends();
    assert_eq!((status.code(), screen.as_str()), (Some(69), ""), "{err}");
}
