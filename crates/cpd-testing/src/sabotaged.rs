//! The cpd that does wrong what a test orders, as a program.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// The binary: what the environment variable CPD_SABOTAGED names, or built here.
pub fn program() -> PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| std::env::var_os("CPD_SABOTAGED").map_or_else(build, PathBuf::from)).clone()
}

fn build() -> PathBuf {
    // A folder of its own: the features of one build would throw the other's away.
    let target = crate::programs::root().join("target/sabotage");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(crate::programs::root()).args(["build", "--quiet", "--bin", "cpd", "--features", "sabotage"]);
    let status = cargo.arg("--target-dir").arg(&target).status().expect("cargo");
    assert!(status.success(), "the sabotaged cpd was not built");
    target.join("debug/cpd")
}
