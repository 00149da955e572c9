//! What the fleet says while it is measured: storing and downloading.

use std::time::{Duration, Instant};

use crate::client::{Fleet, Progress, Script, unexpected};
use crate::histogram::Histogram;
use crate::process;
use crate::server::user_name;

/// Length of every message, in bytes.
pub const MESSAGE_BYTES: usize = 200;
/// The most PDUs one connection keeps outstanding.
const DEPTH_MAX: usize = 256;
const ACKNOWLEDGEMENT: &[u8] = b"250\r\n";

/// What a run measured.
pub struct Run {
    /// Messages a second within the window.
    pub rate: f64,
    /// CPU of the server in seconds a message.
    pub server_cpu: f64,
    /// CPU of this program in seconds a message.
    pub client_cpu: f64,
    pub latency: Histogram,
}

/// A stretch of a run: what was counted and spent between its two ends.
struct Window {
    started: Instant,
    server: Option<u32>,
    replies: u64,
    server_cpu: f64,
    client_cpu: f64,
}

impl Window {
    fn open(server: Option<u32>, replies: u64) -> Result<Window, String> {
        let server_cpu = server.map_or(Ok(0.0), process::cpu_seconds)?;
        let client_cpu = process::cpu_seconds(std::process::id())?;
        Ok(Window { started: Instant::now(), server, replies, server_cpu, client_cpu })
    }

    fn close(&self, replies: u64, latency: Histogram) -> Result<Run, String> {
        let end = Window::open(self.server, replies)?;
        let messages = (replies - self.replies).max(1) as f64;
        Ok(Run {
            rate: messages / (end.started - self.started).as_secs_f64(),
            server_cpu: (end.server_cpu - self.server_cpu) / messages,
            client_cpu: (end.client_cpu - self.client_cpu) / messages,
            latency,
        })
    }
}

/// Who gets the messages of user `n`: user `first + (n + 1) % users`.
#[derive(Clone, Copy)]
pub struct Recipients {
    pub first: usize,
    pub users: usize,
}

/// For how long `store` goes on.
#[derive(Clone, Copy)]
pub enum Until {
    /// So many messages from each connection; all of it is measured.
    Count(u64),
    /// A lead-in that is not measured, then the measured time; what is outstanding after it is awaited.
    Time { lead_in: Duration, measured: Duration },
}

/// Stores from every connection, `depth` PDUs outstanding on each.
pub fn store(
    fleet: &mut Fleet,
    to: Recipients,
    depth: usize,
    until: Until,
    server: Option<u32>,
) -> Result<Run, String> {
    let (left, lead_in) = match until {
        Until::Count(count) => (count, Duration::ZERO),
        Until::Time { lead_in, .. } => (u64::MAX, lead_in),
    };
    fleet.set_left(left);
    let total = left.saturating_mul(fleet.len() as u64);
    let depth = depth.min(DEPTH_MAX);
    let bursts = (0..to.users).map(|user| burst(user_name(to.first + (user + 1) % to.users), depth)).collect();
    let mut script = Store {
        bursts,
        depth,
        until,
        total,
        begun: Instant::now(),
        opens: Instant::now() + lead_in,
        window: None,
        server,
        replies: 0,
        outstanding: 0,
        latency: Histogram::new(),
        run: None,
    };
    fleet.run(&mut script)?;
    script.run.ok_or_else(|| "the run ended before it was measured".into())
}

/// One recipient's SMSG, rendered often enough for a whole burst in one write.
fn burst(recipient: String, depth: usize) -> Vec<u8> {
    let line = format!("SMSG{recipient}:{}\r\n", "m".repeat(MESSAGE_BYTES));
    line.as_bytes().repeat(depth)
}

struct Store {
    bursts: Vec<Vec<u8>>,
    depth: usize,
    until: Until,
    total: u64,
    begun: Instant,
    opens: Instant,
    window: Option<Window>,
    server: Option<u32>,
    replies: u64,
    outstanding: u64,
    latency: Histogram,
    run: Option<Run>,
}

