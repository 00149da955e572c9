//! Whether the daemon itself makes progress. A separate thread watches the event loop and the verifiers, and ends the
//! process when one of them makes no progress for [`STUCK_TICKS`] ticks of that thread: a restart helps. Time in which
//! the watching thread did not run either, because the process or the machine was stopped, does not count as ticks. A
//! store that does not answer is different: a restart does not repair a disk, so messages are refused until it answers
//! again, and the daemon keeps running.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cpd_core::sabotage;
use cpd_core::time::{Millis, NEVER};

use super::auth_pool::PoolProgress;
use super::exit::{ExitCode, Fatal};
use super::logging::{LogLine, Logger};

/// Time between two checks of the watching thread.
const TICK_INTERVAL: Duration = Duration::from_secs(2);
/// Ticks without progress after which the event loop or the verifiers count as stuck and the process ends.
const STUCK_TICKS: u32 = 15;
/// Ticks without progress after which the store counts as not answering.
const STALLED_TICKS: u32 = 5;
/// Checks without progress of the verifiers after which systemd's watchdog is no longer notified.
const WATCHDOG_STALLED_CHECKS: u32 = 2;
/// How long the log thread may take to write the last line before the process ends.
const LAST_LINE_GRACE: Duration = Duration::from_millis(500);

/// Counts how often in a row one part of the daemon had work and made no progress.
#[derive(Debug, Default)]
struct StallCounter {
    steps: u64,
    checks_without_progress: u32,
}

impl StallCounter {
    /// Takes the work `outstanding` and the `steps` done so far. Returns the number of calls in a row, this one
    /// included, with work but no progress.
    fn observe(&mut self, outstanding: u64, steps: u64) -> u32 {
        let stuck = outstanding > 0 && steps == self.steps;
        self.checks_without_progress = if stuck { self.checks_without_progress.saturating_add(1) } else { 0 };
        self.steps = steps;
        self.checks_without_progress
    }
}

/// The number of outstanding jobs and the number of finished ones.
fn outstanding_and_finished(pool: &PoolProgress) -> (u64, u64) {
    let (submitted, finished) = (pool.submitted.load(Ordering::Relaxed), pool.finished.load(Ordering::Relaxed));
    (submitted.saturating_sub(finished), finished)
}

/// The state that the watching thread and the event loop share.
#[derive(Debug, Default)]
struct Heartbeat {
    /// Ticks so far. The thread wakes the loop for each of them.
    ticks: AtomicU64,
    /// The last tick that the loop has seen.
    seen: AtomicU64,
    /// The loop has ended, and the thread is to end as well.
    loop_ended: AtomicBool,
}

/// The thread's side: finds out which part is stuck.
#[derive(Debug, Default)]
struct StuckDetector {
    reactor: StallCounter,
    pool: StallCounter,
}

impl StuckDetector {
    /// Returns the part that is stuck, if any. `asked` is the latest tick for which the loop was woken, `seen` the
    /// latest one that it has seen; the last pair counts outstanding and finished jobs of the verifiers.
    fn tick(&mut self, asked: u64, seen: u64, (outstanding, finished): (u64, u64)) -> Option<&'static str> {
        let reactor = self.reactor.observe(asked.saturating_sub(seen), seen);
        let pool = self.pool.observe(outstanding, finished);
        match (reactor >= STUCK_TICKS, pool >= STUCK_TICKS) {
            (true, _) => Some("the event loop"),
            (false, true) => Some("the verifiers of passwords"),
            (false, false) => None,
        }
    }
}

/// The event loop's side.
#[derive(Debug)]
pub struct Health {
    heartbeat: Arc<Heartbeat>,
    store: StallCounter,
    /// The store counts as not answering.
    stalled: bool,
    /// Time between two reports to systemd; `None` if there is no service manager.
    interval: Option<Millis>,
    /// When the next report is due, or [`NEVER`].
    due: Millis,
    pool: StallCounter,
}

impl Drop for Health {
    fn drop(&mut self) {
        self.heartbeat.loop_ended.store(true, Ordering::Relaxed);
    }
}

