//! Pipelining by the mebibyte: whoever is ready gets as much as the others that are ready.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use super::findings::{Verdict, Wrong, found};
use super::running::PATIENCE;

pub const CONNECTIONS: usize = 8;
/// What each pipelines.
pub const PIPELINED_BYTES: usize = 1 << 20;
/// The least share of a connection that is held to be fair, compared with the largest.
const SMALLEST_TO_LARGEST_MIN: f64 = 0.5;

/// Takes a mebibyte of requests to each connection that `connect` makes, as far as it is taken, while the server does not
/// answer yet, lets it go on by `go`, and counts the answers until half of all are there.
pub fn measure(connect: impl Fn() -> TcpStream, request: &str, stop: impl FnOnce(), go: impl FnOnce()) -> Verdict {
    let count = PIPELINED_BYTES / request.len();
    let mut all: Vec<Pipeline> = (0..CONNECTIONS).map(|_| Pipeline::new(connect(), request, count)).collect();
    stop();
    for pipeline in &mut all {
        pipeline.push();
    }
    go();
    let begun = Instant::now();
    let enough = CONNECTIONS * count / 2;
    while all.iter().map(|pipeline| pipeline.answers).sum::<usize>() < enough {
        let mut moved = false;
        for pipeline in &mut all {
            moved |= pipeline.turn();
        }
        assert!(begun.elapsed() < PATIENCE, "no progress");
        if !moved {
            thread::sleep(Duration::from_millis(1));
        }
    }
    let answers: Vec<usize> = all.iter().map(|pipeline| pipeline.answers).collect();
    let index = jain(&answers);
    let figures = format!("Jain's index {index:.4} over {answers:?} answers to {count} requests each");
    let (smallest, largest) = (answers.iter().min(), answers.iter().max());
    let ratio = smallest.zip(largest).map_or(0.0, |(smallest, largest)| *smallest as f64 / *largest as f64);
    if ratio >= SMALLEST_TO_LARGEST_MIN { Ok(figures) } else { found(Wrong::Unfair, figures) }
}

/// Jain's index: 1 when all have the same, 1/n when one has everything.
pub fn jain(shares: &[usize]) -> f64 {
    let sum: f64 = shares.iter().map(|share| *share as f64).sum();
    let squares: f64 = shares.iter().map(|share| (*share as f64).powi(2)).sum();
    sum * sum / (shares.len() as f64 * squares)
}

struct Pipeline {
    stream: TcpStream,
    bytes: Vec<u8>,
    sent: usize,
    answers: usize,
}

impl Pipeline {
    fn new(stream: TcpStream, request: &str, count: usize) -> Pipeline {
        stream.set_nonblocking(true).expect("set");
        Pipeline { stream, bytes: request.repeat(count).into_bytes(), sent: 0, answers: 0 }
    }

    /// Sends what is taken; whether anything was.
    fn push(&mut self) -> bool {
        let before = self.sent;
        while let Ok(count) = self.stream.write(&self.bytes[self.sent..]) {
            self.sent += count;
            if count == 0 {
                break;
            }
        }
        self.sent > before
    }

    /// Sends and reads what is possible, a bounded piece of it; whether there was anything.
    fn turn(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        let pushed = self.push();
        match self.stream.read(&mut buffer) {
            Ok(0) => pushed,
            Ok(count) => {
                self.answers += buffer[..count].iter().filter(|byte| **byte == b'\n').count();
                true
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => pushed,
            Err(error) => panic!("{error}"),
        }
    }
}
