//! cpctl as scripts see it: every command in both forms, every exit code, nothing on the wrong stream.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use cpd::ctl::table::{ArgumentKind, COMMANDS};
use cpd_control::answer::*;
use cpd_control::{ErrorCode, REQUEST_MAX_BYTES, Request, encode_error, encode_ok, request};
use cpd_testing::fake_daemon;
use fake_daemon::{FakeDaemon, run, small, told};
use serde_json::Value;

/// Text for stdout, nothing on stderr, code 0.
#[track_caller]
fn prints(daemon: &FakeDaemon, arguments: &[&str], text: &str) {
    let (code, out, err) = run(&mut daemon.cpctl(arguments));
    assert_eq!((code, out.as_str(), err.as_str()), (0, text, ""), "{arguments:?}");
}

/// One line on stderr, nothing on stdout, this code.
#[track_caller]
fn fails(command: &mut Command, code: i32, named: &str) {
    let (got, out, err) = run(command);
    assert_eq!((got, out.as_str()), (code, ""), "{err}");
    assert!(err.starts_with("cpctl: ") && err.ends_with('\n') && err.lines().count() == 1, "{err:?}");
    assert!(err.contains(named), "{err:?} does not name {named:?}");
}

fn with_input(mut command: Command, input: &[u8]) -> (i32, String, String) {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("cpctl runs");
    // A cpctl that needs no more closes its end early.
    let _ = child.stdin.take().expect("a pipe").write_all(input);
    told(&child.wait_with_output().expect("it ends"))
}

#[test]
fn every_command_prints_text_for_people() {
    let daemon = FakeDaemon::start(small);
    prints(
        &daemon,
        &["user", "list"],
        "NAME  LOCKED  CREATED               LAST LOGIN  QUEUED\n\
         bob   no      2026-01-02T03:04:05Z  -                3\n",
    );
    prints(
        &daemon,
        &["user", "show", "bob"],
        "name        bob\nlocked      no\ncreated     2026-01-02T03:04:05Z\nlast login  -\nqueued      3\nthrottled   no\n",
    );
    prints(&daemon, &["user", "lock", "bob"], "user bob locked, 2 sessions ended\n");
    prints(&daemon, &["user", "unlock", "bob"], "user bob unlocked\n");
    prints(
        &daemon,
        &["user", "remove", "--yes", "bob"],
        "user bob removed, and 3 messages in its queue; 1 session ended\n",
    );
    prints(&daemon, &["queue", "list"], "USER  MESSAGES  BYTES  OLDEST\nbob          3     30  2026-01-03T00:00:00Z\n");
    prints(
        &daemon,
        &["queue", "show", "bob"],
        "ID  SENDER  QUEUED AT             BYTES\n\
         \u{20}8  alice   2026-01-03T00:00:00Z      2\n\
         12  alice   2026-01-03T00:00:00Z     14\n",
    );
    prints(
        &daemon,
        &["queue", "show", "bob", "--body"],
        "ID  SENDER  QUEUED AT             BYTES  BODY\n\
         \u{20}8  alice   2026-01-03T00:00:00Z      2  hi\n\
         12  alice   2026-01-03T00:00:00Z     14  tab\\there \\u{9b}31m\n",
    );
    prints(&daemon, &["queue", "purge", "bob", "--yes"], "1 message deleted from the queue of bob\n");
    prints(&daemon, &["store", "check"], "4 rows checked, 0 damaged\n");
    prints(
        &daemon,
        &["session", "list"],
        "ID  USER  ADDRESS      LISTENER  STATE  SINCE                  IDLE\n\
         \u{20}7  -     [::1]:40000  cp        idle   2026-01-03T00:00:00Z  1m 5s\n",
    );
    prints(&daemon, &["session", "close", "7"], "session 7 closed\n");
    prints(
        &daemon,
        &["throttle", "list"],
        "USER  ADDRESS  FAILURES  ADDRESSES  UNTIL\n\
         bob   any            50          3  2026-01-03T00:00:00Z\n",
    );
    prints(&daemon, &["throttle", "clear", "--all"], "all failed logins forgotten\n");
    prints(
        &daemon,
        &["throttle", "clear", "--user", "bob", "--address", "2001:db8::/64"],
        "failed logins for bob and from 2001:db8:: forgotten\n",
    );
    let (code, out, err) = run(&mut daemon.cpctl(&["status"]));
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.starts_with("version                     0.1.0\nuptime                      1d 1h\n"), "{out}");
    // Version, uptime, a listener, the configuration's name, and each number of the document once.
    let status = COMMANDS.iter().find(|command| command.words == ["status"]).expect("status");
    let fields = status.json_fields();
    let details = fields.iter().filter(|field| field.starts_with("configuration.") || **field == "listeners");
    assert_eq!(out.lines().count(), fields.len() - details.count() + 2);
    assert!(out.contains("\nlistens                     cp [::]:5035 (systemd, cpd.socket)\n"), "{out}");
    assert!(out.contains("\nconfiguration               the defaults\n"), "{out}");
}

