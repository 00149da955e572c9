//! What the log says of logins, and what it never says.

use std::io::Write;
use std::net::{Shutdown, TcpStream};

use rustix::process::Signal;

use super::running::{Daemon, PATIENCE};

#[test]
fn a_failed_login_is_one_line_that_a_log_watcher_can_act_on() {
    let daemon = Daemon::start("");
    daemon.add_user("bob", "hunter2");
    for name in ["bob", "nobody"] {
        let mut client = daemon.connect();
        client.asks(&format!("USER {name}"), "220 ");
        client.asks("PASS wrong", "565 ");
        daemon.waits_for_log(&format!(" warn auth failure user={name} addr=127."));
    }
    daemon.connect().logs_in("bob", "hunter2");
    daemon.waits_for_log(" info login user=bob addr=127.");
    let log = daemon.log();
    // No more than the protocol tells: the two failures differ in name and port alone.
    let shapes = log.lines().filter(|line| line.contains("auth failure")).map(|line| {
        let fields = line.split(' ').skip(1).filter(|field| !field.starts_with("user=") && !field.starts_with("port="));
        fields.collect::<Vec<_>>()
    });
    let shapes: Vec<_> = shapes.collect();
    assert!(shapes.len() == 2 && shapes[0] == shapes[1], "{log}");
}

#[test]
fn no_byte_of_a_client_acts_on_who_reads_the_log() {
    let daemon = Daemon::start("log.level = \"debug\"\n");
    daemon.add_user("bob", "hunter2");
    let lines: [&[u8]; 6] = [
        b"USER b\x1b[2Job\n",
        b"USER bob\x00\nPASS x\x1b]0;owned\x07\n",
        b"USER bob\nPASS \x1b[31mred\n",
        b"USER bob\nPASS \xc2\x9b31m\xe2\x80\xae\n",
        b"\x1b[2J\x1b[H\nUSER bob addr=1.2.3.4\n",
        b"USER bob\nPASS a\rauth failure user=alice\n",
    ];
    for bytes in lines {
        let mut client = TcpStream::connect(daemon.address()).expect("connected");
        client.set_read_timeout(Some(PATIENCE)).expect("set");
        client.write_all(bytes).expect("sent");
        client.shutdown(Shutdown::Write).expect("shut down");
        std::io::copy(&mut client, &mut std::io::sink()).expect("until the server closes");
    }
    daemon.connect().logs_in("bob", "hunter2");
    daemon.waits_for_log(" info login ");
    let log = daemon.log();
    assert!(log.chars().all(|c| c == '\n' || !c.is_control()), "{log:?}");
    assert!(!log.contains('\u{202e}') && !log.contains("user=alice") && !log.contains("1.2.3.4"), "{log}");
    assert!(log.contains("auth failure user=bob"), "{log}");
}

#[test]
fn a_password_is_nowhere() {
    let mut daemon = Daemon::start("log.level = \"debug\"\n");
    let secrets = ["Tr0ub4dor", "c0rrecth0rse", "st4ple", "b4ttery"];
    daemon.add_user("bob", secrets[0]);
    let mut bob = daemon.connect();
    bob.logs_in("bob", secrets[0]);
    bob.asks(&format!("PASS {}", secrets[0]), "500 ");
    let mut other = daemon.connect();
    other.asks("USER bob", "220 ");
    other.asks(&format!("PASS {}", secrets[1]), "565 ");
    other.asks(&format!("PASS {}", secrets[1]), "500 ");
    other.asks(&format!("USER {}{}", secrets[1], secrets[1]), "560 ");
    daemon.cpctl(&["user", "passwd", "bob", "--password-stdin"], &format!("{}\n", secrets[2]));
    bob.is_closed();
    daemon.connect().logs_in("bob", secrets[2]);
    // A password where the control protocol has no place for one.
    let strange = format!("{{\"v\":1,\"cmd\":\"status\",\"password\":\"{}\"}}\n", secrets[3]);
    let mut socket = std::os::unix::net::UnixStream::connect(daemon.socket()).expect("connected");
    socket.write_all(strange.as_bytes()).expect("sent");
    socket.shutdown(Shutdown::Write).expect("shut down");
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut socket, &mut answer).expect("an answer");
    assert!(answer.contains("'password'") && !answer.contains(secrets[3]), "{answer}");

    daemon.signal(Signal::TERM);
    daemon.ends();
    let log = daemon.log();
    let store = std::fs::read(daemon.store()).expect("a store");
    for secret in secrets {
        assert!(!log.contains(secret), "{log}");
        assert!(!store.windows(secret.len()).any(|window| window == secret.as_bytes()), "{secret} is in the store");
    }
}

#[test]
fn what_an_administrator_changes_is_logged_with_who_did_it() {
    let daemon = Daemon::start("");
    daemon.add_user("bob", "hunter2");
    daemon.cpctl(&["user", "lock", "bob"], "");
    let uid = nix::unistd::geteuid();
    for command in ["user.add", "user.lock"] {
        daemon.waits_for_log(&format!(" info admin cmd={command} user=bob uid={uid} pid="));
    }
}
