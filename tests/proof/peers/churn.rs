//! Connections that are opened and closed, many times over: descriptors and memory stay what they were.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::findings::{Findings, Verdict, Wrong};
use crate::wire::{connect_from, descriptors, reset, resident_kib};

const THREADS: u64 = 2;
/// Connections before memory is looked at, of all: buffers and tables have their size by then.
const WARM_UP_OF: u64 = 5;
/// By what memory may have grown since, in KiB: what allocators round up to. With 40,000 connections behind the warm-up
/// a leak of 26 bytes a connection is seen, with 800,000 one of two.
const GROWTH_MAX_KIB: u64 = 1024;
/// How long a client waits for the end of its connection before it resets it.
const END_MAX: Duration = Duration::from_millis(200);

/// Opens and closes `count` connections, each in one of many ways; the server may take `patience` to notice that the last
/// ones are closed.
pub fn flat(pid: u32, server: SocketAddrV4, count: u64, patience: Duration) -> Verdict {
    let begun = Instant::now();
    let open = descriptors(pid);
    churn(server, 0, count / WARM_UP_OF);
    let flat = settles(pid, open, patience);
    let warm = resident_kib(pid);
    churn(server, count / WARM_UP_OF, count);
    let end = settles(pid, open, patience).max(flat);
    let memory = resident_kib(pid);
    let figures = format!(
        "{count} connections in {:.1} s, descriptors {open} before and {end} after, memory {warm} KiB after {} and \
         {memory} KiB at the end",
        begun.elapsed().as_secs_f64(),
        count / WARM_UP_OF
    );
    let mut found = Findings::default();
    found.unless(end == open, Wrong::Descriptors, || figures.clone());
    found.unless(memory <= warm + GROWTH_MAX_KIB, Wrong::Memory, || figures.clone());
    found.or(|| figures)
}

/// The first count of descriptors that is `open` again, or the last one when the time is over. It is not counted once
/// more: a connection that was still to be accepted may be open by then.
fn settles(pid: u32, open: usize, patience: Duration) -> usize {
    let begun = Instant::now();
    loop {
        let now = descriptors(pid);
        if now <= open || begun.elapsed() >= patience {
            return now;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn churn(server: SocketAddrV4, from: u64, to: u64) {
    thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                (from..to).filter(|number| number % THREADS == thread).for_each(|number| {
                    // Many addresses: one has not enough ports for connections that linger after their end.
                    let [low, middle, ..] = (number / THREADS % 2000).to_le_bytes();
                    let source = Ipv4Addr::new(127, 90 + thread as u8, middle + 1, low);
                    one(connect_from(source, server).expect("connected"), number / THREADS);
                })
            });
        }
    });
}

/// One connection: reset at once or behind half a PDU, closed, told to end, or ended after an answer.
fn one(mut stream: TcpStream, number: u64) {
    let half: &[u8] = if number.is_multiple_of(2) { b"USERb" } else { b"" };
    let sent = match number % 16 {
        0 => stream.write_all(b"TERM\r\n").and_then(|()| until_the_end(&mut stream)),
        1 => stream.write_all(b"USERbob\r\nTERM\r\n").and_then(|()| until_the_end(&mut stream)),
        2 | 3 => return drop(stream.write_all(half)),
        _ => stream.write_all(half),
    };
    // A stand-in may have closed first.
    let gone = |error: &std::io::Error| matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
    assert!(sent.as_ref().err().is_none_or(gone), "{sent:?}");
    reset(stream);
}

fn until_the_end(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(END_MAX))?;
    match stream.read_to_end(&mut Vec::new()) {
        // One that never closes is found by its descriptors.
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
        other => other.map(drop),
    }
}