impl Health {
    /// Starts the watching thread; `wake` wakes the event loop. Reports to systemd become due twice in each `interval`;
    /// `None` if there is no service manager.
    ///
    /// # Errors
    /// [`ExitCode::System`] if the thread cannot be started.
    pub fn start(
        interval: Option<Duration>,
        pool: Arc<PoolProgress>,
        wake: impl Fn() + Send + 'static,
        logger: Logger,
    ) -> Result<Health, Fatal> {
        let health = Health::new(interval);
        let heartbeat = Arc::clone(&health.heartbeat);
        let watch = move || {
            let mut detector = StuckDetector::default();
            while !heartbeat.loop_ended.load(Ordering::Relaxed) {
                std::thread::sleep(TICK_INTERVAL);
                let (asked, seen) = (heartbeat.ticks.load(Ordering::Relaxed), heartbeat.seen.load(Ordering::Relaxed));
                match detector.tick(asked, seen, outstanding_and_finished(&pool)) {
                    Some(part) if !heartbeat.loop_ended.load(Ordering::Relaxed) => exit_because_stuck(part, &logger),
                    _ => {}
                }
                heartbeat.ticks.fetch_add(1, Ordering::Relaxed);
                wake();
            }
        };
        let started = std::thread::Builder::new().name("watch".into()).spawn(watch);
        let cannot = |e| Fatal::new(ExitCode::System, format!("cannot start the thread that watches the others: {e}"));
        started.map(|_| health).map_err(cannot)
    }

    fn new(interval: Option<Duration>) -> Health {
        // Half of the interval, so that a check without progress can be repeated before the watchdog runs out.
        let interval = interval.map(|i| Millis::try_from(i.as_millis() / 2).unwrap_or(Millis::MAX).max(1));
        let due = interval.map_or(NEVER, |_| 0);
        let heartbeat = Arc::default();
        Health {
            heartbeat,
            store: StallCounter::default(),
            stalled: false,
            interval,
            due,
            pool: StallCounter::default(),
        }
    }

    /// Notes the latest tick and checks the store; call this in each iteration of the event loop. `store` counts the
    /// batches under way and the steps that the store has taken. Returns `Some(true)` when the store stops answering,
    /// and `Some(false)` when it answers again.
    pub fn on_loop_iteration(&mut self, store: (u64, u64)) -> Option<bool> {
        if sabotage::is_ordered(sabotage::Fault::StuckLoop) && store.1 > 0 {
            std::thread::park();
        }
        let tick = self.heartbeat.ticks.load(Ordering::Relaxed);
        let ticked = tick != self.heartbeat.seen.load(Ordering::Relaxed);
        let store_resumed = self.stalled && store.1 != self.store.steps;
        if !ticked && !store_resumed {
            return None;
        }
        self.heartbeat.seen.store(tick, Ordering::Relaxed);
        let stalled = self.store.observe(store.0, store.1) >= STALLED_TICKS;
        (stalled != self.stalled).then(|| {
            self.stalled = stalled;
            stalled
        })
    }

    /// When [`Health::take_due`] returns `true` next, or [`NEVER`].
    pub fn next_deadline(&self) -> Millis {
        self.due
    }

    /// Whether a report to systemd is due. If so, the next one is scheduled.
    pub fn take_due(&mut self, now: Millis) -> bool {
        let Some(interval) = self.interval.filter(|_| self.due <= now) else {
            return false;
        };
        self.due = now.saturating_add(interval);
        true
    }

    /// Whether the verifiers make progress, so that systemd's watchdog may be notified. A store that does not answer is
    /// not considered here, since a restart would not help.
    pub fn verifiers_make_progress(&mut self, pool: &PoolProgress) -> bool {
        let (outstanding, finished) = outstanding_and_finished(pool);
        self.pool.observe(outstanding, finished) < WATCHDOG_STALLED_CHECKS
    }
}

/// The log line for a store that stops answering (`stalled`) or answers again.
pub fn store_stall_line(stalled: bool) -> LogLine {
    let event = match stalled {
        true => "it does not answer, senders are refused: is the disk stuck?",
        false => "it answers again",
    };
    LogLine::new("store").field("event", event)
}

