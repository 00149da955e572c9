//! How fast passwords are verified, against argon2 alone, and what others notice of a storm of logins.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use argon2::{Argon2, Block, Params};
use cp_proto::client::{Client, Event};
use cpd_testing::running::PATIENCE;

use crate::histogram::Histogram;
use crate::lab::{Lab, Pair};
use crate::scripts::MESSAGE_BYTES;
use crate::server::{self, Hashing, PASSWORD};
use crate::table::{Unit, median};
use crate::targets;

/// Users whose passwords cost what they cost by default.
pub const USERS: usize = 4;
/// Connections that log in, leave and come back.
const STORM: usize = 8;
/// One message from the session that is watched, every so often.
const PACE: Duration = Duration::from_millis(2);
const SALT: &[u8] = b"sixteen bytes ok";

pub fn run(lab: &mut Lab) -> Result<(), String> {
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get().saturating_sub(1)).max(1);
    let time = lab.options.measured();
    let (mut quiet, mut stormy) = (Vec::new(), Vec::new());
    let pairs = lab.pairs(
        |_| hashes_per_second(threads, time),
        |lab| {
            let cpd = lab.cpd(Hashing::Default)?;
            quiet.push(latencies(cpd.address, time)?);
            stormy.push(storm(cpd.address, time, || latencies(cpd.address, time))?.1);
            // The watched session takes its share of the cores: the rate is that of a storm alone.
            let sleep = || {
                std::thread::sleep(time);
                Ok(())
            };
            Ok(storm(cpd.address, time, sleep)?.0)
        },
    )?;
    let note = format!("limit: argon2 alone on {threads} thread(s)");
    lab.row("login", Unit::PerSecond, &pairs, targets::LOGIN, note);
    for (name, share, target) in [("p50", 0.5, targets::LOGIN_P50), ("p99", 0.99, targets::LOGIN_P99)] {
        let both = quiet.iter().zip(&stormy);
        let pairs: Vec<_> =
            both.map(|(q, s)| Pair { cpd: Some(s.quantile(share)), limit: q.quantile(share) }).collect();
        if median(pairs.iter().map(|pair| pair.limit).collect()).is_some() {
            let name = format!("SMSG {name} while logins storm");
            lab.row(&name, Unit::Seconds, &pairs, target, "limit: the same in quiet".into());
        }
    }
    Ok(())
}

/// argon2id with cpd's default cost on `threads` threads, each with memory of its own that it keeps.
fn hashes_per_second(threads: usize, time: Duration) -> Result<f64, String> {
    let begun = Instant::now();
    let hashed: Result<Vec<u64>, String> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(move || hash_for(time))).collect();
        workers.into_iter().map(|worker| worker.join().map_err(|_| "a hashing thread failed".to_string())?).collect()
    });
    Ok(hashed?.iter().sum::<u64>() as f64 / begun.elapsed().as_secs_f64())
}

fn hash_for(time: Duration) -> Result<u64, String> {
    let argon2 = Argon2::default();
    let mut blocks = vec![Block::default(); argon2.params().block_count()];
    let mut output = [0; Params::DEFAULT_OUTPUT_LEN];
    let begun = Instant::now();
    let mut hashes = 0;
    while begun.elapsed() < time {
        argon2
            .hash_password_into_with_memory(PASSWORD.as_bytes(), SALT, &mut output, &mut blocks)
            .map_err(|e| format!("argon2: {e}"))?;
        std::hint::black_box(&output);
        hashes += 1;
    }
    Ok(hashes)
}

/// Logs in on `STORM` connections again and again while `meanwhile` runs. Logins a second, and what `meanwhile` gave.
pub fn storm<T>(
    address: SocketAddr,
    time: Duration,
    meanwhile: impl FnOnce() -> Result<T, String>,
) -> Result<(f64, T), String> {
    let (over, logins) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let attackers: Vec<_> = (0..STORM)
            .map(|n| {
                let (over, logins) = (&over, &logins);
                scope.spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        log_in(address, n % USERS)?;
                        logins.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok::<(), String>(())
                })
            })
            .collect();
        // Until the first logins are through, the queue of passwords is not as long as it will be.
        std::thread::sleep(time / 8);
        let (before, begun) = (logins.load(Ordering::Relaxed), Instant::now());
        let result = meanwhile();
        let done = logins.load(Ordering::Relaxed) - before;
        let rate = done as f64 / begun.elapsed().as_secs_f64();
        over.store(true, Ordering::Relaxed);
        for attacker in attackers {
            attacker.join().map_err(|_| "a client thread failed")??;
        }
        Ok((rate, result?))
    })
}

/// A connection that has logged in, and its client.
pub fn log_in(address: SocketAddr, user: usize) -> Result<(TcpStream, Client), String> {
    let connect = || {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    };
    let mut stream = connect().map_err(|e: std::io::Error| format!("login: {e}"))?;
    let mut client = server::log_in(user);
    exchange(&mut stream, &mut client, &Event::LoggedIn)?;
    Ok((stream, client))
}

/// Sends what the client has to send, and waits for what it is to be answered.
fn exchange(stream: &mut TcpStream, client: &mut Client, wanted: &Event<'_>) -> Result<(), String> {
    let length = client.output().len();
    stream.write_all(client.output()).map_err(|e| format!("before {wanted:?}: {e}"))?;
    client.output_sent(length);
    let mut bytes = [0; 1024];
    loop {
        match stream.read(&mut bytes).map_err(|e| format!("waiting for {wanted:?}: {e}"))? {
            0 => client.input_ended(),
            count => client.input(&bytes[..count]),
        }
        match client.next_event() {
            None => {}
            Some(event) if event == *wanted => return Ok(()),
            Some(event) => return Err(format!("expected {wanted:?}, got {event:?}")),
        }
    }
}

/// What one session that stores a message every `PACE` waits for its 240s.
pub fn latencies(address: SocketAddr, time: Duration) -> Result<Histogram, String> {
    let (mut stream, mut client) = log_in(address, 0)?;
    let (recipient, body) = (server::user(1), "m".repeat(MESSAGE_BYTES));
    let mut histogram = Histogram::new();
    let begun = Instant::now();
    let mut due = begun;
    while begun.elapsed() < time {
        // A message that is late because the one before was waited for has waited since it was due.
        let wait = due.saturating_duration_since(Instant::now());
        let from = if wait.is_zero() {
            due
        } else {
            due.max({
                std::thread::sleep(wait);
                Instant::now()
            })
        };
        let number = client.send(recipient, body.as_bytes()).map_err(|e| format!("SMSG: {e}"))?;
        exchange(&mut stream, &mut client, &Event::Sent(number))?;
        histogram.record(from.elapsed());
        due += PACE;
    }
    Ok(histogram)
}