/// A command line for `words` that the small daemon does not refuse.
fn example(words: &[&'static str], file: &str) -> Vec<String> {
    let command = COMMANDS.iter().find(|command| command.words == words).expect("in the table");
    let mut line: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    line.extend(command.arguments.iter().map(|argument| match argument.kind {
        ArgumentKind::File => file.to_owned(),
        ArgumentKind::SessionId => "7".to_owned(),
        _ => "bob".to_owned(),
    }));
    let wanted = ["yes", "generate", "body", "all"];
    line.extend(command.flags.iter().filter(|f| wanted.contains(&f.long)).map(|f| format!("--{}", f.long)));
    line
}

fn fields(document: &Value, prefix: &str, into: &mut BTreeSet<String>) {
    match document {
        Value::Object(map) => {
            for (name, value) in map {
                let name = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                if value.is_object() {
                    fields(value, &name, into);
                } else {
                    into.insert(name);
                }
            }
        }
        Value::Array(rows) => rows.iter().for_each(|row| fields(row, prefix, into)),
        other => panic!("neither object nor array: {other}"),
    }
}

#[test]
fn every_command_prints_one_json_document_with_the_fields_of_the_table() {
    let daemon = FakeDaemon::start(small);
    let file = daemon.path().join("copy.db");
    for command in COMMANDS {
        let mut line = example(command.words, file.to_str().expect("text"));
        line.push("--json".to_owned());
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        let (code, out, err) = run(&mut daemon.cpctl(&line));
        assert_eq!((code, err.as_str()), (0, ""), "{line:?}");
        assert_eq!(out.matches('\n').count(), 1, "{out:?}");
        let document: Value = serde_json::from_str(&out).expect("one JSON document");
        assert_eq!(document.is_array(), command.list, "{line:?}");
        let mut names = BTreeSet::new();
        fields(&document, "", &mut names);
        assert_eq!(names, command.json_fields().into_iter().map(str::to_owned).collect(), "{line:?}");
    }
    let seen = daemon.requests().join("\n");
    for command in COMMANDS.iter().flat_map(|command| command.sends) {
        assert!(seen.contains(&format!("\"cmd\":\"{command}\"")), "{command} was not sent");
    }
}

#[test]
fn json_is_without_the_fields_that_are_not_there() {
    let daemon = FakeDaemon::start(small);
    let (_, out, _) = with_input(daemon.cpctl(&["--json", "user", "add", "bob", "--password-stdin"]), b"pw\n");
    assert_eq!(out, "{\"name\":\"bob\"}\n");
    prints(&daemon, &["queue", "purge", "bob", "--yes", "--json"], "{\"user\":\"bob\",\"messages\":1}\n");
    let (_, out, _) = run(&mut daemon.cpctl(&["queue", "show", "bob", "--json"]));
    assert!(!out.contains("body"), "{out}");
    let (_, out, _) = run(&mut daemon.cpctl(&["queue", "show", "bob", "--json", "--body"]));
    assert!(out.contains("tab\\there \\u009b31m"), "{out}");
}

#[test]
fn passwords_come_from_stdin_or_are_made_and_never_from_arguments() {
    let daemon = FakeDaemon::start(small);
    let add = || daemon.cpctl(&["user", "add", "bob", "--password-stdin"]);
    for input in ["sesame", "sesame\n", "sesame\r\n", "sesame\nrest that is not read\n"] {
        assert_eq!(with_input(add(), input.as_bytes()), (0, "user bob added\n".to_owned(), String::new()));
        assert!(daemon.requests().pop().expect("asked").contains("\"password\":\"sesame\""));
    }
    let asked = daemon.requests().len();
    for input in
        ["", "\n", " x\n", "x \n", "a\tb\n", "sixteen-letters!\n", "\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\n"]
    {
        let (code, out, err) = with_input(add(), input.as_bytes());
        assert_eq!((code, out.as_str()), (2, ""));
        assert!(
            err.contains(": a password is 1 to 15 bytes") && (input.len() < 6 || !err.contains(input.trim())),
            "{err}"
        );
    }
    let (code, _, err) = with_input(add(), &vec![b'x'; 1 << 20]);
    assert!(code == 2 && err.contains("has 1048576 bytes"), "{err}");
    for (input, why) in [
        (&b"\xef\xbb\xbfsesame\n"[..], "a byte order mark"),
        (b"sesame\r", "a control character (CR)"),
        (b"sesame\r\r\n", "a control character (CR)"),
        (b"sesame\0\n", "a control character (NUL)"),
        (b"\xd6l\n", "standard input is not in UTF-8"),
    ] {
        let (code, _, err) = with_input(add(), input);
        assert!(code == 2 && err.contains(why), "{err}");
    }
    assert_eq!(with_input(add(), b"\xff\n").0, 2);
    assert_eq!(daemon.requests().len(), asked, "nothing was asked");

    let (code, out, err) = run(&mut daemon.cpctl(&["user", "passwd", "bob", "--generate", "--keep-sessions"]));
    assert_eq!((code, err.as_str(), out.trim_end().len()), (0, "", 15));
    let request = daemon.requests().pop().expect("asked");
    assert!(request.contains(&format!("\"password\":\"{}\"", out.trim_end())), "{request}");
    assert!(request.contains("\"keep_sessions\":true"), "{request}");
    let (_, second, _) = run(&mut daemon.cpctl(&["user", "add", "bob", "--generate"]));
    assert_ne!(out, second);

    fails(&mut daemon.cpctl(&["user", "add", "bob"]), 2, "--password-stdin");
    fails(&mut daemon.cpctl(&["user", "passwd", "bob", "--json"]), 2, "--generate");
    fails(&mut daemon.cpctl(&["user", "add", "bob", "--password", "x"]), 2, "--password");
    fails(&mut daemon.cpctl(&["user", "add", "bob", "--generate", "--password-stdin"]), 2, "cannot be used with");
    let (code, out, _) = with_input(daemon.cpctl(&["user", "passwd", "bob", "--password-stdin"]), b"pw");
    assert_eq!((code, out.as_str()), (0, "password of bob changed, 1 session ended\n"));
}

#[test]
fn a_password_from_stdin_is_one_line_and_the_next_is_for_the_next_command() {
    let daemon = FakeDaemon::start(small);
    let lines = daemon.path().join("lines");
    fs::write(&lines, "p1\r\np2\nthis one is much too long\np4\n").expect("written");
    let each = "for name in a1 a2 a3 a4; do \"$CPCTL\" user add $name --password-stdin; echo $?; done";
    for script in
        [format!("cat '{0}' | {{ {each}; }}", lines.display()), format!("{{ {each}; }} < '{0}'", lines.display())]
    {
        let before = daemon.requests().len();
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]).env("CPCTL", env!("CARGO_BIN_EXE_cpctl")).env("CPCTL_SOCKET", &daemon.socket);
        let (code, out, _) = run(&mut shell);
        assert_eq!((code, out.as_str()), (0, "user a1 added\n0\nuser a2 added\n0\n2\nuser a4 added\n0\n"), "{script}");
        let set = daemon.requests()[before..].join("\n");
        assert!(["p1", "p2", "p4"].iter().all(|p| set.contains(&format!("\"password\":\"{p}\""))), "{set}");
    }
}

