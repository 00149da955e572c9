//! Restarts that no client notices: a real cpd, stopped and started again by a stand-in for the service manager
//! (tests/succession/manager.py) that keeps the listening socket and the descriptor store.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use cpd_testing::running;
use cpd_testing::succession::crowd;
use crowd::{Crowd, Mix, PASSWORD, users};

const PATIENCE: Duration = Duration::from_secs(30);
/// In the crowd: some of each role.
const CLIENTS: usize = 300;

struct Manager {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    folder: tempfile::TempDir,
    address: String,
}

impl Manager {
    fn start() -> Manager {
        let address = running::next_address();
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("cpd.toml");
        let text = "[auth]\nmemory_kib = 8\niterations = 1\n[limits]\nfailures_per_address = 3\n\
                    queue_messages = 1000000\nqueue_messages_per_sender = 1000000\nmessages_per_sender = 1000000\nmessages_per_sender_minute = 10000000\nmessage_age = \"365d\"\n";
        std::fs::write(&config, text).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/succession/manager.py");
        let mut command = Command::new("python3");
        command.arg(script).arg(env!("CARGO_BIN_EXE_cpd")).arg(folder.path()).arg(&config);
        command.arg(address.ip().to_string()).arg(address.port().to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("python3, from the package of that name");
        let (orders, answers) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        let mut manager = Manager { child, orders, answers, folder, address: address.to_string() };
        assert_eq!(manager.answer(), "ready");
        manager
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim_end().to_string()
    }

    fn order(&mut self, what: &str) {
        writeln!(self.orders.as_mut().unwrap(), "{what}").unwrap();
        assert_eq!(self.answer(), "ready 0", "the store is empty again when the successor is ready");
    }

    fn add_user(&self, name: &str) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cpctl"));
        command.arg("--socket").arg(self.folder.path().join("control.sock")).args(["user", "add", name]);
        let mut child = command.arg("--password-stdin").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(format!("{PASSWORD}\n").as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
    }

    /// What cpctl tells in JSON.
    fn cpctl(&self, arguments: &[&str]) -> serde_json::Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cpctl"));
        command.arg("--socket").arg(self.folder.path().join("control.sock")).args(arguments);
        serde_json::from_slice(&command.output().unwrap().stdout).unwrap()
    }

    /// When the only session began, and how many seconds old it is, as cpctl tells.
    fn only_session(&self) -> (jiff::Timestamp, i64) {
        let sessions = self.cpctl(&["--json", "session", "list"]);
        let since: jiff::Timestamp = sessions[0]["since"].as_str().unwrap().parse().unwrap();
        (since, jiff::Timestamp::now().as_second() - since.as_second())
    }

    fn client(&self) -> Client {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client { reader: BufReader::new(stream.try_clone().unwrap()), stream }
    }

    fn logged_in(&self, name: &str) -> Client {
        let mut client = self.client();
        client.says(&format!("USER{name}\r\nPASS{PASSWORD}\r\n"));
        client.hears("220");
        client.hears("230");
        client
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        drop(self.orders.take());
        let _ = self.child.wait();
    }
}

struct Client {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Client {
    fn says(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap();
    }

    fn hears(&mut self, beginning: &str) {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        assert!(line.starts_with(beginning), "expected {beginning}, got {line:?}");
    }

    fn hears_nothing_but_the_end(mut self, order: &str) {
        let mut said = Vec::new();
        let _ = self.stream.write_all(b"RMSG\r\n");
        if let Err(error) = self.reader.read_to_end(&mut said) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{order}: the connection is open");
        }
        assert_eq!(said.escape_ascii().to_string(), "", "{order}: the connection is closed");
    }
}

