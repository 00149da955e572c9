//! A real cpd whose store is moved, removed, replaced, copied over or cut under it, while clients send and while it is
//! idle: nothing that is sent after that gets a 240, it ends with 65 and says what happened, and what the next start has
//! is compared with what was acknowledged. That a cpd that does not look is caught by the same is shown by
//! proof/replaced.rs.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use cpd_testing::{play, running};
use play::{Told, next_start, play, prepare};
use running::Daemon;
use rustix::process::Signal;

/// cpd's exit code for a store that is not the one it was.
const EX_DATAERR: i32 = 65;

fn store(data: &Path) -> PathBuf {
    data.join("cpd.db")
}

fn log(data: &Path) -> PathBuf {
    data.join("cpd.db-wal")
}

fn aside(data: &Path) -> PathBuf {
    data.with_file_name("aside")
}

/// Plays a change that ends cpd with 65; `said` is in its last line.
#[track_caller]
fn ends(said: &str, change: impl FnOnce(&Path)) -> (Daemon, Told) {
    let mut daemon = prepare();
    let told = play(&daemon, usize::MAX, change);
    is_over(&mut daemon, said);
    assert!(told.late.is_empty(), "acknowledged after it: {:?}", told.late);
    let said = said.trim();
    println!("proof: 1 cases of a changed store, {said}: {} had 240 before, none after, 0 violations", told.kept.len());
    (daemon, told)
}

#[track_caller]
fn is_over(daemon: &mut Daemon, said: &str) {
    let code = daemon.ends().code();
    let log = daemon.log();
    let last = log.lines().find(|line| line.contains(" error ended ") || line.starts_with("cpd: ")).unwrap_or_default();
    assert_eq!(code, Some(EX_DATAERR), "{log}");
    let whole = [
        said,
        " while cpd ran; what was acknowledged before is ",
        " messages queued)",
        "cpd --config ",
        " --data ",
        " --restore FILE",
    ];
    assert!(whole.iter().all(|part| last.contains(part)), "{said}: {last:?}");
}

/// What was acknowledged and is not there after a start.
fn lost(daemon: Daemon, told: &Told) -> usize {
    let there = next_start(daemon.into_folder());
    told.kept.difference(&there).count()
}

#[test]
fn moved_away_it_has_everything_where_it_is_now() {
    let (daemon, told) = ends("cpd.db was moved away to ", |data| fs::rename(store(data), aside(data)).expect("moved"));
    let data = daemon.store().parent().expect("a folder").to_owned();
    fs::rename(aside(&data), store(&data)).expect("moved back");
    assert_eq!(lost(daemon, &told), 0);
}

#[test]
fn replaced_it_leaves_the_new_file_alone() {
    let other = Daemon::start("");
    other.add_user("ann", "other");
    let other = other.stop();
    let before = fs::read(other.path().join("data/cpd.db")).expect("read");
    let (daemon, _) = ends("cpd.db is another file now", |data| {
        fs::copy(other.path().join("data/cpd.db"), aside(data)).expect("copied");
        fs::rename(aside(data), store(data)).expect("moved");
    });
    assert_eq!(fs::read(daemon.store()).expect("read"), before);
}

#[test]
fn removed_it_says_what_is_at_risk() {
    let (daemon, told) = ends("cpd.db was removed", |data| fs::remove_file(store(data)).expect("removed"));
    let log = daemon.log();
    let queued = log.split(" messages queued)").next().and_then(|log| log.rsplit('(').next());
    let queued: usize = queued.and_then(|queued| queued.parse().ok()).expect("a number");
    assert!(log.contains("is at risk"), "{log}");
    // Those that were under way are counted as well.
    assert!((told.kept.len()..=told.kept.len() + 3).contains(&queued), "{queued} of {}", told.kept.len());
}

#[test]
fn a_symbolic_link_in_its_place_is_noticed() {
    let (daemon, told) = ends("cpd.db is a symbolic link now", |data| {
        // In one step: cpd must not find the moment between, in which the store has no name.
        fs::hard_link(store(data), aside(data)).expect("linked");
        symlink(aside(data), data.join("link")).expect("linked");
        fs::rename(data.join("link"), store(data)).expect("moved");
    });
    assert_eq!(lost(daemon, &told), 0, "the next start follows it");
}