#[test]
fn what_deletes_needs_a_yes() {
    let daemon = FakeDaemon::start(small);
    fails(&mut daemon.cpctl(&["user", "remove", "bob"]), 2, "--yes");
    fails(&mut daemon.cpctl(&["queue", "purge", "bob", "--id", "3"]), 2, "--yes");
    assert!(daemon.requests().is_empty());
    let flags = ["queue", "purge", "bob", "--yes", "--id", "3", "--from", "alice", "--older-than", "7d"];
    assert_eq!(run(&mut daemon.cpctl(&flags)).0, 0);
    let wanted = "\"user\":\"bob\",\"id\":3,\"from\":\"alice\",\"older_than_seconds\":604800}";
    assert!(daemon.requests()[0].ends_with(wanted), "{:?}", daemon.requests());
}

#[test]
fn usage_errors_are_2_and_ask_nothing() {
    let daemon = FakeDaemon::start(small);
    for (line, named) in [
        (&[][..], "requires a subcommand"),
        (&["user"], "requires a subcommand"),
        (&["usr"], "'user'"),
        (&["user", "ad"], "'add'"),
        (&["user", "show"], "<NAME>"),
        (&["user", "show", "bob", "eve"], "'eve'"),
        (&["user", "show", "-bob"], "cpctl --help"),
        (&["user", "show", "b b"], "1 to 10 ASCII letters"),
        (&["user", "add", "elevenbytes", "--generate"], "1 to 10 ASCII letters"),
        (&["queue", "purge", "bob", "--older-than", "7"], "s, m, h, d and w"),
        (&["queue", "purge", "bob", "--id", "0"], "'0'"),
        (&["session", "close", "x"], "'x'"),
        (&["throttle", "clear"], "--all"),
        (&["throttle", "clear", "--all", "--user", "bob"], "--user"),
        (&["throttle", "clear", "--address", "bob"], "an IP address"),
        (&["status", "--fast"], "--fast"),
        (&["user", "show", "\u{1b}[31m"], "\\u{1b}[31m"),
    ] {
        fails(&mut daemon.cpctl(line), 2, named);
    }
    assert!(daemon.requests().is_empty());
}