#[test]
fn no_client_notices_a_restart_whatever_its_state() {
    let mut manager = Manager::start();
    ["alice", "bob", "carol"].iter().for_each(|name| manager.add_user(name));
    let mut idle = manager.client();
    let mut named = manager.client();
    named.says("USERbob\r\n");
    named.hears("220");
    let mut half = manager.logged_in("alice");
    half.says("SMSGbob:half a mess");
    let mut in_error = manager.logged_in("alice");
    in_error.says("SMSGbob\r\n");
    in_error.hears("540");
    let mut sender = manager.logged_in("alice");
    sender.says("SMSGbob:one\r\nSMSGbob:two\r\nSMSGbob:three\r\n");
    (0..3).for_each(|_| sender.hears("240"));
    let mut loading = manager.logged_in("bob");
    loading.says("RMSG2\r\n");
    loading.hears("RMSGalice:one");
    loading.hears("RMSGalice:two");
    let mut waiting = manager.logged_in("carol");
    waiting.says("WMSG200\r\n");

    for _ in 0..3 {
        manager.order("restart");
        sender.says("NOOP\r\n");
        sender.hears("500");
    }

    idle.says("NOOP\r\n");
    idle.hears("500");
    named.says("PASSsecret-1\r\n");
    named.hears("230");
    half.says("age\r\n");
    half.hears("240");
    in_error.says("RMSG\r\n201\r\n");
    in_error.hears("500");
    in_error.hears("201");
    named.says("RMSG\r\n");
    named.hears("256");
    loading.says("250\r\n");
    loading.hears("RMSGalice:three");
    manager.order("restart");
    loading.says("250\r\n250\r\n");
    loading.hears("255");
    sender.says("SMSGcarol:wake up\r\n");
    sender.hears("240");
    waiting.hears("RMSGalice:wake up");
    manager.order("restart");
    waiting.says("250\r\nTERM\r\n");
    waiting.hears("255");
    let mut rest = String::new();
    waiting.reader.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "", "the connection ends although a manager had held it");
    named.says("RMSG\r\n");
    named.hears("RMSGalice:half a message");
}

#[test]
fn a_crowd_in_every_state_goes_through_restarts() {
    let mut manager = Manager::start();
    users(Mix::Every, CLIENTS).iter().for_each(|name| manager.add_user(name));
    let mut crowd = Crowd::new(manager.address.parse().unwrap(), Mix::Every, CLIENTS);
    for _ in 0..3 {
        crowd.restart(|| manager.order("restart"));
    }
    let figures = crowd.finish();
    assert!(figures.counts.delivered > 500 && !figures.newcomers.is_empty(), "{figures:?}");
}

#[test]
#[should_panic(expected = "the connection is")]
fn a_crowd_notices_connections_that_are_not_handed_over() {
    let mut manager = Manager::start();
    users(Mix::Every, 20).iter().for_each(|name| manager.add_user(name));
    Crowd::new(manager.address.parse().unwrap(), Mix::Every, 20).restart(|| manager.order("kill"));
}

#[test]
fn a_restart_is_no_way_to_guess_faster() {
    let mut manager = Manager::start();
    manager.add_user("bob");
    for _ in 0..3 {
        let mut guesser = manager.client();
        guesser.says("USERbob\r\nPASSwrong\r\n");
        guesser.hears("220");
        guesser.hears("565");
    }
    manager.order("restart");
    let mut guesser = manager.client();
    guesser.says("USERbob\r\nPASSsecret-1\r\n");
    guesser.hears("220");
    guesser.hears("565");
}

#[test]
fn a_connection_keeps_its_age() {
    let mut manager = Manager::start();
    let mut client = manager.client();
    client.says("NOOP\r\n");
    client.hears("500");
    let (since, _) = running_since(&manager, 4);
    let begun = Instant::now();
    manager.order("restart");
    let (again, age) = manager.only_session();
    // Both are cut to seconds, and nobody's age grows between two processes.
    let later = again.as_second() - since.as_second();
    let most = 1 + begun.elapsed().as_secs() as i64;
    assert!((-1..=most).contains(&later) && age >= 3, "{since} became {again}");
}

