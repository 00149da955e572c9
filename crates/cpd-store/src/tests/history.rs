//! Which log belongs to which file: a file that somebody has put in the store's place is never mixed with what was
//! there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rusqlite::config::DbConfig;

use super::*;
use crate::history::{History, ID_GAP, read_number_at};
use crate::{OpenErrorKind, StoreOptions, sqlite};

const NAMES: [&str; 3] = ["cpd.db", "cpd.db-wal", ".cpd.db.history"];

fn write_file(folder: &Path, name: &str, bytes: &[u8]) {
    fs::write(folder.join(name), bytes).expect("writes");
    fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o600)).expect("sets the mode");
}

fn files(folder: &Path) -> [Option<Vec<u8>>; 3] {
    NAMES.map(|name| fs::read(folder.join(name)).ok())
}

fn write_files(folder: &Path, files: &[Option<Vec<u8>>; 3]) {
    for (name, bytes) in NAMES.iter().zip(files) {
        let _ = fs::remove_file(folder.join(name));
        if let Some(bytes) = bytes {
            write_file(folder, name, bytes);
        }
    }
}

/// A copy of the files of a running store, as they are after a kill.
fn killed_store(rig: &Rig) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    write_files(folder.path(), &files(rig.folder.path()));
    assert!(fs::metadata(folder.path().join("cpd.db-wal")).expect("a log").len() > 0);
    folder
}

fn backup(rig: &mut Rig) -> Vec<u8> {
    rig.run(BatchBuilder::new(0).admin(900, AdminOp::BackupBegin));
    let AdminAnswer::Backup { backup, bytes } = rig.answer(900) else { panic!("no copy") };
    let read = AdminOp::BackupRead { backup, offset: 0, length: bytes as u32 };
    let mut received = rig.run(BatchBuilder::new(0).admin(901, read).admin(902, AdminOp::BackupEnd { backup }));
    let Some(AdminAnswer::Bytes(copy)) = received.admin.remove(&901) else { panic!("no bytes") };
    assert_eq!(copy.len() as u64, bytes);
    copy
}

/// Opens and loads the store. Returns the ids of the messages, and the first id to be given out.
fn start(folder: &Path) -> Result<(Vec<u64>, u64), OpenError> {
    let mut ids = Vec::new();
    let next = Store::open(&folder.join("cpd.db"))?.load(|_| (), |m| ids.push(m.id.0))?.next_id;
    Ok((ids, next))
}

#[track_caller]
fn is_foreign(folder: &Path) {
    let before = files(folder);
    let error = start(folder).expect_err("a log of another store was taken");
    assert_eq!(error.kind, OpenErrorKind::ForeignLog, "{error}");
    assert!(error.message.contains("cpd.db: ") && error.message.contains("cpd.db-wal"), "{error}");
    assert!(files(folder) == before, "a file was touched");
}

#[test]
fn a_backup_next_to_a_foreign_log_is_refused_and_without_it_accepted() {
    let mut rig = Rig::new();
    rig.run(BatchBuilder::new(0).insert(1, "bob", "in the backup"));
    let copy = backup(&mut rig);
    rig.run(BatchBuilder::new(0).insert(2, "bob", "after it").delete(1));
    let folder = killed_store(&rig);
    write_file(folder.path(), "cpd.db", &copy);
    is_foreign(folder.path());
    is_foreign(folder.path());
    fs::remove_file(folder.path().join("cpd.db-wal")).expect("removes");
    // The id that was given out after the backup is not given out again.
    let (ids, next) = start(folder.path()).expect("opens");
    assert_eq!((ids, next > ID_GAP + 2), (vec![1], true), "{next}");
    // The gap is made only once.
    assert_eq!(start(folder.path()).expect("opens"), (vec![1], next));
}

#[test]
fn another_file_next_to_a_log_is_refused() {
    let mut rig = Rig::new();
    rig.run(BatchBuilder::new(0).insert(1, "bob", "one"));
    let folder = rig.close();
    let stopped = fs::read(folder.path().join("cpd.db")).expect("reads");
    let mut rig = Rig::start(folder, |_| None);
    rig.run(BatchBuilder::new(0).insert(2, "bob", "two"));
    let folder = killed_store(&rig);
    // An earlier state of the same store, and another store, whether it was ever started or not.
    let mut other = Rig::new();
    other.run(BatchBuilder::new(0).insert(1, "al", "another"));
    let fresh = backup(&mut other);
    let other = fs::read(other.close().path().join("cpd.db")).expect("reads");
    for file in [&stopped, &other, &fresh] {
        write_file(folder.path(), "cpd.db", file);
        is_foreign(folder.path());
    }
    // Its own file is still accepted.
    write_file(folder.path(), "cpd.db", &fs::read(rig.path()).expect("reads"));
    assert_eq!(start(folder.path()).expect("opens").0, [1, 2]);
}