#[test]
fn help_and_version_go_to_stdout() {
    for line in [&["--help"][..], &["help"], &["user", "add", "--help"], &["help", "user", "add"]] {
        let mut cpctl = Command::new(env!("CARGO_BIN_EXE_cpctl"));
        let (code, out, err) = run(cpctl.args(line));
        assert_eq!((code, err.as_str()), (0, ""), "{line:?}");
        assert!(out.contains("Usage: cpctl"), "{out}");
        assert!(!out.contains('\u{1b}'));
    }
    let (code, out, _) = run(Command::new(env!("CARGO_BIN_EXE_cpctl")).arg("--version"));
    assert_eq!((code, out), (0, format!("cpctl {}\n", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn a_refusal_is_1_with_the_daemons_words() {
    let daemon = FakeDaemon::start(small);
    fails(&mut daemon.cpctl(&["user", "add", "taken", "--generate"]), 1, "there is a user 'taken' already");
    fails(&mut daemon.cpctl(&["user", "show", "nobody", "--json"]), 1, "there is no user 'nobody'");
    fails(&mut daemon.cpctl(&["session", "close", "8"]), 1, "no session");
    let odd = FakeDaemon::start(|request| match request {
        Request::Status { .. } => {
            b"{\"ok\":false,\"error\":{\"code\":\"of_tomorrow\",\"message\":\"a\\nb\\u001b[2J\"}}\n".to_vec()
        }
        _ => encode_error(ErrorCode::Busy, ""),
    });
    fails(&mut odd.cpctl(&["status"]), 1, "cpctl: a\\nb\\u{1b}[2J\n");
    fails(&mut odd.cpctl(&["user", "list"]), 1, ErrorCode::Busy.meaning());
}

#[test]
fn a_daemon_that_is_not_there_or_talks_nonsense_is_69() {
    let folder = tempfile::tempdir().expect("a folder");
    let nothing = folder.path().join("none.sock");
    let named = nothing.to_str().expect("text").to_owned();
    let cpctl = || Command::new(env!("CARGO_BIN_EXE_cpctl"));
    fails(cpctl().arg("--socket").arg(&nothing).arg("status"), 69, &named);
    fails(cpctl().env("CPCTL_SOCKET", &nothing).arg("status"), 69, "systemctl start cpd");
    fails(cpctl().arg("--socket").arg("x".repeat(200)).arg("status"), 69, "xxx");
    drop(std::os::unix::net::UnixListener::bind(&nothing).expect("bind"));
    fails(cpctl().arg("--socket").arg(&nothing).arg("status"), 69, "refused");

    for answer in [
        &b""[..],
        b"\n",
        b"HTTP/1.1 400 Bad Request\r\n",
        b"{\"ok\":true}\n",
        b"{\"ok\":true,\"version\":7}\n",
        b"[]\n",
        b"\xff\n",
    ] {
        let odd = FakeDaemon::start(move |_| answer.to_vec());
        fails(&mut odd.cpctl(&["status"]), 69, "control.sock: ");
    }
    let deep = FakeDaemon::start(|_| format!("{}\n", "[".repeat(100_000)).into_bytes());
    fails(&mut deep.cpctl(&["status"]), 69, "cannot be understood");
    let endless = FakeDaemon::start(|_| vec![b'x'; 3 << 20]);
    fails(&mut endless.cpctl(&["status"]), 69, "longer than");
}

#[test]
fn the_environment_names_the_socket_and_the_flag_wins() {
    let daemon = FakeDaemon::start(small);
    let cpctl = || Command::new(env!("CARGO_BIN_EXE_cpctl"));
    assert_eq!(run(cpctl().env("CPCTL_SOCKET", &daemon.socket).args(["store", "check"])).0, 0);
    let both = run(cpctl().env("CPCTL_SOCKET", "/nowhere").args(["status", "--socket"]).arg(&daemon.socket));
    assert_eq!(both.0, 0);
}

#[test]
fn a_socket_for_others_is_77_and_names_the_group() {
    let daemon = FakeDaemon::start(small);
    let open = |mode| fs::Permissions::from_mode(mode);
    fs::set_permissions(daemon.path(), open(0o755)).expect("chmod");
    fs::set_permissions(&daemon.socket, open(0o600)).expect("chmod");
    let mut command = if nix::unistd::geteuid().is_root() {
        // Somebody else, who must be able to read the program.
        use std::os::unix::process::CommandExt;
        let copy = daemon.path().join("cpctl");
        // Not by ourselves: a child that another test starts meanwhile would hold the copy open for writing, and what is
        // open for writing cannot be run.
        let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_cpctl")).arg(&copy).status().expect("cp runs");
        assert!(copied.success());
        fs::set_permissions(&copy, open(0o755)).expect("chmod");
        let mut command = Command::new(copy);
        command.uid(65534).gid(65534).arg("--socket").arg(&daemon.socket).arg("status");
        command
    } else {
        fs::set_permissions(&daemon.socket, open(0o000)).expect("chmod");
        daemon.cpctl(&["status"])
    };
    fails(&mut command, 77, "cpd-admin");
    let strict = FakeDaemon::start(|_| encode_error(ErrorCode::NotPermitted, "not for you"));
    fails(&mut strict.cpctl(&["status"]), 77, "not for you");
}

/// Where anybody can put a socket in the daemon's place, who listens is asked before a password is sent to them.
#[test]
fn a_stranger_who_listens_hears_nothing() {
    if !nix::unistd::geteuid().is_root() {
        // Only root can listen as somebody else.
        return;
    }
    let nobody = rustix::process::Uid::from_raw(65_534);
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("control.sock");
    let set = |mode| fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).expect("chmod");
    set(0o777);
    let listener = std::thread::scope(|scope| {
        let listen = || {
            // Of this thread alone.
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).expect("a user");
            std::os::unix::net::UnixListener::bind(&socket).expect("bind")
        };
        scope.spawn(listen).join().expect("no panic")
    });
    let heard = || {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut listener.accept().expect("somebody came").0, &mut bytes).expect("all");
        String::from_utf8(bytes).expect("UTF-8")
    };
    let path = socket.to_str().expect("text");
    let cpctl = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cpctl"));
        command.args(["--timeout", "300ms", "--socket", path]).args(words).stdin(Stdio::null());
        command
    };
    let add = ["user", "add", "bob", "--generate"];
    for mode in [0o777, 0o1777] {
        set(mode);
        fails(&mut cpctl(&add), 77, "(uid 65534) listens there, who is neither root nor you");
        assert_eq!(heard(), "");
        fails(&mut cpctl(&["ping"]), 77, path);
        assert_eq!(heard(), "");
        let (code, out, _) = run(cpctl(&add).arg("--json"));
        assert!(code == 77 && out.starts_with("{\"error\":{\"code\":\"not_permitted\","), "{code} {out}");
        assert_eq!(heard(), "");
    }
    // Where root alone can have put it, it is the daemon's.
    set(0o755);
    fails(&mut cpctl(&add), 69, "no answer");
    assert!(heard().contains("\"user.add\""));
}

