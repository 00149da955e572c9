//! Files that somebody else moves, removes, overwrites, truncates or touches while the store is open.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use super::*;

/// What was reported for a store with message 1 in the file and message 2 in the log, when message 3 was sent after a
/// change of the files.
struct Noticed {
    rig: Rig,
    what: String,
    saved: bool,
}

fn log(rig: &Rig) -> PathBuf {
    rig.folder.path().join("cpd.db-wal")
}

/// A store with message 1 in the file, a copy of that file as `cpd.copy`, and message 2 in the log.
fn filled() -> Rig {
    let mut rig = Rig::new();
    rig.run(BatchBuilder::new(0).user(1, "bob", "hash").insert(1, "bob", "one"));
    let mut rig = rig.reopen();
    fs::copy(rig.path(), rig.folder.path().join("cpd.copy")).expect("copied");
    rig.run(BatchBuilder::new(0).insert(2, "bob", "two"));
    rig
}

#[track_caller]
fn notice_change(change: impl FnOnce(&Rig)) -> Noticed {
    let mut rig = filled();
    change(&rig);
    rig.submit(BatchBuilder::new(0).insert(3, "bob", "three"));
    match rig.recv() {
        FromStore::Changed { what, saved } => Noticed { rig, what, saved },
        other => panic!("not noticed: {other:?}"),
    }
}

impl Noticed {
    /// The ids of the messages in the file at `path` and its log.
    #[track_caller]
    fn kept(&self, path: &Path) -> Vec<u64> {
        let mut ids = Vec::new();
        let mut store = Store::open(path).unwrap_or_else(|error| panic!("{error}"));
        store.load(|_| (), |m| ids.push(m.id.0)).unwrap_or_else(|error| panic!("{error}"));
        ids
    }

    #[track_caller]
    fn ended(mut self, said: &str, saved: bool) -> Noticed {
        assert!(self.what.ends_with(said), "{:?}", self.what);
        assert_eq!(self.saved, saved, "{:?}", self.what);
        assert!(self.rig.writer.take().expect("is open").close().is_empty());
        self
    }
}

#[test]
fn a_file_that_is_moved_away_gets_the_whole_log() {
    let noticed = notice_change(|rig| fs::rename(rig.path(), rig.folder.path().join("aside")).expect("moved"));
    let aside = noticed.rig.folder.path().join("aside");
    let noticed = noticed.ended(&format!("cpd.db was moved away to {}", aside.display()), true);
    // Message 3 was in doubt when the change was noticed, and its sender has not been told that it is stored.
    assert_eq!(noticed.kept(&aside), [1, 2, 3]);
    assert_eq!(fs::metadata(log(&noticed.rig)).expect("is kept").len(), 0, "a log that belongs to nobody");
}

#[test]
fn another_file_in_the_place_is_left_alone() {
    let noticed = notice_change(|rig| {
        fs::rename(rig.folder.path().join("cpd.copy"), rig.path()).expect("moved");
    });
    let before = fs::read(noticed.rig.path()).expect("read");
    let noticed = noticed.ended("cpd.db is another file now", false);
    assert_eq!(fs::read(noticed.rig.path()).expect("read"), before);
}

#[test]
fn a_file_that_is_removed_is_at_risk() {
    notice_change(|rig| fs::remove_file(rig.path()).expect("removed")).ended("cpd.db was removed", false);
}

#[test]
fn a_symbolic_link_in_the_place_is_not_followed() {
    let noticed = notice_change(|rig| {
        let aside = rig.folder.path().join("aside");
        fs::rename(rig.path(), &aside).expect("moved");
        symlink(aside, rig.path()).expect("linked");
    });
    let noticed = noticed.ended("cpd.db is a symbolic link now", true);
    assert_eq!(noticed.kept(&noticed.rig.path()), [1, 2, 3]);
}

#[test]
fn a_link_to_the_store_that_leads_elsewhere_is_noticed() {
    let folder = tempfile::tempdir().expect("a folder");
    let (real, link) = (folder.path().join("real"), folder.path().join("link"));
    fs::create_dir(&real).expect("made");
    symlink(real.join("cpd.db"), &link).expect("linked");
    drop(Store::open(&real.join("cpd.db")).expect("opens"));
    let store = Store::open(&link).expect("opens");
    let writer = store.spawn(|| (), |_| ()).expect("spawns");
    fs::remove_file(&link).expect("removed");
    symlink("/dev/null", &link).expect("linked");
    let last = writer.close();
    let [FromStore::Changed { what, saved: true }] = &last[..] else { panic!("{last:?}") };
    assert!(what.ends_with("link leads to another file now"), "{what}");
}