/// Ends the process from the watching thread, because `part` is stuck.
fn exit_because_stuck(part: &str, logger: &Logger) {
    let seconds = TICK_INTERVAL.as_secs() * u64::from(STUCK_TICKS);
    let cause = format!("{part} made no progress for {seconds} s");
    if !logger.has_same_reader_as_stderr() {
        logger.error(LogLine::new("ended").field("cause", &cause));
    }
    std::thread::sleep(LAST_LINE_GRACE);
    let _ = Fatal::new(ExitCode::Internal, cause).report();
    std::process::exit(i32::from(ExitCode::Internal as u8));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first tick for which `look` returns a stuck part, and that part.
    fn stuck_after(mut look: impl FnMut(u64) -> Option<&'static str>) -> Option<(u64, &'static str)> {
        (1..10 * u64::from(STUCK_TICKS)).find_map(|tick| look(tick).map(|part| (tick, part)))
    }

    #[test]
    fn a_loop_that_sees_no_tick_is_stuck() {
        let ticks = u64::from(STUCK_TICKS);
        let mut detector = StuckDetector::default();
        assert_eq!(stuck_after(|tick| detector.tick(tick, 0, (0, 0))), Some((ticks, "the event loop")));
        let mut detector = StuckDetector::default();
        assert_eq!(stuck_after(|tick| detector.tick(tick, tick, (0, 0))), None);
        // The loop is always two ticks late, but never stuck.
        let mut detector = StuckDetector::default();
        assert_eq!(stuck_after(|tick| detector.tick(tick, tick.saturating_sub(2), (0, 0))), None);
        // Stands still again and again, but never long enough to be stuck.
        let mut detector = StuckDetector::default();
        assert_eq!(stuck_after(|tick| detector.tick(tick, tick - tick % (ticks - 1), (0, 0))), None);
    }

    #[test]
    fn verifiers_that_finish_nothing_are_stuck_and_idle_ones_are_not() {
        let found = Some((u64::from(STUCK_TICKS), "the verifiers of passwords"));
        let mut detector = StuckDetector::default();
        assert_eq!(stuck_after(|tick| detector.tick(tick, tick, (1, 0))), found);
        let mut detector = StuckDetector::default();
        assert_eq!(stuck_after(|tick| detector.tick(tick, tick, (0, 5))), None);
        let mut detector = StuckDetector::default();
        assert_eq!(stuck_after(|tick| detector.tick(tick, tick, (200, tick))), None);
    }

    #[test]
    fn a_store_stall_and_its_end_are_each_reported_once() {
        let mut health = Health::new(None);
        let tick = |health: &mut Health, store| {
            health.heartbeat.ticks.fetch_add(1, Ordering::Relaxed);
            let found = health.on_loop_iteration(store);
            assert_eq!(health.on_loop_iteration(store), None, "between two ticks");
            found
        };
        let told: Vec<_> = (0..3 * STALLED_TICKS).filter_map(|_| tick(&mut health, (1, 7))).collect();
        assert_eq!(told, [true]);
        assert_eq!(health.on_loop_iteration((2, 8)), Some(false), "at once");
        let told: Vec<_> = (0..3 * STALLED_TICKS).filter_map(|_| tick(&mut health, (0, 8))).collect();
        assert!(told.is_empty(), "nothing to do");
    }

    #[test]
    fn the_watchdog_is_notified_unless_the_verifiers_stand_still() {
        let mut health = Health::new(Some(Duration::from_secs(10)));
        assert!(health.take_due(0));
        assert!(!health.take_due(4999));
        assert!(health.take_due(5000));
        let mut none = Health::new(None);
        assert_eq!(none.next_deadline(), NEVER);
        assert!(!none.take_due(u64::MAX));
        let pool = PoolProgress::default();
        assert!(health.verifiers_make_progress(&pool) && health.verifiers_make_progress(&pool));
        pool.submitted.store(1, Ordering::Relaxed);
        assert!(health.verifiers_make_progress(&pool));
        assert!(!health.verifiers_make_progress(&pool));
        pool.finished.store(1, Ordering::Relaxed);
        assert!(health.verifiers_make_progress(&pool));
    }
}