#[test]
fn lists_are_collected_page_by_page() {
    let user = |n: u32| UserInfo {
        name: format!("u{n:03}"),
        locked: true,
        created: "2026-01-02T03:04:05Z".to_owned(),
        last_login: Some("2026-01-02T03:04:06Z".to_owned()),
        queued: u64::from(n),
        throttled: None,
    };
    let daemon = FakeDaemon::start(move |request| match request {
        Request::UserList { after, .. } => {
            let from = after.map_or(0, |name| name.as_str()[1..].parse::<u32>().expect("a number") + 1);
            let rows: Vec<UserInfo> = (from..(from + 2).min(7)).map(user).collect();
            let next = (from + 2 < 7).then(|| rows.last().expect("a row").name.clone());
            encode_ok(&NamePage { rows, next })
        }
        Request::StoreCheck { after, .. } => {
            let damaged = if *after == 10 { vec!["message 11".to_owned()] } else { Vec::new() };
            encode_ok(&CheckPage { rows: 10, damaged, next: (*after < 20).then_some(after + 10) })
        }
        // Pages that turn in a circle.
        Request::QueueShow { .. } => encode_ok(&IdPage::<MessageInfo> { rows: Vec::new(), next: Some(3) }),
        Request::QueueList { .. } => {
            encode_ok(&NamePage::<QueueInfo> { rows: Vec::new(), next: Some("bob".to_owned()) })
        }
        _ => Vec::new(),
    });
    let (code, out, _) = run(&mut daemon.cpctl(&["user", "list", "--json"]));
    let rows: Vec<UserInfo> = serde_json::from_str(&out).expect("an array");
    assert_eq!((code, rows), (0, (0..7).map(user).collect::<Vec<_>>()));
    fails(&mut daemon.cpctl(&["queue", "show", "bob"]), 69, "the same part of the list again");
    fails(&mut daemon.cpctl(&["queue", "list"]), 69, "the same part of the list again");
    let (code, out, err) = run(&mut daemon.cpctl(&["store", "check"]));
    assert_eq!((code, out.as_str()), (1, "DAMAGED\nmessage 11\n30 rows checked, 1 damaged\n"));
    assert_eq!(err, "cpctl: the store is damaged: 1 row not as written\n");
    let (code, out, _) = run(&mut daemon.cpctl(&["store", "check", "--json"]));
    assert_eq!((code, out.as_str()), (1, "{\"rows\":30,\"damaged\":[\"message 11\"]}\n"));
}