#[test]
fn copied_over_it_is_noticed() {
    let other = Daemon::start("");
    other.add_user("ann", "other");
    let other = other.stop();
    let (daemon, _) = ends("cpd.db was ", |data| {
        fs::copy(other.path().join("data/cpd.db"), store(data)).expect("copied");
    });
    assert!(daemon.log().contains("is at risk"), "{}", daemon.log());
}

#[test]
fn an_earlier_copy_of_itself_is_noticed() {
    let mut daemon = prepare();
    let folder = daemon.folder.path().to_owned();
    let files = || fs::read(folder.join("data/cpd.db")).expect("is there");
    let mut ann = daemon.connect();
    ann.logs_in("ann", "ann");
    ann.asks("SMSGbob:one", "240 ");
    let begun = files();
    // The log is moved into the file when it is quiet.
    running::wait_for("the log in the file", || (files() != begun).then_some(()));
    let copy = aside(&folder.join("data"));
    fs::copy(daemon.store(), &copy).expect("copied");
    ann.asks("SMSGbob:two", "240 ");
    let begun = files();
    running::wait_for("the log in the file", || (files() != begun).then_some(()));
    fs::copy(&copy, daemon.store()).expect("copied");
    ann.send("SMSGbob:three");
    assert_eq!(ann.line(), "");
    // Cut, when cpd looks while the copy is still being written.
    is_over(&mut daemon, "cpd.db was ");
}

#[test]
fn cut_in_the_middle_it_is_noticed() {
    let cut = |path: &Path| {
        let file = OpenOptions::new().write(true).open(path).expect("opens");
        file.set_len(file.metadata().expect("is there").len() / 2).expect("cut");
    };
    ends("cpd.db was cut", |data| cut(&store(data)));
    ends("cpd.db-wal was ", |data| cut(&log(data)));
    ends("cpd.db-wal was ", |data| drop(File::create(log(data)).expect("emptied")));
}

#[test]
fn without_its_log_it_has_everything() {
    for replace in [false, true] {
        let (daemon, told) = ends("cpd.db-wal ", |data| {
            fs::remove_file(log(data)).expect("removed");
            if replace {
                File::create(log(data)).expect("made");
            }
        });
        assert!(!daemon.log().contains("is at risk"), "{}", daemon.log());
        assert_eq!(lost(daemon, &told), 0);
    }
}

#[test]
fn a_folder_that_was_moved_away_has_everything() {
    let (daemon, told) = ends("cpd.db was moved away to ", |data| {
        fs::rename(data, aside(data)).expect("moved");
    });
    let data = daemon.store().parent().expect("a folder").to_owned();
    let _ = fs::remove_dir_all(&data);
    fs::rename(aside(&data), &data).expect("moved back");
    assert_eq!(lost(daemon, &told), 0);
}

#[test]
fn it_is_noticed_while_nobody_sends_and_at_the_stop() {
    let mut daemon = prepare();
    let mut idle = daemon.connect();
    idle.logs_in("bob", "bob");
    fs::remove_file(daemon.store()).expect("removed");
    is_over(&mut daemon, "cpd.db was removed");
    idle.is_closed();

    let mut daemon = prepare();
    fs::remove_file(daemon.store()).expect("removed");
    daemon.signal(Signal::TERM);
    is_over(&mut daemon, "cpd.db was removed");
}

#[test]
fn a_touch_a_mode_and_a_backup_end_nothing() {
    let mut daemon = prepare();
    let told = play(&daemon, 30, |data| {
        let file = File::open(store(data)).expect("opens");
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("touched");
        fs::hard_link(store(data), data.join("link")).expect("linked");
        fs::copy(store(data), data.join("copy")).expect("copied");
    });
    assert!(daemon.runs() && !told.late.is_empty(), "{}", daemon.log());
    let there = next_start(daemon.stop());
    assert_eq!(told.kept.difference(&there).count(), 0);
}
