//! What a cpd that serves may still do, without a service manager that confines it. Where the kernel has no Landlock, that
//! it says so.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use cpd_testing::running;
use nix::unistd::{Group, getegid};
use running::{Daemon, wait_for};
use rustix::process::Signal;

/// The line of a cpd on a kernel that cannot.
const WITHOUT: &str = " own sandbox incomplete ";

/// Each thread by its name, and whether it gains no rights and has a filter of system calls, proc(5).
fn threads(daemon: &Daemon) -> Vec<(String, bool)> {
    let tasks = fs::read_dir(format!("/proc/{}/task", daemon.id())).expect("it runs");
    let status = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("status")).ok());
    let of = |status: &str, key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key).and_then(|line| line.strip_prefix(':')));
        line.expect("a line").trim().to_owned()
    };
    let confined = |status: &str| of(status, "NoNewPrivs") == "1" && of(status, "Seccomp") == "2";
    status.map(|status| (of(&status, "Name"), confined(&status))).collect()
}

#[test]
fn every_thread_is_confined() {
    let daemon = Daemon::start("");
    daemon.add_user("bob", "secret");
    daemon.connect().logs_in("bob", "secret");
    let threads = threads(&daemon);
    for name in ["cpd", "log", "store", "auth-0", "watch"] {
        assert!(threads.iter().any(|(known, _)| known == name), "no thread {name}: {threads:?}");
    }
    if !daemon.log().contains(WITHOUT) {
        let free: Vec<_> = threads.iter().filter(|(_, confined)| !confined).collect();
        assert!(free.is_empty(), "{free:?}");
    }
}

#[test]
fn a_reload_reads_the_folder_of_the_configuration_and_no_other() {
    let daemon = Daemon::start("");
    let file = daemon.folder.path().join("cpd.toml");
    // Another file under its name, as editors make it.
    let text = fs::read_to_string(&file).expect("the configuration");
    fs::write(daemon.folder.path().join("new"), format!("{text}log.level = \"debug\"\n")).expect("written");
    fs::rename(daemon.folder.path().join("new"), &file).expect("renamed");
    daemon.signal(Signal::HUP);
    daemon.waits_for_log(" configuration reloaded");
    // One of another folder, which a cpd that can read everything takes.
    let elsewhere = tempfile::tempdir().expect("a folder");
    let other = elsewhere.path().join("cpd.toml");
    fs::rename(&file, &other).expect("renamed");
    symlink(&other, &file).expect("linked");
    daemon.signal(Signal::HUP);
    match daemon.log().contains(WITHOUT) {
        true => {
            wait_for("a second reload", || (daemon.log().matches(" configuration reloaded").count() == 2).then_some(()))
        }
        false => daemon.waits_for_log("Permission denied"),
    }
    daemon.stop();
}

#[test]
fn a_configuration_that_is_a_link_is_read_where_it_lies() {
    let (folder, real) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let there = real.path().join("cpd.toml");
    symlink(&there, folder.path().join("cpd.toml")).expect("linked");
    let daemon = Daemon::start_in(folder, "");
    // Another file under its name.
    fs::copy(&there, real.path().join("new")).expect("copied");
    fs::rename(real.path().join("new"), &there).expect("renamed");
    daemon.signal(Signal::HUP);
    daemon.waits_for_log(" configuration reloaded");
    daemon.stop();
}

#[test]
fn a_control_socket_that_is_gone_is_made_anew_for_its_group() {
    let group = Group::from_gid(getegid()).expect("groups can be read").expect("a group").name;
    let daemon = Daemon::start(&format!("control.group = \"{group}\"\n"));
    fs::remove_file(daemon.socket()).expect("removed");
    daemon.signal(Signal::HUP);
    daemon.waits_for_log(" configuration reloaded");
    let mode = wait_for("the socket", || fs::metadata(daemon.socket()).ok()).mode();
    assert_eq!(mode & 0o777, 0o660, "{}", daemon.log());
    assert!(!daemon.log().contains("for its owner alone"), "{}", daemon.log());
    daemon.stop();
}
