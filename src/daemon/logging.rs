//! The log: one line for each event. The caller only puts the line into a bounded channel; a separate thread writes it.
//! When the channel is full, lines are dropped and counted, and the count is logged: the log must never stop the
//! service that it describes. Text from peers enters a line only through [`LogLine::field`], which escapes it.

pub mod levels;
mod line;
pub mod sinks;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

pub use levels::{Level, LogTarget};
pub use line::{LINE_MAX_BYTES, LogLine, VALUE_MAX_BYTES};
pub use sinks::{JOURNAL_SOCKET, SEND_TIMEOUT, SYSLOG_SOCKET, Sink};

use cpd_core::time::Millis;

use super::exit::{ExitCode, Fatal};
use super::sandbox;

/// Lines that may wait for the log thread; further ones are dropped and counted.
pub const QUEUE_MAX_LINES: usize = 1024;

/// What all handles and the log thread share.
#[derive(Debug)]
struct LoggerShared {
    level: AtomicU8,
    /// Lines dropped because the channel was full, as far as not logged yet.
    dropped: AtomicU64,
    /// See [`Logger::has_same_reader_as_stderr`].
    same_reader_as_stderr: bool,
}

/// A handle for logging, cheap to clone and usable from any thread.
#[derive(Clone)]
pub struct Logger {
    lines: SyncSender<QueuedLine>,
    shared: Arc<LoggerShared>,
}

/// An item of the channel; `None` asks the thread to end.
type QueuedLine = Option<(Level, String)>;

impl Logger {
    /// Opens `target` and starts the log thread. If the target cannot be reached, the log goes to stderr for the time
    /// being, and a warning says so.
    ///
    /// # Errors
    /// [`ExitCode::System`] if the thread cannot be started.
    pub fn start(target: LogTarget, level: Level) -> Result<(Logger, LogThread), Fatal> {
        let (sink, why) = Sink::open(target);
        let (logger, thread) = Logger::start_with(sink, level)?;
        if let Some(cause) = why {
            let line = LogLine::new("log target unreachable").field("target", target.name()).field("cause", cause);
            logger.log(Level::Warn, line.field("using", "stderr"));
        }
        Ok((logger, thread))
    }

    /// As [`Logger::start`], with a sink that is open already.
    ///
    /// # Errors
    /// [`ExitCode::System`] if the thread cannot be started.
    pub fn start_with(sink: Sink, level: Level) -> Result<(Logger, LogThread), Fatal> {
        let (lines, from) = sync_channel(QUEUE_MAX_LINES);
        let (done_sender, done) = sync_channel(1);
        let shared = Arc::new(LoggerShared {
            level: AtomicU8::new(level as u8),
            dropped: AtomicU64::new(0),
            same_reader_as_stderr: sink.has_same_reader_as_stderr(),
        });
        let for_thread = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("log".into())
            .spawn(move || {
                // This thread only needs to connect to Unix sockets; everything else is open already. A failure is
                // ignored, since the daemon logs the same cause for its own sandbox.
                let _ = sandbox::confine(&[]);
                write_lines(sink, &from, &for_thread);
                drop(done_sender);
            })
            .map_err(|e| Fatal::new(ExitCode::System, format!("cannot start the log's thread: {e}")))?;
        Ok((Logger { lines: lines.clone(), shared }, LogThread { lines, done }))
    }

    /// Whether the log and stderr have the same reader, so that nothing should be written to both.
    pub fn has_same_reader_as_stderr(&self) -> bool {
        self.shared.same_reader_as_stderr
    }

    /// Whether lines of this level are logged. Ask this before building a costly line.
    pub fn enabled(&self, level: Level) -> bool {
        level as u8 <= self.shared.level.load(Ordering::Relaxed)
    }

    /// From now on logs only lines that are at least as important as `level`.
    pub fn set_level(&self, level: Level) {
        self.shared.level.store(level as u8, Ordering::Relaxed);
    }

    /// Logs one event, without blocking: if the channel is full, the line is dropped and counted.
    pub fn log(&self, level: Level, line: LogLine) {
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

    /// Logs one event at [`Level::Error`].
    pub fn error(&self, line: LogLine) {
        self.log(Level::Error, line);
    }

    /// Logs one event at [`Level::Warn`].
    pub fn warn(&self, line: LogLine) {
        self.log(Level::Warn, line);
    }

    /// Logs one event at [`Level::Info`].
    pub fn info(&self, line: LogLine) {
        self.log(Level::Info, line);
    }

    /// Logs one event at [`Level::Debug`].
    pub fn debug(&self, line: LogLine) {
        self.log(Level::Debug, line);
    }
}

impl fmt::Debug for Logger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logger").field("shared", &self.shared).finish_non_exhaustive()
    }
}

