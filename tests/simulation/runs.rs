//! Many seeds, on all cores, and what came of them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::plan::{Cut, Plan, Twin};
use super::problem::{Problem, Sort};
use super::world::{Counts, World};

/// What came of one seed.
pub struct Played {
    pub hash: u64,
    pub events: u64,
    pub virtual_ms: u64,
    pub counts: Total,
    pub problem: Option<Problem>,
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
            Some(Problem::new(Sort::Panic, text.unwrap_or_else(|| "see above".to_owned())))
        }
    };
    let ledger = world.ledger.counts();
    let counts = Total { sent: ledger.sent, kept: ledger.kept, delivered: ledger.delivered, happened: world.counts() };
    let story = problem.as_ref().map_or_else(String::new, |problem| world.trace.shortened(&problem.text));
    Played { hash: world.trace.hash(), events: world.trace.events, virtual_ms: world.now, counts, problem, story }
}

#[derive(Clone)]
pub struct Failure {
    pub seed: u64,
    pub problem: Problem,
    pub events: u64,
}

#[derive(Default)]
pub struct Runs {
    pub counts: Total,
    /// Of each sort of failure how often it was found, and the one with the lowest seed of those.
    pub found: BTreeMap<Sort, (u64, Failure)>,
    pub took: Duration,
    pub virtual_ms: u64,
    played: u64,
    events: u64,
    hash: u64,
    slowest: (Duration, u64),
}

impl Runs {
    /// Plays seeds until all are played or one has failed; with `wanted`, until one has failed in the first of these
    /// ways, or in one that is not among them.
    pub fn play(seeds: Range<u64>, twin: Twin, cut: &Cut, wanted: &[Sort]) -> Runs {
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
                        let goes_on = |problem: &Problem| wanted.iter().skip(1).any(|sort| *sort == problem.sort);
                        if played.problem.as_ref().is_some_and(|problem| !goes_on(problem)) {
                            next.fetch_max(seeds.end, Ordering::Relaxed);
                        }
                        let place = seed - seeds.start;
                        runs.lock().expect("no thread has failed").add(seed, place, played, began.elapsed());
                    }
                });
            }
        });
        let mut runs = runs.into_inner().expect("no thread has failed");
        runs.took = began.elapsed();
        runs
    }

    fn add(&mut self, seed: u64, place: u64, played: Played, took: Duration) {
        self.played += 1;
        self.events += played.events;
        self.virtual_ms += played.virtual_ms;
        self.counts.add(&played.counts);
        self.slowest = self.slowest.max((took, seed));
        // In any order, since threads end when they end; of a single seed it is its own.
        self.hash ^= played.hash.wrapping_mul(2 * place + 1);
        if let Some(problem) = played.problem {
            let failure = Failure { seed, problem, events: played.events };
            let (count, lowest) = self.found.entry(failure.problem.sort).or_insert((0, failure.clone()));
            *count += 1;
            if seed < lowest.seed {
                *lowest = failure;
            }
        }
    }

    /// The failure with the lowest seed of those that were found.
    pub fn failure(&self) -> Option<&Failure> {
        self.found.values().map(|(_, failure)| failure).min_by_key(|failure| failure.seed)
    }

    /// What was wrong on purpose was found, as the first of the sorts in `wanted`, and before that nothing else than
    /// these. Which seeds are played behind it is left to chance: other threads have them in hand by then.
    pub fn caught(&self, wanted: &[Sort]) -> Result<&Failure, String> {
        let first = wanted.first().and_then(|sort| self.found.get(sort)).map(|(_, failure)| failure);
        let others = self.found.iter().filter(|(sort, _)| !wanted.contains(sort)).map(|(_, (_, failure))| failure);
        let other = others.min_by_key(|failure| failure.seed);
        if let Some(Failure { seed, problem, .. }) = other.filter(|other| first.is_none_or(|f| other.seed < f.seed)) {
            return Err(format!("not for what is wrong with it, at seed {seed}: {problem}"));
        }
        first.ok_or_else(|| format!("not caught: {}", self.told()))
    }

    /// What was found, without words.
    pub fn sorts(&self) -> String {
        let told: Vec<String> = self.found.iter().map(|(sort, (count, _))| format!("{sort} {count}")).collect();
        told.join(", ")
    }

    /// How many times faster than the clock on the wall.
    pub fn speed(&self) -> u64 {
        self.virtual_ms / self.took.as_millis().max(1) as u64
    }

    pub fn told(&self) -> String {
        let Total { sent, kept, delivered, happened } = self.counts;
        let Counts { connections, crashes, lost_transactions, handovers, handed_over, stops, sessions_refused, crowds } =
            happened;
        format!(
            "{} seeds in {:.1} s ({:.1} ms each, slowest {} ms at seed {}), {} events, {} h of virtual time, {} times faster \
             than real; {connections} connections, {crowds} busy crowds of hundreds, {sent} messages, {kept} kept, \
             {delivered} delivered; {crashes} crashes with {lost_transactions} transactions lost, {handovers} hand-overs of \
             {handed_over} connections, {stops} stops, {sessions_refused} sessions too many; {} violations; trace {:016x}",
            self.played,
            self.took.as_secs_f64(),
            self.took.as_secs_f64() * 1000.0 / self.played.max(1) as f64,
            self.slowest.0.as_millis(),
            self.slowest.1,
            self.events,
            self.virtual_ms / 3_600_000,
            self.speed(),
            self.found.values().map(|(count, _)| count).sum::<u64>(),
            self.hash,
        )
    }
}
