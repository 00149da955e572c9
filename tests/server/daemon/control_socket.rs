//! The control socket as a file: whose it is, when it goes, and whose is not taken away.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::unistd::{Gid, Group, getgid};
use rustix::process::Signal;

use super::fails_in;
use super::running::{Daemon, answers, wait_for};

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("it is there").mode() & 0o777
}

#[test]
fn it_is_its_owners_and_goes_with_the_daemon() {
    let daemon = Daemon::start("");
    let socket = daemon.socket();
    assert_eq!(mode(&socket), 0o600);
    let folder = daemon.stop();
    assert!(!folder.path().join("data/control.sock").exists() && !socket.exists());
}

#[test]
fn a_group_gets_it_and_a_missing_group_is_a_warning() {
    // Root can give it to any group, others to their own.
    let root = nix::unistd::geteuid().is_root();
    let own = if root { Gid::from_raw(1) } else { getgid() };
    let group = Group::from_gid(own).expect("groups").expect("a group with a name").name;
    let daemon = Daemon::start(&format!("control.group = \"{group}\"\n"));
    let found = std::fs::metadata(daemon.socket()).expect("it is there");
    assert_eq!((found.mode() & 0o777, found.gid()), (0o660, own.as_raw()));

    let daemon = Daemon::start("control.group = \"no-such-group\"\n");
    assert_eq!(mode(&daemon.socket()), 0o600);
    let log = daemon.log();
    assert!(log.contains(" warn ") && log.contains("group=no-such-group"), "{log}");
    assert!(answers(&daemon.socket()));
}

#[test]
fn one_that_a_killed_daemon_left_is_replaced() {
    let mut daemon = Daemon::start("");
    daemon.add_user("bob", "hunter2");
    daemon.signal(Signal::KILL);
    daemon.ends();
    assert!(std::fs::symlink_metadata(daemon.socket()).expect("left").file_type().is_socket());
    assert!(!answers(&daemon.socket()));
    let folder = daemon.into_folder();
    let daemon = Daemon::start_in(folder, "");
    assert!(daemon.cpctl(&["user", "list"], "").contains("bob"));
}

#[test]
fn one_that_somebody_answers_on_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("other.sock");
    let other = UnixListener::bind(&path).expect("a socket");
    let cause = fails_in(&folder, &format!("control.socket = \"{}\"\n", path.display()), 69);
    assert!(cause.contains(&path.display().to_string()) && cause.contains("another process listens there"), "{cause}");
    // Its queue may hold cpd's attempt; it works.
    assert!(answers(&path));
    drop(other);
    assert!(path.exists());
}

#[test]
fn another_file_in_its_place_is_left_alone_at_the_end() {
    let mut daemon = Daemon::start("");
    std::fs::remove_file(daemon.socket()).expect("removed");
    let _other = UnixListener::bind(daemon.socket()).expect("a socket");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ends().code(), Some(0));
    assert!(answers(&daemon.socket()));
}

#[test]
fn hup_makes_one_that_is_gone_anew() {
    let daemon = Daemon::start("");
    daemon.add_user("bob", "hunter2");
    let reload = |times: usize| {
        daemon.signal(Signal::HUP);
        wait_for("a reload", || (daemon.log().matches(" configuration reloaded\n").count() == times).then_some(()));
    };
    let renewed = |log: &str| log.matches(" warn control socket made anew path=").count();
    reload(1);
    assert_eq!(renewed(&daemon.log()), 0, "it is there");
    std::fs::remove_file(daemon.socket()).expect("removed");
    reload(2);
    assert_eq!(renewed(&daemon.log()), 1, "{}", daemon.log());
    assert_eq!(mode(&daemon.socket()), 0o600);
    assert!(daemon.cpctl(&["user", "list"], "").contains("bob"));
    // What another process left there is nobody's.
    std::fs::remove_file(daemon.socket()).expect("removed");
    drop(UnixListener::bind(daemon.socket()).expect("a socket"));
    reload(3);
    assert!(daemon.cpctl(&["user", "list"], "").contains("bob"));
    // One that somebody answers on is theirs.
    std::fs::remove_file(daemon.socket()).expect("removed");
    let other = UnixListener::bind(daemon.socket()).expect("a socket");
    reload(4);
    let log = daemon.log();
    assert!(
        log.contains(" error control socket not made anew cause=")
            && log.contains("another process listens there (another cpd?)"),
        "{log}"
    );
    drop(other);
    reload(5);
    assert_eq!(renewed(&daemon.log()), 3, "{}", daemon.log());
    let socket = daemon.socket();
    let folder = daemon.stop();
    assert!(!socket.exists(), "the last one goes with the daemon");
    drop(folder);
}
