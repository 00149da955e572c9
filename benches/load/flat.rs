//! Whether a million queued messages cost anything but their place: rates, memory and the time of a restart with them.

use std::path::Path;
use std::time::Duration;

use crate::client::Fleet;
use crate::fetch::{self, FILL_DEPTH};
use crate::lab::Lab;
use crate::process::rss_bytes;
use crate::scripts::{self, Recipients, Until};
use crate::server::{self, Build, Hashing, Server, USERS};
use crate::table::Unit;
use crate::targets;

/// The queues that are full belong to these users; those before them download, and their queues begin empty.
const QUEUES: Recipients = Recipients { first: fetch::CONNECTIONS, users: USERS - fetch::CONNECTIONS };
const MESSAGES: usize = 1_000_000;
const MESSAGES_QUICK: usize = 20_000;
/// Messages in each queue that is downloaded while the others are full.
const FETCHED: usize = 24_000;
const FETCHED_QUICK: usize = 500;
const WINDOW: usize = 64;
const CONNECTIONS: usize = 200;
/// Memory is looked at when the daemon has come to rest.
const REST: Duration = Duration::from_millis(500);

pub fn run(lab: &mut Lab) -> Result<(), String> {
    if !lab.with_cpd() {
        return Ok(());
    }
    let (full, folder) = fill(lab)?;
    full.stop()?;
    let full = restart(lab, &folder)?;
    let (mut store, mut fetch) = (Vec::new(), Vec::new());
    let fetched = lab.options.size(FETCHED, FETCHED_QUICK);
    // Both are only ever measured alone: the other one has nothing to do.
    let pairs = lab.pairs(
        |lab| {
            let empty = lab.cpd(Hashing::Cheap)?;
            fetch.push(fetch::fill_and_fetch(&empty, fetched, WINDOW)?);
            store_rate(lab, &empty)
        },
        |lab| {
            store.push(fetch::fill_and_fetch(&full, fetched, WINDOW)?);
            store_rate(lab, &full)
        },
    )?;
    let note = "limit: cpd with empty queues";
    lab.row(&name(lab, "store"), Unit::PerSecond, &pairs, targets::FLAT, note.into());
    let pairs: Vec<_> =
        store.iter().zip(&fetch).map(|(cpd, limit)| crate::lab::Pair { cpd: Some(*cpd), limit: *limit }).collect();
    lab.row(&name(lab, "fetch"), Unit::PerSecond, &pairs, targets::FLAT, note.into());
    Ok(())
}

fn messages(lab: &Lab) -> usize {
    lab.options.size(MESSAGES, MESSAGES_QUICK) / CONNECTIONS * CONNECTIONS
}

fn name(lab: &Lab, what: &str) -> String {
    format!("{what} with {} queued", messages(lab))
}

/// A cpd with full queues, and what they take of its memory.
fn fill(lab: &mut Lab) -> Result<(Server, std::path::PathBuf), String> {
    let folder = lab.folder()?;
    let cpd = server::cpd(&Build::own(), &folder, Hashing::Cheap)?;
    server::add_users(&Build::own(), &folder, USERS)?;
    let mut fleet = Fleet::log_in(cpd.address, CONNECTIONS, USERS)?;
    // Buffers that grow once, in the first busy moment, are not the queue's.
    let warm_up = Until::Count(FILL_DEPTH as u64);
    scripts::store(&mut fleet, QUEUES, FILL_DEPTH, warm_up, None)?;
    std::thread::sleep(REST);
    let before = rss_bytes(cpd.pid())?;
    let count = messages(lab);
    let run = scripts::store(&mut fleet, QUEUES, FILL_DEPTH, Until::Count((count / CONNECTIONS) as u64), None)?;
    std::thread::sleep(REST);
    let each = (rss_bytes(cpd.pid())? - before) / count as f64;
    lab.value_row("memory of a queued message", Unit::Bytes, vec![each], targets::QUEUED, "");
    lab.value_row(&name(lab, "filling"), Unit::PerSecond, vec![run.rate], crate::table::Target::Shown, "");
    Ok((cpd, folder))
}

fn restart(lab: &mut Lab, folder: &Path) -> Result<Server, String> {
    let mut times = Vec::new();
    for _ in 1..lab.options.rounds {
        let cpd = server::cpd(&Build::own(), folder, Hashing::Cheap)?;
        times.push(cpd.start_seconds);
        cpd.stop()?;
    }
    let cpd = server::cpd(&Build::own(), folder, Hashing::Cheap)?;
    times.push(cpd.start_seconds);
    let name = name(lab, "restart");
    lab.value_row(&name, Unit::Seconds, times, targets::RESTART, "start of the process to its first answer");
    let held = rss_bytes(cpd.pid())?;
    lab.value_row(&name.replace("restart", "memory"), Unit::Bytes, vec![held], crate::table::Target::Shown, "");
    Ok(cpd)
}

fn store_rate(lab: &Lab, server: &Server) -> Result<f64, String> {
    let mut fleet = Fleet::log_in(server.address, CONNECTIONS, USERS)?;
    let until = Until::Time { lead_in: lab.options.lead_in(), measured: lab.options.measured() };
    Ok(scripts::store(&mut fleet, QUEUES, 1, until, None)?.rate)
}
