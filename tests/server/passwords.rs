//! Where a password is to be found once it was used: nowhere but in its hash. Not among a process's arguments, not in a
//! log, the store's files or an answer, not in the memory of a cpd that has nothing more to do with it, and not in a core
//! file.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;

use cpd_core::sabotage::Fault;
use cpd_testing::memory::{copies, tail};
use cpd_testing::running;
use running::{Daemon, Setup, cpctl, run, wait_for};

/// Each is sent in a way of its own: over the control socket, over the wire, over the wire in vain, in two pieces, behind a
/// login that is still being verified, and taken back with telnet's EC before the end of its line.
const SECRETS: [&str; 6] =
    ["zQ7-control-Xk2", "wJ4-guessed-Vb9", "tR8-mistyped-Lp", "mF3-inpieces-Ty", "kD6-piped-it-Ws", "hG2-takenback-E"];
/// Telnet's Erase Character.
const EC: [u8; 2] = [255, 247];

#[test]
fn nothing_is_left_of_a_password_but_its_hash() {
    let daemon = Daemon::start("log.level = \"debug\"\n");
    let [control, wire, wrong, pieces, behind, erased] = SECRETS;
    daemon.add_user("ann", control);
    daemon.add_user("bob", wire);
    daemon.connect().logs_in("bob", wire);
    let mut client = daemon.connect();
    client.asks("USER bob", "220 ");
    client.asks(&format!("PASS {wrong}"), "565 ");
    let mut stream = TcpStream::connect(daemon.address()).expect("it listens");
    stream.write_all(format!("USER bob\r\nPASS {}", &pieces[..9]).as_bytes()).expect("sent");
    // Whoever comes later is served later.
    daemon.connect().asks("USER eve", "220 ");
    stream.write_all(format!("{}\r\nUSER bob\r\nPASS {behind}\r\nTERM\r\n", &pieces[9..]).as_bytes()).expect("sent");
    let mut heard = String::new();
    stream.read_to_string(&mut heard).expect("its end");
    assert_eq!(heard.matches("565 ").count(), 2, "{heard}");
    drop(stream);
    let mut stream = TcpStream::connect(daemon.address()).expect("it listens");
    stream.write_all(format!("USER bob\r\nPASS {erased}").as_bytes()).expect("sent");
    daemon.connect().asks("USER eve", "220 ");
    assert!(!copies(daemon.id(), erased.as_bytes()).is_empty(), "it was not kept until its line ends");
    stream.write_all(&EC.repeat(erased.len() + 1)).expect("sent");
    daemon.connect().asks("USER eve", "220 ");
    // The line's memory is still in use, with the verb alone.
    assert_eq!(copies(daemon.id(), erased.as_bytes()), Vec::<String>::new(), "what was taken back is kept");
    stream.write_all(&EC.repeat("PASS".len())).expect("sent");
    stream.write_all(b"TERM\r\n").expect("sent");
    let mut heard = String::new();
    stream.read_to_string(&mut heard).expect("its end");
    assert!(heard.starts_with("220 ") && heard.lines().count() == 1, "{heard}");
    drop(stream);
    // Everybody is gone, and nothing is under way.
    drop(client);
    wait_for("the connections to go", || {
        daemon.cpctl(&["--json", "status"], "").contains("\"connections\":0").then_some(())
    });
    let pid = daemon.id();
    assert!(!copies(pid, b"listen.cp").is_empty() || !copies(pid, b"control.sock").is_empty(), "the search is blind");
    let log = daemon.log();
    let left: Vec<_> = SECRETS.map(|secret| (secret, copies(pid, tail(secret).as_bytes()))).into_iter().collect();
    assert!(left.iter().all(|(_, found)| found.is_empty()), "{left:#?}");
    for secret in SECRETS {
        assert!(!log.contains(secret), "{log}");
        for file in std::fs::read_dir(daemon.folder.path().join("data")).expect("a folder") {
            let bytes = std::fs::read(file.expect("an entry").path()).unwrap_or_default();
            assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "in a file");
        }
    }
    println!("proof: passwords: {} used in as many ways, none left in memory, log or files", SECRETS.len());
}

#[test]
fn a_copy_in_memory_is_found() {
    let kept = format!("aN5-{}-Qz", "forgotten");
    assert!(!copies(std::process::id(), kept.as_bytes()).is_empty(), "the twin passes");
    println!("proof: passwords: twin that keeps one: caught");
}

