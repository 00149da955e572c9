//! cpctl as a person at a terminal sees it, over a pseudo-terminal: prompts, no echo, and the terminal as it was.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cpd_control::{ErrorCode, Request, encode_error};
use cpd_testing::fake_daemon;
use cpd_testing::running::PATIENCE;
use fake_daemon::{FakeDaemon, small};
use nix::pty::openpty;
use nix::sys::termios::{InputFlags, LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use rustix::process::{Pid, Signal, kill_process};

/// cpctl with a terminal of its own; its stdout and stderr are pipes, as with `$(cpctl …)`.
struct Person {
    keyboard: File,
    slave: OwnedFd,
    screen: Arc<Mutex<Vec<u8>>>,
    child: Child,
}

impl Person {
    fn runs(daemon: &FakeDaemon, arguments: &[&str]) -> Person {
        Person::prepared(daemon, arguments, |_| {})
    }

    /// At a terminal that `prepare` has a hand in.
    fn prepared(daemon: &FakeDaemon, arguments: &[&str], prepare: impl FnOnce(&mut Termios)) -> Person {
        let pty = openpty(None, None).expect("a pseudo-terminal");
        let mut terminal = tcgetattr(&pty.slave).expect("a terminal");
        terminal.input_flags.insert(InputFlags::IUTF8);
        prepare(&mut terminal);
        tcsetattr(&pty.slave, SetArg::TCSANOW, &terminal).expect("set");
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
        self.keys(text.as_bytes());
    }

    fn keys(&mut self, bytes: &[u8]) {
        self.keyboard.write_all(bytes).expect("typed");
    }

    /// Types the same line twice, each behind its prompt.
    #[track_caller]
    fn types_twice(&mut self, line: &[u8]) {
        self.waits_for("New password for carol: ");
        self.keys(line);
        self.waits_for("Repeat the password: ");
        self.keys(line);
    }

    /// Its end, stdout, stderr, and what was on the screen. The terminal must echo again.
    #[track_caller]
    fn ends(self) -> (ExitStatus, String, String, String) {
        let (status, out, err, screen, _) = self.ends_and_leaves();
        (status, out, err, screen)
    }

    /// As [`Person::ends`], and how many lines' bytes wait at the terminal for whoever reads it next.
    #[track_caller]
    fn ends_and_leaves(self) -> (ExitStatus, String, String, String, u64) {
        let output = self.child.wait_with_output().expect("it ends");
        let flags = tcgetattr(&self.slave).expect("a terminal").local_flags;
        assert!(flags.contains(LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG), "{flags:?}");
        std::thread::sleep(Duration::from_millis(20));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let screen = text(&self.screen.lock().expect("not poisoned"));
        let left = rustix::io::ioctl_fionread(&self.slave).expect("a terminal");
        (output.status, text(&output.stdout), text(&output.stderr), screen, left)
    }
}

/// The passwords that the daemon was told to set.
fn set(daemon: &FakeDaemon) -> Vec<String> {
    let requests = daemon.requests();
    let with_one = requests.iter().filter(|line| line.contains("\"password\""));
    with_one
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).expect("JSON")["password"]
                .as_str()
                .expect("text")
                .to_owned()
        })
        .collect()
}

#[test]
fn a_password_is_asked_twice_and_never_shown() {
    let daemon = FakeDaemon::start(small);
    let mut person = Person::runs(&daemon, &["user", "add", "carol"]);
    person.waits_for("New password for carol: ");
    assert!(person.sees().starts_with("A password is 1 to 15 bytes of UTF-8"), "the rule comes first");
    person.types("op\u{e9}n sesame\n");
    person.waits_for("Repeat the password: ");
    person.types("op\u{e9}n sesame\n");
    let (status, out, err, screen) = person.ends();
    assert_eq!((status.code(), out.as_str(), err.as_str()), (Some(0), "user carol added\n", ""));
    assert!(!screen.contains("sesame") && !screen.contains("op"), "{screen:?}");
    assert_eq!(set(&daemon), ["op\u{e9}n sesame"]);
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
    person.waits_for("Repeat the password: ");
    person.types("simsim\n");
    let (status, out, err, screen) = person.ends();
    assert_eq!((status.code(), out.as_str()), (Some(1), ""));
    assert_eq!(err, "cpctl: the two are not the same; nothing was changed\n");
    assert!(!screen.contains("sesame") && !screen.contains("simsim"), "{screen:?}");

    let mut person = Person::runs(&daemon, &["user", "add", "carol"]);
    person.waits_for("New password for carol: ");
    person.types("much-too-long-to-be-one\n");
    let (status, _, err, screen) = person.ends();
    assert_eq!(status.code(), Some(2));
    assert!(err.starts_with("cpctl: the password has 23 bytes: a password is 1 to 15 bytes"), "{err}");
    assert!(!screen.contains("The same again") && !screen.contains("much-too"), "{screen:?}");
    assert!(set(&daemon).is_empty());
}

