//! One who wants everything: all connections, or all of a mailbox.

use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::ledger::{Answer, End, Ledger};
use crate::running::{Client, Daemon};
use crate::wire::{connect_from, status, verdict};

/// `limits.connections_per_address` and `limits.connections` of the daemon that is flooded.
pub const PER_ADDRESS: usize = 40;
pub const CONNECTIONS: usize = 100;
/// Connections that are attempted from one address.
const ATTEMPTS: u64 = 2000;
const THREADS: u8 = 4;
const FLOODER: Ipv4Addr = Ipv4Addr::new(127, 81, 0, 1);

/// One address attempts connections and holds what it gets, while others come from their own and are served. `Err`:
/// what is wrong.
pub fn connections(daemon: &Daemon) -> Result<String, String> {
    daemon.add_user("bob", "bob");
    let (refused, held, torn) = (AtomicU64::new(0), Mutex::new(Vec::new()), AtomicU64::new(0));
    let over = AtomicBool::new(false);
    let mut honest = 0;
    let mut turned_away = 0;
    thread::scope(|scope| {
        let flooders: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..ATTEMPTS / u64::from(THREADS) {
                        flood_once(daemon.address, &refused, &torn, &held);
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            flooders.into_iter().for_each(|flooder| flooder.join().expect("no panic"));
            over.store(true, Ordering::Relaxed);
        });
        while !over.load(Ordering::Relaxed) {
            match visit(daemon.address, honest) {
                true => honest += 1,
                false => turned_away += 1,
            }
        }
    });
    let held = held.into_inner().expect("no panic").len();
    let (refused, torn) = (refused.into_inner(), torn.into_inner());
    let counted = status(daemon, "connections_refused");
    let figures = format!(
        "{ATTEMPTS} attempts from one address: {held} held, {refused} heard 500 and the end, {torn} the end alone; \
         {honest} visits from elsewhere served, {turned_away} turned away; cpd counts {counted} refused"
    );
    let right = held <= PER_ADDRESS && honest > 0 && turned_away == 0 && refused > 0 && counted == refused + torn;
    if right { Ok(figures) } else { Err(figures) }
}

fn flood_once(to: SocketAddrV4, refused: &AtomicU64, torn: &AtomicU64, held: &Mutex<Vec<std::net::TcpStream>>) {
    let mut stream = connect_from(FLOODER, to).expect("the kernel accepts");
    // cpd says nothing to those whom it takes: whether this is one shows its answer.
    let mut text = Vec::new();
    match std::io::Write::write_all(&mut stream, b"USERbob\r\n").and_then(|()| read_line(&mut stream, &mut text)) {
        Ok(()) if text.starts_with(b"220 ") => held.lock().expect("no panic").push(stream),
        Ok(()) if text.starts_with(b"500 ") => {
            let rest = stream.read_to_end(&mut text).err();
            assert!(rest.is_none_or(|error| error.kind() == ErrorKind::ConnectionReset), "it is closed");
            refused.fetch_add(1, Ordering::Relaxed);
        }
        // Of so many refused at once some are dropped at once: the reset may destroy the 500.
        Ok(()) if text.is_empty() => drop(torn.fetch_add(1, Ordering::Relaxed)),
        Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
            torn.fetch_add(1, Ordering::Relaxed);
        }
        other => panic!("{other:?}: {:?}", String::from_utf8_lossy(&text)),
    }
}

fn read_line(stream: &mut std::net::TcpStream, into: &mut Vec<u8>) -> std::io::Result<()> {
    let mut byte = [0];
    while !into.ends_with(b"\n") && stream.read(&mut byte)? > 0 {
        into.push(byte[0]);
    }
    Ok(())
}

/// A whole visit from an address of its own; whether cpd took it.
fn visit(to: SocketAddrV4, number: u32) -> bool {
    let [_, _, high, low] = number.to_be_bytes();
    let mut stream = connect_from(Ipv4Addr::new(127, 82, high, low.max(1)), to).expect("the kernel accepts");
    let script = b"USERbob\r\nPASSbob\r\nSMSGbob:x\r\nRMSG\r\n250\r\nTERM\r\n";
    let mut text = String::new();
    if std::io::Write::write_all(&mut stream, script).and_then(|()| stream.read_to_string(&mut text)).is_err() {
        return false;
    }
    let codes: Vec<&str> = text.lines().map(|line| &line[..4]).collect();
    codes == ["220 ", "230 ", "240 ", "RMSG", "255 "]
}

/// `limits.queue_messages_per_sender` and `limits.queue_messages` of the daemon whose mailbox is flooded.
pub const PER_SENDER: usize = 20;
pub const QUEUE: usize = 50;

/// One sender fills what it may of a queue, and goes on; another one still gets through. `Err`: what is wrong.
pub fn mailbox(daemon: &Daemon) -> Result<String, String> {
    for name in ["mallory", "alice", "bob"] {
        daemon.add_user(name, name);
    }
    let mut ledger = Ledger::default();
    let mut flooder = daemon.connect();
    flooder.logs_in("mallory", "mallory");
    let session = ledger.session("mallory");
    let (mut stored, mut refused) = (0, 0);
    for number in 0..3 * QUEUE {
        let body = format!("flood {number}");
        match sends(&mut flooder, &mut ledger, session, &body) {
            true => stored += 1,
            false => refused += 1,
        }
    }
    let mut alice = daemon.connect();
    alice.logs_in("alice", "alice");
    let third = ledger.session("alice");
    let through = sends(&mut alice, &mut ledger, third, "important");
    let mut bob = daemon.connect();
    bob.logs_in("bob", "bob");
    let reader = ledger.session("bob");
    let downloaded = downloads(&mut bob, &mut ledger, reader);
    ledger.drained();
    // Room again, for the flooder as well.
    let again = sends(&mut flooder, &mut ledger, session, "and again");
    verdict(&ledger)?;
    let figures = format!(
        "{stored} of one sender stored, {refused} refused, then another's {}; {downloaded} downloaded, then room again: \
         {again}",
        if through { "stored" } else { "refused" },
    );
    let right = stored == PER_SENDER && through && downloaded == PER_SENDER + 1 && again;
    if right { Ok(figures) } else { Err(figures) }
}

/// Sends one to bob; whether it got 240. After a 540 it recovers.
fn sends(client: &mut Client, ledger: &mut Ledger, session: crate::ledger::SessionNo, body: &str) -> bool {
    ledger.sending(session, "bob", body.as_bytes());
    client.send(&format!("SMSGbob:{body}"));
    let answer = client.line();
    let kept = answer.starts_with("240 ");
    assert!(kept || answer.starts_with("540 "), "{answer}");
    ledger.answered(session, if kept { Answer::Kept } else { Answer::Unknown });
    if !kept {
        client.asks("201", "201 ");
    }
    kept
}

fn downloads(client: &mut Client, ledger: &mut Ledger, session: crate::ledger::SessionNo) -> usize {
    ledger.downloading(session, 1);
    client.send("RMSG");
    for count in 0.. {
        let line = client.line();
        let Some((sender, body)) = line.strip_prefix("RMSG").and_then(|rest| rest.split_once(':')) else {
            assert!(line.starts_with("255 "), "{line}");
            ledger.ended(session, End::All);
            return count;
        };
        ledger.received(session, sender, body.as_bytes());
        ledger.acknowledging(session);
        client.send("250");
    }
    unreachable!("the loop has no end but its return")
}
