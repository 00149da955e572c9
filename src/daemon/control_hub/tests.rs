//! Tests of the hub with a real socket. Everything runs in one thread, and time is a number: a local socket passes
//! bytes on at once, so a poll without waiting returns all events.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net as std_net;
use std::path::PathBuf;
use std::time::Duration;

use cpd_control::answer::Done;
use cpd_control::{ANSWER_MAX_BYTES, REQUEST_MAX_BYTES, encode_ok};
use mio::{Events, Poll};

use super::*;

const FIRST_TOKEN: usize = 1000;
const ROUNDS_MAX: usize = 10_000;
const STATUS: &[u8] = b"{\"v\":1,\"cmd\":\"status\"}\n";

struct Rig {
    hub: Hub,
    poll: Poll,
    events: Events,
    path: PathBuf,
    now: Millis,
    _folder: tempfile::TempDir,
}

impl Rig {
    fn new() -> Rig {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("control.sock");
        let poll = Poll::new().expect("a poll");
        let listener = UnixListener::bind(&path).expect("a socket");
        let hub = Hub::new(vec![listener], poll.registry(), FIRST_TOKEN..FIRST_TOKEN + TOKENS).expect("a hub");
        Rig { hub, poll, events: Events::with_capacity(64), path, now: 5_000, _folder: folder }
    }

    fn client(&mut self) -> Client {
        let stream = std_net::UnixStream::connect(&self.path).expect("room in the backlog");
        stream.set_nonblocking(true).expect("a socket");
        self.pump();
        Client { stream }
    }

