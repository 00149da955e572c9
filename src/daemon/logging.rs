//! The log: one line an event. Whoever logs hands the line to a bounded channel and goes on; a thread of its own writes.
//! When the channel is full, lines are dropped and counted, and the count is logged: a log must never stop the service
//! that it describes. No peer's text comes here but through [`Line::field`], which escapes it.

mod line;
mod sinks;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

pub use line::{LINE_MAX_BYTES, Line, VALUE_MAX_BYTES, escape_into};
pub use sinks::{JOURNAL_SOCKET, SEND_TIMEOUT, SYSLOG_SOCKET, Sink, stderr_is_a_journal};

use super::exit::{ExitCode, Fatal};
use super::sandbox;
use crate::proto::types::Millis;

/// Lines that may wait for the log's thread; more are dropped and counted.
pub const QUEUE_MAX_LINES: usize = 1024;

/// How much a line matters. Ordered: what is below the configured level is not logged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
}

impl Level {
    /// All of them, by the order of their numbers.
    pub const ALL: [Level; 4] = [Level::Error, Level::Warn, Level::Info, Level::Debug];

    /// As the configuration writes it.
    pub fn name(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
        }
    }

    /// The number of syslog(3).
    pub fn priority(self) -> u8 {
        match self {
            Level::Error => 3,
            Level::Warn => 4,
            Level::Info => 6,
            Level::Debug => 7,
        }
    }
}

/// Where the log goes (`log.target`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogTarget {
    /// The journal where systemd's listens, else syslog where `/dev/log` is, else stderr.
    Auto,
    Journal,
    Syslog,
    Stderr,
}

impl LogTarget {
    pub const ALL: [LogTarget; 4] = [LogTarget::Auto, LogTarget::Journal, LogTarget::Syslog, LogTarget::Stderr];

    /// As the configuration writes it.
    pub fn name(self) -> &'static str {
        match self {
            LogTarget::Auto => "auto",
            LogTarget::Journal => "journal",
            LogTarget::Syslog => "syslog",
            LogTarget::Stderr => "stderr",
        }
    }
}

#[derive(Debug)]
struct Shared {
    level: AtomicU8,
    /// Lines that found the channel full since this was last logged.
    dropped: AtomicU64,
    /// See [`Logger::is_read_with_stderr`].
    read_with_stderr: bool,
}

/// A handle for logging; cheap to clone, for any thread.
#[derive(Clone)]
pub struct Logger {
    lines: SyncSender<Record>,
    shared: Arc<Shared>,
}

/// `None` in the channel asks the thread to end.
type Record = Option<(Level, String)>;

impl Logger {
    /// Opens `target` and starts the log's thread. A target that cannot be reached is replaced by stderr, and the log
    /// says so. Errors: [`ExitCode::System`] when no thread can be started.
    pub fn start(target: LogTarget, level: Level) -> Result<(Logger, LogThread), Fatal> {
        let (sink, why) = Sink::open(target);
        let (logger, thread) = Logger::start_with(sink, level)?;
        if let Some(cause) = why {
            let line = Line::new("log target unreachable").field("target", target.name()).field("cause", cause);
            logger.log(Level::Warn, line.field("using", "stderr"));
        }
        Ok((logger, thread))
    }

    /// As [`Logger::start`] with a sink that is open already.
    pub fn start_with(sink: Sink, level: Level) -> Result<(Logger, LogThread), Fatal> {
        let (lines, from) = sync_channel(QUEUE_MAX_LINES);
        let (done_sender, done) = sync_channel(1);
        let shared = Arc::new(Shared {
            level: AtomicU8::new(level as u8),
            dropped: AtomicU64::new(0),
            read_with_stderr: sink.is_read_with_stderr(),
        });
        let for_thread = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("log".into())
            .spawn(move || {
                // It connects to Unix sockets, and everything else is open. The daemon says where this cannot be.
                let _ = sandbox::confine(&[]);
                write_lines(sink, &from, &for_thread);
                drop(done_sender);
            })
            .map_err(|e| Fatal::new(ExitCode::System, format!("cannot start the log's thread: {e}")))?;
        Ok((Logger { lines: lines.clone(), shared }, LogThread { lines, done }))
    }

    /// Whether whoever reads the log reads what is written to stderr as well: it is not to be told twice.
    pub fn is_read_with_stderr(&self) -> bool {
        self.shared.read_with_stderr
    }

    /// Whether a line of this level is written at all; to be asked before a costly line is built.
    pub fn enabled(&self, level: Level) -> bool {
        level as u8 <= self.shared.level.load(Ordering::Relaxed)
    }

