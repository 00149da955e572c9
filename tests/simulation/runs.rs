//! Many seeds, on all cores, and what came of them.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::plan::{Cut, Plan, Twin};
use super::world::{Counts, World};

/// What came of one seed.
pub struct Played {
    pub hash: u64,
    pub events: u64,
    pub virtual_ms: u64,
    pub counts: Total,
    pub problem: Option<String>,
    /// What led to the problem, in words.
    pub story: String,
}

#[derive(Clone, Copy, Default, Debug)]
pub struct Total {
    pub sent: u64,
    pub kept: u64,
    pub delivered: u64,
    pub happened: Counts,
}

impl Total {
    fn add(&mut self, other: &Total) {
        self.sent += other.sent;
        self.kept += other.kept;
        self.delivered += other.delivered;
        self.happened.add(&other.happened);
    }
}

/// Plays one seed; `words`: with its story.
pub fn once(seed: u64, twin: Twin, cut: &Cut, words: bool) -> Played {
    let mut world = World::new(Plan::new(seed, twin, cut), words);
    let result = catch_unwind(AssertUnwindSafe(|| world.run()));
    let problem = match result {
        Ok(result) => result.err(),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            Some(format!("panic: {}", text.unwrap_or_else(|| "see above".to_owned())))
        }
    };
    let ledger = world.ledger.counts();
    let counts = Total { sent: ledger.sent, kept: ledger.kept, delivered: ledger.delivered, happened: world.counts };
    let story = problem.as_ref().map_or_else(String::new, |problem| world.trace.shortened(problem));
    Played { hash: world.trace.hash(), events: world.trace.events, virtual_ms: world.now, counts, problem, story }
}

pub struct Failure {
    pub seed: u64,
    pub text: String,
}

#[derive(Default)]
pub struct Runs {
    pub counts: Total,
    /// The one with the lowest seed of those that were found.
    pub failure: Option<Failure>,
    played: u64,
    events: u64,
    virtual_ms: u64,
    hash: u64,
    took: Duration,
    slowest: (Duration, u64),
}

impl Runs {
    /// Plays seeds until all are played or one has failed.
    pub fn play(seeds: Range<u64>, twin: Twin, cut: &Cut) -> Runs {
        let began = Instant::now();
        let next = AtomicU64::new(seeds.start);
        let runs = Mutex::new(Runs::default());
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(16);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= seeds.end {
                            return;
                        }
                        let began = Instant::now();
                        let played = once(seed, twin, cut, false);
                        if played.problem.is_some() {
                            next.fetch_max(seeds.end, Ordering::Relaxed);
                        }
                        runs.lock().expect("no thread has failed").add(seed, played, began.elapsed());
                    }
                });
            }
        });
        let mut runs = runs.into_inner().expect("no thread has failed");
        runs.took = began.elapsed();
        runs
    }

    fn add(&mut self, seed: u64, played: Played, took: Duration) {
        self.played += 1;
        self.events += played.events;
        self.virtual_ms += played.virtual_ms;
        self.counts.add(&played.counts);
        self.slowest = self.slowest.max((took, seed));
        // In any order: threads end when they end.
        self.hash ^= played.hash.wrapping_mul(2 * seed + 1);
        if let Some(text) = played.problem
            && self.failure.as_ref().is_none_or(|failure| seed < failure.seed)
        {
            self.failure = Some(Failure { seed, text });
        }
    }

    pub fn told(&self) -> String {
        let Total { sent, kept, delivered, happened } = self.counts;
        let Counts { connections, crashes, lost_transactions, handovers, handed_over, stops } = happened;
        let real = self.took.as_millis().max(1) as u64;
        format!(
            "{} seeds in {:.1} s ({:.1} ms each, slowest {} ms at seed {}), {} events, {} h of virtual time, {} times faster \
             than real; {connections} connections, {sent} messages, {kept} kept, {delivered} delivered; {crashes} crashes with \
             {lost_transactions} transactions lost, {handovers} hand-overs of {handed_over} connections, {stops} stops; \
             {} violations; traces {:016x}",
            self.played,
            self.took.as_secs_f64(),
            self.took.as_secs_f64() * 1000.0 / self.played.max(1) as f64,
            self.slowest.0.as_millis(),
            self.slowest.1,
            self.events,
            self.virtual_ms / 3_600_000,
            self.virtual_ms / real,
            u64::from(self.failure.is_some()),
            self.hash,
        )
    }
}
