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
//! leave out what it does not need. `EXPECT_VIOLATION=1` wants a violation within the seeds instead, for what is wrong on
//! purpose in the engine itself:
//!
//! ```sh
//! CPD_SABOTAGE=early-timer EXPECT_VIOLATION=1 SEEDS=20 cargo test --features sabotage --test simulation -- --nocapture promises
//! ```
//!
//! (or `early-reply`, `early-delete`, `forgotten-lease`; what else `src/sabotage.rs` knows lies outside of the engine).

#[path = "../support/ledger.rs"]
mod ledger;

mod bodies;
mod chance;
mod checks;
mod client;
mod clocks;
mod fate;
mod hostile;
mod network;
mod plan;
mod rows;
mod runs;
mod server;
mod shrink;
mod store;
mod trace;
mod world;

use std::env;

use plan::{Cut, Twin};
use runs::{Failure, Runs, once};

/// Seeds that plain `cargo test` plays.
const SEEDS: u64 = 150;
/// Seeds within which each twin must be found.
const TWIN_SEEDS: u64 = 200;

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[test]
fn promises_hold_whatever_happens() {
    let first = number("FIRST").unwrap_or(0);
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => first..first + number("SEEDS").unwrap_or(SEEDS),
    };
    let cut = Cut::from_environment();
    let runs = Runs::play(seeds.clone(), Twin::None, &cut);
    println!("proof: simulation: {}", runs.told());
    if env::var_os("EXPECT_VIOLATION").is_some() {
        let failure = runs.failure.expect("a violation: the twin was not caught");
        println!("proof: simulation: caught at seed {}: {}", failure.seed, failure.text);
        return;
    }
    if let Some(failure) = runs.failure {
        panic!("{}", shrink::told(&failure, Twin::None, &cut));
    }
    // A simulation in which nothing happens would hold as well.
    let per_seed = |count: u64| count / (seeds.end - seeds.start);
    let many = seeds.end - seeds.start >= 50 && cut == Cut::default();
    assert!(!many || per_seed(runs.counts.kept) > 40 && per_seed(runs.counts.delivered) > 40, "{}", runs.told());
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [3, 17, 4711] {
        let [one, two] = [false, true].map(|words| once(seed, Twin::None, &Cut::default(), words));
        assert_eq!(one.hash, two.hash, "seed {seed}");
        println!("proof: simulation: seed {seed}, {} events, trace {:016x}", one.events, one.hash);
    }
    let hash = |seed| once(seed, Twin::None, &Cut::default(), false).hash;
    assert_ne!(hash(3), hash(4));
}

/// The simulation finds what is wrong on purpose around the engine. What is wrong in it takes the feature `sabotage`.
#[test]
fn twins_are_found() {
    for (twin, what) in [
        (Twin::Unsynced, "a store that answers before the sync"),
        (Twin::Forgetful, "a store that forgets a synced row in a crash"),
        (Twin::Mixing, "a store that hands out another's body"),
        (Twin::Sleepy, "a loop that wakes too late"),
    ] {
        let runs = Runs::play(0..TWIN_SEEDS, twin, &Cut::default());
        let Some(Failure { seed, text, .. }) = runs.failure else { panic!("{what} is not found") };
        println!("proof: simulation: {what}: caught at seed {seed}: {text}");
    }
}