/// Waits until the only session is so many seconds old.
fn running_since(manager: &Manager, seconds: i64) -> (jiff::Timestamp, i64) {
    loop {
        let session = manager.only_session();
        if session.1 >= seconds {
            return session;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_crash_closes_connections_and_keeps_messages() {
    let mut manager = Manager::start();
    manager.add_user("bob");
    let mut client = manager.logged_in("bob");
    client.says("SMSGbob:kept\r\n");
    client.hears("240");
    manager.order("kill");
    let mut rest = Vec::new();
    let _ = client.reader.read_to_end(&mut rest);
    assert_eq!(rest, b"");
    let mut client = manager.logged_in("bob");
    client.says("RMSG\r\n250\r\n");
    client.hears("RMSGbob:kept");
    client.hears("255");
}

/// Messages that a client had sent and cpd not read are stored by the successor, before it has gone round once.
#[test]
fn what_a_successor_finds_unread_is_stamped_with_its_own_time() {
    const PIPELINED: usize = 20_000;
    let mut manager = Manager::start();
    ["alice", "bob"].iter().for_each(|name| manager.add_user(name));
    let mut sender = manager.logged_in("alice");
    let mut writer = sender.stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || writer.write_all(&b"SMSGbob:when is it\r\n".repeat(PIPELINED)).unwrap());
    sender.hears("240");
    manager.order("restart");
    manager.order("restart");
    (1..PIPELINED).for_each(|_| sender.hears("240"));
    writing.join().unwrap();
    let messages = manager.cpctl(&["--json", "queue", "show", "bob"]);
    let stamps = messages.as_array().unwrap().iter().map(|message| message["queued_at"].as_str().unwrap());
    let mut stamps: Vec<jiff::Timestamp> = stamps.map(|stamp| stamp.parse().unwrap()).collect();
    stamps.sort();
    assert_eq!(stamps.len(), PIPELINED, "none has expired");
    assert!(jiff::Timestamp::now().as_second() - stamps[0].as_second() < 3600, "{}", stamps[0]);
}

/// As a crash in the middle of a stop leaves it: nobody is given the session of somebody else.
#[test]
fn what_is_left_twice_or_by_halves_is_closed_and_never_mixed() {
    for order in ["leftover", "half", "swapped", "partial"] {
        let mut manager = Manager::start();
        manager.add_user("bob");
        let mut bob = manager.logged_in("bob");
        bob.says("SMSGbob:for bob alone\r\n");
        bob.hears("240");
        manager.order("restart");
        bob.says("TERM\r\n");
        let mut rest = String::new();
        bob.reader.read_to_string(&mut rest).unwrap();
        let mut stranger = manager.client();
        stranger.says("NOOP\r\n");
        stranger.hears("500");
        manager.order(order);
        stranger.hears_nothing_but_the_end(order);
        // And the next restart finds nothing of it.
        let mut bob = manager.logged_in("bob");
        manager.order("restart");
        bob.says("RMSG\r\n250\r\n");
        bob.hears("RMSGbob:for bob alone");
        bob.hears("255");
    }
}

/// What is left nobody can change on the way to the successor, who takes what could have been changed from 0.2.0 alone.
#[test]
fn the_records_that_are_left_are_sealed() {
    let mut manager = Manager::start();
    manager.add_user("bob");
    let mut bob = manager.logged_in("bob");
    for order in ["change", "old", "restart"] {
        manager.order(order);
        bob.says("SMSGbob:for bob alone\r\n");
        bob.hears("240");
    }
    manager.order("unsealed");
    bob.hears_nothing_but_the_end("unsealed");
    manager.logged_in("bob");
}

/// A limit lowered between two starts: what fits is kept, whoever cannot be taken up hears so at once, and the next client
/// is served.
#[test]
fn of_more_connections_than_descriptors_those_that_fit_are_kept() {
    let mut manager = Manager::start();
    manager.add_user("bob");
    let mut strangers: Vec<Client> = (0..100).map(|_| manager.client()).collect();
    // They are accepted in the order in which they came.
    let last = strangers.last_mut().unwrap();
    last.says("NOOP\r\n");
    last.hears("500");
    manager.order("fewer");
    let mut kept = Vec::new();
    for mut stranger in strangers {
        // Who was closed may see a reset.
        let _ = stranger.stream.write_all(b"NOOP\r\n");
        let mut line = String::new();
        if stranger.reader.read_line(&mut line).is_ok_and(|length| length > 0) {
            assert!(line.starts_with("500"), "{line}");
            kept.push(stranger);
        }
    }
    // Half of the descriptors that it may have: manager.py's FEWER.
    assert_eq!(kept.len(), 32);
    // It has no place for one more until some of them go.
    kept.truncate(20);
    let begun = Instant::now();
    loop {
        let mut client = manager.client();
        client.says("NOOP\r\n");
        let mut line = String::new();
        let refused = client.reader.read_line(&mut line).is_err() || !line.starts_with("500 bad command");
        if !refused && manager.cpctl(&["--json", "status"])["connections"].as_u64() < Some(30) {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{line}");
    }
    manager.logged_in("bob");
}
