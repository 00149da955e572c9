//! The command line.

use std::path::PathBuf;
use std::time::Duration;

pub const USAGE: &str =
    "usage: cargo bench --bench load -- [--quick] [--only store,fetch,flat,idle,deaf,login,flood] [--rounds N]
                                 [--json FILE] [--limits-only]
                                 [--against CPD [--filter]]
  --quick        short rounds and small numbers: does it work, not how fast is it
  --only LIST    these scenarios alone
  --rounds N     pairs of rounds of each scenario, 1 to 100 (5; 1 with --quick)
  --json FILE    the table for programs, too
  --limits-only  measure what cpd is compared with, without cpd
  --against CPD  store, fetch, idle, login and flood with this build and another one's cpd, in turns
  --filter       both of these under a filter of system calls, as their units start them";
pub const SCENARIOS: [&str; 7] = ["store", "fetch", "flat", "idle", "deaf", "login", "flood"];
const ROUNDS: usize = 5;
const ROUNDS_MAX: usize = 100;

#[derive(Debug)]
pub struct Options {
    pub quick: bool,
    pub only: Vec<String>,
    pub rounds: usize,
    pub json: Option<PathBuf>,
    pub limits_only: bool,
    pub against: Option<PathBuf>,
    pub filter: bool,
}

/// What the arguments ask for.
pub enum Request {
    Run(Options),
    /// Not meant for this program: `cargo test`, or a filter for another benchmark.
    Nothing,
    Help,
}

pub fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Request, String> {
    let mut options = Options {
        quick: false,
        only: Vec::new(),
        rounds: 0,
        json: None,
        limits_only: false,
        against: None,
        filter: false,
    };
    let mut bench = false;
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} wants a value"));
        match argument.as_str() {
            "--bench" => bench = true,
            "--quick" => options.quick = true,
            "--limits-only" => options.limits_only = true,
            "--only" => options.only = scenarios(&value()?)?,
            "--rounds" => options.rounds = rounds(&value()?)?,
            "--against" => options.against = Some(value()?.into()),
            "--filter" => options.filter = true,
            "--json" => options.json = Some(value()?.into()),
            "--help" | "-h" => return Ok(Request::Help),
            filter if !filter.starts_with('-') => {
                if !"load".contains(filter) {
                    return Ok(Request::Nothing);
                }
            }
            unknown => return Err(format!("unknown option {unknown}")),
        }
    }
    if options.filter && options.against.is_none() {
        return Err("--filter wants --against".to_owned());
    }
    if options.rounds == 0 {
        options.rounds = if options.quick { 1 } else { ROUNDS };
    }
    Ok(if bench { Request::Run(options) } else { Request::Nothing })
}

fn scenarios(list: &str) -> Result<Vec<String>, String> {
    match list.split(',').find(|name| !SCENARIOS.contains(name)) {
        Some(unknown) => Err(format!("no scenario {unknown:?}; there are {}", SCENARIOS.join(", "))),
        None => Ok(list.split(',').map(str::to_string).collect()),
    }
}

fn rounds(text: &str) -> Result<usize, String> {
    let rounds = text.parse().ok().filter(|rounds| (1..=ROUNDS_MAX).contains(rounds));
    rounds.ok_or_else(|| format!("--rounds wants 1 to {ROUNDS_MAX}"))
}

impl Options {
    pub fn wants(&self, scenario: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == scenario)
    }

    /// `full`, or what is enough to see that it works.
    pub fn size(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }

    pub fn lead_in(&self) -> Duration {
        Duration::from_millis(if self.quick { 100 } else { 300 })
    }

    pub fn measured(&self) -> Duration {
        Duration::from_millis(if self.quick { 400 } else { 2000 })
    }
}
