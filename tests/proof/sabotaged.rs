//! A cpd with a fault that a test orders (src/sabotage.rs).

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::running::Daemon;

/// As [`Daemon::start`], with `fault`.
#[track_caller]
pub fn start(fault: &str, settings: &str) -> Daemon {
    Daemon::start_in(tempfile::tempdir().expect("a folder"), settings, |command| instead(command, fault))
}

/// Makes `command` run the cpd that can be sabotaged, with `fault`.
#[track_caller]
pub fn instead(command: &mut Command, fault: &str) {
    let program = program();
    let program = program.to_str().expect("a plain path");
    // The cpd that is named behind the wrapper is dropped.
    let script = "shift; exec \"$0\" \"$@\"";
    Daemon::under(command, &["env", &format!("CPD_SABOTAGE={fault}"), "sh", "-c", script, program]);
}

fn program() -> PathBuf {
    let usual = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/sabotage/debug/cpd");
    let program = std::env::var_os("CPD_SABOTAGED").map_or(usual, PathBuf::from);
    let how = "cargo build --features sabotage --target-dir target/sabotage";
    assert!(program.is_file(), "{} is missing: {how}", program.display());
    program
}
