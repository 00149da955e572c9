//! Nobody learns who exists from a stop watch either (docs/protocol.md section 7), and what finds that nobody does finds
//! the faults of crates/cpd-core/src/sabotage.rs that tell. For each pair of causes a 99% bootstrap interval of the difference of the
//! median times is compared with +-100 us.
//!
//! `cargo test --test proof_secrecy -- --nocapture` takes minutes and has three tries; `TRIALS=20000` takes more than an
//! hour, wants a quiet machine, and has one. Both fail unless every interval is within the bound. Attempts that come together keep
//! every processor busy, the client's too: of so few of their medians no short run is sure. It has to be sure of their
//! first quartiles, and fails where the medians are certainly told apart; the long one has to be sure of both.

use std::sync::{Mutex, MutexGuard, PoisonError};

use cpd_core::sabotage::Fault;
use cpd_testing::environment::number;
use cpd_testing::running::Setup;
use cpd_testing::{random, secret};
use secret::bytes::{self, Figures, Script, compare};
use secret::statistics::{Interval, intervals};
use secret::timing::{BOUND_US, FAILURES_MAX, MEMORY_KIB, Pair, Trials, WARM_UP_BLOCKS, measure, pool_size};
use secret::together::{self, Compared, Whom};
use secret::{Attempt, Cause, House, PASSWORD};

/// Blocks of a trial for each cause.
const TRIALS: usize = 1000;
/// From here on an interval is narrow on any machine that does nothing else; below there are so many tries.
const TRIALS_LONG: usize = 20_000;
const TRIES: usize = 3;
/// Of attempts in groups, each of which takes a dozen logins.
const IN_GROUPS: usize = 600;
/// Of the twin, whose difference is large.
const TWIN_TRIALS: usize = 300;

/// Who measures wants no other test beside it.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    // One that failed is no reason not to go on.
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many trials of each cause are asked for.
fn asked() -> usize {
    number("TRIALS").and_then(|trials| usize::try_from(trials).ok()).unwrap_or(TRIALS)
}

fn seed() -> u64 {
    number("SEED").unwrap_or_else(random::entropy)
}

/// The pairs that are certainly told apart.
fn told_apart(pairs: &[Pair]) -> Vec<&Pair> {
    pairs.iter().filter(|pair| pair.interval.beyond(BOUND_US)).collect()
}

fn worst(pairs: &[Pair]) -> &Pair {
    pairs.iter().max_by(|a, b| a.interval.worst().total_cmp(&b.interval.worst())).expect("pairs")
}

#[test]
fn every_cause_of_a_failed_login_takes_the_same_time() {
    let _alone = alone();
    until_sure(|trials| {
        let mut house = House::new(FAILURES_MAX, MEMORY_KIB, |setup| setup);
        let all = Trials::run(&mut house, trials, seed());
        let (pairs, whole) = (all.pairs(), all.whole_pairs());
        for (cause, median) in Cause::ALL.iter().zip(all.medians()) {
            println!("{cause:?}: median {median:.1} us");
        }
        for Pair { a, b, interval } in &pairs {
            println!("{a:?} - {b:?}: 99% [{:+.1}, {:+.1}] us", interval.low, interval.high);
        }
        for (from, pairs) in [("the password", &pairs), ("the name", &whole)] {
            let Pair { a, b, interval } = worst(pairs);
            println!(
                "proof: secrecy, time from {from} to 565: {trials} trials of each of {} causes, {} pairs, the widest 99% \
                 interval [{:+.1}, {:+.1}] us ({a:?}, {b:?}), bound {BOUND_US} us",
                Cause::ALL.len(),
                pairs.len(),
                interval.low,
                interval.high
            );
        }
        Measured { sure: pairs.iter().chain(&whole).map(|pair| pair.interval).collect(), unsure: Vec::new() }
    });
}

/// What a run has measured.
struct Measured {
    /// Has to be within the bound, certainly.
    sure: Vec<Interval>,
    /// Must not be beyond it, certainly.
    unsure: Vec<Interval>,
}

