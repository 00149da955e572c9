//! What a logged-in connection that says nothing costs.

use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};

use crate::client::Fleet;
use crate::lab::Lab;
use crate::process::rss_bytes;
use crate::server::{Hashing, Server, USERS};
use crate::table::Unit;
use crate::targets;

pub const CONNECTIONS: usize = 10_000;
const CONNECTIONS_QUICK: usize = 1000;
/// Descriptors of either side that are not connections.
const SPARE_DESCRIPTORS: usize = 100;
/// Connections after which everything that exists once does exist.
const WARM_UP: usize = 64;
const REST: Duration = Duration::from_millis(500);

pub fn run(lab: &mut Lab) -> Result<(), String> {
    let (allowed, _) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|e| format!("file limit: {e}"))?;
    let allowed = usize::try_from(allowed).unwrap_or(usize::MAX).saturating_sub(SPARE_DESCRIPTORS);
    let connections = lab.options.size(CONNECTIONS, CONNECTIONS_QUICK).min(allowed);
    let pairs = lab.pairs(
        |lab| bytes_each(&lab.floor_memory(0)?, connections),
        |lab| bytes_each(&lab.cpd(Hashing::Cheap)?, connections),
    )?;
    let name = format!("memory of an idle connection ({connections})");
    lab.row(&name, Unit::Bytes, &pairs, targets::IDLE, "process memory; the kernel's is not counted".into());
    Ok(())
}

pub fn bytes_each(server: &Server, connections: usize) -> Result<f64, String> {
    drop(Fleet::log_in(server.address, WARM_UP, USERS)?);
    std::thread::sleep(REST);
    let before = rss_bytes(server.pid())?;
    let fleet = Fleet::log_in(server.address, connections, USERS)?;
    std::thread::sleep(REST);
    let after = rss_bytes(server.pid())?;
    Ok((after - before) / fleet.len() as f64)
}