#[test]
fn a_copy_onto_the_same_file_is_noticed_and_not_written_to() {
    let other = Rig::new().close();
    let noticed = notice_change(|rig| {
        fs::copy(other.path().join("cpd.db"), rig.path()).expect("copied");
    });
    assert!(!noticed.saved);
    let files = [other.path().join("cpd.db"), noticed.rig.path()];
    let [copied, there] = files.map(|file| fs::read(file).expect("read"));
    assert_eq!(there, copied);
}

/// Copies without truncating the file at any moment.
fn overwrite(from: &Path, to: &Path) {
    let bytes = fs::read(from).expect("read");
    let to = OpenOptions::new().write(true).open(to).expect("opens");
    to.write_all_at(&bytes, 0).expect("written");
}

#[test]
fn an_older_copy_of_the_same_store_is_noticed() {
    let mut rig = filled();
    // While nothing happens the log with message 2 is moved into the file, in which only a row and the mark change.
    let quiet = |rig: &Rig| fs::read(rig.path()).expect("read");
    let before = quiet(&rig);
    let begun = std::time::Instant::now();
    while quiet(&rig) == before {
        assert!(begun.elapsed() < PATIENCE, "the log stays where it is");
        std::thread::yield_now();
    }
    overwrite(&rig.folder.path().join("cpd.copy"), &rig.path());
    assert_eq!(fs::read(rig.path()).expect("read")[..100], before[..100], "the first bytes tell nothing here");
    let FromStore::Changed { what, saved: false } = rig.recv() else { panic!("not noticed") };
    assert!(what.ends_with("cpd.db was overwritten"), "{what}");
}

#[test]
fn a_file_that_is_cut_or_grows_is_noticed() {
    let set_len = |rig: &Rig, change: i64| {
        let file = OpenOptions::new().write(true).open(rig.path()).expect("opens");
        let length = file.metadata().expect("is there").len();
        file.set_len(length.checked_add_signed(change).expect("a length")).expect("cut");
    };
    notice_change(|rig| set_len(rig, -5000)).ended("cpd.db was cut", false);
    notice_change(|rig| set_len(rig, 5000)).ended("cpd.db was overwritten", false);
    notice_change(|rig| drop(File::create(rig.path()).expect("emptied"))).ended("cpd.db was cut", false);
}

#[test]
fn bytes_within_the_file_are_noticed() {
    let write = |rig: &Rig, at: u64| {
        let file = OpenOptions::new().write(true).open(rig.path()).expect("opens");
        file.write_all_at(&[0xff; 64], at).expect("written");
    };
    notice_change(|rig| write(rig, 30)).ended("cpd.db was overwritten", false);
    // This is the page of the table of users, which the log does not contain.
    let noticed = notice_change(|rig| write(rig, 2 * 4096));
    assert!(noticed.what.contains("cpd.db was written to: "), "{}", noticed.what);
}

#[test]
fn a_log_that_was_removed_is_moved_into_the_file() {
    for rename in [false, true] {
        let noticed = notice_change(|rig| match rename {
            true => fs::rename(log(rig), rig.folder.path().join("aside")).expect("moved"),
            false => fs::remove_file(log(rig)).expect("removed"),
        });
        let noticed = noticed.ended("cpd.db-wal was removed", true);
        assert_eq!(noticed.kept(&noticed.rig.path()), [1, 2, 3]);
    }
    let noticed = notice_change(|rig| {
        fs::remove_file(log(rig)).expect("removed");
        File::create(log(rig)).expect("made");
    });
    let noticed = noticed.ended("cpd.db-wal is another file now", true);
    assert_eq!(noticed.kept(&noticed.rig.path()), [1, 2, 3]);
}

