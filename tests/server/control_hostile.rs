//! The control socket under users who mean harm: those who may not connect, and those who may. Nothing of a peer is
//! parsed before the kernel has said who it is, memory stays bounded, and administrators and clients are served all the
//! while. As root the hostile are other users; without, they are the test's own, and what needs others is left out and
//! said so. `FLOOD_MIB=4096` makes the endless line longer, `CROWD=20000` the crowd larger.

mod hostile;

use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cpd_testing::environment::number;
use cpd_testing::wire::descriptors;
use cpd_testing::{operator, random, running};
use hostile::*;
use operator::Operator;
use random::Random;
use running::Daemon;

const FLOOD_MIB: u64 = 1024;
const CROWD: usize = 2000;
/// Bytes of the longest request.
const REQUEST_MAX: usize = 64 * 1024;
/// Of one user (cpd::daemon::control_hub).
const PER_UID: usize = cpd::daemon::control_hub::CONNECTIONS_PER_UID_MAX;
const STATUS: &str = r#"{"v":1,"cmd":"status"}"#;

/// A daemon whose control socket the group of the hostile may use, and one user who has logged in.
fn daemon() -> Daemon {
    let group = if is_root() { GROUP.1 } else { "" };
    let daemon = Daemon::start(&format!("control.group = \"{group}\"\n"));
    for folder in [daemon.folder.path(), &daemon.folder.path().join("data")] {
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).expect("ours");
    }
    daemon.add_user("bob", "hunter2");
    daemon.connect().logs_in("bob", "hunter2");
    daemon.waits_for_log(" login user=bob ");
    daemon
}

/// Runs `what` as one of the hostile who may connect.
fn hostile<T: Send>(which: u32, what: impl FnOnce() -> T + Send) -> T {
    if is_root() { as_user(60_001 + which, GROUP.0, what) } else { what() }
}

/// That everything works as before.
#[track_caller]
fn all_is_well(daemon: &mut Daemon) {
    assert!(daemon.runs(), "{}", daemon.log());
    assert!(daemon.cpctl(&["status"], "").contains("connections"));
    let mut client = daemon.connect();
    client.logs_in("bob", "hunter2");
    client.asks("SMSG bob:still here", "240 ");
    client.asks("RMSG", "RMSGbob:still here");
    client.asks("250", "255 ");
    let log = daemon.log();
    assert!(!log.contains(" error ") && !log.contains("panic"), "{log}");
}

#[test]
fn a_stranger_is_refused_by_the_kernel_and_not_a_byte_is_read() {
    if !is_root() {
        println!("proof: control socket: not root, so that there is no stranger");
        return;
    }
    let mut daemon = daemon();
    let socket = daemon.socket();
    let (before, log) = (peak_kib(daemon.id()), daemon.log());
    for _ in 0..1000 {
        assert_eq!(as_stranger(&socket), Err(ErrorKind::PermissionDenied));
    }
    assert_eq!(daemon.log(), log, "cpd was not even asked");
    assert!(peak_kib(daemon.id()) - before < GROWTH_OF_ONE_MAX_KIB);
    all_is_well(&mut daemon);
    // The check fails for a socket that everybody may use.
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666)).expect("ours");
    assert_eq!(as_stranger(&socket), Ok(()), "the twin passes");
    println!(
        "proof: control socket: 1000 attempts of a stranger, refused by connect(2), cpd not woken; twin with mode 0666: \
         caught"
    );
}

/// One who is neither root nor of the group connects.
fn as_stranger(socket: &Path) -> Result<(), ErrorKind> {
    as_user(60_000, 60_000, || UnixStream::connect(socket).map(drop).map_err(|error| error.kind()))
}

#[test]
fn a_line_without_an_end_is_refused_and_costs_one_request() {
    let mut daemon = daemon();
    let bytes = number("FLOOD_MIB").unwrap_or(FLOOD_MIB) << 20;
    let (socket, pid) = (daemon.socket(), daemon.id());
    let flooded = hostile(0, || flood(&socket, bytes, pid));
    assert_eq!(faults_of_a_flood(&flooded, "too_long"), Vec::<String>::new(), "{flooded:?}");
    assert_eq!(flooded.sent, bytes);
    all_is_well(&mut daemon);
    println!(
        "proof: control socket: {} MiB without a newline, refused after {} KiB, memory grew by {} KiB",
        bytes >> 20,
        flooded.answer.map_or(0, |(_, at)| at >> 10),
        flooded.grown_kib
    );
}

