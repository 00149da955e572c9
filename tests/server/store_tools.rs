//! `cpd --restore`, `--check-store` and `--salvage` as an administrator meets them, and what cpd says of a store for which
//! they are the remedy.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use cpd_testing::running;
use running::{Daemon, Ended, Setup, cpd, need, run, wait_for};
use rustix::process::Signal;

/// A file of root's that the one who is to own the store cannot read, and this one's id.
const NOBODY: u32 = 65_534;

/// A cpd with these users, and a message to each of them that says `text`.
fn with(users: &[&str], text: &str) -> Daemon {
    let daemon = Daemon::start("");
    for user in users {
        daemon.add_user(user, "sesame");
    }
    say(&daemon, users, text);
    daemon
}

fn say(daemon: &Daemon, users: &[&str], text: &str) {
    let mut client = daemon.connect();
    client.logs_in(users[0], "sesame");
    for user in users {
        client.asks(&format!("SMSG {user}:{text}"), "240 ");
    }
}

/// Ends it as a crash does: the log is left.
fn kill(mut daemon: Daemon) -> tempfile::TempDir {
    daemon.signal(Signal::KILL);
    daemon.ends();
    let log = daemon.folder.path().join("data/cpd.db-wal");
    assert!(fs::metadata(log).expect("a log").len() > 0);
    daemon.into_folder()
}

fn tool(folder: &Path, words: &[&str]) -> Command {
    let mut command = cpd();
    command.arg("--data").arg(folder.join("data")).args(words);
    command
}

#[track_caller]
fn ends_with(command: &mut Command, code: i32) -> Ended {
    let ended = run(command, "");
    assert_eq!(ended.code(), code, "{ended:?}");
    ended
}

/// What every user of the store in `folder` has queued, and the ids.
fn queues(folder: tempfile::TempDir) -> (tempfile::TempDir, Vec<String>, Vec<u64>) {
    let daemon = Daemon::start_in(folder, "");
    let users: Vec<serde_json::Value> =
        serde_json::from_str(&daemon.cpctl(&["--json", "user", "list"], "")).expect("a list");
    let (mut told, mut ids) = (Vec::new(), Vec::new());
    for user in users {
        let user = user["name"].as_str().expect("a name").to_owned();
        let shown = daemon.cpctl(&["--json", "queue", "show", &user, "--body"], "");
        let shown: Vec<serde_json::Value> = serde_json::from_str(&shown).expect("a list");
        for message in shown {
            told.push(format!("{user}: {}", message["body"].as_str().expect("a body")));
            ids.push(message["id"].as_u64().expect("an id"));
        }
    }
    (daemon.stop(), told, ids)
}