/// Measures with as many trials as are asked for. Each interval has to be within the bound; few trials on a busy machine
/// may leave that open, and twice as many are made then. What is certainly beyond the bound is a fault at once.
#[track_caller]
fn until_sure(measure: impl FnMut(usize) -> Measured) {
    until_sure_of(TRIALS, measure);
}

/// The same, beginning with so many where nobody says how many.
#[track_caller]
fn until_sure_of(usual: usize, mut measure: impl FnMut(usize) -> Measured) {
    // Those of some take longer, and a short run has fewer of them.
    let mut trials = if asked() < TRIALS_LONG { (asked() * usual).div_ceil(TRIALS) } else { asked() };
    for left in (0..if asked() < TRIALS_LONG { TRIES } else { 1 }).rev() {
        let Measured { sure, unsure } = measure(trials);
        let told_apart = sure.iter().chain(&unsure).find(|interval| interval.beyond(BOUND_US));
        assert!(told_apart.is_none(), "told apart: {told_apart:?} of {sure:?} and {unsure:?}");
        if sure.iter().all(|interval| interval.within(BOUND_US)) {
            return;
        }
        assert!(left > 0, "it is not sure that nobody can tell them apart: {sure:?}");
        println!("not sure within {BOUND_US} us, {left} tries left");
        trials *= 2;
    }
}

#[test]
fn an_unknown_user_without_work_is_caught() {
    let _alone = alone();
    let mut house = House::new(FAILURES_MAX, MEMORY_KIB, |setup| setup.sabotaged(Fault::LeakyTime));
    let all = Trials::run(&mut house, TWIN_TRIALS, seed());
    let pairs = all.pairs();
    let leaks = |pair: &&Pair| pair.a == Cause::Unknown || pair.b == Cause::Unknown;
    let caught = told_apart(&pairs);
    assert!(told_apart(&all.whole_pairs()).iter().any(leaks), "the twin passes from the name on");
    assert!(caught.iter().any(leaks), "the twin passes: {pairs:?}");
    let Pair { a, b, interval } = worst(&pairs);
    println!(
        "proof: secrecy, time: twin leaky-time: caught within {TWIN_TRIALS} trials by {} of {} pairs, \
         [{:+.1}, {:+.1}] us ({a:?}, {b:?})",
        caught.len(),
        pairs.len(),
        interval.low,
        interval.high
    );
}

/// Verifying threads; groups of two and of three attempts at a time.
fn in_groups(threads: u32, memory_kib: u32, blocks: usize, change: impl FnOnce(Setup) -> Setup) -> Vec<Compared> {
    let mut house = House::with(together::FAILURES_MAX, memory_kib, &format!("auth.threads = {threads}\n"), change);
    let seed = seed();
    // Three that are verified at a time on two processors tell of these.
    let at_once =
        |size: usize| size.min(threads as usize) <= std::thread::available_parallelism().map_or(1, usize::from);
    let sizes = [2, 3].into_iter().filter(|size| at_once(*size));
    sizes.flat_map(|size| together::measure(&mut house, size, blocks, seed)).collect()
}

fn widest(intervals: &[Interval]) -> Interval {
    *intervals.iter().max_by(|a, b| a.worst().total_cmp(&b.worst())).expect("pairs")
}

#[test]
fn attempts_that_come_together_wait_alike_whoever_they_are_for() {
    let _alone = alone();
    for threads in [1, 2, 4] {
        until_sure_of(IN_GROUPS, |blocks| {
            let found = in_groups(threads, MEMORY_KIB, blocks, |setup| setup);
            let quartiles: Vec<Interval> = found.iter().map(|found| found.first_quartile).collect();
            let medians: Vec<Interval> = found.iter().map(|found| found.median).collect();
            let [quartile, median] = [&quartiles, &medians].map(|of| widest(of));
            println!(
                "proof: secrecy, time, in pairs and in threes, {threads} verifying: {blocks} trials of each of {} kinds, {} \
                 compared, the widest 99% interval of first quartiles [{:+.1}, {:+.1}] us, of medians [{:+.1}, {:+.1}] us, \
                 bound {BOUND_US} us",
                Whom::ALL.len(),
                found.len(),
                quartile.low,
                quartile.high,
                median.low,
                median.high
            );
            match asked() < TRIALS_LONG {
                true => Measured { sure: quartiles, unsure: medians },
                false => Measured { sure: [quartiles, medians].concat(), unsure: Vec::new() },
            }
        });
    }
}

