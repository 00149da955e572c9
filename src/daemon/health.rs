//! Whether the daemon itself is at work. A thread of its own looks at the event loop and at the verifiers, and ends the
//! process when one of them stands still for [`STUCK_TICKS`] of that thread's own ticks: a restart mends that. Time in
//! which this thread did not run either, because the process or the machine was stopped, is no tick. A store that does
//! not answer is another matter: no restart mends a disk, so that senders are told, and everybody else is let alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::auth_pool::Progress;
use super::exit::{ExitCode, Fatal};
use super::logging::{Line, Logger};
use crate::proto::session::NEVER;
use crate::proto::types::Millis;
use crate::sabotage;

/// Time between two looks.
const TICK: Duration = Duration::from_secs(2);
/// Looks without progress after which the loop or the verifiers are stuck for good.
const STUCK_TICKS: u32 = 15;
/// Looks without progress after which the store counts as one that does not answer.
const STALLED_TICKS: u32 = 5;
/// Checks without progress after which systemd is not told any more that all is well.
const UNWELL_CHECKS: u32 = 2;
/// How long the log has for the last line.
const LAST_WORD: Duration = Duration::from_millis(500);

/// One part, as it was at the last look.
#[derive(Debug, Default)]
struct Part {
    steps: u64,
    without_progress: u32,
}

impl Part {
    /// Looks: how often in a row there was work and no progress.
    fn look(&mut self, outstanding: u64, steps: u64) -> u32 {
        let stuck = outstanding > 0 && steps == self.steps;
        self.without_progress = if stuck { self.without_progress.saturating_add(1) } else { 0 };
        self.steps = steps;
        self.without_progress
    }
}

/// Jobs that were submitted and are not finished, and those that are.
fn jobs(pool: &Progress) -> (u64, u64) {
    let (submitted, finished) = (pool.submitted.load(Ordering::Relaxed), pool.finished.load(Ordering::Relaxed));
    (submitted.saturating_sub(finished), finished)
}

/// What the thread and the loop tell each other.
#[derive(Debug, Default)]
struct Pulse {
    /// Ticks so far; the loop is woken for each.
    ticks: AtomicU64,
    /// The last one that the loop has seen.
    seen: AtomicU64,
    over: AtomicBool,
}

/// The thread's judgement.
#[derive(Debug, Default)]
struct Judge {
    reactor: Part,
    pool: Part,
}

impl Judge {
    /// Which part is stuck, after a tick for which the loop was to have seen `asked`.
    fn tick(&mut self, asked: u64, seen: u64, (outstanding, finished): (u64, u64)) -> Option<&'static str> {
        let reactor = self.reactor.look(asked.saturating_sub(seen), seen);
        let pool = self.pool.look(outstanding, finished);
        match (reactor >= STUCK_TICKS, pool >= STUCK_TICKS) {
            (true, _) => Some("the event loop"),
            (false, true) => Some("the verifiers of passwords"),
            (false, false) => None,
        }
    }
}

/// The loop's side.
#[derive(Debug)]
pub struct Health {
    pulse: Arc<Pulse>,
    store: Part,
    stalled: bool,
    /// How often systemd's watchdog wants to hear.
    interval: Option<Millis>,
    due: Millis,
    pool: Part,
}

impl Drop for Health {
    fn drop(&mut self) {
        self.pulse.over.store(true, Ordering::Relaxed);
    }
}

impl Health {
    /// Starts the thread; `wake` wakes the loop. `interval`: how often systemd's watchdog wants to hear. `None`: it does
    /// not exist.
    ///
    /// # Errors
    /// [`ExitCode::System`] when there is no thread to be had.
    pub fn start(
        interval: Option<Duration>,
        pool: Arc<Progress>,
        wake: impl Fn() + Send + 'static,
        logger: Logger,
    ) -> Result<Health, Fatal> {
        let health = Health::new(interval);
        let pulse = Arc::clone(&health.pulse);
        let watch = move || {
            let mut judge = Judge::default();
            while !pulse.over.load(Ordering::Relaxed) {
                std::thread::sleep(TICK);
                let (asked, seen) = (pulse.ticks.load(Ordering::Relaxed), pulse.seen.load(Ordering::Relaxed));
                match judge.tick(asked, seen, jobs(&pool)) {
                    Some(part) if !pulse.over.load(Ordering::Relaxed) => end(part, &logger),
                    _ => {}
                }
                pulse.ticks.fetch_add(1, Ordering::Relaxed);
                wake();
            }
        };
        let started = std::thread::Builder::new().name("watch".into()).spawn(watch);
        let cannot = |e| Fatal::new(ExitCode::System, format!("cannot start the thread that watches the others: {e}"));
        started.map(|_| health).map_err(cannot)
    }

    fn new(interval: Option<Duration>) -> Health {
        // Half of it, so that two checks without progress fit into the watchdog's patience.
        let interval = interval.map(|i| Millis::try_from(i.as_millis() / 2).unwrap_or(Millis::MAX).max(1));
        let due = interval.map_or(NEVER, |_| 0);
        let pulse = Arc::default();
        Health { pulse, store: Part::default(), stalled: false, interval, due, pool: Part::default() }
    }

