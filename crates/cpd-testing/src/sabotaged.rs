//! A cpd that does wrong what a test orders (crates/cpd-core/src/sabotage.rs): each check has to find it.

use std::process::Command;

use cpd_core::sabotage::Fault;

use crate::running::Daemon;

pub use crate::sabotaged_program::program;

/// A daemon of `crates/cpd-testing/src/running` with `fault`.
#[track_caller]
pub fn start(fault: Fault, settings: &str) -> Daemon {
    Daemon::start_in(tempfile::tempdir().expect("a folder"), settings, |command| order(command, fault))
}

/// Makes `command`, in the hands of [`Daemon::start_in`], run the sabotaged cpd with this fault.
pub fn order(command: &mut Command, fault: Fault) {
    let program = program();
    let program = program.to_str().expect("a plain path");
    Daemon::instead(command, &["env", &format!("CPD_SABOTAGE={}", fault.name()), program]);
}
