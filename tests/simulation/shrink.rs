//! A failure made small: what it does not need is left out, one thing after another, as long as it still fails in the same
//! way. And the command that plays it again.

use std::fmt::Write;
use std::process::Command;

use super::plan::{Cut, Plan, Twin};
use super::problem::Sort;
use super::runs::{Failure, once};

/// Runs that are spent on it.
const TRIES_MAX: u32 = 300;
/// What stands between the failure and its command.
const AGAIN: &str = "\nagain with\n  ";
/// Variables that say what is played.
const VARIABLES: [&str; 9] =
    ["SEED", "SEEDS", "FIRST", "TWIN", "CLIENTS", "UNTIL", "WITHOUT", "EXPECT_VIOLATION", "CPD_SABOTAGE"];

impl Cut {
    /// What `CLIENTS`, `UNTIL` and `WITHOUT` say.
    pub fn from_environment() -> Cut {
        let get = |name| std::env::var(name).ok();
        let without = get("WITHOUT").unwrap_or_default();
        let has = |what| without.split(',').any(|word| word == what);
        // Without any client there are those who empty the queues in the end.
        let listed = |text: String| text.split(',').filter(|n| !n.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        let numbers = |text| listed(text).iter().map(|n| n.parse().expect("CLIENTS are numbers")).collect();
        Cut {
            clients: get("CLIENTS").map(numbers),
            until: get("UNTIL").map(|text| text.parse().expect("UNTIL is a number")),
            no_crashes: has("crashes"),
            no_store_faults: has("faults"),
            good_weather: has("weather"),
        }
    }

    /// `sabotage`: what is wrong in the engine itself.
    pub fn command(&self, seed: u64, twin: Twin, sabotage: Option<&str>) -> String {
        let mut command = sabotage.map_or_else(String::new, |fault| format!("CPD_SABOTAGE={fault} "));
        let _ = write!(command, "SEED={seed}");
        if twin != Twin::None {
            let _ = write!(command, " TWIN={twin:?}");
        }
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
        let features = if sabotage.is_some() { " --features sabotage" } else { "" };
        command + " cargo test" + features + " --test simulation -- --nocapture promises"
    }
}

/// A failure made small.
pub struct Told {
    /// With the command that repeats it, and what led to it.
    pub text: String,
    pub events: u64,
    pub story_lines: usize,
}

pub fn told(failure: &Failure, twin: Twin, cut: &Cut) -> Told {
    let seed = failure.seed;
    // What was cut already is told as it is, so that it is the same when it is played again.
    let cut = if *cut == Cut::default() { shrink(failure, twin, cut) } else { cut.clone() };
    let played = once(seed, twin, &cut, true);
    let problem = played.problem.unwrap_or_else(|| failure.problem.clone());
    let sabotage = std::env::var("CPD_SABOTAGE").ok().filter(|_| cfg!(feature = "sabotage"));
    let command = cut.command(seed, twin, sabotage.as_deref());
    let text = format!("seed {seed}: {problem}{AGAIN}{command}\n{}", played.story);
    Told { text, events: played.events, story_lines: played.story.lines().count() }
}

/// Plays what a failure's text says, in a process of its own, and returns what that fails with.
pub fn again(text: &str) -> String {
    let command = text.split_once(AGAIN).and_then(|(_, rest)| rest.lines().next()).expect("a command");
    let (settings, arguments) = command.split_once(" cargo test ").expect("a run of cargo");
    let settings = settings.split(' ').map(|setting| setting.split_once('=').expect("NAME=value"));
    let (_, arguments) = arguments.split_once(" -- ").expect("arguments");
    in_a_process(settings, arguments.split(' '))
}

/// What this very program prints with these settings.
pub fn in_a_process<'a>(
    settings: impl IntoIterator<Item = (&'a str, &'a str)>,
    arguments: impl IntoIterator<Item = &'a str>,
) -> String {
    let mut command = Command::new(std::env::current_exe().expect("a program"));
    for name in VARIABLES {
        command.env_remove(name);
    }
    let output = command.envs(settings).args(arguments).output().expect("a run");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

fn shrink(failure: &Failure, twin: Twin, cut: &Cut) -> Cut {
    let (seed, sort) = (failure.seed, failure.problem.sort);
    let (mut best, mut tries, mut events) = (cut.clone(), 0, failure.events);
    // In the same way, and after no more than before: with one thing less something else can go on for longer.
    let mut fails = |cut: &Cut| {
        tries += 1;
        if tries > TRIES_MAX {
            return false;
        }
        let played = once(seed, twin, cut, false);
        let fails = played.problem.is_some_and(|problem| problem.sort == sort) && played.events <= events;
        if fails {
            events = played.events;
        }
        fails
    };
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

/// The sorts that `EXPECT_VIOLATION` names.
pub fn expected() -> Option<Vec<Sort>> {
    let text = std::env::var("EXPECT_VIOLATION").ok()?;
    let sort = |name| Sort::named(name).unwrap_or_else(|| panic!("EXPECT_VIOLATION: {name} is no sort of violation"));
    Some(text.split(',').map(sort).collect())
}