    /// To be called in each round; `store`: batches under way, and the steps taken. `Some(true)`: the store does not
    /// answer from now on; `Some(false)`: it does again.
    pub fn round(&mut self, store: (u64, u64)) -> Option<bool> {
        if sabotage::is(sabotage::Fault::StuckLoop) && store.1 > 0 {
            std::thread::park();
        }
        let tick = self.pulse.ticks.load(Ordering::Relaxed);
        let ticked = tick != self.pulse.seen.load(Ordering::Relaxed);
        let moved = self.stalled && store.1 != self.store.steps;
        if !ticked && !moved {
            return None;
        }
        self.pulse.seen.store(tick, Ordering::Relaxed);
        let stalled = self.store.look(store.0, store.1) >= STALLED_TICKS;
        (stalled != self.stalled).then(|| {
            self.stalled = stalled;
            stalled
        })
    }

    pub fn next_deadline(&self) -> Millis {
        self.due
    }

    /// Whether systemd's watchdog is to be told, if all is well.
    pub fn is_due(&mut self, now: Millis) -> bool {
        let Some(interval) = self.interval.filter(|_| self.due <= now) else {
            return false;
        };
        self.due = now.saturating_add(interval);
        true
    }

    /// Whether systemd's watchdog may be told that all is well. A store that does not answer is no reason: see above.
    pub fn check(&mut self, pool: &Progress) -> bool {
        let (outstanding, finished) = jobs(pool);
        self.pool.look(outstanding, finished) < UNWELL_CHECKS
    }
}

/// The line for the log when the store does not answer, or does again.
pub fn stall_line(stalled: bool) -> Line {
    let said = match stalled {
        true => "it does not answer, senders are refused: is the disk stuck?",
        false => "it answers again",
    };
    Line::new("store").field("event", said)
}

/// Ends the process, of which this thread is all that moves.
fn end(part: &str, logger: &Logger) {
    let seconds = TICK.as_secs() * u64::from(STUCK_TICKS);
    let cause = format!("{part} did not move for {seconds} s");
    if !logger.is_read_with_stderr() {
        logger.error(Line::new("ended").field("cause", &cause));
    }
    std::thread::sleep(LAST_WORD);
    let _ = Fatal::new(ExitCode::Internal, cause).report();
    std::process::exit(i32::from(ExitCode::Internal as u8));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tick after which something counts as stuck.
    fn stuck_after(mut look: impl FnMut(u64) -> Option<&'static str>) -> Option<(u64, &'static str)> {
        (1..10 * u64::from(STUCK_TICKS)).find_map(|tick| look(tick).map(|part| (tick, part)))
    }

    #[test]
    fn a_loop_that_sees_no_tick_is_stuck() {
        let ticks = u64::from(STUCK_TICKS);
        let mut judge = Judge::default();
        assert_eq!(stuck_after(|tick| judge.tick(tick, 0, (0, 0))), Some((ticks, "the event loop")));
        let mut judge = Judge::default();
        assert_eq!(stuck_after(|tick| judge.tick(tick, tick, (0, 0))), None);
        // Late at each, and never stuck.
        let mut judge = Judge::default();
        assert_eq!(stuck_after(|tick| judge.tick(tick, tick.saturating_sub(2), (0, 0))), None);
        // Stopped for a long time and then at work again: one tick.
        let mut judge = Judge::default();
        assert_eq!(stuck_after(|tick| judge.tick(tick, tick - tick % (ticks - 1), (0, 0))), None);
    }

    #[test]
    fn verifiers_that_finish_nothing_are_stuck_and_idle_ones_are_not() {
        let found = Some((u64::from(STUCK_TICKS), "the verifiers of passwords"));
        let mut judge = Judge::default();
        assert_eq!(stuck_after(|tick| judge.tick(tick, tick, (1, 0))), found);
        let mut judge = Judge::default();
        assert_eq!(stuck_after(|tick| judge.tick(tick, tick, (0, 5))), None);
        let mut judge = Judge::default();
        assert_eq!(stuck_after(|tick| judge.tick(tick, tick, (200, tick))), None);
    }

    #[test]
    fn a_store_without_progress_is_said_once_and_so_is_its_return() {
        let mut health = Health::new(None);
        let tick = |health: &mut Health, store| {
            health.pulse.ticks.fetch_add(1, Ordering::Relaxed);
            let found = health.round(store);
            assert_eq!(health.round(store), None, "between two ticks");
            found
        };
        let told: Vec<_> = (0..3 * STALLED_TICKS).filter_map(|_| tick(&mut health, (1, 7))).collect();
        assert_eq!(told, [true]);
        assert_eq!(health.round((2, 8)), Some(false), "at once");
        let told: Vec<_> = (0..3 * STALLED_TICKS).filter_map(|_| tick(&mut health, (0, 8))).collect();
        assert!(told.is_empty(), "nothing to do");
    }

    #[test]
    fn systemd_hears_at_each_interval_unless_the_verifiers_stand_still() {
        let mut health = Health::new(Some(Duration::from_secs(10)));
        assert!(health.is_due(0));
        assert!(!health.is_due(4999));
        assert!(health.is_due(5000));
        let mut none = Health::new(None);
        assert_eq!(none.next_deadline(), NEVER);
        assert!(!none.is_due(u64::MAX));
        let pool = Progress::default();
        assert!(health.check(&pool) && health.check(&pool));
        pool.submitted.store(1, Ordering::Relaxed);
        assert!(health.check(&pool));
        assert!(!health.check(&pool));
        pool.finished.store(1, Ordering::Relaxed);
        assert!(health.check(&pool));
    }
}