#[test]
fn a_backup_is_whole_private_and_never_over_another_file() {
    let daemon = FakeDaemon::start(small);
    let file = daemon.path().join("copy.db");
    let path = file.to_str().expect("text");
    prints(&daemon, &["store", "backup", path], &format!("{path}: 11 bytes\n"));
    assert_eq!(fs::read(&file).expect("there"), b"hello store");
    assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o7777, 0o600);
    assert!(daemon.requests().pop().expect("asked").contains("store.backup.end"));
    let asked = daemon.requests().len();
    fails(&mut daemon.cpctl(&["store", "backup", path]), 1, "is there already");
    fails(&mut daemon.cpctl(&["store", "backup", "/nowhere/copy.db"]), 1, "/nowhere/copy.db");
    assert_eq!(daemon.requests().len(), asked, "the daemon was not asked to copy for nothing");
    let mut relative = daemon.cpctl(&["store", "backup", "plain.db"]);
    assert_eq!(run(relative.current_dir(daemon.path())).0, 0);

    for fault in 0..4 {
        let odd = FakeDaemon::start(move |request| match (request, fault) {
            (Request::StoreBackup, _) => encode_ok(&Backup { backup: 1, bytes: 9 }),
            (Request::StoreBackupRead { .. }, 0) => encode_ok(&BackupChunk { data: "*".to_owned() }),
            (Request::StoreBackupRead { .. }, 1) => encode_ok(&BackupChunk::new(b"")),
            (Request::StoreBackupRead { .. }, 2) => encode_ok(&BackupChunk::new(b"more than nine")),
            (Request::StoreBackupRead { .. }, 3) => encode_error(ErrorCode::StoreFailed, "disk gone"),
            _ => encode_ok(&Done {}),
        });
        let file = odd.path().join("copy.db");
        let code = if fault == 3 { 1 } else { 69 };
        fails(&mut odd.cpctl(&["store", "backup", file.to_str().expect("text")]), code, "");
        let left: Vec<_> = fs::read_dir(odd.path()).expect("a folder").map(|e| e.expect("entry").file_name()).collect();
        assert_eq!(left, ["control.sock"], "fault {fault}");
    }
}

