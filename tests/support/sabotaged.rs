//! A cpd that does wrong what a test orders (src/sabotage.rs): each check has to find it.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use cpd::sabotage::Fault;

/// The binary: what the environment variable CPD_SABOTAGED names, or built here.
pub fn program() -> PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| std::env::var_os("CPD_SABOTAGED").map_or_else(build, PathBuf::from)).clone()
}

/// Makes `command`, in the hands of `running::Daemon::start_in`, run the sabotaged cpd with this fault.
pub fn order(command: &mut Command, fault: Fault) {
    let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let configuration = PathBuf::from(arguments.last().expect("the configuration"));
    let log = File::options().append(true).open(configuration.with_file_name("stderr")).expect("the log");
    *command = Command::new(program());
    command.args(arguments).env("CPD_SABOTAGE", fault.name()).env_remove("NOTIFY_SOCKET").env_remove("LISTEN_FDS");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
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