fn show(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn a_backup_is_restored_over_the_store_of_a_crash() {
    let daemon = with(&["alice", "bob"], "before the backup");
    let backup = daemon.folder.path().join("backup");
    daemon.cpctl(&["store", "backup", &show(&backup)], "");
    say(&daemon, &["alice", "bob"], "after the backup");
    let folder = kill(daemon);
    // By hand it is refused, with what to type.
    let data = folder.path().join("data");
    let left = data.join("cpd.db");
    let old = fs::read(&left).expect("a store");
    fs::copy(&backup, &left).expect("copied");
    let refused = Setup::new("").in_folder(folder).launch();
    let folder = ends_refused(refused, "cpd --config");
    let data_again = folder.path().join("data");
    assert_eq!(data, data_again);
    fs::write(&left, old).expect("written");

    let ended = ends_with(&mut tool(folder.path(), &["--restore", &show(&backup)]), 0);
    assert!(ended.stdout.contains("2 users, 2 messages"), "{ended:?}");
    let kept: Vec<PathBuf> = ended
        .stdout
        .lines()
        .filter_map(|line| line.strip_prefix("kept of the store before: "))
        .map(Into::into)
        .collect();
    assert_eq!(kept.len(), 2, "{ended:?}");
    let (folder, told, ids) = queues(folder);
    assert_eq!(told, ["alice: before the backup", "bob: before the backup"]);
    // What comes now has an id that no message after the backup had.
    let daemon = Daemon::start_in(folder, "");
    say(&daemon, &["alice"], "after the restore");
    let (folder, told, later) = queues(daemon.stop());
    assert_eq!(told[1], "alice: after the restore");
    assert!(later[1] > ids[1] + (1 << 40), "{ids:?} {later:?}");
    // And back to what was there, the log included.
    ends_with(&mut tool(folder.path(), &["--restore", &show(&kept[0])]), 0);
    let (_, told, _) = queues(folder);
    let expected = ["alice: before the backup", "alice: after the backup", "bob: before the backup"];
    assert_eq!(told[..3], expected);
}

/// A cpd that must end with 65, naming the command that helps.
#[track_caller]
fn ends_refused(mut daemon: Daemon, command: &str) -> tempfile::TempDir {
    let status = daemon.ends();
    let log = daemon.log();
    assert_eq!(status.code(), Some(65), "{log}");
    let cause = log.lines().last().unwrap_or_default();
    assert!(cause.contains(command) && cause.contains("--restore FILE"), "{log}");
    daemon.into_folder()
}

#[test]
fn what_cannot_be_done_is_said_with_its_code() {
    let daemon = with(&["alice"], "hello");
    let folder = daemon.folder.path().to_owned();
    let backup = folder.join("backup");
    daemon.cpctl(&["store", "backup", &show(&backup)], "");
    let new = show(&folder.join("new"));
    for lock in ["held", "held, and its file deleted"] {
        for words in [&["--restore", &show(&backup)][..], &["--check-store"], &["--salvage", &new]] {
            let ended = ends_with(&mut tool(&folder, words), 69);
            assert!(ended.stderr.contains("a cpd that runs; stop it"), "{lock}: {ended:?}");
        }
        let _ = fs::remove_file(folder.join("data/cpd.db-lock"));
    }
    let folder = daemon.stop();
    let whole = fs::read(folder.path().join("data/cpd.db")).expect("a store");
    ends_with(&mut tool(folder.path(), &["--restore", "/nonexistent"]), 66);
    for words in [&["--restore", "-"][..], &["--check-store=-"], &["--salvage", "-"]] {
        ends_with(tool(folder.path(), words).current_dir(folder.path()), 64);
        assert!(!folder.path().join("-").exists());
    }
    let mut bytes = fs::read(&backup).expect("a backup");
    let at = bytes.windows(5).position(|w| w == b"hello").expect("the message");
    bytes[at] ^= 1;
    let damaged = folder.path().join("damaged");
    fs::write(&damaged, bytes).expect("written");
    let ended = ends_with(&mut tool(folder.path(), &["--restore", &show(&damaged)]), 65);
    assert!(ended.stderr.contains(&show(&damaged)) && ended.stderr.contains("message 1"), "{ended:?}");
    let ended = ends_with(&mut tool(folder.path(), &[&format!("--check-store={}", show(&damaged))]), 65);
    assert!(ended.stdout.contains("table message: message 1 does not match its checksum"), "{ended:?}");
    let ended = ends_with(&mut tool(folder.path(), &["--check-store"]), 0);
    assert!(ended.stdout.contains("1 user, 1 message; nothing is damaged"), "{ended:?}");
    assert!(fs::read(folder.path().join("data/cpd.db")).expect("a store") == whole);
    // A disk without room: here a file that may not grow.
    need("prlimit", "util-linux");
    let mut small = Command::new("prlimit");
    small.args(["--fsize=8192", env!("CARGO_BIN_EXE_cpd"), "--data"]).arg(folder.path().join("data"));
    let ended = run(small.args(["--restore", &show(&backup)]), "");
    assert!([71, 73].contains(&ended.code()) && ended.stderr.contains("cpd.db.incomplete-new"), "{ended:?}");
    let names: Vec<_> = fs::read_dir(folder.path().join("data")).expect("lists").collect();
    assert!(names.iter().all(|e| !e.as_ref().expect("an entry").file_name().to_string_lossy().contains("-new")));
    assert!(fs::read(folder.path().join("data/cpd.db")).expect("a store") == whole);
}

#[test]
fn root_restores_for_the_owner_of_the_folder() {
    if !nix::unistd::geteuid().is_root() {
        // Only root can give files away.
        return;
    }
    let daemon = with(&["alice"], "hello");
    let backup = daemon.folder.path().join("backup");
    daemon.cpctl(&["store", "backup", &show(&backup)], "");
    let folder = kill(daemon);
    let data = folder.path().join("data");
    // What nobody can read, and a path that nobody can enter.
    fs::set_permissions(&backup, fs::Permissions::from_mode(0o400)).expect("set");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).expect("set");
    chown(&data, Some(NOBODY), Some(NOBODY)).expect("given");
    for entry in fs::read_dir(&data).expect("lists") {
        // The store itself is root's, as after a copy by hand.
        let path = entry.expect("an entry").path();
        let owner = if path.ends_with("cpd.db") { 0 } else { NOBODY };
        chown(path, Some(owner), Some(owner)).expect("given");
    }
    ends_with(&mut tool(folder.path(), &["--check-store"]), 0);
    ends_with(&mut tool(folder.path(), &["--restore", &show(&backup)]), 0);
    for name in ["cpd.db", ".cpd.db.history", "cpd.db-lock"] {
        let found = fs::metadata(data.join(name)).expect("is there");
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (NOBODY, NOBODY, 0o600), "{name}");
    }
    let new = data.join("saved.db");
    ends_with(&mut tool(folder.path(), &["--salvage", &show(&new)]), 0);
    let found = fs::metadata(&new).expect("is there");
    assert_eq!((found.uid(), found.mode() & 0o7777), (NOBODY, 0o600));
}

