//! Peers that do not read, or a byte now and then, and peers that write one now and then.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use cpd::daemon::listeners::{RECEIVE_BUFFER_BYTES, SEND_BUFFER_BYTES};

use crate::findings::{Findings, Verdict, Wrong, messages};
use crate::ledger::{Ledger, Parting};
use crate::rounds::client::{Client, Manner, Site};
use crate::rounds::random::Random;
use crate::running::{Client as Plain, Daemon};
use crate::wire::{connect_from, logged_in, resident_kib};

const SLOW_READERS: usize = 20;
/// Half of them take a byte so often, which is no progress.
const SIP_EVERY: Duration = Duration::from_millis(50);
/// What each of them sends, in lines of two bytes. The answers would be nine times as much.
const PIPELINED_BYTES: usize = 4 << 20;
/// What cpd may grow by for one of them: 16 KiB of unsent answers, as much unread input, and their containers.
const SLOW_READER_KIB: u64 = 128;

/// What the kernel may keep for one of them in bytes: twice what cpd asks for in each direction, as it does, and the rest of
/// the segment that reaches the mark.
pub const KERNEL_BYTES: u64 = 2 * (SEND_BUFFER_BYTES + RECEIVE_BUFFER_BYTES) as u64 + 16 * 1024;

/// Lets clients pipeline without reading, until each was closed.
pub fn readers(daemon: &Daemon, patience: Duration) -> Verdict {
    daemon.add_user("bob", "bob");
    let pid = daemon.id();
    let before = resident_kib(pid);
    let closed = AtomicUsize::new(0);
    let ledger = Mutex::new(Ledger::default());
    let site = Site::new(daemon.address(), &ledger);
    let mut random = Random::new(1, 1);
    let (mut peak, mut kernel, mut exchanged, begun) = (before, 0, 0, Instant::now());
    thread::scope(|scope| {
        for number in 0..SLOW_READERS {
            let closed = &closed;
            scope.spawn(move || {
                // Before a login there is an end to bad PDUs.
                let mut stream = logged_in(daemon.address(), "bob");
                stream.set_write_timeout(Some(patience)).expect("set");
                let over = Arc::new(AtomicBool::new(false));
                if number % 2 == 1 {
                    let (reader, over) = (stream.try_clone().expect("a descriptor"), Arc::clone(&over));
                    scope.spawn(move || sip(reader, &over));
                }
                let sent = stream.write_all(&b"x\n".repeat(PIPELINED_BYTES / 2));
                // In the kernel's buffers there may be room for all of it: then the end comes without an error.
                let end = sent.and_then(|()| wait_for_reset(&stream, patience));
                over.store(true, Ordering::Relaxed);
                if end.is_err_and(|error| is_closed(&error)) {
                    closed.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut bob = Client::login(&site, "bob").expect("served");
        while closed.load(Ordering::Relaxed) < SLOW_READERS && begun.elapsed() < patience {
            let body = format!("message {exchanged}");
            bob.send(&[("bob", body)]).expect("served");
            bob.download(&Manner::WHOLE, &mut random).expect("served");
            exchanged += 1;
            peak = peak.max(resident_kib(pid));
            kernel = kernel.max(most_in_the_kernel(daemon.address()));
            thread::sleep(Duration::from_millis(2));
        }
        bob.close(Parting::Torn);
    });
    let closed = closed.into_inner();
    ledger.lock().expect("no client has failed").drained();
    messages(&ledger.into_inner().expect("no client has failed"))?;
    let grown = peak - before;
    let figures = format!(
        "{closed} of {SLOW_READERS} closed, {grown} KiB more at most, and in the kernel {} KiB for one, {exchanged} messages meanwhile",
        kernel / 1024
    );
    let bounded = grown <= SLOW_READER_KIB * SLOW_READERS as u64;
    let mut found = Findings::default();
    found.unless(closed == SLOW_READERS, Wrong::NotEnded, || figures.clone());
    found.unless(bounded && kernel <= KERNEL_BYTES, Wrong::Memory, || figures.clone());
    // Where nothing waits, nothing was measured.
    found.unless(kernel > SEND_BUFFER_BYTES as u64 / 2, Wrong::NoPressure, || figures.clone());
    found.unless(exchanged > 0, Wrong::NoPressure, || figures.clone());
    found.or(|| figures)
}

/// Takes a byte now and then. What has arrived can be read behind the end as well.
fn sip(mut stream: TcpStream, over: &AtomicBool) {
    let mut byte = [0; 1];
    while !over.load(Ordering::Relaxed) && stream.read(&mut byte).is_ok_and(|count| count > 0) {
        thread::sleep(SIP_EVERY);
    }
}

/// Bytes that wait in the kernel for the connection at `server` that has most of them, to be sent and to be read.
pub fn most_in_the_kernel(server: SocketAddrV4) -> u64 {
    let table = fs::read_to_string("/proc/net/tcp").expect("Linux");
    let port = format!(":{:04X}", server.port());
    let waiting = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, local, _, _, queues, ..] = fields[..] else { return None };
        let (to_send, to_read) = queues.split_once(':')?;
        let bytes = |text| u64::from_str_radix(text, 16).ok();
        local.ends_with(&port).then_some(())?;
        Some(bytes(to_send)? + bytes(to_read)?)
    };
    table.lines().filter_map(waiting).max().unwrap_or(0)
}

/// Until the connection has an error, without reading anything.
fn wait_for_reset(stream: &TcpStream, patience: Duration) -> std::io::Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < patience {
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn is_closed(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

/// What the byte writers send over and over: an endless line, short lines, a login, and telnet's no-operations.
const HABITS: [&[u8]; 4] = [b"SMSG", b"x\n", b"USERbob\nPASSbo", b"\xff\xf1"];
const BYTE_EVERY: Duration = Duration::from_millis(250);
const THREADS: usize = 4;

/// How much earlier than its deadline a client may see its end: cpd's clock begins with the round in which it accepts,
/// on a busy machine some time before the connection.
const EARLY_MAX: Duration = Duration::from_millis(250);
/// How much later: the clients look every [`BYTE_EVERY`], and a busy machine is late.
const LATE_MAX: Duration = Duration::from_secs(3);
/// For the 99th percentile of honest logins meanwhile.
const LOGIN_MAX: Duration = Duration::from_secs(1);

/// What was seen of writers of single bytes, and of those who logged in meanwhile.
pub struct Seen {
    pub writers: usize,
    /// How long each that was closed has lived.
    pub lives: Vec<Duration>,
    pub logins: Vec<Duration>,
}

/// `timeouts.login` of the daemon is `login`; `writers` connections send a byte now and then until each was closed, while
/// others log in.
pub fn writers(daemon: &Daemon, writers: usize, login: Duration, patience: Duration) -> Verdict {
    judge(watch(daemon, writers, patience), login)
}

fn watch(daemon: &Daemon, writers: usize, patience: Duration) -> Seen {
    daemon.add_user("bob", "bob");
    let over = AtomicBool::new(false);
    let lives = Mutex::new(Vec::new());
    let mut logins = Vec::new();
    thread::scope(|scope| {
        let all: Vec<_> = (0..THREADS)
            .map(|thread| {
                let lives = &lives;
                scope.spawn(move || write_bytes(daemon, thread, writers / THREADS, patience, lives))
            })
            .collect();
        scope.spawn(|| {
            all.into_iter().for_each(|thread| thread.join().expect("no panic"));
            over.store(true, Ordering::Relaxed);
        });
        while !over.load(Ordering::Relaxed) {
            let begun = Instant::now();
            let mut honest = Plain::connect(daemon.address());
            honest.logs_in("bob", "bob");
            logins.push(begun.elapsed());
            honest.asks("RMSG", "256 ");
            honest.send("TERM");
            honest.is_closed();
            thread::sleep(Duration::from_millis(5));
        }
    });
    Seen { writers, lives: lives.into_inner().expect("no panic"), logins }
}

/// Whether each was closed at the deadline, not before and not long after it, and nobody honest had to wait.
pub fn judge(seen: Seen, login: Duration) -> Verdict {
    let Seen { writers, lives, mut logins } = seen;
    logins.sort();
    let p99 = logins.get(logins.len() * 99 / 100).copied().unwrap_or_default();
    let first = lives.iter().min().copied().unwrap_or(login);
    let last = lives.iter().max().copied().unwrap_or(login);
    let figures = format!(
        "{} of {writers} closed after {:.2} to {:.2} s (deadline {login:?}), {} honest logins, p99 {:.1} ms",
        lives.len(),
        first.as_secs_f64(),
        last.as_secs_f64(),
        logins.len(),
        p99.as_secs_f64() * 1000.0
    );
    let mut found = Findings::default();
    found.unless(lives.len() == writers, Wrong::NotEnded, || figures.clone());
    found.unless(first + EARLY_MAX >= login, Wrong::Early, || figures.clone());
    found.unless(last <= login + LATE_MAX, Wrong::Late, || figures.clone());
    found.unless(!logins.is_empty(), Wrong::NoPressure, || figures.clone());
    found.unless(p99 < LOGIN_MAX, Wrong::Slow, || figures.clone());
    found.or(|| figures)
}

/// Sends on `count` connections until each was closed or patience ends, and notes how long each lived.
fn write_bytes(daemon: &Daemon, thread: usize, count: usize, patience: Duration, lives: &Mutex<Vec<Duration>>) {
    let source = Ipv4Addr::new(127, 80, 0, u8::try_from(thread + 1).expect("few threads"));
    let begun = Instant::now();
    let mut open = Vec::new();
    for number in 0..count {
        let connecting = Instant::now();
        let stream = connect_from(source, daemon.address()).expect("connected");
        stream.set_nonblocking(true).expect("set");
        open.push((connecting, stream, HABITS[number % HABITS.len()], 0));
    }
    while !open.is_empty() && begun.elapsed() < patience {
        open.retain_mut(|(connecting, stream, habit, sent)| {
            if writes_on(stream, habit[*sent % habit.len()]) {
                *sent += 1;
                return true;
            }
            lives.lock().expect("no panic").push(connecting.elapsed());
            false
        });
        thread::sleep(BYTE_EVERY);
    }
}

/// Sends a byte, and says whether the connection is still there.
fn writes_on(stream: &mut TcpStream, byte: u8) -> bool {
    loop {
        match stream.read(&mut [0; 512]) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return stream.write_all(&[byte]).is_ok(),
            Err(_) => return false,
        }
    }
}