impl Script for Store {
    fn line(&mut self, progress: &mut Progress, line: &[u8]) -> Result<(), String> {
        if !line.starts_with(b"240 ") || progress.outstanding == 0 {
            return Err(unexpected(line, "240"));
        }
        progress.outstanding -= 1;
        self.outstanding -= 1;
        self.replies += 1;
        Ok(())
    }

    fn next(&mut self, progress: &mut Progress, now: Instant) -> &[u8] {
        if progress.fresh > 0 && self.window.is_some() && self.run.is_none() {
            self.latency.record(now - progress.sent_at);
        }
        if self.run.is_some() {
            return &[];
        }
        let free = (self.depth - progress.outstanding) as u64;
        let count = free.min(progress.left) as usize;
        progress.left -= count as u64;
        progress.outstanding += count;
        progress.sent_at = now;
        self.outstanding += count as u64;
        let burst = &self.bursts[progress.user % self.bursts.len()];
        &burst[..burst.len() / self.depth * count]
    }

    fn tick(&mut self, now: Instant) -> Result<bool, String> {
        let Some(window) = &self.window else {
            if now >= self.opens {
                // A counted run is measured from its first byte, which left before the first turn.
                let mut window = Window::open(self.server, self.replies)?;
                if matches!(self.until, Until::Count(_)) {
                    (window.started, window.replies) = (self.begun, 0);
                }
                self.window = Some(window);
            }
            return Ok(true);
        };
        let over = match self.until {
            Until::Count(_) => self.replies >= self.total,
            Until::Time { measured, .. } => now >= self.opens + measured,
        };
        if over && self.run.is_none() {
            let latency = std::mem::replace(&mut self.latency, Histogram::new());
            self.run = Some(window.close(self.replies, latency)?);
        }
        Ok(self.run.is_none() || self.outstanding > 0)
    }
}

/// Downloads everything from every connection's queue. `window` 0 is plain RMSG. With `wanted`, each connection must
/// get so many messages, no more and no less.
pub fn fetch(fleet: &mut Fleet, window: usize, wanted: Option<u64>, server: Option<u32>) -> Result<Run, String> {
    fleet.set_left(wanted.unwrap_or(u64::MAX));
    let start = match window {
        0 => b"RMSG\r\n".to_vec(),
        n => format!("RMSG{n}\r\n").into_bytes(),
    };
    let mut script = Fetch {
        start,
        acknowledgements: ACKNOWLEDGEMENT.repeat(DEPTH_MAX),
        exact: wanted.is_some(),
        downloads: fleet.len(),
        messages: 0,
    };
    let stretch = Window::open(server, 0)?;
    fleet.run(&mut script)?;
    stretch.close(script.messages, Histogram::new())
}

struct Fetch {
    start: Vec<u8>,
    acknowledgements: Vec<u8>,
    exact: bool,
    /// Connections whose download has not ended.
    downloads: usize,
    messages: u64,
}

impl Script for Fetch {
    fn line(&mut self, progress: &mut Progress, line: &[u8]) -> Result<(), String> {
        if line.starts_with(b"RMSG") && line.len() > MESSAGE_BYTES && progress.left > 0 {
            self.messages += 1;
            progress.left -= 1;
            progress.outstanding += 1;
            return Ok(());
        }
        if line.starts_with(b"255 ") && (progress.left == 0 || !self.exact) {
            self.downloads = self.downloads.saturating_sub(1);
            return Ok(());
        }
        Err(unexpected(line, &format!("RMSG or 255 with {} messages to come", progress.left)))
    }

    fn next(&mut self, progress: &mut Progress, _now: Instant) -> &[u8] {
        if progress.fresh == 0 {
            return &self.start;
        }
        // Between two calls no more messages can have come than the window holds, and that is at most DEPTH_MAX.
        let count = std::mem::take(&mut progress.outstanding).min(DEPTH_MAX);
        &self.acknowledgements[..count * ACKNOWLEDGEMENT.len()]
    }

    fn tick(&mut self, _now: Instant) -> Result<bool, String> {
        Ok(self.downloads > 0)
    }
}
