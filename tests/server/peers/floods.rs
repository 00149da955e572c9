//! One who wants everything: all connections, or all of a mailbox.

use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use super::findings::{Findings, Verdict, Wrong, messages};
use super::ledger::{Answer, End, Ledger, SessionNo};
use super::running::{Client, Daemon};
use super::wire::{connect_from, status};

/// `limits.connections_per_address` and `limits.connections` of the daemon that is flooded.
pub const PER_ADDRESS: usize = 40;
pub const CONNECTIONS: usize = 100;
/// Connections that are attempted from one address, or more, until so many others have come.
const ATTEMPTS: u64 = 2000;
const VISITS: u64 = 5;
const ATTEMPTS_MAX: u64 = 10 * ATTEMPTS;
/// How often each thread attempts one more.
const BEYOND_EVERY: Duration = Duration::from_millis(2);
const THREADS: u8 = 4;
const FLOODER: Ipv4Addr = Ipv4Addr::new(127, 81, 0, 1);

/// One address attempts connections and holds what it gets, while others come from their own and are served.
pub fn connections(daemon: &Daemon) -> Verdict {
    daemon.add_user("bob", "bob");
    let (refused, held, torn) = (AtomicU64::new(0), Mutex::new(Vec::new()), AtomicU64::new(0));
    let over = AtomicBool::new(false);
    let (attempts, visits) = (AtomicU64::new(0), AtomicU64::new(0));
    let (mut honest, mut turned_away) = (0, 0);
    thread::scope(|scope| {
        let flooders: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    let goes_on = |made| made < ATTEMPTS || visits.load(Ordering::Relaxed) < VISITS;
                    while goes_on(attempts.load(Ordering::Relaxed)) {
                        let number = attempts.fetch_add(1, Ordering::Relaxed);
                        assert!(number < ATTEMPTS_MAX, "nobody else comes in");
                        if number >= ATTEMPTS {
                            thread::sleep(BEYOND_EVERY);
                        }
                        flood_once(daemon.address(), &refused, &torn, &held);
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            flooders.into_iter().for_each(|flooder| flooder.join().expect("no panic"));
            over.store(true, Ordering::Relaxed);
        });
        while !over.load(Ordering::Relaxed) {
            match visit(daemon.address(), honest + turned_away) {
                true => honest += 1,
                false => turned_away += 1,
            }
            visits.fetch_add(1, Ordering::Relaxed);
        }
    });
    let held = held.into_inner().expect("no panic").len();
    let (attempts, refused, torn) = (attempts.into_inner(), refused.into_inner(), torn.into_inner());
    let counted = status(daemon, "connections_refused");
    let figures = format!(
        "{attempts} attempts from one address: {held} held, {refused} heard 500 and the end, {torn} the end alone; \
         {honest} visits from elsewhere served, {turned_away} turned away; cpd counts {counted} refused"
    );
    let mut found = Findings::default();
    found.unless(held <= PER_ADDRESS, Wrong::Share, || figures.clone());
    found.unless(turned_away == 0, Wrong::NotServed, || figures.clone());
    found.unless(honest + turned_away >= VISITS && refused > 0, Wrong::NoPressure, || figures.clone());
    found.unless(counted == refused + torn + turned_away, Wrong::Miscounted, || figures.clone());
    found.or(|| figures)
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
fn visit(to: SocketAddrV4, number: u64) -> bool {
    let [.., high, low] = number.to_be_bytes();
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
pub const PER_SENDER: usize = 16;
pub const QUEUE: usize = 50;

/// Two senders fill what they may of a queue, and go on; a third one still gets through.
pub fn mailbox(daemon: &Daemon) -> Verdict {
    for name in ["mallory", "trudy", "alice", "bob"] {
        daemon.add_user(name, name);
    }
    let mut ledger = Ledger::default();
    let mut log_in = |name: &str| {
        let mut client = daemon.connect();
        client.logs_in(name, name);
        (client, ledger.session(name))
    };
    let mut flooders = ["mallory", "trudy"].map(&mut log_in);
    let (mut alice, third) = log_in("alice");
    let (mut bob, reader) = log_in("bob");
    let mut stored = [0; 2];
    let mut refused = 0;
    for number in 0..3 * QUEUE {
        for ((flooder, session), stored) in flooders.iter_mut().zip(&mut stored) {
            match sends(flooder, &mut ledger, *session, &format!("flood {number}, {session:?}")) {
                true => *stored += 1,
                false => refused += 1,
            }
        }
    }
    let through = sends(&mut alice, &mut ledger, third, "important");
    let downloaded = downloads(&mut bob, &mut ledger, reader);
    ledger.drained();
    // Room again, for the flooders as well.
    let again = flooders
        .iter_mut()
        .all(|(flooder, session)| sends(flooder, &mut ledger, *session, &format!("again, {session:?}")));
    messages(&ledger)?;
    let figures = format!(
        "{stored:?} of two senders stored, {refused} refused, then a third one's {}; {downloaded} downloaded, then room \
         again: {again}",
        if through { "stored" } else { "refused" },
    );
    let mut found = Findings::default();
    found.unless(stored == [PER_SENDER; 2], Wrong::Share, || figures.clone());
    found.unless(through, Wrong::NotServed, || figures.clone());
    found.unless(downloaded == stored.iter().sum::<usize>() + usize::from(through), Wrong::Miscounted, || {
        figures.clone()
    });
    found.unless(again, Wrong::NotServed, || figures.clone());
    found.or(|| figures)
}

/// Sends one to bob; whether it got 240. After a 540 it recovers.
fn sends(client: &mut Client, ledger: &mut Ledger, session: SessionNo, body: &str) -> bool {
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

fn downloads(client: &mut Client, ledger: &mut Ledger, session: SessionNo) -> usize {
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