#[test]
fn a_cpd_that_is_started_meanwhile_waits_and_can_be_stopped() {
    let folder = with(&["alice"], "hello").stop();
    let lock = File::open(folder.path().join("data/cpd.db-lock")).expect("a lock");
    lock.lock_shared().expect("locked");
    let mut daemon = Setup::new("").in_folder(folder).launch();
    daemon.waits_for_log("waiting for cpd --restore");
    assert!(daemon.runs());
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ends().code(), Some(0), "{}", daemon.log());
    let folder = daemon.into_folder();
    let daemon = Setup::new("").in_folder(folder).launch();
    daemon.waits_for_log("waiting for cpd --restore");
    lock.unlock().expect("unlocked");
    daemon.waits_for_log(" started ");
    daemon.stop();
}

#[test]
fn a_store_that_is_gone_is_no_empty_store() {
    let folder = with(&["alice"], "hello").stop();
    let data = folder.path().join("data");
    fs::remove_file(data.join("cpd.db")).expect("removed");
    // Without --data, as an installed one.
    let config = folder.path().join("own.toml");
    let text = format!(
        "listen.cp = [\"127.0.0.1:0\"]\nstore.path = \"{}\"\ncontrol.socket = \"{}\"\ncontrol.group = \"\"\nlog.target = \"stderr\"\n",
        show(&data.join("cpd.db")),
        show(&folder.path().join("own.sock"))
    );
    fs::write(&config, text).expect("written");
    let ended = ends_with(cpd().arg("--config").arg(&config), 65);
    let command = format!("cpd --config {} --restore FILE", show(&config));
    for part in ["the store is gone", ".cpd.db.history", &command] {
        assert!(ended.stderr.contains(part), "{part}: {ended:?}");
    }
    assert!(!data.join("cpd.db").exists());
    let daemon = Daemon::start_in(folder, "");
    assert!(daemon.log().contains("store made "), "{}", daemon.log());
}

#[test]
fn what_is_sound_of_a_damaged_store_goes_on() {
    let daemon = with(&["alice", "bob", "carol"], "hello");
    let folder = daemon.stop();
    let store = folder.path().join("data/cpd.db");
    let mut bytes = fs::read(&store).expect("a store");
    let at = bytes.windows(8).position(|w| w == b"bobalice").expect("the message");
    bytes[at] ^= 1;
    fs::write(&store, bytes).expect("written");
    let refused = Setup::new("").in_folder(folder).launch();
    let folder = ends_refused(refused, "--salvage NEW");
    let new = folder.path().join("saved.db");
    let ended = ends_with(&mut tool(folder.path(), &["--salvage", &show(&new)]), 0);
    assert!(ended.stdout.contains("kept 3 users and 2 messages\nlost: 1 message, 0 other rows\n"), "{ended:?}");
    ends_with(&mut tool(folder.path(), &["--salvage", &show(&new)]), 73);
    ends_with(&mut tool(folder.path(), &["--restore", &show(&new)]), 0);
    let (_, told, _) = queues(folder);
    assert_eq!(told, ["alice: hello", "carol: hello"]);
}

