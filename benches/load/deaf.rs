//! What connections cost that pipeline and read nothing, in cpd and in the kernel together, and what others notice of them.

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{setsockopt, sockopt};

use crate::client::Fleet;
use crate::lab::{Lab, Pair};
use crate::login;
use crate::process::rss_bytes;
use crate::server::{Hashing, Server, USERS};
use crate::table::Unit;
use crate::targets;

const CONNECTIONS: [usize; 2] = [1000, 10_000];
const CONNECTIONS_QUICK: usize = 200;
/// Descriptors of either side that are not connections.
const SPARE_DESCRIPTORS: usize = 100;
const WARM_UP: usize = 64;
const REST: Duration = Duration::from_millis(500);
/// What each sends until nothing more is taken: bad PDUs, of which each is answered with nine times as much.
const PIPELINED: &[u8] = b"x\n";
const PIPELINED_TIMES: usize = 16 * 1024;
/// What a client lets its own kernel keep for it, so that the figures are the server's.
const CLIENT_BUFFER_BYTES: usize = 4096;
/// Behind that somebody still takes bytes, though nobody reads.
const FILL_MAX: Duration = Duration::from_secs(40);

pub fn run(lab: &mut Lab) -> Result<(), String> {
    let (allowed, _) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|e| format!("file limit: {e}"))?;
    let allowed = usize::try_from(allowed).unwrap_or(usize::MAX).saturating_sub(SPARE_DESCRIPTORS);
    for connections in CONNECTIONS {
        crowd(lab, lab.options.size(connections, CONNECTIONS_QUICK).min(allowed))?;
    }
    Ok(())
}

fn crowd(lab: &mut Lab, connections: usize) -> Result<(), String> {
    let time = lab.options.measured();
    let (mut memory, mut latency, mut shares) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..lab.options.rounds {
        let cpd = lab.cpd(Hashing::Cheap)?;
        drop(Fleet::log_in(cpd.address, WARM_UP, USERS)?);
        let quiet = login::latencies(cpd.address, time)?;
        std::thread::sleep(REST);
        let before = (rss_bytes(cpd.pid())?, kernel_bytes(cpd.address)?);
        let deaf = deaf(&cpd, connections)?;
        let after = (rss_bytes(cpd.pid())?, kernel_bytes(cpd.address)?);
        let beside = login::latencies(cpd.address, time)?;
        let still = connected(&deaf);
        if still < connections {
            return Err(format!("{} of {connections} were ended before they were measured", connections - still));
        }
        let (process, kernel) = (after.0 - before.0, after.1 - before.1);
        memory.push((process + kernel) / connections as f64);
        shares.push(format!(
            "{:.0}+{:.0}",
            process / connections as f64 / 1024.0,
            kernel / connections as f64 / 1024.0
        ));
        latency.push(Pair { cpd: Some(beside.quantile(0.99)), limit: quiet.quantile(0.99) });
    }
    let note = format!("KiB of the process and of the kernel: {}", shares.join(" "));
    lab.value_row(&format!("memory of a deaf connection ({connections})"), Unit::Bytes, memory, targets::DEAF, &note);
    let name = format!("SMSG p99 beside {connections} deaf connections");
    lab.row(&name, Unit::Seconds, &latency, targets::DEAF_P99, "limit: the same in quiet".into());
    Ok(())
}

/// Connections that have logged in and sent until nothing more was taken.
fn deaf(server: &Server, count: usize) -> Result<Vec<TcpStream>, String> {
    let bytes = PIPELINED.repeat(PIPELINED_TIMES);
    let mut deaf = Vec::with_capacity(count);
    for number in 0..count {
        deaf.push(connect(server.address, number % USERS)?);
    }
    let begun = Instant::now();
    loop {
        let mut taken = 0;
        for stream in &mut deaf {
            taken += write_some(stream, &bytes)?;
        }
        if taken == 0 {
            return Ok(deaf);
        }
        if begun.elapsed() > FILL_MAX {
            return Err(format!("{taken} bytes more were taken after {} s", FILL_MAX.as_secs()));
        }
        std::thread::sleep(REST);
    }
}

fn connect(address: SocketAddr, user: usize) -> Result<TcpStream, String> {
    let (stream, _) = login::log_in(address, user)?;
    setsockopt(&stream, sockopt::RcvBuf, &CLIENT_BUFFER_BYTES)
        .and_then(|()| setsockopt(&stream, sockopt::SndBuf, &CLIENT_BUFFER_BYTES))
        .map_err(|e| format!("buffers: {e}"))?;
    stream.set_nonblocking(true).map_err(|e| format!("a deaf connection: {e}"))?;
    Ok(stream)
}

/// Bytes that were taken without waiting.
fn write_some(stream: &mut TcpStream, bytes: &[u8]) -> Result<usize, String> {
    match stream.write(bytes) {
        Ok(count) => Ok(count),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        Err(error) => Err(format!("a deaf connection: {error}")),
    }
}

/// How many of them the server has not ended.
fn connected(deaf: &[TcpStream]) -> usize {
    deaf.iter().filter(|stream| stream.take_error().is_ok_and(|error| error.is_none())).count()
}

/// What the kernel has taken for the server's connections, by ss(8): the buffers that are filled, in memory and not in
/// payload, and what is set aside.
fn kernel_bytes(server: SocketAddr) -> Result<f64, String> {
    let sources = format!("sport = :{}", server.port());
    let output = Command::new("ss").args(["-tmnH", &sources]).output().map_err(|e| format!("ss (iproute2): {e}"))?;
    if !output.status.success() {
        return Err(format!("ss ended with {}", output.status));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let sockets = text.split("skmem:(").skip(1).map(|socket| socket.split(')').next().unwrap_or_default());
    Ok(sockets.map(skmem).sum())
}

/// One socket's fields that are memory: r and w (filled), f (set aside), o (options), bl (not yet looked at).
fn skmem(fields: &str) -> f64 {
    let value = |field: &str| {
        let number = field.trim_start_matches(|c: char| c.is_ascii_alphabetic());
        let name = &field[..field.len() - number.len()];
        // tb and rb are limits, t is a part of w that the device has, d counts.
        matches!(name, "r" | "w" | "f" | "o" | "bl").then(|| number.parse::<f64>().ok()).flatten()
    };
    fields.split(',').filter_map(value).sum()
}
