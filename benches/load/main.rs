//! Drives a real cpd over loopback and holds it against what the same machine does at most in the same minute: a server
//! that only writes down and answers, SQLite alone, argon2 alone, cpd's own reactor without a disk. Run it with
//! `cargo bench --bench load -- --help`. What it must never do: leave a process or a folder behind, or send a byte
//! beyond loopback.
#![deny(unsafe_code)]

mod against;
mod client;
mod deaf;
mod fetch;
mod filtered;
mod flat;
mod flood;
mod floor;
mod histogram;
mod idle;
mod lab;
mod lines;
mod login;
mod machine;
mod memory_server;
mod options;
mod process;
mod raw_sqlite;
mod scripts;
mod server;
mod store;
mod table;
mod targets;
mod yardsticks;

use std::process::ExitCode;

use cpd_testing::memory_store;
use lab::Lab;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use options::{Options, Request, SCENARIOS, USAGE};

type Scenario = fn(&mut Lab) -> Result<(), String>;

const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = if arguments.first().is_some_and(|first| first == server::CHILD) {
        yardsticks::run(&arguments.split_off(1))
    } else {
        match options::parse(arguments.into_iter()) {
            Ok(Request::Nothing) => Ok(()),
            Ok(Request::Help) => {
                println!("{USAGE}");
                Ok(())
            }
            Ok(Request::Run(options)) => run(options),
            Err(error) => {
                eprintln!("load: {error}\n{USAGE}");
                return ExitCode::from(EXIT_USAGE);
            }
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> Result<(), String> {
    raise_file_limit()?;
    let mut lab = Lab::new(options)?;
    let machine = machine::describe(lab.root());
    eprintln!("{machine}");
    let scenarios: [Scenario; SCENARIOS.len()] =
        [store::run, fetch::run, flat::run, idle::run, deaf::run, login::run, flood::run];
    for (name, scenario) in SCENARIOS.iter().zip(scenarios) {
        if lab.options.against.is_none() && lab.options.wants(name) {
            scenario(&mut lab).map_err(|e| format!("{name}: {e}"))?;
        }
    }
    against::run(&mut lab)?;
    println!("\n{machine}\nmedians of {} round(s)\n\n{}", lab.options.rounds, table::render(&lab.rows));
    if let Some(path) = &lab.options.json {
        let json = table::to_json(&machine, &lab.rows);
        std::fs::write(path, format!("{json:#}\n")).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}

/// Each connection is a descriptor here and one in the server, which inherits the limit.
fn raise_file_limit() -> Result<(), String> {
    let raise = || {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    };
    raise().map_err(|e: nix::Error| format!("file limit: {e}"))
}
