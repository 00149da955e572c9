//! Peers that mean harm, against a real cpd: they do not read, write a byte now and then, reset, flood and pipeline, and
//! the others are served. What needs root or minutes is in tests/proof/peers.

mod fairness;
mod floods;

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::mpsc::channel;
use std::time::Duration;

use cpd_testing::environment::number;
use cpd_testing::{findings, ledger, resets, running, slow, wire};
use findings::{Wrong, caught};
use running::{Daemon, PATIENCE};
use rustix::process::Signal;

/// How long a twin's checker waits for what a broken cpd does not do.
const TWIN_PATIENCE: Duration = Duration::from_secs(5);

#[test]
fn who_does_not_read_is_closed_and_costs_little() {
    let figures = slow::readers(&Daemon::start("timeouts.write = \"1s\"\n"), PATIENCE).expect("bounded");
    // The check fails where nothing ends them.
    let without = Daemon::start("timeouts.write = \"1d\"\n");
    let twin = caught(slow::readers(&without, TWIN_PATIENCE), &[Wrong::NotEnded]);
    println!("proof: slow readers: {figures}; twin without the timeout: {twin}");
}

#[test]
fn what_a_kernel_keeps_by_itself_is_noticed() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, listener.local_addr().expect("an address").port());
    let _client = TcpStream::connect(address).expect("connects");
    let (mut served, _) = listener.accept().expect("a client");
    served.set_nonblocking(true).expect("set");
    while served.write(&[b'x'; 65536]).is_ok() {}
    let kept = slow::most_in_the_kernel(address);
    assert!(kept > slow::KERNEL_BYTES, "{kept} bytes of {} would not be noticed", slow::KERNEL_BYTES);
}

#[test]
fn a_byte_now_and_then_does_not_prolong_a_login() {
    const SETTINGS: &str = "limits.connections_per_address = 10000\ntimeouts.pdu = \"500ms\"\n";
    let writers = number("WRITERS").unwrap_or(1000) as usize;
    assert!(wire::raise_file_limit() as usize > writers + 100, "ulimit -n is too low for {writers} connections");
    let login = Duration::from_secs(3);
    let daemon = Daemon::start(&format!("{SETTINGS}timeouts.login = \"3s\"\n"));
    let figures = slow::writers(&daemon, writers, login, PATIENCE).expect("the deadline holds");
    let without = Daemon::start(&format!("{SETTINGS}timeouts.login = \"1d\"\n"));
    let twin = caught(slow::writers(&without, 100, login, TWIN_PATIENCE), &[Wrong::NotEnded]);
    println!("proof: a byte now and then: {figures}; twin without the deadline: {twin}");
}

#[test]
fn a_late_end_and_a_slow_login_are_noticed() {
    let login = Duration::from_secs(3);
    let on_time = |count: u64| (0..count).map(|n| login + Duration::from_millis(n)).collect::<Vec<_>>();
    let quick = vec![Duration::from_millis(20); 200];
    let seen = |lives: &[Duration], logins: &[Duration]| slow::Seen {
        writers: 100,
        lives: lives.to_vec(),
        logins: logins.to_vec(),
    };
    slow::judge(seen(&on_time(100), &quick), login).expect("this is right");
    let early = [on_time(99), vec![login - Duration::from_millis(300)]].concat();
    let early = caught(slow::judge(seen(&early, &quick), login), &[Wrong::Early]);
    let late = [on_time(99), vec![login * 3]].concat();
    let late = caught(slow::judge(seen(&late, &quick), login), &[Wrong::Late]);
    let slow = [quick[3..].to_vec(), vec![Duration::from_millis(1001); 3]].concat();
    let slow = caught(slow::judge(seen(&on_time(100), &slow), login), &[Wrong::Slow]);
    println!("proof: a byte now and then: twins on paper: {early}; {late}; {slow}");
}

#[test]
fn a_reset_at_any_byte_loses_nothing() {
    let figures = resets::everywhere(&Daemon::start("")).expect("nothing lost");
    println!("proof: resets: {figures}; twin forgotten-lease: see tests/proof/peers");
}

#[test]
fn a_flood_from_one_address_leaves_room_for_others() {
    let limits = |per_address: usize| {
        let connections = floods::CONNECTIONS;
        Daemon::start(&format!("limits = {{ connections = {connections}, connections_per_address = {per_address} }}\n"))
    };
    let figures = floods::connections(&limits(floods::PER_ADDRESS)).expect("others are served");
    // Who is silent makes way for visitors all the same; of the flood nobody is told that it is one.
    let twin = caught(floods::connections(&limits(10_000)), &[Wrong::Share, Wrong::NoPressure, Wrong::Miscounted]);
    println!("proof: connection flood: {figures}; twin without the limit: {twin}");
}

#[test]
fn two_senders_cannot_fill_a_mailbox() {
    let limits = |per_sender: usize| {
        let queue = floods::QUEUE;
        Daemon::start(&format!("limits = {{ queue_messages = {queue}, queue_messages_per_sender = {per_sender} }}\n"))
    };
    let figures = floods::mailbox(&limits(floods::PER_SENDER)).expect("a third gets through");
    let twin = caught(floods::mailbox(&limits(floods::QUEUE)), &[Wrong::Share]);
    println!("proof: mailbox flood: {figures}; twin without shares: {twin}");
}

#[test]
fn those_who_pipeline_get_equal_shares() {
    let daemon = Daemon::start("");
    daemon.add_user("bob", "bob");
    // Before a login there is an end to bad PDUs.
    let connect = || wire::logged_in(daemon.address(), "bob");
    let (stop, go) = (|| daemon.signal(Signal::STOP), || daemon.signal(Signal::CONT));
    let figures = fairness::measure(connect, "x\n", stop, go).expect("fair");
    let unfair = one_after_another();
    let connect = || TcpStream::connect(unfair).expect("connected");
    let twin = caught(fairness::measure(connect, "x\n", || (), || ()), &[Wrong::Unfair]);
    println!("proof: pipelining by the mebibyte: {figures}; twin, one after another: {twin}");
}

/// A server that answers each connection to its end before it looks at the next.
fn one_after_another() -> SocketAddrV4 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
    let (sender, port) = channel();
    std::thread::spawn(move || {
        sender.send(listener.local_addr().expect("bound").port()).expect("somebody waits");
        for stream in listener.incoming().take(fairness::CONNECTIONS) {
            let stream = stream.expect("a client");
            let mut answers = std::io::BufWriter::new(stream.try_clone().expect("cloned"));
            for _ in BufReader::new(stream).lines().map_while(Result::ok).take(fairness::PIPELINED_BYTES / 2) {
                // The client leaves when it has seen enough.
                if answers.write_all(b"500 bad command\r\n").is_err() {
                    return;
                }
            }
        }
    });
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, port.recv().expect("a port"))
}
