//! Whole sessions with the programs that people have: telnet at a terminal, nc and others in a pipe.

use std::fs::File;
use std::io::Write;
use std::process::{Child, Command, Stdio};

use cpd_testing::{operator, running};
use running::terminal::Terminal;
use running::{Daemon, need, run, wait_for};

/// bob's session, in which alice's message waits for him. Lines with `C: ` are typed.
const SESSION: &str = "\
C: USER bob
S: 220 received username successfully
C: PASS hunter2
S: 230 user authenticated successfully
C: RMSG
S: RMSGalice:Lunch at one?
C: 250 message successfully downloaded
S: 255 end of messages
C: SMSG alice:Yes, at the usual place. Gr\u{fc}\u{df}e!
S: 240 message successfully sent
C: SMSG alcie:I may be late.
S: 545 receiver user does not exist; send 201 to go on, TERM to end
C: RMSG
S: 500 bad command: send 201 first
C: 201
S: 201 recovered from error
C: SMSG alice:I may be late: sorry
S: 546 too many : characters found in PDU: this server takes one colon; send 201
C: 201
S: 201 recovered from error
C: RMSG
S: 256 no new messages
C: nonsense
S: 500 bad command: unknown verb; HELP tells what works
C: HELP
S: 214 help: SMSG name:text, RMSG, RMSG 1-256, WMSG 1-300, HELP, TERM
C: TERM
";

fn daemon() -> Daemon {
    let daemon = Daemon::start("");
    daemon.add_user("bob", "hunter2");
    daemon.add_user("alice", "sesame");
    let mut alice = daemon.connect();
    alice.logs_in("alice", "sesame");
    alice.asks("SMSGbob:Lunch at one?", "240 ");
    daemon
}

/// That what bob sent is there, and only that.
#[track_caller]
fn alice_has_her_message(daemon: &Daemon) {
    let mut alice = daemon.connect();
    alice.logs_in("alice", "sesame");
    alice.asks("RMSG", "RMSGbob:Yes, at the usual place. Gr\u{fc}\u{df}e!");
    alice.asks("250", "255 ");
    alice.asks("RMSG", "256 ");
    assert!(daemon.cpctl(&["queue", "list"], "").lines().count() == 1);
}

fn telnet(daemon: &Daemon) -> (Terminal, String) {
    need("telnet", "inetutils-telnet");
    let (ip, port) = (daemon.address().ip().to_string(), daemon.address().port().to_string());
    let terminal = Terminal::runs(&["telnet", &ip, &port], |_| {});
    (terminal, format!("Trying {ip}...\nConnected to {ip}.\nEscape character is '^]'.\n"))
}

#[test]
fn a_person_with_telnet_has_a_whole_session() {
    let daemon = daemon();
    let (mut person, mut screen) = telnet(&daemon);
    for line in SESSION.split_inclusive('\n') {
        let (side, text) = line.split_at(3);
        if side == "C: " {
            person.waits_until_it_shows(&screen, str::to_owned);
            person.types(text);
        }
        // What is typed is shown as well.
        screen.push_str(text);
    }
    screen.push_str("Connection closed by foreign host.\n");
    person.waits_until_it_shows(&screen, str::to_owned);
    person.ends();
    alice_has_her_message(&daemon);
}

#[test]
fn telnets_own_commands_and_options_disturb_nothing() {
    let daemon = daemon();
    let (mut person, greeting) = telnet(&daemon);
    person.waits_until_it_shows(&greeting, str::to_owned);
    let shows = |person: &Terminal, what: &str, times: usize| {
        wait_for(what, || (person.screen().matches(what).count() >= times).then_some(()));
    };
    person.types("USER bob\n");
    shows(&person, "220 ", 1);
    let commands = ["send ayt", "send el", "send nop", "toggle binary", "mode character"];
    for (command, times) in commands.iter().zip(1..) {
        person.types("\u{1d}");
        shows(&person, "telnet> ", times);
        person.types(&format!("{command}\n"));
        // Its answer tells that telnet has left its command mode.
        person.types("nonsense\n");
        shows(&person, "500 bad command: unknown verb; send PASS first\n", times);
    }
    shows(&person, "\n[yes]\n", 1);
    person.types("PASS hunter2\n");
    shows(&person, "230 ", 1);
    person.types("TERM\n");
    shows(&person, "Connection closed by foreign host.", 1);
    assert_eq!(person.screen().matches("500").count(), commands.len(), "{}", person.screen());
}