#[test]
fn a_log_that_is_cut_or_overwritten_is_noticed() {
    let cut = |rig: &Rig, to: u64| {
        OpenOptions::new().write(true).open(log(rig)).and_then(|log| log.set_len(to)).expect("cut");
    };
    notice_change(|rig| cut(rig, 0)).ended("cpd.db-wal was cut", false);
    notice_change(|rig| cut(rig, 5000)).ended("cpd.db-wal was cut", false);
    let noticed = notice_change(|rig| {
        let log = OpenOptions::new().write(true).open(log(rig)).expect("opens");
        log.write_all_at(&[0xff; 8], 16).expect("written");
    });
    noticed.ended("cpd.db-wal was overwritten", false);
}

#[test]
fn another_folder_in_its_place_is_noticed() {
    let outer = tempfile::tempdir().expect("a folder");
    let (data, aside) = (outer.path().join("data"), outer.path().join("aside"));
    fs::create_dir(&data).expect("made");
    let store = Store::open(&data.join("cpd.db")).expect("opens");
    let mut writer = store.spawn(|| (), |_| ()).expect("spawns");
    writer.submit(BatchBuilder::new(0).insert(1, "bob", "one").0).expect("is taken");
    fs::rename(&data, &aside).expect("moved");
    fs::create_dir(&data).expect("made");
    let last = writer.close();
    // The change may have been noticed before the commit or after it.
    let Some(FromStore::Changed { what, saved: true }) = last.last() else { panic!("{last:?}") };
    assert!(what.contains("cpd.db was moved away to "), "{what}");
    let mut ids = Vec::new();
    Store::open(&aside.join("cpd.db")).expect("opens").load(|_| (), |m| ids.push(m.id.0)).expect("loads");
    assert_eq!(ids, [1]);
}

#[test]
fn harmless_changes_are_ignored() {
    let mut rig = filled();
    let mut id = 3;
    let mut goes_on = |rig: &mut Rig| {
        assert!(rig.run(BatchBuilder::new(0).insert(id, "bob", "more")).outcome().inserts);
        id += 1;
    };
    let file = File::open(rig.path()).expect("opens");
    file.set_modified(SystemTime::now()).expect("touched");
    goes_on(&mut rig);
    file.set_modified(SystemTime::UNIX_EPOCH).expect("touched");
    goes_on(&mut rig);
    fs::set_permissions(rig.path(), fs::Permissions::from_mode(0o640)).expect("set");
    goes_on(&mut rig);
    fs::hard_link(rig.path(), rig.folder.path().join("link")).expect("linked");
    goes_on(&mut rig);
    fs::read(rig.path()).expect("a backup program");
    File::open(log(&rig)).and_then(|log| log.set_modified(SystemTime::now())).expect("touched");
    goes_on(&mut rig);
    // A copy that is made now contains just what is there.
    fs::copy(rig.path(), rig.folder.path().join("now")).expect("copied");
    overwrite(&rig.folder.path().join("now"), &rig.path());
    goes_on(&mut rig);
    assert!(rig.events().is_empty());
    assert_eq!(rig.reopen().ids(), (1..id).collect::<Vec<_>>());
}

#[test]
fn a_change_is_noticed_while_nothing_happens_and_at_the_end() {
    let mut rig = filled();
    fs::remove_file(rig.path()).expect("removed");
    let FromStore::Changed { .. } = rig.recv() else { panic!("not noticed") };

    let mut rig = filled();
    fs::remove_file(rig.path()).expect("removed");
    let last = rig.writer.take().expect("is open").close();
    assert!(matches!(last[..], [FromStore::Changed { .. }]), "{last:?}");
}

#[test]
fn a_file_that_was_replaced_is_not_opened_to_recover_from_a_failed_commit() {
    let fails = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&fails);
    let mut rig = Rig::faulty(move |point| {
        let now = point == FaultPoint::Commit && seen.load(Ordering::SeqCst);
        now.then_some(rusqlite::ffi::SQLITE_IOERR_FSYNC)
    });
    rig.run(BatchBuilder::new(0).insert(1, "bob", "one"));
    let other = Rig::new();
    let other = other.close();
    fs::rename(other.path().join("cpd.db"), rig.path()).expect("moved");
    let before = fs::read(rig.path()).expect("read");
    fails.store(true, Ordering::SeqCst);
    rig.submit(BatchBuilder::new(0).insert(2, "bob", "two"));
    let FromStore::Changed { saved: false, .. } = rig.recv() else { panic!("not noticed") };
    assert_eq!(fs::read(rig.path()).expect("read"), before);
}
