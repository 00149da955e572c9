//! What is said of a socket that a service manager has handed over.

use std::os::unix::net::SocketAddr as UnixAddress;
use std::path::PathBuf;

use crate::daemon::exit::{ExitCode, Fatal};

pub fn wrong_kind(name: &str, wanted: &str) -> Fatal {
    Fatal::new(ExitCode::Config, format!("the descriptor that was handed over as {name:?} is not {wanted}"))
}

/// The path of a Unix socket, if it has one.
pub fn path_of(address: &UnixAddress) -> Option<PathBuf> {
    address.as_pathname().map(PathBuf::from)
}
