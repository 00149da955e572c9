//! A crowd of clients through restarts of a real service, for the system test: run in the network namespace of the booted
//! system, it has the commands of that system from the environment.
//!
//! ADDRESS (127.0.0.1:5035), CLIENTS (1000), QUIET (if set, most of them are idle), RESTARTS (10), RELOADS (1),
//! LAST (1); and as words of a command: RESTART, RELOAD, LAST_RESTART (done LAST times behind the others: an upgrade),
//! ADD_USER (a name is appended, the password comes on its standard input).

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cpd_testing::environment::number;
use cpd_testing::succession::crowd;
use crowd::{Crowd, Mix, PASSWORD, percentile, users};

/// The command that a variable holds, its words apart.
fn command(name: &str) -> Command {
    let text = std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let mut words = text.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or_else(|| panic!("{name} is empty")));
    command.args(words).stdout(Stdio::null());
    command
}

fn run(name: &str) {
    let status = command(name).stdin(Stdio::null()).status().unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(status.success(), "{name}: {status}");
}

fn add_user(user: &str) {
    let mut child =
        command("ADD_USER").arg(user).args(["--password-stdin"]).stdin(Stdio::piped()).spawn().expect("ADD_USER");
    writeln!(child.stdin.take().expect("a pipe"), "{PASSWORD}").expect("written");
    assert!(child.wait().expect("it ends").success(), "ADD_USER {user}");
}

fn milliseconds(time: Duration) -> String {
    format!("{:.0}", time.as_secs_f64() * 1000.0)
}

fn main() {
    let address = std::env::var("ADDRESS").unwrap_or_else(|_| "127.0.0.1:5035".into());
    let asked = |name: &str, usual: u64| number(name).unwrap_or(usual) as usize;
    let (clients, restarts, last) = (asked("CLIENTS", 1000), asked("RESTARTS", 10), asked("LAST", 1));
    let mix = if std::env::var_os("QUIET").is_some() { Mix::Quiet } else { Mix::Every };
    users(mix, clients).iter().for_each(|user| add_user(user));
    let begun = Instant::now();
    let mut crowd = Crowd::new(address.parse().expect("ADDRESS"), mix, clients);
    println!("{clients} clients logged in and in their states after {} s", begun.elapsed().as_secs());
    for _ in 0..restarts {
        crowd.restart(|| run("RESTART"));
    }
    for _ in 0..number("RELOADS").unwrap_or(1) {
        crowd.restart(|| run("RELOAD"));
    }
    for _ in 0..last {
        crowd.restart(|| run("LAST_RESTART"));
    }
    let mut figures = crowd.finish();
    let worst = |times: &mut [Duration]| {
        let parts = [50, 99, 100].map(|part| milliseconds(percentile(times, part)));
        format!("p50 {} p99 {} max {} ms of {}", parts[0], parts[1], parts[2], times.len())
    };
    let counts = figures.counts;
    println!(
        "messages: {} sent, {} got their 240, {} delivered once, violations 0",
        counts.sent, counts.kept, counts.delivered
    );
    println!("pause of active clients at a restart: {}", worst(&mut figures.pauses));
    println!("new connections during restarts, to their first reply: {}; refused 0", worst(&mut figures.newcomers));
}