#[test]
fn a_folder_that_was_copied_or_has_no_history_is_accepted() {
    let mut rig = Rig::new();
    rig.run(BatchBuilder::new(0).insert(1, "bob", "one"));
    let first = start(killed_store(&rig).path()).expect("opens");
    assert!(first.1 < ID_GAP, "nothing was restored: {first:?}");
    // This is what 0.1.0 leaves, and what `cp cpd.db*` copies.
    let folder = killed_store(&rig);
    fs::remove_file(folder.path().join(".cpd.db.history")).expect("removes");
    assert_eq!(start(folder.path()).expect("opens"), first);
    // This is what a crash leaves while the history is created. Refusing the store would be safer, but nobody has done
    // anything wrong.
    for torn in [&b""[..], &[0; 4096]] {
        let folder = killed_store(&rig);
        write_file(folder.path(), ".cpd.db.history", torn);
        assert_eq!(start(folder.path()).expect("opens"), first);
    }
}

#[test]
fn changes_by_a_version_without_histories_are_accepted() {
    let mut rig = Rig::new();
    rig.run(BatchBuilder::new(0).insert(1, "bob", "one").insert(2, "bob", "two"));
    let folder = rig.close();
    let path = folder.path().join("cpd.db");
    // 0.1.0 opens the store, begins a log and is killed.
    let connection = sqlite::connect(&path).expect("opens");
    connection.execute("DELETE FROM message WHERE id = 1", []).expect("writes");
    drop(connection);
    assert!(fs::metadata(folder.path().join("cpd.db-wal")).expect("a log").len() > 0);
    let (ids, next) = start(folder.path()).expect("opens");
    assert_eq!((ids, next < ID_GAP), (vec![2], true));
    // SQLite's cache keeps its size, however large the number in the header is.
    let connection = sqlite::connect(&path).expect("opens");
    let size: i64 = connection.query_row("PRAGMA cache_size", [], |row| row.get(0)).expect("reads");
    assert_eq!(size, -16 * 1024);
}

#[test]
fn an_older_copy_that_is_put_back_after_a_stop_gives_no_id_twice() {
    let mut rig = Rig::new();
    rig.run(BatchBuilder::new(0).insert(1, "bob", "one"));
    let folder = rig.close();
    let old = fs::read(folder.path().join("cpd.db")).expect("reads");
    let mut rig = Rig::start(folder, |_| None);
    // This id is above those that the old file has reserved.
    rig.run(BatchBuilder::new(0).insert(200_000, "bob", "two"));
    let folder = rig.close();
    write_file(folder.path(), "cpd.db", &old);
    let (ids, next) = start(folder.path()).expect("opens");
    assert!(ids == [1] && next >= ID_GAP + 200_001, "{ids:?} {next}");
}

#[test]
fn a_store_that_is_gone_is_made_anew_only_when_that_is_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cpd.db");
    let mut store = Store::open(&path).expect("there never was one");
    assert!(store.was_created());
    store.load(|_| (), |_| ()).expect("loads");
    drop(store);
    for name in ["cpd.db", "cpd.db-wal"] {
        let _ = fs::remove_file(folder.path().join(name));
    }
    let error = Store::open(&path).err().expect("is gone");
    assert_eq!(error.kind, OpenErrorKind::Gone);
    assert!(error.message.contains(".cpd.db.history"), "{error}");
    assert!(!path.exists());
    let mut store =
        Store::open_with_options(&path, StoreOptions { recreate_missing: true, keep_waiting: &mut || true })
            .expect("makes one");
    assert!(store.was_created());
    assert!(store.load(|_| (), |_| ()).expect("loads").next_id > ID_GAP);
    drop(store);
    assert!(!Store::open(&path).expect("is there").was_created());
}

#[test]
fn each_start_has_a_number_of_its_own_that_is_settled_before_anything_is_written() {
    let mut folder = tempfile::tempdir().expect("a folder");
    let mut seen = std::collections::BTreeSet::new();
    for id in 1..=5 {
        let mut rig = Rig::start(folder, |_| None);
        let number = read_number_at(&rig.path()).expect("reads").expect("a header");
        assert!(seen.insert(number) && number != 0);
        assert_eq!(
            History::read(&rig.path()).expect("reads").record().map(|r| (r.number, r.next_number)),
            Some((number, 0))
        );
        assert_eq!(fs::metadata(rig.folder.path().join("cpd.db-wal")).expect("a log").len(), 0);
        rig.run(BatchBuilder::new(0).insert(id, "bob", "one"));
        assert_eq!(read_number_at(&rig.path()).expect("reads"), Some(number));
        folder = rig.close();
        assert_eq!(read_number_at(&folder.path().join("cpd.db")).expect("reads"), Some(number));
    }
}