/// nc, whose standard input stays open as long as the test likes, and whose output goes into a file.
struct Nc {
    child: Child,
    folder: tempfile::TempDir,
}

impl Nc {
    fn connects(daemon: &Daemon) -> Nc {
        need("nc", "netcat-openbsd");
        let folder = tempfile::tempdir().expect("a folder");
        let output = File::create(folder.path().join("output")).expect("a file");
        let mut command = Command::new("nc");
        command.arg(daemon.address().ip().to_string()).arg(daemon.address().port().to_string());
        let child = command.stdin(Stdio::piped()).stdout(output).spawn().expect("nc runs");
        Nc { child, folder }
    }

    #[track_caller]
    fn types(&mut self, text: &str) {
        self.child.stdin.as_mut().expect("open").write_all(text.as_bytes()).expect("typed");
    }

    fn output(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("output")).expect("UTF-8")
    }

    /// Waits for all of `expected`, the whole output so far.
    #[track_caller]
    fn shows(&self, expected: &str) {
        wait_for(expected, || (self.output().len() >= expected.len()).then_some(()));
        assert_eq!(self.output(), expected);
    }

    /// That the server has closed: nc ends once nothing more is typed.
    #[track_caller]
    fn ends(&mut self) {
        drop(self.child.stdin.take());
        let child = &mut self.child;
        wait_for("nc's end", || child.try_wait().expect("a child"));
    }
}

