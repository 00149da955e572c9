//! Restarts that no client notices: a real cpd, stopped and started again by a stand-in for the service manager
//! (tests/succession/manager.py) that keeps the listening socket and the descriptor store.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use cpd_core::sabotage::Fault;
use cpd_testing::memory::{copies, processes, tail};
use cpd_testing::running::{CHEAP, Client, PATIENCE, cpctl, run, wait_for};
use cpd_testing::sabotaged;
use cpd_testing::succession::crowd;
use crowd::{Crowd, Mix, PASSWORD, users};

/// In the crowd: some of each role.
const CLIENTS: usize = 300;
/// Room for what the crowd sends, of any age.
const SETTINGS: &str = "[limits]\nfailures_per_address = 3\nqueue_messages = 1000000\n\
                        queue_messages_per_sender = 1000000\nmessages_per_sender = 1000000\n\
                        messages_per_sender_minute = 10000000\nmessage_age = \"365d\"\n";

struct Manager {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    folder: tempfile::TempDir,
    address: SocketAddrV4,
}

impl Manager {
    fn start() -> Manager {
        Manager::of(Path::new(env!("CARGO_BIN_EXE_cpd")), &[])
    }

    /// A manager of another cpd, with these in its environment.
    fn of(program: &Path, environment: &[(&str, &str)]) -> Manager {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("cpd.toml");
        std::fs::write(&config, format!("{CHEAP}{SETTINGS}")).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/succession/manager.py");
        let mut command = Command::new("python3");
        command.arg(script).arg(program).arg(folder.path()).arg(&config).envs(environment.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("python3, from the package of that name");
        let (orders, answers) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
        let mut manager = Manager { child, orders, answers, folder, address };
        let answer = manager.answer();
        let port = answer.strip_prefix("ready ").and_then(|port| port.parse().ok());
        manager.address.set_port(port.unwrap_or_else(|| panic!("{answer}")));
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

    fn socket(&self) -> PathBuf {
        self.folder.path().join("control.sock")
    }

    fn add_user(&self, name: &str) {
        let mut command = cpctl(&self.socket(), &["user", "add", name, "--password-stdin"]);
        let ended = run(&mut command, &format!("{PASSWORD}\n"));
        assert!(ended.status.success(), "{ended:?}");
    }

    /// What cpctl tells in JSON.
    fn cpctl(&self, arguments: &[&str]) -> serde_json::Value {
        serde_json::from_str(&run(&mut cpctl(&self.socket(), arguments), "").stdout).unwrap()
    }

    /// When the only session began, and how many seconds old it is, as cpctl tells.
    fn only_session(&self) -> (jiff::Timestamp, i64) {
        let sessions = self.cpctl(&["--json", "session", "list"]);
        let since: jiff::Timestamp = sessions[0]["since"].as_str().unwrap().parse().unwrap();
        (since, jiff::Timestamp::now().as_second() - since.as_second())
    }

    fn client(&self) -> Client {
        Client::connect(self.address)
    }

    fn logged_in(&self, name: &str) -> Client {
        let mut client = self.client();
        client.logs_in(name, PASSWORD);
        client
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        drop(self.orders.take());
        let _ = self.child.wait();
    }
}

fn hears_nothing_but_the_end(mut client: Client, order: &str) {
    // It may be closed already.
    client.says("RMSG");
    let (said, end) = client.rest();
    if let Err(error) = end {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{order}: the connection is open");
    }
    assert_eq!(said, "", "{order}: the connection is closed");
}

/// What is left in a successor's memory of a password that crossed the restart in two pieces and of one that came behind
/// a login, once nobody is connected any more.
fn passwords_left(mut manager: Manager) -> usize {
    const SECRETS: [&str; 2] = ["qN4-inhalves-J8", "rV7-readbuf-Xw2"];
    manager.add_user("alice");
    let mut half = manager.client();
    half.asks("USERalice", "220");
    half.begins(&format!("PASS {}", SECRETS[0]));
    // Whoever comes later is served later.
    manager.client().asks("USERbob", "220");
    manager.order("restart");
    half.send("");
    half.hears("565");
    let mut whole = manager.client();
    whole.asks("USERalice", "220");
    whole.asks(&format!("PASS {}", SECRETS[1]), "565");
    drop((half, whole));
    wait_for("the connections to go", || (manager.cpctl(&["--json", "status"])["connections"] == 0).then_some(()));
    let cpds = processes("cpd", &manager.folder.path().to_string_lossy());
    assert_eq!(cpds.len(), 1, "{cpds:?}");
    assert!(!copies(cpds[0], b"control.sock").is_empty(), "the search finds nothing at all");
    SECRETS.iter().map(|secret| copies(cpds[0], tail(secret).as_bytes()).len()).sum()
}

#[test]
fn nothing_is_left_of_a_password_that_was_handed_over() {
    assert_eq!(passwords_left(Manager::start()), 0);
    let order = [("CPD_SABOTAGE", Fault::ForgottenWipe.name())];
    assert!(passwords_left(Manager::of(&sabotaged::program(), &order)) > 0, "the sabotaged version was not detected");
    println!("proof: passwords: none left of those that were handed over; twin forgotten-wipe: caught");
}

#[test]
fn no_client_notices_a_restart_whatever_its_state() {
    let mut manager = Manager::start();
    ["alice", "bob", "carol"].iter().for_each(|name| manager.add_user(name));
    let mut idle = manager.client();
    let mut named = manager.client();
    named.asks("USERbob", "220");
    let mut half = manager.logged_in("alice");
    half.begins("SMSGbob:half a mess");
    let mut in_error = manager.logged_in("alice");
    in_error.asks("SMSGbob", "540");
    let mut sender = manager.logged_in("alice");
    sender.send("SMSGbob:one\r\nSMSGbob:two\r\nSMSGbob:three");
    (0..3).for_each(|_| sender.hears("240"));
    let mut loading = manager.logged_in("bob");
    loading.asks("RMSG2", "RMSGalice:one");
    loading.hears("RMSGalice:two");
    let mut waiting = manager.logged_in("carol");
    waiting.send("WMSG200");

    for _ in 0..3 {
        manager.order("restart");
        sender.asks("NOOP", "500");
    }

    idle.asks("NOOP", "500");
    named.asks("PASSsecret-1", "230");
    half.asks("age", "240");
    in_error.asks("RMSG\r\n201", "500");
    in_error.hears("201");
    named.asks("RMSG", "256");
    loading.asks("250", "RMSGalice:three");
    manager.order("restart");
    loading.asks("250\r\n250", "255");
    sender.asks("SMSGcarol:wake up", "240");
    waiting.hears("RMSGalice:wake up");
    manager.order("restart");
    waiting.asks("250\r\nTERM", "255");
    let (rest, end) = waiting.rest();
    end.unwrap();
    assert_eq!(rest, "", "the connection ends although a manager had held it");
    named.asks("RMSG", "RMSGalice:half a message");
}

#[test]
fn a_crowd_in_every_state_goes_through_restarts() {
    let mut manager = Manager::start();
    users(Mix::Every, CLIENTS).iter().for_each(|name| manager.add_user(name));
    let mut crowd = Crowd::new(manager.address, Mix::Every, CLIENTS);
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
    Crowd::new(manager.address, Mix::Every, 20).restart(|| manager.order("kill"));
}

#[test]
fn a_restart_is_no_way_to_guess_faster() {
    let mut manager = Manager::start();
    manager.add_user("bob");
    for _ in 0..3 {
        let mut guesser = manager.client();
        guesser.asks("USERbob\r\nPASSwrong", "220");
        guesser.hears("565");
    }
    manager.order("restart");
    let mut guesser = manager.client();
    guesser.asks("USERbob\r\nPASSsecret-1", "220");
    guesser.hears("565");
}

#[test]
fn a_connection_keeps_its_age() {
    let mut manager = Manager::start();
    let mut client = manager.client();
    client.asks("NOOP", "500");
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
    client.asks("SMSGbob:kept", "240");
    manager.order("kill");
    client.is_closed();
    let mut client = manager.logged_in("bob");
    client.asks("RMSG\r\n250", "RMSGbob:kept");
    client.hears("255");
}

/// Messages that a client had sent and cpd not read are stored by the successor, before it has gone round once.
#[test]
fn what_a_successor_finds_unread_is_stamped_with_its_own_time() {
    const PIPELINED: usize = 20_000;
    let mut manager = Manager::start();
    ["alice", "bob"].iter().for_each(|name| manager.add_user(name));
    let mut sender = manager.logged_in("alice");
    let mut writer = sender.stream().try_clone().unwrap();
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
        bob.asks("SMSGbob:for bob alone", "240");
        manager.order("restart");
        bob.send("TERM");
        bob.rest().1.unwrap();
        let mut stranger = manager.client();
        stranger.asks("NOOP", "500");
        manager.order(order);
        hears_nothing_but_the_end(stranger, order);
        // And the next restart finds nothing of it.
        let mut bob = manager.logged_in("bob");
        manager.order("restart");
        bob.asks("RMSG\r\n250", "RMSGbob:for bob alone");
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
        bob.asks("SMSGbob:for bob alone", "240");
    }
    manager.order("unsealed");
    hears_nothing_but_the_end(bob, "unsealed");
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
    last.asks("NOOP", "500");
    manager.order("fewer");
    let mut kept = Vec::new();
    for mut stranger in strangers {
        // Who was closed may see a reset.
        stranger.says("NOOP");
        if let Some(line) = stranger.line_within(PATIENCE).filter(|line| !line.is_empty()) {
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
        client.send("NOOP");
        let line = client.line_within(PATIENCE).unwrap_or_default();
        let refused = !line.starts_with("500 bad command");
        if !refused && manager.cpctl(&["--json", "status"])["connections"].as_u64() < Some(30) {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{line}");
    }
    manager.logged_in("bob");
}