#[test]
fn what_no_password_can_be_is_refused_and_never_changed() {
    let daemon = FakeDaemon::start(small);
    for (typed, why) in [
        (&b"\xd6l\n"[..], "your terminal is not in UTF-8"),
        (b"\xd6l\r", "your terminal is not in UTF-8"),
        (b"\xff\xfe\n", "your terminal is not in UTF-8"),
        (b"\xc3\n", "your terminal is not in UTF-8"),
        (b"ab\tcd\n", "a control character (TAB)"),
        (b"ab\x1bXcd\n", "a control character (ESC)"),
        (b"ab\x1b[A\n", "a control character (ESC)"),
        (b"a\0b\n", "a control character (NUL)"),
        // Keys that a terminal likes to keep for itself.
        (b"ab\x13\x11cd\n", "a control character (Ctrl-S)"),
        (b"ab\x16cd\n", "a control character (Ctrl-V)"),
        (b"ab\x17cd\n", "a control character (Ctrl-W)"),
        (b"ab\x1acd\n", "a control character (Ctrl-Z)"),
        (b"ab\x04cd\n", "a control character (Ctrl-D)"),
        (b"ab\xc2\x85cd\n", "a control character (U+0085)"),
        (b"\xef\xbb\xbfsesame\n", "a byte order mark"),
        (b" sesame\n", "a space at one end"),
        (b"sesame \n", "a space at one end"),
        (b"0123456789abcdef\n", "the password has 16 bytes"),
        (b"\n", "there is no password"),
    ] {
        let mut person = Person::runs(&daemon, &["user", "add", "carol"]);
        person.waits_for("New password for carol: ");
        person.keys(typed);
        let (status, out, err, screen) = person.ends();
        assert_eq!((status.code(), out.as_str()), (Some(2), ""), "{typed:?}: {err}");
        assert!(err.contains(why) && err.ends_with("nothing was changed\n"), "{typed:?}: {err}");
        assert!(!screen.contains("The same again") && !screen.contains("sesame"), "{screen:?}");
    }
    let mut person = Person::runs(&daemon, &["user", "add", "carol"]);
    person.waits_for("New password for carol: ");
    person.keys(&[&[b'x'; 20_000][..], b"\n"].concat());
    let (status, _, err, _) = person.ends();
    assert!(status.code() == Some(2) && err.contains("has 20000 bytes"), "{err}");
    assert!(set(&daemon).is_empty());
}

#[test]
fn keys_that_edit_a_line_do_and_enter_is_cr_or_lf() {
    let daemon = FakeDaemon::start(small);
    for (typed, password) in [
        (&b"seasme\x7f\x7f\x7f\x7fsame\n"[..], "sesame"),
        (b"oops\x15sesame\r", "sesame"),
        (b"ab\x08\x08sesame\n", "sesame"),
        ("e\u{e9}\u{7f}sel\n".as_bytes(), "esel"),
        ("\u{fffd}\n".as_bytes(), "\u{fffd}"),
        ("\u{d6}l\n".as_bytes(), "\u{d6}l"),
        ("o\u{308}\n".as_bytes(), "o\u{308}"),
    ] {
        let mut person = Person::runs(&daemon, &["user", "add", "carol"]);
        person.types_twice(typed);
        let (status, _, err, _) = person.ends();
        assert_eq!((status.code(), err.as_str()), (Some(0), ""), "{typed:?}");
        assert_eq!(set(&daemon).pop().expect("set"), password);
    }
}

