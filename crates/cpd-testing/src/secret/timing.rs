//! How long a failed login takes, by its cause. One client, one attempt at a time, each over a connection from another
//! address; a block has one attempt for each cause, in an order of its own.

use std::io::Write;
use std::time::{Duration, Instant};

use super::statistics::{Interval, intervals, median};
use super::{Attempt, Cause, House, PASSWORD, connect_from, line};
use crate::random::Random;

/// Differences of medians that nobody may find, in microseconds.
pub const BOUND_US: f64 = 100.0;
/// Cheap, but enough that to leave a hash out shows: about half a millisecond.
pub const MEMORY_KIB: u32 = 1024;
/// As by default.
pub const FAILURES_MAX: u32 = 10;
/// In which a bucket forgets one of these.
const DRAIN: Duration = Duration::from_secs(60 / FAILURES_MAX as u64);
/// Not measured.
pub const WARM_UP_BLOCKS: usize = 50;

/// All trials of one daemon.
pub struct Trials {
    /// From the password to its answer, by cause, in the order of [`Cause::ALL`]; nanoseconds.
    pub times: Vec<Vec<u64>>,
    /// The same from the name on.
    pub whole: Vec<Vec<u64>>,
    pub seed: u64,
}

/// What the trials came to for a pair of causes.
#[derive(Debug)]
pub struct Pair {
    pub a: Cause,
    pub b: Cause,
    pub interval: Interval,
}

/// The times of so many blocks, in nanoseconds by group: from the password on, and from the name on. `attempt` says who
/// tries in which group and block.
#[track_caller]
pub fn measure(
    house: &mut House,
    groups: usize,
    blocks: usize,
    seed: u64,
    mut attempt: impl FnMut(&mut House, usize, usize) -> Attempt,
) -> [Vec<Vec<u64>>; 2] {
    let mut random = Random::new(seed, 1);
    let mut all = [(); 2].map(|()| vec![Vec::with_capacity(blocks); groups]);
    let mut order: Vec<usize> = (0..groups).collect();
    for block in 0..blocks + WARM_UP_BLOCKS {
        for place in (1..order.len()).rev() {
            order.swap(place, random.between(0, place as u64) as usize);
        }
        for group in &order {
            let attempt = attempt(house, *group, block);
            let taken = time(house, &attempt);
            if block >= WARM_UP_BLOCKS {
                for (times, taken) in all.iter_mut().zip(taken) {
                    times[*group].push(u64::try_from(taken.as_nanos()).expect("short"));
                }
            }
        }
    }
    all
}

impl Trials {
    #[track_caller]
    pub fn run(house: &mut House, blocks: usize, seed: u64) -> Trials {
        let all = blocks + WARM_UP_BLOCKS;
        let pools = Pools::new(house, all);
        let (before, begun) = (house.throttled(), Instant::now());
        let attempt = |house: &mut House, group: usize, block| pools.attempt(house, Cause::ALL[group], block);
        let [times, whole] = measure(house, Cause::ALL.len(), blocks, seed, attempt);
        // One attempt gets through whenever a bucket has forgotten a failure; there are two such buckets.
        let (throttled, meant) = (house.throttled() - before, 2 * all as u64);
        let drained = 2 * (begun.elapsed().as_secs() / DRAIN.as_secs() + 1);
        assert!(throttled <= meant, "{throttled} throttled, and only {meant} should be");
        assert!(throttled + drained >= meant, "{throttled} throttled of {meant}");
        Trials { times, whole, seed }
    }

    /// In the order of [`Cause::ALL`], in microseconds.
    pub fn medians(&self) -> Vec<f64> {
        self.times.iter().map(|times| median(&mut times.clone()) / 1000.0).collect()
    }

    pub fn pairs(&self) -> Vec<Pair> {
        self.compare(&self.times)
    }

    /// From the name on.
    pub fn whole_pairs(&self) -> Vec<Pair> {
        self.compare(&self.whole)
    }

    fn compare(&self, times: &[Vec<u64>]) -> Vec<Pair> {
        let pairs = intervals(times, self.seed).into_iter();
        pairs.map(|(a, b, interval)| Pair { a: Cause::ALL[a], b: Cause::ALL[b], interval }).collect()
    }
}

/// Whom the attempts are for: so many that nobody fails too often, but for the two who are to.
struct Pools {
    wrong: Vec<Attempt>,
    at_home: Vec<Attempt>,
    locked: Vec<Attempt>,
    throttled_name: Attempt,
    throttled_address: Attempt,
}

impl Pools {
    #[track_caller]
    fn new(house: &mut House, blocks: usize) -> Pools {
        let mut pool = |cause| (0..pool_size(blocks)).map(|_| house.prepare(cause)).collect();
        let (wrong, at_home, locked) = (pool(Cause::Wrong), pool(Cause::WrongAtHome), pool(Cause::Locked));
        let wrong_password = |attempt: Attempt| Attempt { password: "wrong12", ..attempt };
        Pools {
            wrong,
            at_home,
            locked,
            // Now and then one of these gets through; it must fail all the same.
            throttled_name: wrong_password(house.prepare(Cause::ThrottledName)),
            throttled_address: wrong_password(house.prepare(Cause::ThrottledAddress)),
        }
    }

    fn attempt(&self, house: &mut House, cause: Cause, block: usize) -> Attempt {
        let of = |pool: &[Attempt]| pool[block % pool.len()].clone();
        let from = house.fresh_address();
        match cause {
            Cause::Unknown => Attempt { from, name: house.fresh_name(), password: PASSWORD },
            Cause::Wrong => Attempt { from, ..of(&self.wrong) },
            Cause::WrongAtHome => of(&self.at_home),
            Cause::Locked => Attempt { from, ..of(&self.locked) },
            Cause::ThrottledName => Attempt { from, ..self.throttled_name.clone() },
            Cause::ThrottledAddress => self.throttled_address.clone(),
        }
    }
}

/// How many users make so many attempts that none of them fails too often.
pub fn pool_size(attempts: usize) -> usize {
    attempts.div_ceil(FAILURES_MAX as usize - 1)
}

/// From the password to its answer, and from the name to that.
#[track_caller]
fn time(house: &House, attempt: &Attempt) -> [Duration; 2] {
    let mut stream = connect_from(attempt.from, house.daemon.address());
    let (name, named) = (format!("USER {}\r\n", attempt.name), Instant::now());
    stream.write_all(name.as_bytes()).expect("sent");
    assert!(line(&mut stream).starts_with("220 "));
    let password = format!("PASS {}\r\n", attempt.password);
    let begun = Instant::now();
    stream.write_all(password.as_bytes()).expect("sent");
    let mut answer = [0; 64];
    let count = std::io::Read::read(&mut stream, &mut answer).expect("an answer");
    let taken = [begun.elapsed(), named.elapsed()];
    assert_eq!(String::from_utf8_lossy(&answer[..count]), "565 error authenticating user\r\n", "{attempt:?}");
    taken
}