impl Drop for Nc {
    fn drop(&mut self) {
        // Both fail only when it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_person_with_nc_has_a_whole_session() {
    let daemon = daemon();
    let mut nc = Nc::connects(&daemon);
    let mut expected = String::new();
    for line in SESSION.lines() {
        let (side, text) = line.split_at(3);
        if side == "C: " {
            nc.types(&format!("{text}\n"));
        } else {
            expected += &format!("{text}\r\n");
            nc.shows(&expected);
        }
    }
    nc.ends();
    nc.shows(&expected);
    alice_has_her_message(&daemon);
}

#[test]
fn a_script_sends_everything_at_once() {
    let daemon = daemon();
    let mut nc = Nc::connects(&daemon);
    let said = |side| SESSION.lines().filter_map(move |line: &str| line.strip_prefix(side));
    nc.types(&said("C: ").fold(String::new(), |all, line| all + line + "\r\n"));
    nc.shows(&said("S: ").fold(String::new(), |all, line| all + line + "\r\n"));
    nc.ends();
    alice_has_her_message(&daemon);
}

/// What the manual has for a script: it cleans the text, sends it, and complains if that was not answered with 240.
fn recipe_of_the_manual(daemon: &Daemon) -> String {
    let page = include_str!("../../man/cp.7");
    let (_, section) = page.split_once("\n.Ss From a script\n").expect("the section");
    let (section, _) = section.split_once("\n.Ss ").expect("another one behind it");
    let blocks = section.split("\n.Bd -literal -offset indent\n").skip(1);
    let shown: Vec<&str> = blocks.map(|block| block.split_once("\n.Ed").expect("an end").0).collect();
    assert_eq!(shown.len(), 2, "{shown:?}");
    let script = shown.join("\n").replace("\\(aq", "'").replace("\\e", "\\");
    let here = format!(" {} {} ", daemon.address().ip(), daemon.address().port());
    assert_eq!(script.matches(" localhost 5035 ").count(), 1, "{script}");
    script.replace(" localhost 5035 ", &here)
}

#[test]
fn the_manuals_script_sends_a_message_or_says_that_it_did_not() {
    for (nc, package) in [("nc.openbsd", "netcat-openbsd"), ("nc.traditional", "netcat-traditional")] {
        need(nc, package);
        let daemon = daemon();
        let script = recipe_of_the_manual(&daemon);
        // The recipe says nc: whichever the system has under this name.
        let folder = tempfile::tempdir().expect("a folder");
        std::os::unix::fs::symlink(program(nc), folder.path().join("nc")).expect("a link");
        let path = std::env::var("PATH").expect("a PATH");
        let path = format!("{}:{path}", folder.path().display());
        let said = |password: &str, text: &str| {
            let mut shell = Command::new("sh");
            shell.args(["-c", &script]).env("PATH", &path).env("password", password).env("text", text);
            let ended = run(&mut shell, "");
            (ended.stdout, ended.stderr)
        };
        let nothing = (String::new(), String::new());
        assert_eq!(said("hunter2", "Lunch\nRMSG\n250 at 100%s\\n?"), nothing, "{nc}");
        let complaint = (String::new(), "not sent\n".to_owned());
        assert_eq!(said("wrong", "with another password"), complaint, "{nc}");
        assert_eq!(said("hunter2", "one colon: too many"), complaint, "{nc}");
        assert_eq!(said("hunter2", ""), complaint, "{nc}");
        let mut alice = daemon.connect();
        alice.logs_in("alice", "sesame");
        alice.asks("RMSG", "RMSGbob:Lunch RMSG 250 at 100%s\\n?");
        alice.asks("250", "255 ");
        drop(daemon.stop());
        let mut late = said("hunter2", "when nobody is there");
        // What nc says itself of that is its own affair.
        late.1 = late.1.lines().last().unwrap_or_default().to_owned() + "\n";
        assert_eq!(late, complaint, "{nc}");
    }
}

/// Where `name` is in the PATH.
fn program(name: &str) -> std::path::PathBuf {
    let paths = std::env::var_os("PATH").expect("a PATH");
    let mut found = std::env::split_paths(&paths).map(|folder| folder.join(name));
    found.find(|path| path.is_file()).expect("it is needed")
}

/// Programs that carry a script's lines: what is run, and its package.
const CARRIERS: [(&[&str], &str); 8] = [
    (&["nc.openbsd", "{ip}", "{port}"], "netcat-openbsd"),
    (&["nc.traditional", "{ip}", "{port}"], "netcat-traditional"),
    (&["ncat", "{ip}", "{port}"], "ncat"),
    (&["socat", "-t10", "-", "TCP:{ip}:{port}"], "socat"),
    (&["busybox", "nc", "{ip}", "{port}"], "busybox"),
    (&["curl", "-sN", "telnet://{ip}:{port}"], "curl"),
    (&["plink", "-batch", "-telnet", "-P", "{port}", "{ip}"], "putty-tools"),
    (&["telnet", "{ip}", "{port}"], "inetutils-telnet"),
];

/// A login, a message to oneself, its download, its acknowledgement, the end.
#[test]
fn every_carrier_holds_a_session_from_lf_and_from_crlf() {
    let daemon = Daemon::start("");
    daemon.add_user("bob", "hunter2");
    let (ip, port) = (daemon.address().ip().to_string(), daemon.address().port().to_string());
    let mut operator = operator::Operator::connect(&daemon.socket());
    let mut sessions = 0;
    for (words, package) in CARRIERS {
        need(words[0], package);
        for end in ["\n", "\r\n"] {
            let words: Vec<String> =
                words.iter().map(|word| word.replace("{ip}", &ip).replace("{port}", &port)).collect();
            sessions += 1;
            let folder = tempfile::tempdir().expect("a folder");
            let output = File::create(folder.path().join("output")).expect("a file");
            let mut command = Command::new(&words[0]);
            command.args(&words[1..]).stdin(Stdio::piped()).stdout(output).stderr(Stdio::null());
            let mut carrier = Nc { child: command.spawn().expect("it runs"), folder };
            let lines = ["USER bob", "PASS hunter2", "SMSG bob:Gr\u{fc}\u{df}e", "RMSG", "250", "RMSG", "TERM"];
            carrier.types(&lines.map(|line| format!("{line}{end}")).concat());
            let said = |carrier: &Nc| carrier.output().replace('\r', "");
            if package == "curl" {
                // It shows nothing before its input ends: that may be when the server has said everything, each session
                // has its one message and is over.
                wait_for("the end of the session", || {
                    let all_said = operator.counter("messages_delivered") == sessions;
                    let over = daemon.cpctl(&["session", "list"], "").lines().count() <= 1;
                    (all_said && over).then_some(())
                });
                carrier.ends();
            }
            wait_for(&format!("{words:?} to show the end"), || {
                said(&carrier).contains("256 no new messages\n").then_some(())
            });
            let heard = "220 received username successfully\n230 user authenticated successfully\n240 message successfully \
                         sent\nRMSGbob:Gr\u{fc}\u{df}e\n255 end of messages\n256 no new messages\n";
            assert!(said(&carrier).contains(heard), "{words:?} with {end:?}: {}", said(&carrier));
            if package != "curl" {
                carrier.ends();
            }
        }
    }
    assert_eq!(daemon.cpctl(&["queue", "list"], "").lines().count(), 1, "all is fetched");
}