/// Starts on these files, and returns a copy of them after each step.
fn steps(before: &[Option<Vec<u8>>; 3]) -> Vec<[Option<Vec<u8>>; 3]> {
    let folder = tempfile::tempdir().expect("a folder");
    write_files(folder.path(), before);
    let states = Arc::new(Mutex::new(vec![before.clone()]));
    let (noted, place) = (Arc::clone(&states), folder.path().to_owned());
    let mut store = Store::open(&folder.path().join("cpd.db")).expect("opens");
    store.faults = Faults(Some(Box::new(move |point| {
        if point == FaultPoint::StartStep {
            noted.lock().expect("no panic").push(files(&place));
        }
        None
    })));
    store.load(|_| (), |_| ()).expect("loads");
    drop(store);
    let mut states = states.lock().expect("no panic").clone();
    states.push(files(folder.path()));
    states
}

#[test]
fn a_start_that_ends_after_any_of_its_steps_leaves_a_store_that_opens() {
    let mut rig = Rig::new();
    rig.run(BatchBuilder::new(0).insert(1, "bob", "in the backup"));
    let copy = backup(&mut rig);
    rig.run(BatchBuilder::new(0).insert(2, "bob", "after it"));
    let left = files(killed_store(&rig).path());
    let unknown = [left[0].clone(), left[1].clone(), None];
    let stopped = files(rig.close().path());
    let restored = [Some(copy), None, stopped[2].clone()];
    let mut cases = 0;
    for (before, ids) in [(&left, &[1, 2][..]), (&unknown, &[1, 2]), (&stopped, &[1, 2]), (&restored, &[1])] {
        let states = steps(before);
        assert!(states.len() >= 5, "{}", states.len());
        let folder = tempfile::tempdir().expect("a folder");
        let mut write_and_start = |state: &[Option<Vec<u8>>; 3], what: &str| {
            write_files(folder.path(), state);
            let (found, next) = start(folder.path()).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(found, ids, "{what}");
            cases += 1;
            next
        };
        let expected = write_and_start(before, "before");
        for (number, state) in states.iter().enumerate() {
            assert_eq!(write_and_start(state, &format!("after step {number}")), expected, "after step {number}");
            // The log was truncated, and the power failed before that was on the disk.
            let longer = [state[0].clone(), states[number.saturating_sub(1)][1].clone(), state[2].clone()];
            // A backup that was put here has no log that could reappear before the log of the start itself.
            if number >= 1 && longer[1].is_some() {
                write_and_start(&longer, &format!("after step {number}, the log not cut"));
            }
        }
        // A start that was killed several times succeeds in the end.
        let mut state = before.clone();
        for _ in 0..3 {
            let states = steps(&state);
            state = states[states.len() / 2].clone();
        }
        write_and_start(&state, "after three kills");
    }
    println!("proof: a start cut after each step: {cases} states opened, 0 messages lost");
}

#[test]
fn a_full_disk_keeps_no_store_from_starting() {
    let mut rig = Rig::new();
    rig.run(BatchBuilder::new(0).insert(1, "bob", "one"));
    let folder = rig.close();
    let path = folder.path().join("cpd.db");
    for failing in [1, 2, 3] {
        let mut points = 0;
        let mut store = Store::open(&path).expect("opens");
        store.faults = Faults(Some(Box::new(move |point| {
            points += u32::from(point == FaultPoint::StartStep);
            (point == FaultPoint::StartStep && points == failing).then_some(rusqlite::ffi::SQLITE_FULL)
        })));
        let loaded = store.load(|_| (), |_| ());
        assert_eq!(loaded.is_ok(), failing > 1, "{loaded:?}");
        drop(store);
        assert_eq!(start(folder.path()).expect("opens").0, [1], "after a start without room");
    }
}

#[test]
fn twin_sqlite_mixes_a_backup_with_a_foreign_log() {
    // This shows what the check is worth: SQLite itself replays the log of another store without complaint.
    let mut rig = Rig::new();
    rig.run(BatchBuilder::new(0).insert(1, "bob", "in the backup"));
    let copy = backup(&mut rig);
    rig.run(BatchBuilder::new(0).insert(2, "bob", "after it").delete(1));
    let folder = killed_store(&rig);
    write_file(folder.path(), "cpd.db", &copy);
    fs::remove_file(folder.path().join(".cpd.db.history")).expect("removes");
    let connection = sqlite::connect(&folder.path().join("cpd.db")).expect("opens");
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).expect("is set");
    let ids: Vec<i64> = {
        let mut statement = connection.prepare("SELECT id FROM message").expect("reads");
        let rows = statement.query_map([], |row| row.get(0)).expect("reads");
        rows.map(|row| row.expect("reads")).collect()
    };
    assert_ne!(ids, [1], "the restore did not happen");
}
