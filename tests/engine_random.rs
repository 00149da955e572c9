//! The whole engine over the store in memory, under clients, a store, a clock and administrators that do what a seed
//! says; after each step what docs/protocol.md promises must hold. `ENGINE_SEED=17 cargo test --test engine_random`
//! plays one seed again, `ENGINE_SEEDS=5000` more of them.

#[path = "support/memory_store.rs"]
mod memory_store;
mod random;

use std::panic::{AssertUnwindSafe, catch_unwind};

use random::world::World;

const SEEDS: u64 = 300;
const STEPS: usize = 4000;

#[test]
fn promises_hold_whatever_happens() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("ENGINE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ENGINE_SEEDS").unwrap_or(SEEDS),
    };
    let (mut delivered, mut stored) = (0, 0);
    for seed in seeds.clone() {
        let run = catch_unwind(AssertUnwindSafe(|| {
            let mut world = World::new(seed);
            for _ in 0..STEPS {
                world.step();
            }
            world.end();
            (world.book.deliveries, world.book.kept())
        }));
        match run {
            Ok((d, s)) => (delivered, stored) = (delivered + d, stored + s),
            Err(_) => panic!("seed {seed}; again with ENGINE_SEED={seed} cargo test --test engine_random"),
        }
    }
    // A test in which nothing happens would hold as well.
    let runs = (seeds.end - seeds.start) as usize;
    assert!(delivered > 40 * runs && stored > 40 * runs, "{delivered} deliveries, {stored} messages in {runs} runs");
}
