//! How many messages a second are downloaded, against the same reactor with a store in memory.

use crate::client::Fleet;
use crate::lab::Lab;
use crate::scripts::{self, Recipients, Until};
use crate::server::{Hashing, Server};
use crate::table::Unit;
use crate::targets;

/// Connections that download, each as a user of its own.
pub const CONNECTIONS: usize = 16;
/// Messages in each queue.
pub const QUEUE: usize = 8000;
const QUEUE_QUICK: usize = 500;
/// A window takes messages faster: longer queues keep a round from being too short to mean anything.
pub const WINDOW_FACTOR: usize = 4;
/// SMSGs outstanding on each connection while queues are filled.
pub const FILL_DEPTH: usize = 64;
/// `RMSG<n>`; 0 is plain RMSG, each message sent when the one before is acknowledged.
pub const WINDOWS: [usize; 2] = [0, 64];
/// The floor sends a window's messages in one copy: it needs longer queues for a round that can be timed.
const FLOOR_WINDOW_FACTOR: usize = 8;

pub fn run(lab: &mut Lab) -> Result<(), String> {
    for window in WINDOWS {
        let queue = lab.options.size(QUEUE, QUEUE_QUICK) * if window == 0 { 1 } else { WINDOW_FACTOR };
        let pairs = lab.pairs(
            |lab| match lab.memory_server()? {
                Some(server) => fill_and_fetch(&server, queue, window),
                None => fetch_floor(lab, queue, window),
            },
            |lab| fill_and_fetch(&lab.cpd(Hashing::Cheap)?, queue, window),
        )?;
        let command = if window == 0 { "RMSG".to_string() } else { format!("RMSG{window}") };
        let name = format!("fetch, {CONNECTIONS} connections, {command}");
        let limit = if lab.memory { "cpd's reactor with a store in memory" } else { "the floor, out of nothing" };
        lab.row(&name, Unit::PerSecond, &pairs, targets::fetch(window), format!("limit: {limit}"));
    }
    Ok(())
}

/// Fills the queue of each connection's user and downloads it all. Messages a second of the download.
pub fn fill_and_fetch(server: &Server, queue: usize, window: usize) -> Result<f64, String> {
    let mut fleet = Fleet::log_in(server.address, CONNECTIONS, CONNECTIONS)?;
    let to = Recipients { first: 0, users: CONNECTIONS };
    scripts::store(&mut fleet, to, FILL_DEPTH, Until::Count(queue as u64), None)?;
    Ok(scripts::fetch(&mut fleet, window, Some(queue as u64), Some(server.pid()))?.rate)
}

fn fetch_floor(lab: &Lab, queue: usize, window: usize) -> Result<f64, String> {
    let queue = if window == 0 { queue } else { queue * FLOOR_WINDOW_FACTOR };
    let server = lab.floor_memory(queue)?;
    let mut fleet = Fleet::log_in(server.address, CONNECTIONS, CONNECTIONS)?;
    Ok(scripts::fetch(&mut fleet, window, Some(queue as u64), Some(server.pid()))?.rate)
}