#[test]
fn who_is_one_too_many_is_refused_unread() {
    let mut daemon = daemon();
    let (socket, pid) = (daemon.socket(), daemon.id());
    let open = descriptors(pid);
    let flooded = hostile(0, || {
        let held: Vec<UnixStream> = (0..PER_UID).map(|_| UnixStream::connect(&socket).expect("permitted")).collect();
        // All of them are there: the last one is answered.
        let mut last = Operator::over(held.last().and_then(|last| last.try_clone().ok()).expect("a descriptor"));
        last.does(STATUS);
        flood(&socket, 1 << 30, pid)
    });
    assert_eq!(faults_of_a_flood(&flooded, "too_many_connections"), Vec::<String>::new(), "{flooded:?}");
    assert!(flooded.sent < 1 << 20, "no more than the socket holds: {flooded:?}");
    waits_for_descriptors(pid, open);
    all_is_well(&mut daemon);
    println!(
        "proof: control socket: one connection too many with a line of 1 GiB, closed after {} KiB, memory grew by {} KiB",
        flooded.sent >> 10,
        flooded.grown_kib
    );
}

/// First come, first served, and no place kept for anybody.
#[test]
fn a_server_that_keeps_no_place_is_caught() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("control.sock");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let taken: Vec<UnixStream> = (0..4).map(|_| UnixStream::connect(&socket).expect("room")).collect();
    std::thread::spawn(move || {
        for stream in listener.incoming().take(4) {
            let mut stream = stream.expect("a client");
            while stream.read(&mut [0; 100]).is_ok_and(|count| count > 0) {
                let _ = stream.write_all(b"{\"ok\":true}\n");
            }
        }
    });
    assert!(!is_served(&socket, Duration::from_millis(300)), "the twin passes");
    drop(taken);
    println!("proof: control socket: twin that keeps no place: caught");
}

/// A server that reads a whole request before it looks at anything.
#[test]
fn a_server_that_holds_what_it_reads_is_caught() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("control.sock");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the hostile one");
        let (mut held, mut piece) = (Vec::new(), vec![0; 1 << 16]);
        while !held.contains(&b'\n') {
            match stream.read(&mut piece) {
                Ok(count) if count > 0 => held = [held.as_slice(), &piece[..count]].concat(),
                _ => break,
            }
        }
        let _ = stream.write_all(b"{\"ok\":false,\"error\":{\"code\":\"too_long\"}}\n");
    });
    // In this process, so that its memory is ours.
    let flooded = flood(&socket, 24 << 20, std::process::id());
    server.join().expect("it ends");
    assert_eq!(faults_of_a_flood(&flooded, "too_long").len(), 2, "the twin passes: {flooded:?}");
    println!("proof: control socket: twin that holds what it reads: caught, {} KiB", flooded.grown_kib);
}

