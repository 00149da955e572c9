//! No descriptor is left: accepting pauses, does not spin, and goes on.

use std::net::{SocketAddrV4, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::wire::cpu_ticks;

/// `ulimit -n` of the server.
pub const FILES: usize = 64;
/// How long the processor time is watched.
const WATCHED: Duration = Duration::from_secs(3);
/// Hundredths of the time that was watched. What is used is the process's own, however busy the machine is.
const CPU_MAX_PERCENT: f64 = 5.0;

/// Connections that wait for descriptors; more than there can be.
pub fn crowd(server: SocketAddrV4) -> Vec<TcpStream> {
    (0..2 * FILES).map(|_| TcpStream::connect(server).expect("the kernel takes it")).collect()
}

/// Watches a server for whose descriptors others wait. `Err`: it spins.
pub fn idles(pid: u32) -> Result<String, String> {
    let (begun, before) = (Instant::now(), cpu_ticks(pid));
    sleep(WATCHED);
    let used = (cpu_ticks(pid) - before) as f64 / 100.0;
    let percent = 100.0 * used / begun.elapsed().as_secs_f64();
    let figures = format!("{percent:.1}% of a processor");
    if percent < CPU_MAX_PERCENT { Ok(figures) } else { Err(figures) }
}