#[test]
fn a_user_at_home_who_waits_by_itself_alone_is_caught() {
    let _alone = alone();
    // On a busy machine it takes more trials to be sure of.
    for blocks in [100, 200, 400, 800] {
        let found = in_groups(2, 4 * MEMORY_KIB, blocks, |setup| setup.sabotaged(Fault::OwnBucket));
        let at_home = found.iter().filter(|found| found.pair.0 == 0 || found.pair.1 == 0);
        let caught = at_home.filter(|found| found.first_quartile.beyond(BOUND_US)).count();
        if caught > 0 {
            println!("proof: secrecy, time: twin own-bucket: caught in {caught} of {}", found.len());
            return;
        }
    }
    panic!("the twin passes");
}

/// An unknown user, one whose hash has an older cost, and one whose hash has the current one; the intervals of the pairs.
fn with_an_older_cost(blocks: usize, change: impl FnOnce(Setup) -> Setup) -> Vec<(usize, usize, Interval)> {
    let mut house = House::new(FAILURES_MAX, MEMORY_KIB / 4, |setup| setup);
    let count = pool_size(blocks + WARM_UP_BLOCKS);
    let older: Vec<String> = (0..count).map(|_| house.fresh_user()).collect();
    let mut house = house.again(MEMORY_KIB, change);
    let current: Vec<String> = (0..count).map(|_| house.fresh_user()).collect();
    let seed = seed();
    let [times, _] = measure(&mut house, 3, blocks, seed, |house, group, block| {
        let (from, place) = (house.fresh_address(), block % count);
        match group {
            0 => Attempt { from, name: house.fresh_name(), password: PASSWORD },
            1 => Attempt { from, name: older[place].clone(), password: "wrong12" },
            _ => Attempt { from, name: current[place].clone(), password: "wrong12" },
        }
    });
    intervals(&times, seed)
}

#[test]
fn a_hash_of_an_older_cost_takes_the_same_time() {
    let _alone = alone();
    until_sure(|trials| {
        let pairs = with_an_older_cost(trials, |setup| setup);
        let shown: Vec<String> = pairs.iter().map(|(_, _, i)| format!("[{:+.1}, {:+.1}]", i.low, i.high)).collect();
        println!(
            "proof: secrecy, time: an unknown user, a hash of an older cost, one of the current: {trials} trials, 99% {} us",
            shown.join(" ")
        );
        Measured { sure: pairs.into_iter().map(|(_, _, interval)| interval).collect(), unsure: Vec::new() }
    });
}

#[test]
fn an_unknown_user_without_work_is_caught_beside_an_older_cost_too() {
    let _alone = alone();
    let pairs = with_an_older_cost(TWIN_TRIALS, |setup| setup.sabotaged(Fault::LeakyTime));
    let caught = pairs.iter().filter(|(_, _, interval)| interval.beyond(BOUND_US)).count();
    assert!(caught == 2, "the twin passes: {pairs:?}");
    println!("proof: secrecy, time: twin leaky-time beside an older cost: caught in {caught} of {} pairs", pairs.len());
}

#[test]
fn an_unknown_user_who_is_told_more_is_caught() {
    let _alone = alone();
    let mut house = House::new(bytes::FAILURES_MAX, 8, |setup| setup.sabotaged(Fault::LeakyReply));
    let [script, _] = Script::plain();
    let differences = compare(&mut house, &script, &mut Figures::default());
    assert_eq!(differences.len(), Cause::ALL.len() - 1, "the twin passes: {differences:?}");
    println!("proof: secrecy, bytes: twin leaky-reply: caught at conversation 1");
}
