//! Sockets that are handed over, by systemd's own `systemd-socket-activate`, with the names that the units give them.

use std::net::{SocketAddrV4, TcpStream};
use std::path::PathBuf;

use super::running::{Client, Daemon, Setup, answers, cpctl, need, next_address, run, wait_for};
use super::units::Unit;

/// A cpd behind `systemd-socket-activate`, which listens from its start and becomes cpd at the first connection.
pub struct Activated {
    pub daemon: Daemon,
    pub address: SocketAddrV4,
    pub control: PathBuf,
}

impl Activated {
    /// Hands over a TCP socket and a Unix socket as `names`, with `environment` (`NAME=value`) for cpd.
    pub fn start(names: &str, settings: &str, environment: &[String]) -> Activated {
        need("systemd-socket-activate", "systemd");
        let folder = tempfile::tempdir().expect("a folder");
        let (address, control) = (next_address(), folder.path().join("handed.sock"));
        let (first, second) = (format!("--listen={address}"), format!("--listen={}", control.display()));
        let names = format!("--fdname={names}");
        let environment: Vec<String> = environment.iter().map(|one| format!("--setenv={one}")).collect();
        let mut wrapper = vec!["systemd-socket-activate", &first, &second, &names];
        wrapper.extend(environment.iter().map(String::as_str));
        let daemon = Setup::new(settings).listen(next_address()).in_folder(folder).wrapped(&wrapper).launch();
        wait_for("the sockets", || daemon.log().contains(&format!("Listening on {}", control.display())).then_some(()));
        Activated { daemon, address, control }
    }

    /// What it wrote at its start, which the first connection brought about.
    #[track_caller]
    fn log(&self) -> String {
        self.daemon.waits_for_log(" started ");
        self.daemon.log()
    }
}

/// `cp:control`, as the units say.
pub fn names_of_the_units() -> String {
    let name = |unit: &str| Unit::read(unit).one("Socket", "FileDescriptorName").to_owned();
    format!("{}:{}", name("cpd.socket"), name("cpd-control.socket"))
}

#[test]
fn a_client_and_an_administrator_are_served_over_them() {
    let activated = Activated::start(&names_of_the_units(), "", &[]);
    // The first connection starts cpd; it is answered like any other.
    let mut bob = Client::connect(activated.address);
    bob.asks("USER bob", "220 ");
    let add = |name: &str, password: &str| {
        let arguments = ["user", "add", name, "--password-stdin"];
        let ended = run(&mut cpctl(&activated.control, &arguments), &format!("{password}\n"));
        assert_eq!(ended.code(), 0, "{ended:?}");
    };
    add("bob", "hunter2");
    bob.asks("PASS hunter2", "230 ");
    bob.asks("SMSG bob:to myself", "240 ");
    bob.asks("RMSG", "RMSGbob:to myself");
    bob.asks("250", "255 ");

    let log = activated.log();
    let started = log.lines().find(|line| line.contains(" started ")).expect("it serves");
    let (address, control) = (activated.address, activated.control.display());
    assert!(started.contains(&format!(" cp={address} control={control} ")), "{started}");
    // The socket is the manager's to remove.
    let control = activated.control.clone();
    let _folder = activated.daemon.stop();
    assert!(control.exists());
}

#[test]
fn an_administrators_connection_starts_it_as_well() {
    let activated = Activated::start(&names_of_the_units(), "", &[]);
    let ended = run(&mut cpctl(&activated.control, &["user", "list"]), "");
    assert_eq!(ended.code(), 0, "{ended:?}");
    Client::connect(activated.address).asks("USER bob", "220 ");
}

#[test]
fn what_is_handed_over_is_not_bound_from_the_configuration() {
    let activated = Activated::start(&names_of_the_units(), "", &[]);
    Client::connect(activated.address).asks("USER bob", "220 ");
    let configured = activated.daemon.address();
    assert!(TcpStream::connect(configured).is_err(), "{configured} is bound");
    assert!(!answers(&activated.daemon.socket()) && !activated.daemon.socket().exists());
    let (used, socket) = (activated.address, activated.daemon.socket());
    let log = activated.log();
    assert!(log.contains(&format!(" key=listen.cp configured={configured} used={used}\n")), "{log}");
    let control = activated.control.display();
    assert!(log.contains(&format!(" key=control.socket configured={} used={control}\n", socket.display())), "{log}");
}

#[test]
fn a_kind_that_is_not_handed_over_is_bound() {
    let activated = Activated::start("cp:control", "listen.classic = [\"127.0.0.1:0\"]\n", &[]);
    Client::connect(activated.address).asks("USER bob", "220 ");
    Client::connect(activated.daemon.classic_address()).asks("USER bob", "220 ");

    // The control socket is the configuration's where both sockets are for clients, or of an unknown name.
    let activated = Activated::start("cp:other", "", &[]);
    Client::connect(activated.address).asks("USER bob", "220 ");
    assert!(answers(&activated.daemon.socket()));
    assert!(activated.log().contains("inherited socket closed name=other"), "{}", activated.log());
}

#[test]
fn a_socket_that_is_not_what_its_name_says_is_refused() {
    for (names, wrong) in [("control:cp", "control"), ("cp:cp", "cp"), ("control:control", "control")] {
        let mut activated = Activated::start(names, "", &[]);
        let _wakes = TcpStream::connect(activated.address).expect("it listens");
        assert_eq!(activated.daemon.ends().code(), Some(78), "{names}");
        let log = activated.daemon.log();
        let cause = log.lines().find(|line| line.starts_with("cpd: ")).unwrap_or_else(|| panic!("{names}: {log}"));
        assert!(cause.contains(&format!("handed over as \"{wrong}\"")), "{cause}");
    }
}
