//! Each way of not starting: its exit code, and one line that names what is in the way.

use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::running::{CHEAP, Daemon, cpd, need};
use super::{fails, fails_in};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

#[test]
fn wrong_arguments_are_64() {
    let wrong: [(&[&str], &str); 6] = [
        (&["--confg", "x"], "--confg"),
        (&["serve"], "serve"),
        (&["--data"], "--data"),
        (&["--config", ""], "--config"),
        (&["--check", "--check"], "--check"),
        (&["--data", "a", "--data", "b"], "--data"),
    ];
    for (arguments, named) in wrong {
        let cause = fails(cpd().args(arguments), 64);
        assert!(cause.contains(named) && cause.contains("cpd --help"), "{cause}");
    }
}

#[test]
fn an_address_in_use_is_69() {
    let other = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = other.local_addr().expect("bound");
    let inside = folder();
    let cause = fails_in(&inside, &format!("listen.cp = [\"{address}\"]\n"), 69);
    assert!(!inside.path().join("data").exists(), "a start that fails leaves nothing half-made");
    assert!(cause.contains(&address.to_string()) && cause.contains("in use"), "{cause}");
}

#[test]
fn a_journal_behind_stderr_is_told_that_it_is_an_error() {
    let inside = folder();
    let (out, config) = (inside.path().join("stderr"), inside.path().join("cpd.toml"));
    std::fs::write(&config, "nonsense = 1\n").expect("written");
    let file = std::fs::File::create(&out).expect("a file");
    let found = file.metadata().expect("a file");
    let journal = format!("{}:{}", found.dev(), found.ino());
    let status = cpd().arg("--config").arg(&config).env("JOURNAL_STREAM", journal).stderr(file).status();
    assert_eq!(status.expect("cpd runs").code(), Some(78));
    let said = std::fs::read_to_string(&out).expect("a file");
    assert!(said.starts_with("<3>cpd: ") && said.contains("nonsense") && said.lines().count() == 1, "{said}");
}

#[test]
fn an_address_of_another_machine_is_71() {
    let cause = fails_in(&folder(), "listen.cp = [\"192.0.2.1:15037\"]\n", 71);
    assert!(cause.contains("192.0.2.1:15037"), "{cause}");
}

#[test]
fn a_second_cpd_on_one_store_is_69_and_the_first_goes_on() {
    let first = Daemon::start("");
    first.add_user("bob", "hunter2");
    let mut before = first.connect();
    before.logs_in("bob", "hunter2");

    let store = format!("store.path = \"{}\"\n", first.store().display());
    let cause = fails_in(&folder(), &store, 69);
    assert!(cause.contains(&first.store().display().to_string()) && cause.contains("another cpd"), "{cause}");
    // In the same directory, where the control socket is the first one's as well; and through a link.
    let link = first.folder.path().join("link");
    std::os::unix::fs::symlink("data", &link).expect("linked");
    let own = first.folder.path().join("second.toml");
    std::fs::write(&own, format!("listen.cp = [\"127.0.0.1:0\"]\n{CHEAP}")).expect("written");
    for data in [first.folder.path().join("data"), link] {
        fails(cpd().arg("--data").arg(data).arg("--config").arg(&own), 69);
    }

    before.asks("SMSG bob:still here", "240 ");
    first.connect().logs_in("bob", "hunter2");
    assert!(first.cpctl(&["queue", "list"], "").contains("bob"), "its control socket is its own still");
}

#[test]
fn what_cannot_be_created_is_73() {
    let inside = folder();
    std::fs::write(inside.path().join("file"), "precious").expect("written");
    let path = |name: &str| inside.path().join(name).display().to_string();

    let cause = fails(cpd().arg("--data").arg(path("file/data")), 73);
    assert!(cause.contains(&path("file/data")), "{cause}");
    let cause = fails_in(&inside, &format!("store.path = \"{}\"\n", path("none/cpd.db")), 73);
    assert!(cause.contains(&path("none")), "{cause}");
    let cause = fails_in(&inside, &format!("store.path = \"{}\"\n", path("data")), 73);
    assert!(cause.contains(&path("data")), "{cause}");
    for socket in ["none/control.sock", "file"] {
        let cause = fails_in(&inside, &format!("control.socket = \"{}\"\n", path(socket)), 73);
        assert!(cause.contains(&path(socket)), "{cause}");
    }
    assert_eq!(std::fs::read_to_string(inside.path().join("file")).expect("still there"), "precious");
}

/// cpd as somebody to whom modes mean something: for root that is nobody, with a copy of the program that nobody can
/// reach.
fn unprivileged(folder: &Path) -> Command {
    if !nix::unistd::geteuid().is_root() {
        return cpd();
    }
    need("setpriv", "util-linux");
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).expect("set");
    let copy = folder.join("cpd-of-nobody");
    // Not copied by this process: what another test starts in the same moment would have the copy open for writing, and
    // nobody could execute it.
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_cpd")).arg(&copy).status().expect("cp");
    assert!(copied.success());
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(copy);
    command
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("set");
}

/// The user that [`unprivileged`] runs as gets `path`.
fn give(path: &Path) {
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(path, Some(65534), Some(65534)).expect("given");
    }
}

#[test]
fn what_is_not_permitted_is_77() {
    let inside = folder();
    let (file, data) = (inside.path().join("cpd.toml"), inside.path().join("data"));
    std::fs::write(&file, "listen.cp = [\"127.0.0.1:0\"]\n").expect("written");
    let run = |cause_names: &Path| {
        let mut command = unprivileged(inside.path());
        let cause = fails(command.arg("--config").arg(&file).arg("--data").arg(&data), 77);
        assert!(cause.contains(&cause_names.display().to_string()), "{cause}");
    };
    // The configuration.
    set_mode(&file, 0o000);
    run(&file);
    set_mode(&file, 0o644);
    // The store's folder.
    std::fs::create_dir(&data).expect("made");
    give(&data);
    set_mode(&data, 0o500);
    run(&data);
    // The store, whoever it belongs to, in a folder that everybody may write to.
    set_mode(&data, 0o777);
    run(&data);
    set_mode(&data, 0o700);
}

#[test]
fn a_store_that_belongs_to_somebody_else_is_77() {
    if !nix::unistd::geteuid().is_root() {
        // Only root can give files away.
        return;
    }
    let inside = super::folder_with_a_store();
    let store: PathBuf = inside.path().join("data/cpd.db");
    give(&store);
    let cause = fails_in(&inside, "", 77);
    assert!(cause.contains(&store.display().to_string()) && cause.contains("65534"), "{cause}");
}