/// The log thread, for the code that ends the daemon.
#[derive(Debug)]
pub struct LogThread {
    lines: SyncSender<QueuedLine>,
    done: Receiver<()>,
}

impl LogThread {
    /// Writes the queued lines and ends the thread, but gives up after `timeout`, because a log service that hangs must
    /// not keep the daemon from exiting. Returns whether all lines were handled, that is, written or counted as lost.
    pub fn finish(self, timeout: Duration) -> bool {
        // The thread drains a full channel, so sending succeeds after a while, unless the log service hangs.
        const STEP: Duration = Duration::from_millis(5);
        let mut waited = Duration::ZERO;
        while let Err(TrySendError::Full(_)) = self.lines.try_send(None) {
            if waited >= timeout {
                return false;
            }
            std::thread::sleep(STEP);
            waited += STEP;
        }
        let left = timeout.saturating_sub(waited);
        matches!(self.done.recv_timeout(left), Err(RecvTimeoutError::Disconnected))
    }
}

fn write_lines(mut sink: Sink, from: &Receiver<QueuedLine>, shared: &LoggerShared) {
    let mut lost = 0;
    while let Ok(Some((level, text))) = from.recv() {
        write_line(&mut sink, &mut lost, level, &text);
        // If the log service did not accept this line, it would not accept the count either.
        if lost == 0 {
            log_dropped_count(&mut sink, shared);
        }
    }
}

/// Writes how many lines were dropped because the channel was full. If that fails, the number is kept for the next
/// time.
fn log_dropped_count(sink: &mut Sink, shared: &LoggerShared) {
    let dropped = shared.dropped.load(Ordering::Relaxed);
    if dropped > 0 {
        let text = LogLine::new("log overflow").field("dropped", dropped).into_text();
        if sink.write(Level::Warn, &text).is_ok() {
            shared.dropped.fetch_sub(dropped, Ordering::Relaxed);
        }
    }
}

/// Writes a line. If earlier lines were lost because the log service did not accept them, their number is written
/// first.
fn write_line(sink: &mut Sink, lost: &mut u64, level: Level, text: &str) {
    if *lost > 0 {
        let note = LogLine::new("log service was unreachable").field("lost", *lost).into_text();
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

/// Suppresses repeats of an event that may come in floods, such as a limit that is reached. The first one is logged;
/// those that follow within `suppress_ms` are counted. The count is logged with the next event after that, or by
/// [`RepeatSuppressor::take_suppressed`].
#[derive(Clone, Debug)]
pub struct RepeatSuppressor {
    suppress_ms: Millis,
    /// When the event was last logged; `None` if it is not being suppressed.
    logged_at: Option<Millis>,
    suppressed: u64,
}

impl RepeatSuppressor {
    /// Repeats within `suppress_ms` of a logged event are only counted.
    pub fn new(suppress_ms: Millis) -> RepeatSuppressor {
        RepeatSuppressor { suppress_ms, logged_at: None, suppressed: 0 }
    }

    /// Notes an event at `now`. `Some(n)`: log it, and that `n` further ones were suppressed since the last that was
    /// logged. `None`: it was only counted.
    pub fn note(&mut self, now: Millis) -> Option<u64> {
        if self.is_suppressing(now) {
            self.suppressed += 1;
            return None;
        }
        self.logged_at = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }

    /// `Some(n)`: the time of suppression is over, and the number `n` of suppressed events is to be logged. Call this
    /// now and then, so that the end of a flood is logged as well.
    pub fn take_suppressed(&mut self, now: Millis) -> Option<u64> {
        if self.suppressed == 0 || self.is_suppressing(now) {
            return None;
        }
        self.logged_at = None;
        Some(std::mem::take(&mut self.suppressed))
    }

    /// Whether there are suppressed events whose number has not been logged yet.
    pub fn has_suppressed(&self) -> bool {
        self.suppressed > 0
    }

    /// Whether an event at `now` is only counted.
    pub fn is_suppressing(&self, now: Millis) -> bool {
        self.logged_at.is_some_and(|at| now < at.saturating_add(self.suppress_ms))
    }
}

#[cfg(test)]
mod tests;