    /// Runs the hub until nothing happens by itself. Requests are left to the test.
    fn pump(&mut self) {
        for _ in 0..ROUNDS_MAX {
            self.poll.poll(&mut self.events, Some(Duration::ZERO)).expect("a poll");
            for event in &self.events {
                self.hub.handle_event(event, self.poll.registry(), self.now);
            }
            let quiet = self.events.is_empty();
            let due = self.hub.next_deadline() <= self.now && self.hub.incoming.is_empty();
            if due || !self.hub.runnable.is_empty() {
                self.hub.expire(self.poll.registry(), self.now);
            } else if quiet {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    fn request(&mut self) -> Option<IncomingRequest> {
        self.pump();
        self.hub.next_request()
    }

    fn answer(&mut self, id: RequestId) {
        self.hub.answer(id, encode_ok(&Done {}), self.now);
        self.pump();
    }

    fn open(&self) -> usize {
        self.hub.slots.iter().flatten().count()
    }
}

struct Client {
    stream: std_net::UnixStream,
}

impl Client {
    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("room in the socket");
    }

    /// Everything that can be read now, and whether the end was reached.
    fn read_available(&mut self) -> (String, bool) {
        let (mut received, mut buffer) = (Vec::new(), [0; 8192]);
        let over = loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => break true,
                Ok(count) => received.extend_from_slice(&buffer[..count]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break false,
                Err(e) if e.kind() == ErrorKind::ConnectionReset => break true,
                Err(e) => panic!("{e}"),
            }
        };
        (String::from_utf8(received).expect("text"), over)
    }
}

fn code_of(line: &str) -> String {
    let at = line.find("\"code\":\"").unwrap_or_else(|| panic!("no code in '{line}'"));
    line[at + 8..].split('"').next().expect("a code").to_owned()
}

#[test]
fn a_request_carries_the_peers_credentials_and_is_answered() {
    let mut rig = Rig::new();
    let mut client = rig.client();
    client.send(STATUS);
    let incoming = rig.request().expect("a request");
    assert_eq!(incoming.request.command(), "status");
    assert_eq!(incoming.peer.uid, nix::unistd::getuid().as_raw());
    assert_eq!(incoming.peer.pid, std::process::id().cast_signed());
    rig.answer(incoming.id);
    assert_eq!(client.read_available(), ("{\"ok\":true}\n".to_owned(), false));
    rig.answer(incoming.id);
    assert_eq!(client.read_available(), (String::new(), false), "an answer is given once");
}

#[test]
fn pipelined_requests_are_taken_one_at_a_time_and_answered_in_order() {
    let mut rig = Rig::new();
    let mut client = rig.client();
    let lines: Vec<String> =
        (1..=200).map(|n| format!("{{\"v\":1,\"cmd\":\"session.close\",\"id\":{n}}}\nnonsense\n")).collect();
    client.send(lines.concat().as_bytes());
    let (mut ids, mut received) = (Vec::new(), String::new());
    for n in 1..=200 {
        let incoming = rig.request().expect("the next request");
        assert!(matches!(incoming.request, Request::SessionClose { id } if id == n), "{:?}", incoming.request);
        assert!(rig.request().is_none(), "the one before is not answered");
        assert!(!ids.contains(&incoming.id));
        ids.push(incoming.id);
        rig.hub.answer(incoming.id, format!("{n}\n").into_bytes(), rig.now);
        rig.pump();
        received.push_str(&client.read_available().0);
    }
    let received: Vec<&str> = received.lines().collect();
    assert_eq!(received.len(), 400);
    for (n, pair) in received.chunks(2).enumerate() {
        assert_eq!(pair[0], (n + 1).to_string());
        assert_eq!(code_of(pair[1]), "bad_json");
    }
}

#[test]
fn while_a_request_is_outstanding_nothing_is_read() {
    let mut rig = Rig::new();
    let mut client = rig.client();
    client.send(STATUS);
    let incoming = rig.request().expect("a request");
    let mut sent = 0;
    // Only the kernel's buffers fill up.
    while let Ok(count) = client.stream.write(&[b'x'; 4096]) {
        sent += count;
        rig.pump();
        assert!(sent < 64 << 20, "somebody reads");
    }
    let held: usize = rig.hub.slots.iter().flatten().map(Connection::held_bytes).sum();
    assert_eq!(held, 0);
    rig.answer(incoming.id);
    assert!(client.stream.write(b"x").is_ok(), "it is read again");
}

#[test]
fn a_socket_left_readable_is_read_after_the_answer() {
    let mut rig = Rig::new();
    let mut client = rig.client();
    client.send(STATUS);
    let first = rig.request().expect("a request");
    client.send(STATUS);
    rig.pump();
    assert!(rig.hub.next_request().is_none());
    rig.hub.answer(first.id, encode_ok(&Done {}), rig.now);
    assert_eq!(rig.hub.next_deadline(), 0, "the loop must not sleep on a request");
    assert!(rig.hub.next_request().is_some());
    assert!(rig.hub.next_deadline() > rig.now);
}

#[test]
fn faults_have_their_codes_and_the_connection_stays_open() {
    let mut rig = Rig::new();
    let mut client = rig.client();
    let deep = format!("{{\"v\":1,\"cmd\":{}{}}}\n", "[".repeat(20_000), "]".repeat(20_000));
    let cases: [(&[u8], &str); 7] = [
        (b"hello\n", "bad_json"),
        (b"\n", "bad_json"),
        (b"\"\xff\"\n", "not_utf8"),
        (deep.as_bytes(), "too_deep"),
        (b"{\"v\":2,\"cmd\":\"status\"}\n", "unknown_version"),
        (b"{\"v\":1,\"cmd\":\"frob\"}\r\n", "unknown_command"),
        (b"{\"v\":1,\"cmd\":\"status\",\"x\":1}\n", "unknown_field"),
    ];
    for (line, code) in cases {
        client.send(line);
        rig.pump();
        let (received, over) = client.read_available();
        assert_eq!((code_of(&received).as_str(), over), (code, false));
    }
    client.send(STATUS);
    assert!(rig.request().is_some());
}

#[test]
fn a_line_of_many_mebibytes_costs_one_answer_and_little_memory() {
    let mut rig = Rig::new();
    let mut client = rig.client();
    let mut sent = 0;
    while sent < 8 << 20 {
        match client.stream.write(&[b'x'; 32 * 1024]) {
            Ok(count) => sent += count,
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(e) => panic!("{e}"),
        }
        rig.pump();
        let held: usize = rig.hub.slots.iter().flatten().map(Connection::held_bytes).sum();
        assert!(held <= REQUEST_MAX_BYTES + 1, "{held}");
    }
    let (received, over) = client.read_available();
    assert_eq!((code_of(&received).as_str(), received.lines().count(), over), ("too_long", 1, false));
    client.send(b"\n");
    client.send(STATUS);
    let incoming = rig.request().expect("the line behind it");
    rig.answer(incoming.id);
    assert_eq!(client.read_available().0, "{\"ok\":true}\n");
    // Without a newline the line is not a request, and however many bytes come, the connection counts as idle.
    client.send(&[b'x'; REQUEST_MAX_BYTES + 1]);
    rig.pump();
    rig.now += IDLE_TIMEOUT_MS;
    client.send(b"x");
    rig.pump();
    assert!(client.read_available().1);
}

#[test]
fn a_peer_that_shuts_down_its_side_still_gets_its_answers() {
    let mut rig = Rig::new();
    let mut client = rig.client();
    client.send(&STATUS.repeat(2));
    client.send(b"{\"v\":1,\"cmd\":\"not finished");
    client.stream.shutdown(Shutdown::Write).expect("connected");
    for _ in 0..2 {
        let incoming = rig.request().expect("a request");
        rig.answer(incoming.id);
    }
    assert_eq!(client.read_available(), ("{\"ok\":true}\n".repeat(2), true));
    assert!(rig.request().is_none());
    assert_eq!(rig.open(), 0);
}

#[test]
fn an_answer_for_a_connection_that_has_gone_is_dropped() {
    let mut rig = Rig::new();
    let mut client = rig.client();
    client.send(STATUS);
    let taken = rig.request().expect("a request");
    let mut other = rig.client();
    other.send(STATUS);
    rig.pump();
    drop((client, other));
    rig.pump();
    assert_eq!(rig.open(), 1, "what is under way counts as a connection");
    assert!(rig.hub.next_request().is_none(), "not handed out and not begun");
    rig.answer(taken.id);
    assert_eq!(rig.open(), 0);
    let mut next = rig.client();
    next.send(STATUS);
    let incoming = rig.request().expect("a request");
    rig.answer(taken.id);
    assert_eq!(next.read_available(), (String::new(), false), "never to another connection in the same place");
    rig.answer(incoming.id);
    assert_eq!(next.read_available().0, "{\"ok\":true}\n");
}

#[test]
fn the_connections_of_one_user_are_limited() {
    let mut rig = Rig::new();
    let mut clients: Vec<Client> = (0..CONNECTIONS_PER_UID_MAX).map(|_| rig.client()).collect();
    assert_eq!(rig.open(), CONNECTIONS_PER_UID_MAX);
    let mut refused = rig.client();
    let (received, over) = refused.read_available();
    assert_eq!((code_of(&received).as_str(), over), ("too_many_connections", true));
    assert!(matches!(rig.hub.next_event(), Some(HubEvent::Refused { limit: HubLimit::PerUid, .. })));
    for client in &mut clients {
        assert_eq!(client.read_available(), (String::new(), false));
    }
    clients.pop();
    rig.pump();
    let mut client = rig.client();
    client.send(STATUS);
    assert!(rig.request().is_some());
}

#[test]
fn the_last_connections_are_reserved_for_root() {
    assert_eq!(limit_reached(1000, 0, 0), None);
    assert_eq!(limit_reached(1000, CONNECTIONS_PER_UID_MAX - 1, 50), None);
    assert_eq!(limit_reached(1000, CONNECTIONS_PER_UID_MAX, 50), Some(HubLimit::PerUid));
    assert_eq!(limit_reached(0, CONNECTIONS_PER_UID_MAX, 50), Some(HubLimit::PerUid));
    let others = CONNECTIONS_MAX - CONNECTIONS_FOR_ROOT;
    assert_eq!(limit_reached(1000, 0, others - 1), None);
    assert_eq!(limit_reached(1000, 0, others), Some(HubLimit::All));
    assert_eq!(limit_reached(0, 0, others), None);
    assert_eq!(limit_reached(0, 0, CONNECTIONS_MAX - 1), None);
    assert_eq!(limit_reached(0, 0, CONNECTIONS_MAX), Some(HubLimit::All));
    assert_eq!(code_of(&String::from_utf8(HubLimit::All.refusal()).expect("text")), "busy");
}

#[test]
fn a_flood_of_connections_is_accepted_in_turns_and_reported_within_bounds() {
    let mut rig = Rig::new();
    let many: Vec<_> = (0..120).map(|_| std_net::UnixStream::connect(&rig.path).expect("a backlog")).collect();
    rig.pump();
    assert_eq!(rig.open(), CONNECTIONS_PER_UID_MAX);
    assert!(matches!(rig.hub.next_event(), Some(HubEvent::Refused { .. })));
    assert!(rig.hub.next_event().is_none(), "told once");
    drop(many);
    rig.pump();
    assert_eq!(rig.open(), 0);
    assert_eq!(rig.hub.next_deadline(), rig.now + REPORT_INTERVAL_MS);
    rig.now += REPORT_INTERVAL_MS;
    rig.pump();
    assert!(matches!(rig.hub.next_event(), Some(HubEvent::MoreRefused(103))));
    assert_eq!(rig.hub.next_deadline(), NEVER);
}

#[test]
fn idle_connections_are_closed_and_waiting_ones_are_not() {
    let mut rig = Rig::new();
    let (mut idle, mut drips, mut waits) = (rig.client(), rig.client(), rig.client());
    waits.send(STATUS);
    let incoming = rig.request().expect("a request");
    assert_eq!(rig.hub.next_deadline(), rig.now + IDLE_TIMEOUT_MS);
    for _ in 0..6 {
        drips.send(b"{");
        rig.now += IDLE_TIMEOUT_MS / 6;
        rig.pump();
    }
    assert!(idle.read_available().1 && drips.read_available().1);
    assert_eq!(rig.hub.next_deadline(), NEVER);
    rig.answer(incoming.id);
    assert_eq!(waits.read_available(), ("{\"ok\":true}\n".to_owned(), false));
    assert_eq!(rig.hub.next_deadline(), rig.now + IDLE_TIMEOUT_MS, "from its answer on");
    rig.now += IDLE_TIMEOUT_MS;
    rig.pump();
    assert!(waits.read_available().1);
}

#[test]
fn a_peer_that_does_not_read_its_answer_is_closed() {
    let mut rig = Rig::new();
    let mut client = rig.client();
    client.send(&STATUS.repeat(2));
    let incoming = rig.request().expect("a request");
    rig.hub.answer(incoming.id, vec![b'x'; ANSWER_MAX_BYTES], rig.now);
    assert!(rig.request().is_none(), "the answer before is not through");
    let began = rig.now;
    assert_eq!(rig.hub.next_deadline(), began + WRITE_TIMEOUT_MS);
    // Progress extends the deadline.
    rig.now = began + WRITE_TIMEOUT_MS - 1;
    let mut buffer = vec![0; 256 * 1024];
    let mut received = 0;
    while let Ok(count) = client.stream.read(&mut buffer) {
        received += count;
    }
    rig.pump();
    assert!(received > 0 && received < ANSWER_MAX_BYTES);
    assert_eq!(rig.hub.next_deadline(), rig.now + WRITE_TIMEOUT_MS);
    rig.now += WRITE_TIMEOUT_MS;
    rig.pump();
    assert_eq!(rig.open(), 0);
}

#[test]
fn a_large_answer_arrives_whole() {
    let mut rig = Rig::new();
    let mut client = rig.client();
    client.send(STATUS);
    let incoming = rig.request().expect("a request");
    let line: Vec<u8> = (0..ANSWER_MAX_BYTES).map(|n| b'a' + (n % 23) as u8).collect();
    rig.hub.answer(incoming.id, line.clone(), rig.now);
    let mut received = String::new();
    for _ in 0..1000 {
        received.push_str(&client.read_available().0);
        rig.pump();
    }
    assert!(received.as_bytes() == line);
}

#[test]
fn a_backup_ends_with_its_connection() {
    let backups = |rig: &mut Rig| -> Vec<u64> {
        std::iter::from_fn(|| rig.hub.next_event())
            .map(|event| match event {
                HubEvent::BackupAbandoned(backup) => backup,
                other => panic!("{other:?}"),
            })
            .collect()
    };
    let mut rig = Rig::new();
    let begin = |rig: &mut Rig, backup: u64| {
        let mut client = rig.client();
        client.send(b"{\"v\":1,\"cmd\":\"store.backup\"}\n");
        let id = rig.request().expect("a request").id;
        rig.hub.attach_backup(id, backup);
        rig.answer(id);
        client
    };
    let client = begin(&mut rig, 7);
    assert!(backups(&mut rig).is_empty());
    drop(client);
    rig.pump();
    assert_eq!(backups(&mut rig), [7]);
    let client = begin(&mut rig, 8);
    let mut other = rig.client();
    other.send(b"{\"v\":1,\"cmd\":\"store.backup.end\",\"backup\":8}\n");
    let end = rig.request().expect("a request");
    rig.answer(end.id);
    drop((client, other));
    rig.pump();
    assert!(backups(&mut rig).is_empty(), "it was ended");
    let _idle = begin(&mut rig, 9);
    rig.now += IDLE_TIMEOUT_MS;
    rig.pump();
    assert_eq!(backups(&mut rig), [9]);
    let mut gone = rig.client();
    gone.send(b"{\"v\":1,\"cmd\":\"store.backup\"}\n");
    let id = rig.request().expect("a request").id;
    drop(gone);
    rig.pump();
    rig.hub.attach_backup(id, 10);
    rig.answer(id);
    assert_eq!(backups(&mut rig), [10], "nobody waited for it any more");
    rig.hub.attach_backup(id, 11);
    assert_eq!(backups(&mut rig), [11], "nor knows of it");
}

#[test]
fn stopping_answers_what_is_under_way_and_refuses_the_rest() {
    let mut rig = Rig::new();
    let (mut idle, mut under_way, mut untaken, mut unread, mut late) =
        (rig.client(), rig.client(), rig.client(), rig.client(), rig.client());
    under_way.send(STATUS);
    let incoming = rig.request().expect("a request");
    late.send(STATUS);
    rig.request().expect("a request");
    untaken.send(STATUS);
    rig.pump();
    unread.send(STATUS);
    let listeners = rig.hub.stop(rig.poll.registry(), rig.now);
    assert_eq!(listeners.len(), 1);
    assert!(!rig.hub.is_drained() && rig.hub.next_request().is_none());
    assert_eq!(idle.read_available(), (String::new(), true));
    for refused in [&mut untaken, &mut unread] {
        let (received, over) = refused.read_available();
        assert_eq!((code_of(&received).as_str(), over), ("stopping", true));
    }
    rig.answer(incoming.id);
    assert_eq!(under_way.read_available(), ("{\"ok\":true}\n".to_owned(), true));
    assert_eq!(rig.open(), 1);
    rig.hub.finish(rig.now);
    assert!(rig.hub.is_drained());
    let (received, over) = late.read_available();
    assert_eq!((code_of(&received).as_str(), over), ("stopping", true));
}

#[test]
fn listeners_and_tokens_are_counted() {
    let poll = Poll::new().expect("a poll");
    assert!(Hub::new(Vec::new(), poll.registry(), 0..TOKENS - 1).is_err());
    let hub = Hub::new(Vec::new(), poll.registry(), 0..TOKENS).expect("a hub");
    assert_eq!(hub.next_deadline(), NEVER);
}