#[test]
fn a_password_is_never_an_argument() {
    let daemon = Daemon::start("");
    let mut command = cpctl(&daemon.socket(), &["user", "add", "bob", "--password-stdin"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("cpctl");
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(SECRETS[0].as_bytes()).expect("it reads");
    // It has the password, and waits for the end of the line.
    let shown = wait_for("cpctl to run", || {
        let shown = std::fs::read(format!("/proc/{}/cmdline", child.id())).expect("it runs");
        shown.windows(6).any(|window| window == b"cpctl\0").then_some(shown)
    });
    assert!(!shown.is_empty());
    assert_eq!(shown_of(child.id(), SECRETS[0]), Vec::<&str>::new());
    drop(input);
    let mut said = String::new();
    child.stdout.take().expect("a pipe").read_to_string(&mut said).expect("text");
    assert!(child.wait().expect("it ends").success() && !said.contains(SECRETS[0]), "{said}");
    // It cannot be given as one either.
    for wrong in [["user", "add", "eve", SECRETS[0]], ["user", "passwd", "bob", SECRETS[0]]] {
        assert_eq!(run(&mut cpctl(&daemon.socket(), &wrong), "").code(), 2);
    }
    // The check fails for a program that is given one so.
    let mut twin = std::process::Command::new("sh");
    twin.args(["-c", "echo; read end", "sh", SECRETS[0]]).env("PASSWORD", SECRETS[0]);
    let mut twin = twin.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a shell");
    twin.stdout.take().expect("a pipe").read_exact(&mut [0]).expect("it runs");
    assert_eq!(shown_of(twin.id(), SECRETS[0]), ["cmdline", "environ"], "the twin passes");
    drop(twin.stdin.take());
    twin.wait().expect("it ends");
    println!("proof: passwords: none among arguments or in the environment; twin that is given one so: caught");
}

/// Where a secret is shown to whoever looks at the processes.
fn shown_of(pid: u32, secret: &str) -> Vec<&'static str> {
    let shows = |place: &&str| {
        let bytes = std::fs::read(format!("/proc/{pid}/{place}")).expect("it runs");
        bytes.windows(secret.len()).any(|window| window == secret.as_bytes())
    };
    ["cmdline", "environ"].into_iter().filter(shows).collect()
}

#[test]
fn there_is_no_core_file() {
    // As large as may be, whatever this test was started with.
    const ALLOWED: &str = "ulimit -S -c $(ulimit -H -c); exec \"$0\" \"$@\"";
    let daemon = Setup::new("").wrapped(&["sh", "-c", ALLOWED]).start();
    assert_eq!(core_limits(daemon.id()), ["0", "0"]);
    // A program that cores are piped to is not bound by the limit: what it gets has no memory in it.
    assert_eq!(core_filter(daemon.id()), 0);
    // The check fails for a program that leaves the limit as it is.
    let mut twin = std::process::Command::new("sh");
    twin.args(["-c", ALLOWED, "sh", "-c", "echo; read end"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut twin = twin.spawn().expect("a shell");
    twin.stdout.take().expect("a pipe").read_exact(&mut [0]).expect("it runs");
    let limits = core_limits(twin.id());
    assert_ne!(core_filter(twin.id()), 0, "the twin passes");
    drop(twin.stdin.take());
    twin.wait().expect("it ends");
    // Where nobody may have one the daemon was not tried.
    let caught = if limits == ["0", "0"] { "cannot be tried here" } else { "caught" };
    println!("proof: passwords: no core file of cpd; twin with limits of {}: {caught}", limits.join(" and "));
}

/// A cpd that holds passwords, a letter and a hash, and that leaves the limit of core files as it is, aborted, as a core
/// file: how often each of these is in it. `None`: here nobody gets one. `filter`: what is in it, as the cpd has it or otherwise.
fn core_of_a_busy_cpd(filter: Option<&str>) -> Option<Vec<usize>> {
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").expect("Linux");
    if pattern.starts_with(['|', '/']) {
        return None;
    }
    // Where cpd may write, so that nothing else keeps the file away.
    const THERE: &str = "ulimit -S -c $(ulimit -H -c); mkdir -p \"$2\"; cd \"$2\"; exec \"$0\" \"$@\"";
    let mut daemon = Setup::new("").wrapped(&["sh", "-c", THERE]).sabotaged(Fault::CoreAllowed).start();
    let [control, wire, ..] = SECRETS;
    daemon.add_user("bob", wire);
    let mut reader = daemon.connect();
    reader.logs_in("bob", wire);
    reader.asks("SMSG bob:rN8-letter-Gh5", "240 ");
    reader.asks("RMSG", "RMSGbob:rN8-letter-Gh5");
    // Passwords whose end has not come.
    let mut waiting: Vec<_> = (0..20).map(|_| daemon.connect()).collect();
    for client in &mut waiting {
        client.asks("USER bob", "220 ");
        client.begins(&format!("PASS {control}"));
    }
    daemon.connect().asks("USER eve", "220 ");
    let pid = daemon.id();
    if let Some(filter) = filter {
        std::fs::write(format!("/proc/{pid}/coredump_filter"), filter).expect("ours");
    }
    daemon.signal(rustix::process::Signal::ABORT);
    daemon.ends();
    let folder = std::fs::read_dir(daemon.folder.path().join("data")).expect("a folder");
    let mut files = folder.map(|entry| entry.expect("an entry").path());
    let core = files.find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("core")))?;
    let bytes = std::fs::read(core).expect("a core");
    assert!(bytes.starts_with(b"\x7fELF"), "no core");
    let times = |text: &str| bytes.windows(text.len()).filter(|window| *window == text.as_bytes()).count();
    // The beginning of each hash in the store: its second part is the version, its third the costs.
    Some([control, "rN8-letter-Gh5", "$argon2id$v=19$m="].map(times).to_vec())
}

#[test]
fn a_core_has_nothing_in_it() {
    match (core_of_a_busy_cpd(None), core_of_a_busy_cpd(Some("0x33"))) {
        (Some(own), Some(twin)) => {
            assert_eq!(own, [0, 0, 0]);
            assert!(twin.iter().all(|times| *times > 0), "the twin passes: {twin:?}");
            println!(
                "proof: passwords: a core of a busy cpd with its limits lifted: 0 of 22 secrets; twin with memory in it: caught"
            );
        }
        found => {
            assert_eq!(found, (None, None));
            println!("not tried: nobody gets a core file here");
        }
    }
}

/// Which kinds of memory a core has, core(5).
fn core_filter(pid: u32) -> u64 {
    let filter = std::fs::read_to_string(format!("/proc/{pid}/coredump_filter")).expect("ours");
    u64::from_str_radix(filter.trim(), 16).expect("a number")
}

fn core_limits(pid: u32) -> Vec<String> {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("ours");
    let core = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).expect("a limit");
    core.split_whitespace().take(2).map(str::to_owned).collect()
}
