//! A failure made small: what it does not need is left out, one thing after another, as long as it still fails.

use std::fmt::Write;

use super::plan::{Cut, Plan, Twin};
use super::runs::{Failure, once};

/// Runs that are spent on it.
const TRIES_MAX: u32 = 300;

impl Cut {
    /// What `CLIENTS`, `UNTIL` and `WITHOUT` say.
    pub fn from_environment() -> Cut {
        let get = |name| std::env::var(name).ok();
        let without = get("WITHOUT").unwrap_or_default();
        let has = |what| without.split(',').any(|word| word == what);
        let numbers = |text: String| text.split(',').map(|n| n.parse().expect("CLIENTS are numbers")).collect();
        Cut {
            clients: get("CLIENTS").map(numbers),
            until: get("UNTIL").map(|text| text.parse().expect("UNTIL is a number")),
            no_crashes: has("crashes"),
            no_store_faults: has("faults"),
            good_weather: has("weather"),
        }
    }

    fn command(&self, seed: u64) -> String {
        let mut command = format!("SEED={seed}");
        if let Some(clients) = &self.clients {
            let list: Vec<String> = clients.iter().map(usize::to_string).collect();
            let _ = write!(command, " CLIENTS={}", list.join(","));
        }
        if let Some(until) = self.until {
            let _ = write!(command, " UNTIL={until}");
        }
        let without = [(self.no_crashes, "crashes"), (self.no_store_faults, "faults"), (self.good_weather, "weather")];
        let without: Vec<&str> = without.into_iter().filter(|(cut, _)| *cut).map(|(_, what)| what).collect();
        if !without.is_empty() {
            let _ = write!(command, " WITHOUT={}", without.join(","));
        }
        command + " cargo test --test simulation -- --nocapture promises"
    }
}

/// The failure with the command that repeats it, and what led to it.
pub fn told(failure: &Failure, twin: Twin, cut: &Cut) -> String {
    let seed = failure.seed;
    let cut = shrink(seed, twin, cut);
    let played = once(seed, twin, &cut, true);
    let text = played.problem.unwrap_or_else(|| failure.text.clone());
    format!("seed {seed}: {text}\nagain with\n  {}\n{}", cut.command(seed), played.story)
}

fn shrink(seed: u64, twin: Twin, cut: &Cut) -> Cut {
    let mut tries = 0;
    let mut fails = |cut: &Cut| {
        tries += 1;
        tries <= TRIES_MAX && once(seed, twin, cut, false).problem.is_some()
    };
    let mut best = cut.clone();
    let mut attempt = |best: &mut Cut, change: &dyn Fn(&mut Cut)| {
        let mut smaller = best.clone();
        change(&mut smaller);
        let shrunk = smaller != *best && fails(&smaller);
        if shrunk {
            *best = smaller;
        }
        shrunk
    };
    attempt(&mut best, &|cut| cut.no_crashes = true);
    attempt(&mut best, &|cut| cut.no_store_faults = true);
    attempt(&mut best, &|cut| cut.good_weather = true);
    let mut clients = Plan::new(seed, twin, &best).clients;
    let mut size = clients.len().div_ceil(2);
    while size > 0 {
        let mut place = 0;
        while place < clients.len() {
            let mut fewer = clients.clone();
            fewer.drain(place..(place + size).min(clients.len()));
            if attempt(&mut best, &|cut| cut.clients = Some(fewer.clone())) {
                clients = fewer;
            } else {
                place += size;
            }
        }
        size /= 2;
    }
    let mut until = Plan::new(seed, twin, &best).until;
    while until > 1 && attempt(&mut best, &|cut| cut.until = Some(until / 2)) {
        until /= 2;
    }
    best
}