#[test]
fn a_backup_that_is_longer_than_a_file_may_be_leaves_nothing() {
    let daemon = FakeDaemon::start(|request| match request {
        Request::StoreBackup => encode_ok(&Backup { backup: 1, bytes: 4096 }),
        Request::StoreBackupRead { .. } => encode_ok(&BackupChunk::new(&[0; 4096])),
        _ => encode_ok(&Done {}),
    });
    let file = daemon.path().join("copy.db");
    let unlimited = daemon.cpctl(&["store", "backup", file.to_str().expect("text")]);
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -f 1 && exec \"$0\" \"$@\""]).arg(unlimited.get_program()).args(unlimited.get_args());
    fails(&mut limited, 1, "File too large");
    assert_eq!(fs::read_dir(daemon.path()).expect("a folder").count(), 1, "only the socket");
}

#[test]
fn an_interrupted_backup_leaves_nothing() {
    let daemon = FakeDaemon::start(|request| match request {
        Request::StoreBackupRead { .. } => {
            std::thread::sleep(std::time::Duration::from_millis(20));
            encode_ok(&BackupChunk::new(b"x"))
        }
        Request::StoreBackup => encode_ok(&Backup { backup: 1, bytes: 1 << 30 }),
        _ => encode_ok(&Done {}),
    });
    let file = daemon.path().join("copy.db");
    let mut child = daemon.cpctl(&["store", "backup", file.to_str().expect("text")]).spawn().expect("cpctl runs");
    while !daemon.requests().iter().any(|line| line.contains("backup.read")) {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(child.wait().expect("it ends").signal(), Some(15));
    assert_eq!(fs::read_dir(daemon.path()).expect("a folder").count(), 1, "only the socket");
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let daemon = FakeDaemon::start(|_| {
        let row = |id| MessageInfo {
            id,
            sender: "alice".to_owned(),
            queued_at: "2026-01-03T00:00:00Z".to_owned(),
            bytes: 1000,
            body: Some("x".repeat(1000)),
        };
        encode_ok(&IdPage { rows: (1..256).map(row).collect(), next: None })
    });
    let mut command = daemon.cpctl(&["queue", "show", "bob", "--body"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("cpctl runs");
    drop(child.stdout.take());
    assert_eq!(told(&child.wait_with_output().expect("it ends")), (0, String::new(), String::new()));
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
    let output = daemon.cpctl(&["queue", "show", "bob"]).stdout(full).output().expect("cpctl runs");
    assert_eq!(told(&output).0, 1);
}

/// A list that nobody reads is no loss; a password that was made and set is.
#[test]
fn a_made_password_that_nobody_reads_is_an_error() {
    let daemon = FakeDaemon::start(small);
    for command in [["user", "add", "bob", "--generate"], ["user", "passwd", "bob", "--generate"]] {
        let (reader, gone) = std::io::pipe().expect("a pipe");
        drop(reader);
        let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
        for out in [Stdio::from(gone), Stdio::from(full)] {
            let output = daemon.cpctl(&command).stdout(out).output().expect("cpctl runs");
            let (code, _, error) = told(&output);
            assert_eq!(code, 1);
            assert!(error.contains("the generated password is in force but could not be printed"), "{error}");
        }
    }
}

#[test]
fn no_request_comes_near_the_daemons_bound() {
    let name = cp_proto::values::Username::parse(b"abcdefghij").expect("a name");
    let password = cp_proto::values::Password::parse("\"\"\"\"\"\"\"\"\"\"\"\"\"\"\"".as_bytes()).expect("one");
    let request = Request::UserPasswd { name, password, keep_sessions: true };
    assert!(request::encode(&request).as_bytes().len() < 1024 && 1024 < REQUEST_MAX_BYTES);
}
