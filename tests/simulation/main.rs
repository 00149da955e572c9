//! The whole server without a clock, a socket, a disk: the production engine, sessions, timer wheel and group commit under
//! a simulated network, store and time, with up to hundreds of clients, valid and hostile, through crashes, stops and
//! hand-overs. The ledger and the clocks hold the promises of docs/protocol.md (sections 5 to 7) after every event.
//!
//! One number decides everything that happens:
//!
//! ```sh
//! cargo test --release --test simulation                       # 150 seeds, and the twins
//! SEEDS=100000 cargo test --release --test simulation -- --nocapture promises    # from FIRST (0) on
//! SEED=17 cargo test --test simulation -- --nocapture promises   # one seed, with its trace hash
//! ```
//!
//! A failure prints the command that repeats it, made small: `CLIENTS=3,9 UNTIL=48211 WITHOUT=crashes,faults,weather`
//! leave out what it does not need. `EXPECT_VIOLATION=Early` wants a violation of this sort within the seeds instead, and
//! none of another; behind a comma there can be sorts in which the same may be seen first. (They are those of `problem.rs`
//! and of the ledger.) That is for what is wrong on purpose, around the engine (`TWIN=Mixing`, see `twins.rs`) or in it:
//!
//! ```sh
//! CPD_SABOTAGE=early-timer EXPECT_VIOLATION=Early SEEDS=20 cargo test --features sabotage --test simulation -- --nocapture promises
//! ```
//!
//! (or `early-reply`, `early-delete`, `forgotten-lease`; what else `crates/cpd-core/src/sabotage.rs` knows lies outside of the engine).

mod bodies;
mod checks;
mod client;
mod clocks;
mod fate;
mod hostile;
mod network;
mod plan;
mod problem;
mod rows;
mod runs;
mod server;
mod shrink;
mod store;
mod trace;
mod twins;
mod world;

use cpd_testing::environment::number;
use cpd_testing::ledger;
use plan::{Cut, Twin};
use runs::{Runs, once};

/// Seeds that plain `cargo test` plays.
const SEEDS: u64 = 150;
/// Seeds from which on a run must have had everything in it.
const MANY: u64 = 50;
/// How much faster than the clock on the wall it has to be.
const SPEED_MIN: u64 = 1000;

#[test]
fn promises_hold_whatever_happens() {
    let first = number("FIRST").unwrap_or(0);
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => first..first + number("SEEDS").unwrap_or(SEEDS),
    };
    let (twin, cut) = (Twin::from_environment(), Cut::from_environment());
    if let Some(sorts) = shrink::expected() {
        let runs = Runs::play(seeds, twin, &cut, &sorts);
        println!("proof: simulation: {}", runs.told());
        let failure = runs.caught(&sorts).unwrap_or_else(|text| panic!("{text}"));
        println!("proof: simulation: caught at seed {}: {}; in all {}", failure.seed, failure.problem, runs.sorts());
        return twins::check_told(failure, twin);
    }
    let count = seeds.end - seeds.start;
    let runs = Runs::play(seeds, twin, &cut, &[]);
    println!("proof: simulation: {}", runs.told());
    if let Some(failure) = runs.failure() {
        panic!("{}", shrink::told(failure, twin, &cut).text);
    }
    if count >= MANY && cut == Cut::default() {
        something_happened(&runs, count);
    }
}

/// A simulation in which nothing happens would hold as well.
fn something_happened(runs: &Runs, seeds: u64) {
    let told = runs.told();
    assert!(runs.counts.kept / seeds > 40 && runs.counts.delivered / seeds > 40, "{told}");
    let happened = runs.counts.happened;
    let all = [
        happened.crashes,
        happened.lost_transactions,
        happened.handovers,
        happened.handed_over,
        happened.stops,
        happened.sessions_refused,
    ];
    assert!(!all.contains(&0), "something never happens: {told}");
    assert!(seeds < 150 || happened.crowds > 0, "no crowd: {told}");
    assert!(runs.speed() >= SPEED_MIN, "less than {SPEED_MIN} times faster than real: {told}");
}

/// What a run in a process of its own says of its trace.
fn trace(settings: &[(&str, &str)]) -> String {
    let printed = shrink::in_a_process(settings.iter().copied(), ["--nocapture", "promises"]);
    let trace = printed.lines().find_map(|line| line.split_once("; trace ")).expect("a trace");
    trace.1.to_owned()
}

/// In two processes: their memory lies elsewhere, their hash tables are in another order, their clocks say something else.
#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in ["3", "17", "4711"] {
        let own = once(seed.parse().expect("a number"), Twin::None, &Cut::default(), true);
        let own_trace = format!("{:016x}", own.hash);
        let [one, two] = [(); 2].map(|()| trace(&[("SEED", seed)]));
        assert_eq!((&one, &two), (&own_trace, &own_trace), "seed {seed}");
        println!("proof: simulation: seed {seed}, {} events, trace {one} in three processes", own.events);
    }
    let many = [("FIRST", "1000"), ("SEEDS", "40")];
    assert_eq!(trace(&many), trace(&many));
    let hash = |seed| once(seed, Twin::None, &Cut::default(), false).hash;
    assert_ne!(hash(3), hash(4));
}

/// Its twin: something in the world is decided by what is not the seed.
#[test]
fn chance_from_elsewhere_is_noticed() {
    let settings = [("SEED", "17"), ("TWIN", "Wandering")];
    let [one, two] = [(); 2].map(|()| trace(&settings));
    assert_ne!(one, two, "nobody would notice that something else than the seed decides");
    println!("proof: simulation: chance from elsewhere: caught, traces {one} and {two} of one seed");
}
