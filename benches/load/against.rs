//! This cpd against another build of it, in turns of a fraction of a second, so that what else the machine does meets
//! both: `--against PROGRAM`, which has its cpctl beside it.

use crate::client::Fleet;
use crate::fetch::{self, fill_and_fetch};
use crate::flood::{Waits, waits};
use crate::idle::{self, bytes_each};
use crate::lab::Lab;
use crate::login::storm;
use crate::scripts::{self, Recipients, Run, Until};
use crate::server::{Build, Hashing, Server, USERS};
use crate::table::{Row, Target, Unit, median};
use crate::targets;

/// Connections, and PDUs that each keeps outstanding.
const LOADS: [(usize, usize); 3] = [(1, 1), (200, 1), (200, 16)];
/// Turns of each side in a round.
const TURNS: usize = 16;
/// A turn of a download takes this part of a queue.
const PIECES: usize = 8;
const RECIPIENTS: Recipients = Recipients { first: 0, users: USERS };
/// Of a slower build nobody is to notice.
const RATIO: Target = Target::RatioAtLeast(0.98);
const LOGIN: Target = Target::RatioAtLeast(0.95);
const MEMORY: Target = Target::RatioAtMost(1.02);

/// A round's figures of one side: messages a second, and the server's CPU seconds a message.
#[derive(Clone, Copy, Default)]
struct Figures {
    rate: f64,
    cpu: f64,
}

struct Side {
    server: Server,
    fleet: Fleet,
    sum: Figures,
}

impl Side {
    fn start(lab: &mut Lab, build: &Build, connections: usize) -> Result<Side, String> {
        let server = lab.build(build, Hashing::Cheap)?;
        let fleet = Fleet::log_in(server.address, connections, USERS)?;
        Ok(Side { server, fleet, sum: Figures::default() })
    }

    fn turn(&mut self, depth: usize, until: Until) -> Result<(), String> {
        let Run { rate, server_cpu, .. } =
            scripts::store(&mut self.fleet, RECIPIENTS, depth, until, Some(self.server.pid()))?;
        self.sum.rate += rate / TURNS as f64;
        self.sum.cpu += server_cpu / TURNS as f64;
        Ok(())
    }
}

/// Adds rows, each with the geometric mean of its rounds' ratios and the interval of 95% around it.
pub fn run(lab: &mut Lab) -> Result<(), String> {
    let Some(other) = lab.options.against.clone() else { return Ok(()) };
    let filtered = lab.options.filter;
    let builds = [Build::own(), Build::of(&other)].map(|build| build.filtered(filtered));
    if lab.options.wants("store") {
        store(lab, &builds, &other.display().to_string())?;
    }
    if lab.options.wants("fetch") {
        for window in fetch::WINDOWS {
            let queue = lab.options.size(fetch::QUEUE, 500) * if window == 0 { 1 } else { fetch::WINDOW_FACTOR };
            let name = if window == 0 { "fetch, RMSG".to_owned() } else { format!("fetch, RMSG{window}") };
            let piece = (queue / PIECES).max(1);
            let turn = |server: &Server| fill_and_fetch(server, piece, window);
            in_turns(lab, &builds, (&name, Unit::PerSecond, RATIO), Hashing::Cheap, turn)?;
        }
    }
    if lab.options.wants("idle") {
        let connections = lab.options.size(idle::CONNECTIONS, 1000);
        let name = format!("memory of an idle connection ({connections})");
        let measure = |lab: &mut Lab, build: &Build| bytes_each(&lab.build(build, Hashing::Cheap)?, connections);
        compare(lab, &builds, (&name, Unit::Bytes, MEMORY), measure)?;
    }
    if lab.options.wants("login") {
        let time = lab.options.measured() / 8;
        let sleep = move || {
            std::thread::sleep(time);
            Ok(())
        };
        let turn = |server: &Server| Ok(storm(server.address, time, sleep)?.0);
        in_turns(lab, &builds, ("login", Unit::PerSecond, LOGIN), Hashing::Default, turn)?;
    }
    if lab.options.wants("flood") {
        flood(lab, &builds)?;
    }
    Ok(())
}

/// One row of what is measured in short turns on both builds, which run all the while.
fn in_turns(
    lab: &mut Lab,
    [ours, theirs]: &[Build; 2],
    (name, unit, target): (&str, Unit, Target),
    hashing: Hashing,
    mut turn: impl FnMut(&Server) -> Result<f64, String>,
) -> Result<(), String> {
    let mut rounds = Vec::new();
    for _ in 0..lab.options.rounds {
        let servers = [lab.build(ours, hashing)?, lab.build(theirs, hashing)?];
        let mut sums = [0.0; 2];
        for number in 0..TURNS {
            // Whoever comes second finds what the first has left to the disk.
            let order = if number % 2 == 0 { [0, 1] } else { [1, 0] };
            for side in order {
                sums[side] += turn(&servers[side])? / TURNS as f64;
            }
        }
        rounds.push(sums);
    }
    lab.push(row(name, unit, target, &rounds, |value| *value));
    Ok(())
}