    /// Logs from now on what is at least as important as `level`.
    pub fn set_level(&self, level: Level) {
        self.shared.level.store(level as u8, Ordering::Relaxed);
    }

    /// Logs one event. Never blocks: a full channel drops the line and counts it.
    pub fn log(&self, level: Level, line: Line) {
        if !self.enabled(level) {
            return;
        }
        match self.lines.try_send(Some((level, line.into_text()))) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(_)) => {
                self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    pub fn error(&self, line: Line) {
        self.log(Level::Error, line);
    }

    pub fn warn(&self, line: Line) {
        self.log(Level::Warn, line);
    }

    pub fn info(&self, line: Line) {
        self.log(Level::Info, line);
    }

    pub fn debug(&self, line: Line) {
        self.log(Level::Debug, line);
    }
}

impl fmt::Debug for Logger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logger").field("shared", &self.shared).finish_non_exhaustive()
    }
}

/// The log's thread, held by whoever ends the daemon.
#[derive(Debug)]
pub struct LogThread {
    lines: SyncSender<Record>,
    done: Receiver<()>,
}

impl LogThread {
    /// Writes what waits and ends the thread; gives up after `patience`, because a log service that hangs must not
    /// keep the daemon from ending. `true`: everything was written or counted.
    pub fn finish(self, patience: Duration) -> bool {
        // A full channel is drained by the thread, so asking again comes through; a hanging one costs the patience.
        const STEP: Duration = Duration::from_millis(5);
        let mut waited = Duration::ZERO;
        while let Err(TrySendError::Full(_)) = self.lines.try_send(None) {
            if waited >= patience {
                return false;
            }
            std::thread::sleep(STEP);
            waited += STEP;
        }
        let left = patience.saturating_sub(waited);
        matches!(self.done.recv_timeout(left), Err(RecvTimeoutError::Disconnected))
    }
}

fn write_lines(mut sink: Sink, from: &Receiver<Record>, shared: &Shared) {
    let mut lost = 0;
    while let Ok(Some((level, text))) = from.recv() {
        write_one(&mut sink, &mut lost, level, &text);
        // A service that did not take this line would not take the count either.
        if lost == 0 {
            tell_dropped(&mut sink, shared);
        }
    }
}

/// Writes how many lines found the channel full. What the log service does not take stays to be told.
fn tell_dropped(sink: &mut Sink, shared: &Shared) {
    let dropped = shared.dropped.load(Ordering::Relaxed);
    if dropped > 0 {
        let text = Line::new("log overflow").field("dropped", dropped).into_text();
        if sink.write(Level::Warn, &text).is_ok() {
            shared.dropped.fetch_sub(dropped, Ordering::Relaxed);
        }
    }
}

/// Writes a line, behind one about those that the log service did not take before it.
fn write_one(sink: &mut Sink, lost: &mut u64, level: Level, text: &str) {
    if *lost > 0 {
        let note = Line::new("log service was away").field("lost", *lost).into_text();
        if sink.write(Level::Warn, &note).is_err() {
            *lost += 1;
            return;
        }
        *lost = 0;
    }
    if sink.write(level, text).is_err() {
        *lost += 1;
    }
}

/// For events that may come in floods, such as a limit that is reached: the first is logged, those that follow within
/// `quiet` are counted, and the count is logged with the next one after that, or by [`Repeated::settle`].
#[derive(Clone, Debug)]
pub struct Repeated {
    quiet: Millis,
    logged_at: Option<Millis>,
    counted: u64,
}

impl Repeated {
    pub fn new(quiet: Millis) -> Repeated {
        Repeated { quiet, logged_at: None, counted: 0 }
    }

    /// It happened at `now`. `Some(n)`: log it, and that it happened `n` times more since it was last logged.
    pub fn hit(&mut self, now: Millis) -> Option<u64> {
        if self.is_quiet(now) {
            self.counted += 1;
            return None;
        }
        self.logged_at = Some(now);
        Some(std::mem::take(&mut self.counted))
    }

    /// `Some(n)`: the quiet time is over, and `n` events in it were not logged: log the number. To be called now and
    /// then, so that the end of a flood is told as well.
    pub fn settle(&mut self, now: Millis) -> Option<u64> {
        if self.counted == 0 || self.is_quiet(now) {
            return None;
        }
        self.logged_at = None;
        Some(std::mem::take(&mut self.counted))
    }

    /// Whether events were counted that are still to be told.
    pub fn is_counting(&self) -> bool {
        self.counted > 0
    }

    /// Whether what happens now is counted only.
    pub fn is_quiet(&self, now: Millis) -> bool {
        self.logged_at.is_some_and(|at| now < at.saturating_add(self.quiet))
    }
}

#[cfg(test)]
mod tests;
