//! A cpd that does wrong what a test orders (src/sabotage.rs): each check has to find it.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use cpd::sabotage::Fault;

use crate::running::Daemon;

/// The binary: what the environment variable CPD_SABOTAGED names, or built here.
pub fn program() -> PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| std::env::var_os("CPD_SABOTAGED").map_or_else(build, PathBuf::from)).clone()
}

/// A daemon of `tests/running` with `fault`.
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

fn build() -> PathBuf {
    // A folder of its own: the features of one build would throw the other's away.
    let target = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/sabotage");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(env!("CARGO_MANIFEST_DIR")).args(["build", "--quiet", "--bin", "cpd", "--features", "sabotage"]);
    let status = cargo.arg("--target-dir").arg(&target).status().expect("cargo");
    assert!(status.success(), "the sabotaged cpd was not built");
    target.join("debug/cpd")
}
