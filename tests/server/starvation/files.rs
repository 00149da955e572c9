//! No descriptor is left: accepting pauses, does not spin, and goes on.

use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::findings::{Verdict, Wrong, found};
use super::running::wait_for;
use super::wire::{cpu_ticks, descriptors};

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

/// Watches a server for whose descriptors others wait.
pub fn idles(pid: u32) -> Verdict {
    let (begun, before) = (Instant::now(), cpu_ticks(pid));
    sleep(WATCHED);
    let used = (cpu_ticks(pid) - before) as f64 / 100.0;
    let percent = 100.0 * used / begun.elapsed().as_secs_f64();
    let figures = format!("{percent:.1}% of a processor");
    if percent < CPU_MAX_PERCENT { Ok(figures) } else { found(Wrong::Spins, figures) }
}

/// How soon a newcomer is served when descriptors are free again, at best: a busy machine is slow now and then.
const RECOVERY_MAX: Duration = Duration::from_secs(1);
const TRIES: usize = 3;

/// Takes all descriptors of a server, gives them back, and looks how long the next visitor waits for an answer.
pub fn recovers(pid: u32, server: SocketAddrV4) -> Verdict {
    let mut times = Vec::new();
    while times.len() < TRIES && times.iter().all(|time| *time > RECOVERY_MAX) {
        // Those before must be gone, or the queue of those who want in overflows, and the kernel lets a visitor wait.
        let begun = Instant::now();
        while descriptors(pid) > FILES / 2 && begun.elapsed() < 2 * RECOVERY_MAX {
            sleep(Duration::from_millis(10));
        }
        let crowd = crowd(server);
        wait_for("no descriptor is left", || (descriptors(pid) >= FILES).then_some(()));
        // It has asked in vain by then, and pauses.
        sleep(Duration::from_millis(50));
        let freed = Instant::now();
        drop(crowd);
        let served = is_served(server);
        times.push(if served { freed.elapsed() } else { 2 * RECOVERY_MAX });
    }
    let best = times.iter().min().copied().unwrap_or_default();
    if best > RECOVERY_MAX {
        return found(Wrong::Slow, format!("no service within {RECOVERY_MAX:?} at {} tries: {times:.2?}", times.len()));
    }
    Ok(format!("service {:.2} s after some were free at try {}", best.as_secs_f64(), times.len()))
}

/// Whether a visitor hears 220, in twice the time that is allowed.
fn is_served(server: SocketAddrV4) -> bool {
    let heard = TcpStream::connect(server).and_then(|mut stream| {
        stream.set_read_timeout(Some(2 * RECOVERY_MAX))?;
        stream.write_all(b"USER bob\r\n")?;
        let mut heard = [0; 4];
        stream.read_exact(&mut heard).map(|()| heard)
    });
    heard.is_ok_and(|heard| heard == *b"220 ")
}