/// One row of what is measured for each build by itself, in turns.
fn compare(
    lab: &mut Lab,
    builds: &[Build; 2],
    (name, unit, target): (&str, Unit, Target),
    mut measure: impl FnMut(&mut Lab, &Build) -> Result<f64, String>,
) -> Result<(), String> {
    let mut rounds = Vec::new();
    for number in 0..lab.options.rounds {
        let mut both = [0.0; 2];
        for turn in 0..2 {
            let side = (number + turn) % 2;
            both[side] = measure(lab, &builds[side])?;
        }
        rounds.push(both);
    }
    lab.push(row(name, unit, target, &rounds, |value| *value));
    Ok(())
}

/// What both kinds of honest logins wait for under a flood; each build has one of its own, as long as a round.
fn flood(lab: &mut Lab, builds: &[Build; 2]) -> Result<(), String> {
    let mut rounds = Vec::new();
    for _ in 0..lab.options.rounds {
        let mut both = Vec::new();
        for build in builds {
            let server = lab.build(build, Hashing::Default)?;
            both.push(waits(lab, &server)?);
        }
        rounds.extend(<[Waits; 2]>::try_from(both));
    }
    let told = |[ours, theirs]: &[Waits; 2]| format!("this build: {}; the other: {}", ours.told(), theirs.told());
    let note = rounds.iter().map(told).collect::<Vec<_>>().join("; ");
    type Of = fn(&Waits) -> f64;
    let kinds: [(&str, Of, Target); 2] = [
        ("an owner", |waits| Waits::p99(&waits.owner), targets::FLOOD_OWNER),
        ("a new address", |waits| Waits::p99(&waits.newcomer), targets::FLOOD_NEWCOMER),
    ];
    for (who, of, target) in kinds {
        let name = format!("login under a flood, p99 of {who}");
        let row = row(&name, Unit::Seconds, target, &rounds, of);
        lab.push(Row { note: note.clone(), ..row });
    }
    Ok(())
}

fn store(lab: &mut Lab, [ours, theirs]: &[Build; 2], other: &str) -> Result<(), String> {
    for load in LOADS {
        let rounds: Vec<_> =
            (0..lab.options.rounds).map(|_| round(lab, [ours, theirs], load)).collect::<Result<_, _>>()?;
        let name = format!("store, {} connections x {}, against {other}", load.0, load.1);
        lab.push(row(&name, Unit::PerSecond, RATIO, &rounds, |figures| figures.rate));
        lab.push(row(&format!("{name}, CPU a message"), Unit::Seconds, Target::Shown, &rounds, |figures| figures.cpu));
    }
    Ok(())
}

fn round(lab: &mut Lab, builds: [&Build; 2], (connections, depth): (usize, usize)) -> Result<[Figures; 2], String> {
    let [ours, theirs] = builds.map(|build| Side::start(lab, build, connections));
    let (mut ours, mut theirs) = (ours?, theirs?);
    let turn = Until::Time { lead_in: lab.options.lead_in() / 6, measured: lab.options.measured() / 8 };
    for number in 0..TURNS {
        // Whoever comes second finds what the first has left to the disk.
        if number % 2 == 0 {
            ours.turn(depth, turn)?;
            theirs.turn(depth, turn)?;
        } else {
            theirs.turn(depth, turn)?;
            ours.turn(depth, turn)?;
        }
    }
    Ok([ours.sum, theirs.sum])
}

fn row<T>(name: &str, unit: Unit, target: Target, rounds: &[[T; 2]], of: impl Fn(&T) -> f64) -> Row {
    let mut row = Row::new(name, unit);
    row.cpd = median(rounds.iter().map(|[ours, _]| of(ours)).collect());
    row.limit = median(rounds.iter().map(|[_, theirs]| of(theirs)).collect());
    let ratios: Vec<f64> = rounds.iter().map(|[ours, theirs]| of(ours) / of(theirs)).collect();
    let (mean, low, high) = interval(&ratios);
    row.ratio = Some(mean);
    row.target = target;
    let all: Vec<String> = ratios.iter().map(|ratio| format!("{ratio:.3}")).collect();
    row.note = format!("{mean:.3}, 95% [{low:.3}, {high:.3}]: {}", all.join(" "));
    row
}

/// The geometric mean, and the interval of 95% around it by Student's t.
fn interval(ratios: &[f64]) -> (f64, f64, f64) {
    let count = ratios.len().max(1) as f64;
    let logs: Vec<f64> = ratios.iter().map(|ratio| ratio.ln()).collect();
    let mean = logs.iter().sum::<f64>() / count;
    let variance = logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
    let half = student(ratios.len()) * (variance / count).sqrt();
    (mean.exp(), (mean - half).exp(), (mean + half).exp())
}

/// The quantile of 97.5% for as many values.
fn student(values: usize) -> f64 {
    match values {
        0 | 1 => f64::INFINITY,
        2 => 12.71,
        3 => 4.30,
        4 => 3.18,
        5 => 2.78,
        6 => 2.57,
        7 => 2.45,
        8 => 2.36,
        9 => 2.31,
        10..=12 => 2.23,
        13..=20 => 2.15,
        _ => 2.06,
    }
}