#[test]
fn every_kind_of_bad_request_is_refused_by_name_and_the_next_one_is_served() {
    let mut daemon = daemon();
    let deep = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
    let wide = format!(r#"{{"v":1,"cmd":"status","x":"{}"}}"#, "y".repeat(REQUEST_MAX - 40));
    let huge = format!(r#"{{"v":1,"cmd":"session.close","id":{}}}"#, "9".repeat(60_000));
    let requests: Vec<(String, &[&str])> = vec![
        (deep(100_000), &["too_long"]),
        ("[".repeat(100_000), &["too_long"]),
        (deep(32_000), &["too_deep"]),
        (format!(r#"{{"v":1,"cmd":{}}}"#, r#"{"a":"#.repeat(10_000) + "1" + &"}".repeat(10_000)), &["too_deep"]),
        (wide, &["unknown_field"]),
        (huge, &["bad_json", "bad_value"]),
        (r#"{"v":1,"cmd":"session.close","id":1e400}"#.to_owned(), &["bad_json", "bad_value"]),
        (r#"{"v":1,"cmd":"session.close","id":-0}"#.to_owned(), &["bad_value", "no_such_session"]),
        (r#"{"v":1,"v":1,"cmd":"status"}"#.to_owned(), &["duplicate_field"]),
        (r#"{"v":1,"cmd":"user.show","name":"bob","name":"eve"}"#.to_owned(), &["duplicate_field"]),
        ("{\"v\":1,\"cmd\":\"status\"\0}".to_owned(), &["bad_json"]),
        ("\0".repeat(1000), &["bad_json"]),
        (r#"{"v":1,"cmd":"user.show","name":"b\u0000b"}"#.to_owned(), &["bad_name"]),
        (String::new(), &["bad_json"]),
        (r#"{"v":1,"cmd":"user.add","name":"eve","password":"\u0007"}"#.to_owned(), &["bad_password"]),
    ];
    let (socket, pid) = (daemon.socket(), daemon.id());
    let before = peak_kib(pid);
    hostile(0, || {
        let mut operator = Operator::connect(&socket);
        for (request, codes) in &requests {
            let answer = operator.asks(request);
            assert_eq!(fault_of_refusal(request, codes, &answer), None);
            operator.does(STATUS);
        }
    });
    let grown = peak_kib(pid) - before;
    assert!(grown < GROWTH_OF_ONE_MAX_KIB, "{grown} KiB");
    // What was refused was not obeyed: there is nobody but the one there was.
    let users = daemon.cpctl(&["--json", "user", "list"], "");
    assert_eq!(users.matches("\"name\":").count(), 1, "{users}");
    all_is_well(&mut daemon);
    // The check fails for a server that obeys, and for one that refuses by another name.
    let twins = [r#"{"ok":true}"#, r#"{"ok":false,"error":{"code":"internal"}}"#];
    for twin in twins.map(|answer| serde_json::from_str(answer).expect("JSON")) {
        let missed =
            requests.iter().filter(|(request, codes)| fault_of_refusal(request, codes, &twin).is_none()).count();
        assert_eq!(missed, 0, "the twin passes: {twin}");
    }
    println!(
        "proof: control socket: {} kinds of bad request refused by name, none obeyed, {grown} KiB; twins that obey, or \
         refuse by another name: caught",
        requests.len()
    );
}

/// What is wrong with the answer to a bad request: it must be refused with one of these codes.
fn fault_of_refusal(request: &str, codes: &[&str], answer: &serde_json::Value) -> Option<String> {
    let code = answer["error"]["code"].as_str().unwrap_or("none");
    let right = answer["ok"] == false && codes.contains(&code);
    (!right).then(|| format!("{}: {answer}", request.chars().take(60).collect::<String>()))
}

#[test]
fn garbage_in_pieces_and_half_requests_harm_nobody() {
    let mut daemon = daemon();
    let seed = number("SEED").unwrap_or_else(random::entropy);
    println!("SEED={seed}");
    let socket = daemon.socket();
    let open = descriptors(daemon.id());
    let (lines, refused) = hostile(0, || {
        let mut random = Random::new(seed, 0);
        let (mut lines, mut refused) = (0, 0);
        for _ in 0..60 {
            let mut stream = UnixStream::connect(&socket).expect("permitted");
            for _ in 0..random.between(1, 20) {
                let mut bytes: Vec<u8> = (0..random.between(0, 300)).map(|_| random.number() as u8).collect();
                if random.one_in(2) {
                    bytes = STATUS.as_bytes()[..random.between(0, STATUS.len() as u64 - 1) as usize].to_vec();
                }
                if random.one_in(3) {
                    bytes.push(b'\n');
                }
                lines += bytes.iter().filter(|byte| **byte == b'\n').count();
                for piece in bytes.chunks(random.between(1, 50) as usize) {
                    // One more than a user may have is refused, since those that went away may not be gone yet.
                    refused += u64::from(stream.write_all(piece).is_err());
                }
            }
            // Goes away with its answers unread, in the middle of a request.
        }
        (lines, refused)
    });
    waits_for_descriptors(daemon.id(), open);
    all_is_well(&mut daemon);
    println!(
        "proof: control socket: {lines} lines of garbage over 60 connections that end half-way, {refused} too many"
    );
}

#[test]
fn one_who_does_not_read_answers_gets_one_at_a_time() {
    let mut daemon = daemon();
    let (socket, pid) = (daemon.socket(), daemon.id());
    let (before, open) = (peak_kib(pid), descriptors(pid));
    let written = hostile(0, || {
        let asked: Vec<_> =
            (0..PER_UID - 2).map(|_| asks_without_reading(&socket, Duration::from_millis(200))).collect();
        asked.iter().map(|(_, written)| written).sum::<usize>()
    });
    assert!(written < (PER_UID - 2) * UNREAD_MAX, "read on without end: {written} bytes");
    let grown = peak_kib(pid).saturating_sub(before);
    assert!(grown < GROWTH_MAX_KIB, "{grown} KiB");
    waits_for_descriptors(pid, open);
    all_is_well(&mut daemon);
    println!("proof: control socket: {} readers of nothing, {written} bytes asked, {grown} KiB", PER_UID - 2);
}

/// Bytes that one who reads no answer may get rid of: more than the sockets hold, and far less than without a bound.
const UNREAD_MAX: usize = 4 << 20;

/// A connection over which requests were sent until none was taken for `patience`, or too many were; how many bytes.
fn asks_without_reading(socket: &Path, patience: Duration) -> (UnixStream, usize) {
    let mut stream = UnixStream::connect(socket).expect("permitted");
    stream.set_nonblocking(true).expect("set");
    let requests = format!("{STATUS}\n").repeat(1000);
    let (mut written, mut last) = (0, Instant::now());
    while last.elapsed() < patience && written < UNREAD_MAX {
        if let Ok(count) = stream.write(requests.as_bytes()) {
            written += count;
            last = Instant::now();
        }
    }
    (stream, written)
}

/// A server that reads on and keeps the answers.
#[test]
fn a_server_that_reads_on_while_its_answers_are_not_taken_is_caught() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("control.sock");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the hostile one");
        let mut piece = vec![0; 1 << 16];
        while stream.read(&mut piece).is_ok_and(|count| count > 0) {}
    });
    let (stream, written) = asks_without_reading(&socket, running::PATIENCE);
    drop(stream);
    server.join().expect("it ends");
    assert!(written >= UNREAD_MAX, "the twin passes: {written}");
    println!("proof: control socket: twin that reads on while its answers are not taken: caught, {written} bytes");
}

#[test]
fn a_crowd_is_bounded_and_administrators_are_served() {
    let mut daemon = daemon();
    let (socket, pid) = (daemon.socket(), daemon.id());
    let count = number("CROWD").map_or(CROWD, |count| count as usize);
    let (before, open) = (peak_kib(pid), descriptors(pid));
    let users = if is_root() { 5 } else { 1 };
    // As much of a request as is ever held, and not its end; what is refused must not be obeyed either.
    let half = vec![b'x'; REQUEST_MAX];
    let mut crowds: Vec<Crowd> = (0..users).map(|user| hostile(user, || crowd(&socket, PER_UID + 4, &half))).collect();
    let add = format!("{}\n", r#"{"v":1,"cmd":"user.add","name":"evil","password":"hunter2"}"#);
    let each = count / users as usize;
    crowds.extend((0..users).map(|user| hostile(user, || crowd(&socket, each, add.as_bytes()))));
    let (per_user, all) = (PER_UID, cpd::daemon::control_hub::CONNECTIONS_MAX);
    let held: usize = crowds.iter().map(|crowd| crowd.held.len()).sum();
    let now = descriptors(pid);
    assert!(now <= open + all && held >= per_user.min(all), "{now} descriptors, {held} held");
    let grown = peak_kib(pid) - before;
    assert!(grown < GROWTH_MAX_KIB, "{grown} KiB");
    let refused: usize = crowds.iter().flat_map(|crowd| &crowd.refused).map(|(_, times)| times).sum();
    assert!(refused >= count - all, "{refused} of {count} refused");
    if is_root() {
        // Root has places of its own: even now.
        assert!(is_served(&socket, running::PATIENCE), "no place is kept");
        let mut root = Operator::connect(&socket);
        assert_eq!(root.asks(r#"{"v":1,"cmd":"user.show","name":"evil"}"#)["error"]["code"], "no_such_user");
        storm(&daemon);
        all_is_well(&mut daemon);
    }
    drop(crowds);
    waits_for_descriptors(pid, open);
    let found = Operator::connect(&socket).asks(r#"{"v":1,"cmd":"user.show","name":"evil"}"#);
    assert_eq!(found["error"]["code"], "no_such_user", "a request was obeyed whose connection was refused");
    all_is_well(&mut daemon);
    println!("proof: control socket: {users} users, {held} connections held, {refused} refused, {grown} KiB");
}

/// Users who do nothing but connect, while every place of theirs is taken: root is served all the same.
fn storm(daemon: &Daemon) {
    let (socket, over, connected) = (daemon.socket(), AtomicBool::new(false), AtomicU64::new(0));
    let mut slowest = Duration::ZERO;
    std::thread::scope(|scope| {
        for user in 0..3 {
            let (socket, over, connected) = (&socket, &over, &connected);
            let connect = move || {
                while !over.load(Ordering::Relaxed) {
                    connected.fetch_add(u64::from(UnixStream::connect(socket).is_ok()), Ordering::Relaxed);
                }
            };
            scope.spawn(move || hostile(user, connect));
        }
        for _ in 0..20 {
            let begun = Instant::now();
            daemon.cpctl(&["status"], "");
            slowest = slowest.max(begun.elapsed());
            let mut client = daemon.connect();
            client.logs_in("bob", "hunter2");
        }
        over.store(true, Ordering::Relaxed);
    });
    let connected = connected.into_inner();
    println!("proof: control socket: cpctl 20 times during {connected} connections of a storm, slowest {slowest:?}");
}
