//! How many messages a second are kept, against a server that only writes them down, and against SQLite alone.

use crate::client::Fleet;
use crate::histogram::Histogram;
use crate::lab::{Lab, Pair};
use crate::scripts::{self, Recipients, Run, Until};
use crate::server::{Hashing, Server, USERS};
use crate::table::{Unit, median, shown};
use crate::{raw_sqlite, targets};

/// Connections, and PDUs that each keeps outstanding.
const LOADS: [(usize, usize); 4] = [(1, 1), (200, 1), (1000, 1), (200, 16)];
/// The load whose CPU is looked at.
const CPU_LOAD: (usize, usize) = (200, 1);
const BATCHES: [usize; 3] = [1, 100, 1000];
const RECIPIENTS: Recipients = Recipients { first: 0, users: USERS };

pub fn run(lab: &mut Lab) -> Result<(), String> {
    for load in LOADS {
        against_floor(lab, load)?;
    }
    for load in [(200, 1), (200, 16)] {
        without_store(lab, load)?;
    }
    for batch in BATCHES {
        let seconds = lab.options.measured() / 2;
        let rate = raw_sqlite::rows_per_second(lab.root(), batch, seconds)?;
        lab.limit_row(&format!("raw SQLite, {batch} rows a commit"), Unit::PerSecond, vec![rate], "");
    }
    Ok(())
}

/// What one side's rounds gave beside the rate.
#[derive(Default)]
struct Side {
    server_cpu: Vec<f64>,
    client_cpu: Vec<f64>,
    latency: Option<Histogram>,
}

impl Side {
    fn take(&mut self, run: Run) -> f64 {
        self.server_cpu.push(run.server_cpu);
        self.client_cpu.push(run.client_cpu);
        self.latency.get_or_insert_with(Histogram::new).add(&run.latency);
        run.rate
    }

    /// Latencies and the driver's own cost. Latencies are only those of single PDUs: a burst's would say little.
    fn describe(&self, depth: usize) -> String {
        let micros = |values: &[f64]| shown(median(values.to_vec()).unwrap_or(0.0), Unit::Seconds);
        let driver = format!("driver {} CPU a message", micros(&self.client_cpu));
        match &self.latency {
            Some(latency) if depth == 1 => {
                let (p50, p99) = (latency.quantile(0.5), latency.quantile(0.99));
                format!("p50 {} p99 {}; {driver}", shown(p50, Unit::Seconds), shown(p99, Unit::Seconds))
            }
            _ => driver,
        }
    }
}

fn against_floor(lab: &mut Lab, load: (usize, usize)) -> Result<(), String> {
    let (mut floor, mut cpd) = (Side::default(), Side::default());
    let pairs = lab.pairs(
        |lab| Ok(floor.take(measure(lab, Lab::floor, load)?)),
        |lab| Ok(cpd.take(measure(lab, |lab| lab.cpd(Hashing::Cheap), load)?)),
    )?;
    let (connections, depth) = load;
    let mut note = format!("floor: {}", floor.describe(depth));
    if lab.with_cpd() {
        note = format!("cpd: {}; {note}", cpd.describe(depth));
    }
    let name = format!("store, {connections} connections x {depth}");
    lab.row(&name, Unit::PerSecond, &pairs, targets::store(connections, depth), note);
    if load == CPU_LOAD {
        let mut spent = cpd.server_cpu.iter().copied();
        let pairs: Vec<_> = floor.server_cpu.iter().map(|limit| Pair { cpd: spent.next(), limit: *limit }).collect();
        lab.row(&format!("{name}, CPU a message"), Unit::Seconds, &pairs, targets::STORE_CPU, String::new());
    }
    Ok(())
}

/// What the loop and the protocol alone would allow.
fn without_store(lab: &mut Lab, load: (usize, usize)) -> Result<(), String> {
    let (mut floor, mut reactor) = (Vec::new(), Vec::new());
    for _ in 0..lab.options.rounds {
        floor.push(measure(lab, |lab| lab.floor_memory(0), load)?.rate);
        if let Some(server) = lab.memory_server()? {
            reactor.push(measure(lab, |_| Ok(server), load)?.rate);
        }
    }
    let name = format!("{} connections x {}", load.0, load.1);
    lab.limit_row(&format!("floor without a file, {name}"), Unit::PerSecond, floor, "");
    if !reactor.is_empty() {
        lab.limit_row(&format!("cpd's reactor without a store, {name}"), Unit::PerSecond, reactor, "");
    }
    Ok(())
}

fn measure(
    lab: &mut Lab,
    server: impl FnOnce(&mut Lab) -> Result<Server, String>,
    (connections, depth): (usize, usize),
) -> Result<Run, String> {
    let server = server(lab)?;
    let mut fleet = Fleet::log_in(server.address, connections, USERS)?;
    let until = Until::Time { lead_in: lab.options.lead_in(), measured: lab.options.measured() };
    scripts::store(&mut fleet, RECIPIENTS, depth, until, Some(server.pid()))
}