#[test]
fn a_restore_that_is_killed_at_any_call_leaves_one_of_both_stores() {
    need("strace", "strace");
    let daemon = with(&["alice"], "the backup");
    let backup = daemon.folder.path().join("backup");
    daemon.cpctl(&["store", "backup", &show(&backup)], "");
    say(&daemon, &["alice"], "the log");
    let folder = kill(daemon);
    let pristine = folder.path().join("pristine");
    copy_folder(&folder.path().join("data"), &pristine);
    const CALLS: &[&str] = &[
        "openat",
        "pwrite64",
        "copy_file_range",
        "write",
        "fsync",
        "fdatasync",
        "ftruncate",
        "link",
        "linkat",
        "rename",
        "renameat",
        "unlink",
        "unlinkat",
    ];
    let (mut killed, mut old, mut new) = (0, 0, 0);
    for call in CALLS {
        for number in 1.. {
            let data = folder.path().join("data");
            fs::remove_dir_all(&data).expect("removed");
            copy_folder(&pristine, &data);
            let mut command = Command::new("strace");
            let inject = format!("inject={call}:signal=KILL:when={number}");
            command.args(["-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject]);
            command.arg(env!("CARGO_BIN_EXE_cpd")).arg("--data").arg(&data).args(["--restore", &show(&backup)]);
            let ended = run(&mut command, "");
            if ended.status.success() {
                break;
            }
            killed += 1;
            let what = format!("killed at {call} {number}");
            let checked = tool(folder.path(), &["--check-store"]).output().expect("runs");
            let said = String::from_utf8_lossy(&checked.stdout).into_owned();
            // The copy in its place with the old log beside it is what the next start puts in order.
            assert!(checked.status.success() || said.contains("cpd.db-wal"), "{what}: {checked:?}");
            // Whatever it was, the next restore succeeds and leaves nothing behind.
            let state = folder.path().join("state");
            let _ = fs::remove_dir_all(&state);
            copy_folder(&data, &state);
            ends_with(&mut tool(folder.path(), &["--restore", &show(&backup)]), 0);
            let left: Vec<String> = names(&data);
            assert!(!left.iter().any(|name| name.contains("-new")), "{what}: {left:?}");
            fs::remove_dir_all(&data).expect("removed");
            copy_folder(&state, &data);
            match opened(&data, &what) {
                2 => old += 1,
                1 => new += 1,
                other => panic!("{what}: {other} messages"),
            }
            let left: Vec<String> = names(&data);
            assert!(!left.iter().any(|name| name.contains("-new")), "{what}: {left:?}");
        }
    }
    println!("proof: restore: killed at {killed} calls, then {old} times the old store, {new} times the new one");
    assert!(old > 20 && new > 3, "{old} {new}");
}

/// Messages in the store that a start finds.
fn opened(data: &Path, what: &str) -> usize {
    let mut count = 0;
    let mut store = cpd_store::Store::open(&data.join("cpd.db")).unwrap_or_else(|error| panic!("{what}: {error}"));
    store.load(|_| (), |_| count += 1).unwrap_or_else(|error| panic!("{what}: {error}"));
    count
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("lists");
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).expect("made");
    for name in names(from) {
        if fs::symlink_metadata(from.join(&name)).is_ok_and(|found| found.is_file()) {
            fs::copy(from.join(&name), to.join(&name)).expect("copied");
        }
    }
}

#[test]
fn two_restores_at_once_are_one_after_the_other_or_one() {
    let daemon = with(&["alice"], "hello");
    let backup = daemon.folder.path().join("backup");
    daemon.cpctl(&["store", "backup", &show(&backup)], "");
    let folder = daemon.stop();
    let start = || -> Child {
        tool(folder.path(), &["--restore", &show(&backup)]).stdout(std::process::Stdio::null()).spawn().expect("runs")
    };
    let mut both: Vec<Child> = (0..4).map(|_| start()).collect();
    let codes: Vec<i32> = both.iter_mut().map(|child| child.wait().expect("ends").code().unwrap_or(-1)).collect();
    assert!(codes.contains(&0) && codes.iter().all(|code| [0, 69].contains(code)), "{codes:?}");
    wait_for("the store", || queues_of(folder.path()));
}

fn queues_of(folder: &Path) -> Option<()> {
    ends_with(&mut tool(folder, &["--check-store"]), 0).stdout.contains("1 message; nothing").then_some(())
}

#[test]
fn a_backup_to_standard_output_is_the_backup_and_nothing_else() {
    let daemon = with(&["alice"], "hello");
    let file = daemon.folder.path().join("copy");
    let mut command = running::cpctl(&daemon.socket(), &["store", "backup", "-"]);
    let status = command.stdout(File::create(&file).expect("a file")).status().expect("runs");
    assert!(status.success(), "{}", daemon.log());
    let ended = ends_with(cpd().arg(format!("--check-store={}", show(&file))), 0);
    assert!(ended.stdout.contains("1 user, 1 message"), "{ended:?}");
    let ended = ends_with(&mut running::cpctl(&daemon.socket(), &["--json", "store", "backup", "-"]), 2);
    assert!(!ended.stdout.contains("SQLite"), "{ended:?}");
    // A reader that goes away is an error, and the next copy is not refused for it.
    let mut command = running::cpctl(&daemon.socket(), &["store", "backup", "-"]);
    let full = File::options().write(true).open("/dev/full").expect("is there");
    assert_eq!(command.stdout(full).status().expect("runs").code(), Some(1));
    daemon.cpctl(&["store", "backup", &show(&daemon.folder.path().join("another"))], "");
}

#[test]
fn a_killed_backup_leaves_nothing() {
    let daemon = with(&["alice"], "hello");
    let folder = daemon.folder.path().join("copies");
    fs::create_dir(&folder).expect("made");
    need("strace", "strace");
    for call in ["write", "fsync", "linkat"] {
        let mut command = Command::new("strace");
        let inject = format!("inject={call}:signal=KILL:when=1");
        command.args(["-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject]);
        command.arg(env!("CARGO_BIN_EXE_cpctl")).arg("--socket").arg(daemon.socket());
        let ended = run(command.args(["store", "backup", &show(&folder.join("copy"))]), "");
        assert!(!ended.status.success(), "{call}: {ended:?}");
        let left: Vec<String> = names(&folder).into_iter().filter(|name| name != "copy").collect();
        assert_eq!(left, [""; 0], "{call}");
        let _ = fs::remove_file(folder.join("copy"));
    }
    // Of the daemon's own copy nothing is left either.
    let data = kill(daemon);
    let left = names(&data.path().join("data"));
    assert!(!left.iter().any(|name| name.contains("-backup")), "{left:?}");
}

/// What somebody who can write in the folder puts in the place of the backup while it gets its name is no success.
#[test]
fn another_file_in_the_place_of_a_backup_is_no_success() {
    need("strace", "strace");
    let daemon = with(&["alice"], "hello");
    let folder = daemon.folder.path().join("copies");
    fs::create_dir(&folder).expect("made");
    let (copy, moved, other) = (folder.join("copy"), folder.join("moved"), folder.join("other"));
    for what in ["another file", "nothing", "a link to it"] {
        let mut command = Command::new("strace");
        let inject = "inject=linkat:delay_exit=2000000";
        command.args(["-qq", "-o", "/dev/null", "-e", "trace=linkat", "-e", inject]);
        command.arg(env!("CARGO_BIN_EXE_cpctl")).arg("--socket").arg(daemon.socket());
        command.args(["store", "backup", &show(&copy)]).stderr(std::process::Stdio::piped());
        let cpctl = command.spawn().expect("runs");
        wait_for("the copy", || copy.exists().then_some(()));
        fs::rename(&copy, &moved).expect("moved");
        match what {
            "another file" => {
                fs::copy(&moved, &other).expect("copied");
                fs::rename(&other, &copy).expect("moved");
            }
            "a link to it" => std::os::unix::fs::symlink(&moved, &copy).expect("made"),
            _ => {}
        }
        let ended = cpctl.wait_with_output().expect("ends");
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(1), "{what}: {said}");
        let named = if what == "nothing" { "the backup was taken away" } else { "another file in the place of" };
        assert!(said.contains(named) && said.contains(&show(&copy)), "{what}: {said}");
        let _ = fs::remove_file(&copy);
    }
}

/// Runs the nightly script with these programs first in the path.
fn nightly(folder: &Path, socket: &Path, first: &Path) -> Ended {
    let script = Path::new("packaging/cpd-backup");
    let programs = Path::new(env!("CARGO_BIN_EXE_cpd")).parent().expect("a folder");
    let path = format!("{}:{}:{}", show(first), show(programs), std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("sh");
    command.arg(script).arg(folder).arg("3").env("PATH", path).env("CPCTL_SOCKET", socket);
    run(&mut command, "")
}

#[test]
fn the_nightly_copy_is_verified_and_the_last_ones_are_kept() {
    let daemon = with(&["alice"], "hello");
    let (copies, none) = (daemon.folder.path().join("copies"), daemon.folder.path().join("none"));
    fs::create_dir(&none).expect("made");
    fs::create_dir(&copies).expect("made");
    for old in ["cpd-2020-01-01T000000Z.db", "cpd-2021-01-01T000000Z.db", "cpd-2022-01-01T000000Z.db", "mine.db"] {
        fs::write(copies.join(old), "old").expect("written");
    }
    let ended = nightly(&copies, &daemon.socket(), &none);
    assert!(ended.status.success(), "{ended:?}");
    let mut left = names(&copies);
    left.sort();
    assert_eq!(left.len(), 4, "{left:?}");
    assert!(left[0].starts_with("cpd-2021") && left[1].starts_with("cpd-2022") && left[3] == "mine.db", "{left:?}");
    let made = copies.join(&left[2]);
    assert_eq!(fs::metadata(&made).expect("is there").mode() & 0o7777, 0o600);
    ends_with(cpd().arg(format!("--check-store={}", show(&made))), 0);
    fs::remove_file(made).expect("removed");
    // A copy that is damaged takes the place of none.
    let liar = none.join("cpctl");
    fs::write(&liar, "#!/bin/sh\nprintf nonsense > \"$3\"\n").expect("written");
    fs::set_permissions(&liar, fs::Permissions::from_mode(0o755)).expect("set");
    let ended = nightly(&copies, &daemon.socket(), &none);
    assert_eq!(ended.code(), 65, "{ended:?}");
    let left = names(&copies);
    assert!(left.len() == 4 && left.iter().any(|name| name.ends_with(".damaged")), "{left:?}");
    // Nothing is made or deleted where somebody else says what a name leads to.
    for (mode, owner) in [(0o777, None), (0o1777, None), (0o755, Some(NOBODY))] {
        fs::set_permissions(&copies, fs::Permissions::from_mode(mode)).expect("set");
        if owner.is_some() && !nix::unistd::geteuid().is_root() {
            continue;
        }
        chown(&copies, owner, None).expect("given");
        let ended = nightly(&copies, &daemon.socket(), &none);
        assert!(ended.code() == 77 && ended.stderr.contains(&show(&copies)), "{ended:?}");
        assert_eq!(names(&copies), left);
    }
}

/// A store as a cpd of an earlier schema would have left it: of schema 0, which has no tables yet.
fn of_an_earlier_schema(data: &Path) -> Vec<u8> {
    fs::create_dir_all(data).expect("made");
    let mut page = vec![0; 4096];
    page[..16].copy_from_slice(b"SQLite format 3\0");
    // Pages of 4096 bytes, a write-ahead log, and the shares of a page that SQLite wants.
    page[16..24].copy_from_slice(&[16, 0, 2, 2, 0, 64, 32, 32]);
    // Changed once, when it had this one page; the formats of tables and of text.
    for (at, word) in [(24, 1), (28, 1), (44, 4), (56, 1), (68, 0x4350_6431), (92, 1), (96, 3_040_001)] {
        page[at..at + 4].copy_from_slice(&u32::to_be_bytes(word));
    }
    // An empty table of tables.
    page[100] = 13;
    page[105..107].copy_from_slice(&4096_u16.to_be_bytes());
    let store = data.join("cpd.db");
    fs::write(&store, &page).expect("written");
    for (path, mode) in [(data, 0o700), (&store, 0o600)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
    }
    page
}

#[test]
fn the_store_of_an_earlier_schema_is_kept_and_can_be_restored() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let old = of_an_earlier_schema(&data);
    let kept = data.join("cpd.db.schema-0");
    let daemon = Daemon::start_in(folder, "");
    let log = daemon.log();
    let line = log.lines().find(|line| line.contains("schema-0")).unwrap_or_else(|| panic!("{log}"));
    assert!(line.contains("warning") && line.contains(&format!("cpd --restore {}", show(&kept))), "{line}");
    daemon.add_user("alice", "sesame");
    let folder = daemon.stop();
    assert!(fs::read(&kept).expect("is kept") == old);
    assert_eq!(fs::metadata(&kept).expect("is kept").mode() & 0o7777, 0o600);
    // It is of the current schema now: nothing is said or kept again.
    let daemon = Daemon::start_in(folder, "");
    assert!(!daemon.log().contains("schema"), "{}", daemon.log());
    let folder = daemon.stop();
    let ended = ends_with(&mut tool(folder.path(), &["--restore", &show(&kept)]), 0);
    assert!(ended.stdout.contains("0 users, 0 messages"), "{ended:?}");
    assert!(fs::read(&kept).expect("is kept") == old);
    let (_, told, _) = queues(folder);
    assert!(told.is_empty(), "{told:?}");
}

#[test]
fn without_room_for_the_store_of_an_earlier_schema_it_is_left() {
    need("prlimit", "util-linux");
    let folder = tempfile::tempdir().expect("a folder");
    let old = of_an_earlier_schema(&folder.path().join("data"));
    // The limit of file sizes is that of a disk that is full.
    let mut daemon = Setup::new("").in_folder(folder).wrapped(&["prlimit", "--fsize=1024"]).launch();
    let code = daemon.ends().code();
    let log = daemon.log();
    assert_eq!(code, Some(73), "{log}");
    assert!(log.contains("cpd.db: is of schema 0") && log.contains("no room for its 4096 bytes"), "{log}");
    assert!(fs::read(daemon.store()).expect("a store") == old, "{log}");
    assert!(!daemon.folder.path().join("data/cpd.db.schema-0").exists(), "{log}");
}

#[test]
fn what_is_no_store_is_not_touched_whatever_the_configuration_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    fs::create_dir(&data).expect("made");
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).expect("set");
    for (name, content, code) in [("text", "precious\n", 65), ("empty", "", 65), ("sqlite", "SQLite format 3\0", 65)] {
        let file = data.join(name);
        fs::write(&file, content).expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("set");
        let config = folder.path().join("cpd.toml");
        let text = format!(
            "[store]\npath = {file:?}\n[listen]\ncp = [\"127.0.0.1:0\"]\n[control]\nsocket = {:?}\n",
            data.join("s")
        );
        fs::write(&config, text).expect("written");
        let ended = ends_with(cpd().arg("--config").arg(&config), code);
        assert!(ended.stderr.contains("the file was left as it is"), "{ended:?}");
        assert_eq!(fs::metadata(&file).expect("is there").mode() & 0o777, 0o644, "{name}");
        assert_eq!(fs::read_to_string(&file).expect("is there"), content);
        let left: Vec<_> = fs::read_dir(&data).expect("lists").map(|e| e.expect("an entry").file_name()).collect();
        assert_eq!(left, [name], "nothing is laid beside it");
        fs::remove_file(&file).expect("removed");
    }
}

