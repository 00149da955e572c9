//! cpd as an administrator meets it: how it starts and ends, what it says when it cannot, signals, sockets, limits.

mod configuration;
mod control_socket;
mod damage;
mod exhaustion;
mod failures;
mod log;
mod logins;
mod signals;
mod start;

use std::process::Command;

use cpd_testing::running;
use running::{Daemon, Ended, cpd, run};

/// A cpd that is to fail at its start: in `folder`, with `settings` over the usual ones. Its end, with the one line
/// that says why.
#[track_caller]
fn fails_in(folder: &tempfile::TempDir, settings: &str, code: i32) -> String {
    let file = folder.path().join("cpd.toml");
    let listen = if settings.contains("listen.") { "" } else { "listen.cp = [\"127.0.0.1:0\"]\n" };
    std::fs::write(&file, format!("{listen}{}{settings}", running::CHEAP)).expect("written");
    fails(cpd().arg("--data").arg(folder.path().join("data")).arg("--config").arg(file), code)
}

/// Runs a command that must end with `code`, and gives the line on stderr that says why.
#[track_caller]
fn fails(command: &mut Command, code: i32) -> String {
    let ended = run(command, "");
    assert_eq!(ended.code(), code, "{ended:?}");
    cause(&ended)
}

/// The last line on stderr, the only one that is not the log's.
#[track_caller]
fn cause(ended: &Ended) -> String {
    assert_eq!(ended.stdout, "", "errors do not belong on stdout");
    let mut lines: Vec<&str> = ended.stderr.lines().filter(|line| !line.starts_with("20")).collect();
    let last = lines.pop().unwrap_or_default();
    assert!(!ended.stderr.contains(" error ended "), "the cause is told once: {ended:?}");
    assert!(lines.is_empty() && last.starts_with("cpd: "), "not one line with the cause: {ended:?}");
    last.to_owned()
}

/// A stopped daemon's folder, with bob, alice and one message in the store.
fn folder_with_a_store() -> tempfile::TempDir {
    let daemon = Daemon::start("");
    daemon.add_user("bob", "hunter2");
    daemon.add_user("alice", "sesame");
    let mut bob = daemon.connect();
    bob.logs_in("bob", "hunter2");
    bob.asks("SMSG alice:Lunch at one?", "240 ");
    daemon.stop()
}
