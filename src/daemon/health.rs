//! Whether everything that the watchdog stands for makes progress: the loop by asking, the store's writer and the
//! verifiers by what they have finished since.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::auth_pool::Progress;
use crate::proto::session::NEVER;
use crate::proto::types::Millis;

/// Checks without progress after which a part counts as stuck.
const STUCK_CHECKS: u32 = 2;

#[derive(Debug)]
pub struct Health {
    interval: Option<Millis>,
    due: Millis,
    store: Part,
    pool: Part,
}

/// One part's last state.
#[derive(Debug, Default)]
struct Part {
    steps: u64,
    without_progress: u32,
}

impl Part {
    fn is_well(&mut self, outstanding: u64, steps: u64) -> bool {
        let stuck = outstanding > 0 && steps == self.steps;
        self.without_progress = if stuck { self.without_progress + 1 } else { 0 };
        self.steps = steps;
        self.without_progress < STUCK_CHECKS
    }
}

impl Health {
    /// `interval`: how often the watchdog wants to hear. `None`: it does not exist.
    pub fn new(interval: Option<Duration>) -> Health {
        // Half of it, so that two checks without progress fit into the watchdog's patience.
        let interval = interval.map(|i| Millis::try_from(i.as_millis() / 2).unwrap_or(Millis::MAX).max(1));
        Health { interval, due: interval.map_or(NEVER, |_| 0), store: Part::default(), pool: Part::default() }
    }

    pub fn next_deadline(&self) -> Millis {
        self.due
    }

    pub fn is_due(&mut self, now: Millis) -> bool {
        let Some(interval) = self.interval.filter(|_| self.due <= now) else {
            return false;
        };
        self.due = now.saturating_add(interval);
        true
    }

    /// Whether the watchdog may be told that all is well. `store`: batches under way, and the steps taken.
    pub fn check(&mut self, store: (u64, u64), pool: &Progress) -> bool {
        let (submitted, finished) = (pool.submitted.load(Ordering::Relaxed), pool.finished.load(Ordering::Relaxed));
        let store = self.store.is_well(store.0, store.1);
        let pool = self.pool.is_well(submitted.saturating_sub(finished), finished);
        store && pool
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_without_progress_is_stuck_and_idleness_is_not() {
        let mut health = Health::new(Some(Duration::from_secs(10)));
        let pool = Progress::default();
        assert!(health.check((0, 5), &pool));
        assert!(health.check((0, 5), &pool));
        assert!(health.check((1, 5), &pool));
        assert!(!health.check((1, 5), &pool));
        assert!(health.check((1, 6), &pool));
        pool.submitted.store(1, Ordering::Relaxed);
        assert!(health.check((1, 7), &pool));
        assert!(!health.check((1, 8), &pool));
        pool.finished.store(1, Ordering::Relaxed);
        assert!(health.check((1, 9), &pool));
    }

    #[test]
    fn it_is_due_at_each_interval_and_never_without_a_watchdog() {
        let mut health = Health::new(Some(Duration::from_secs(10)));
        assert!(health.is_due(0));
        assert!(!health.is_due(4999));
        assert!(health.is_due(5000));
        let mut none = Health::new(None);
        assert_eq!(none.next_deadline(), NEVER);
        assert!(!none.is_due(u64::MAX));
    }
}