#[test]
fn a_file_that_is_named_is_what_is_spoken_of() {
    let folder = with(&["ann"], "one").stop();
    let beside = |name: &str| folder.path().join(name);
    fs::write(beside("empty"), "").expect("written");
    fs::write(beside("junk"), "junk").expect("written");
    fs::create_dir(beside("folder")).expect("made");
    nix::unistd::mkfifo(&beside("pipe"), nix::sys::stat::Mode::S_IRWXU).expect("made");
    for (name, restored, checked) in
        [("empty", 65, 65), ("junk", 65, 65), ("folder", 66, 66), ("pipe", 66, 66), ("nothing", 66, 66)]
    {
        let file = beside(name);
        let named = file.display().to_string();
        let ended = ends_with(tool(folder.path(), &["--restore"]).arg(&file), restored);
        let wrong = ["delete it", "--salvage", "--check-store"];
        assert!(ended.stderr.contains(&named) && !wrong.iter().any(|part| ended.stderr.contains(part)), "{ended:?}");
        let ended = ends_with(cpd().arg(format!("--check-store={named}")), checked);
        let wrong = ["delete it", "--salvage", "--restore"];
        assert!(ended.stderr.contains(&named) && !wrong.iter().any(|part| ended.stderr.contains(part)), "{ended:?}");
    }
    let (_, told, _) = queues(folder);
    assert_eq!(told, ["ann: one"]);
}