#[test]
fn flags_of_the_terminal_that_change_bytes_do_not_change_a_password() {
    let daemon = FakeDaemon::start(small);
    let mut person = Person::prepared(&daemon, &["user", "add", "carol"], |terminal| {
        terminal.input_flags.insert(InputFlags::ISTRIP | InputFlags::IUCLC | InputFlags::IGNCR);
        terminal.input_flags.remove(InputFlags::ICRNL | InputFlags::IUTF8);
    });
    person.types_twice("S\u{e9}same\r".as_bytes());
    let (status, _, err, _) = person.ends();
    assert_eq!((status.code(), err.as_str()), (Some(0), ""));
    assert_eq!(set(&daemon), ["S\u{e9}same"]);
}

#[test]
fn the_end_of_input_and_a_hangup_change_nothing() {
    let daemon = FakeDaemon::start(small);
    for before in ["", "sesame\n"] {
        let mut person = Person::runs(&daemon, &["user", "add", "carol"]);
        person.waits_for("New password for carol: ");
        person.types(&format!("{before}\u{4}"));
        let (status, out, err, _) = person.ends();
        assert_eq!((status.code(), out.as_str()), (Some(1), ""));
        assert_eq!(err, "cpctl: no password was typed; nothing was changed\n");
    }
    let person = Person::runs(&daemon, &["user", "add", "carol"]);
    person.waits_for("New password for carol: ");
    let Person { keyboard, slave, mut child, .. } = person;
    // The screen's reader has the other handle of the keyboard's side: it is the child's whole session that is hung up.
    rustix::process::kill_process_group(Pid::from_child(&child), Signal::HUP).expect("it runs");
    assert_eq!(child.wait().expect("it ends").signal(), Some(1));
    drop((keyboard, slave));
    assert!(set(&daemon).is_empty());
}

#[test]
fn what_was_typed_ahead_of_a_refusal_is_not_left_for_the_shell() {
    let daemon = FakeDaemon::start(small);
    let mut person = Person::runs(&daemon, &["user", "add", "carol"]);
    person.waits_for("New password for carol: ");
    person.types("ses\tame\nses\tame\n");
    let (status, _, _, screen, left) = person.ends_and_leaves();
    assert_eq!((status.code(), left), (Some(2), 0));
    assert!(!screen.contains("ame"), "{screen:?}");
}

#[test]
fn whether_there_is_such_a_user_is_checked_before_anything_is_asked() {
    let daemon = FakeDaemon::start(small);
    for (line, says) in [
        (["user", "add", "bob"], "cpctl: there is a user 'bob' already\n"),
        (["user", "passwd", "nobody"], "cpctl: there is no user 'nobody'\n"),
    ] {
        let (status, out, err, screen) = Person::runs(&daemon, &line).ends();
        assert_eq!((status.code(), out.as_str(), err.as_str(), screen.as_str()), (Some(1), "", says, ""));
    }
    assert!(set(&daemon).is_empty());
}

#[test]
fn an_interrupt_at_the_prompt_gives_the_terminal_back() {
    let daemon = FakeDaemon::start(small);
    for typed in ["\u{3}", "half\u{3}", "whole\n\u{3}"] {
        let mut person = Person::runs(&daemon, &["user", "add", "carol"]);
        person.waits_for("New password for carol: ");
        person.types(typed);
        let (status, out, _, screen) = person.ends();
        assert_eq!((status.signal(), out.as_str()), (Some(2), ""));
        assert!(!screen.contains("half") && !screen.contains("whole"), "{screen:?}");
    }
    assert!(set(&daemon).is_empty());
}

#[test]
fn a_signal_from_elsewhere_gives_the_terminal_back_too() {
    let daemon = FakeDaemon::start(small);
    for signal in [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT, Signal::ALARM] {
        let mut person = Person::runs(&daemon, &["user", "add", "carol"]);
        person.waits_for("New password for carol: ");
        person.types("half");
        kill_process(Pid::from_child(&person.child), signal).expect("it runs");
        let (status, out, _, screen) = person.ends();
        assert_eq!((status.signal(), out.as_str()), (Some(signal.as_raw()), ""));
        assert!(!screen.contains("half"), "{screen:?}");
    }
    assert!(set(&daemon).is_empty());
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
    let (status, _, err, screen) = Person::runs(&daemon, &["user", "add", "carol"]).ends();
    assert_eq!((status.code(), screen.as_str()), (Some(69), ""), "{err}");
}
