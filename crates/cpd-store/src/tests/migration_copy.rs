//! The copy of a store from before a migration: wherever a start ends, there is either the old store, or the new one
//! and a complete copy of the old one, to which the cpd that wrote it can go back.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rusqlite::{Connection, ffi};

use super::*;
use crate::restore::restore_with_migrations;
use crate::{OpenErrorKind, RestoreSource, StoreOptions, restore, schema, sqlite};

/// A migration to an imagined second version. It deletes something, so that the copy is worth something.
fn second(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("CREATE TABLE list(name TEXT PRIMARY KEY) STRICT; DELETE FROM message WHERE id > 10")
}

const STEPS: &[schema::Migration] = &[schema::MIGRATIONS[0], second];
const KEPT: &str = "cpd.db.schema-1";
const NOW: u64 = 1_800_000_000;

fn open(folder: &Path, steps: &[schema::Migration], faults: Faults) -> Result<Store, OpenError> {
    Store::open_with_migrations(
        &folder.join("cpd.db"),
        StoreOptions { recreate_missing: false, keep_waiting: &mut || true },
        steps,
        faults,
    )
}

/// Starts with these migrations. Returns the ids of the messages and the warnings.
fn start(folder: &Path, steps: &[schema::Migration]) -> Result<(Vec<u64>, Vec<String>), OpenError> {
    let mut store = open(folder, steps, Faults::default())?;
    let mut ids = Vec::new();
    store.load(|_| (), |m| ids.push(m.id.0))?;
    Ok((ids, store.warnings().to_vec()))
}

fn all() -> Vec<u64> {
    (1..=300).collect()
}

fn few() -> Vec<u64> {
    (1..=10).collect()
}

/// A store of the first version as a killed process leaves it: much of it is in its log only.
fn killed_store() -> TempDir {
    let mut rig = Rig::new();
    let mut batch = BatchBuilder::new(0).user(1, "bob", "hash");
    for id in all() {
        batch = batch.insert(id, "bob", &format!("letter {id}, of some length so that there are many pages"));
    }
    rig.run(batch);
    let folder = copied(rig.folder.path());
    assert!(fs::metadata(folder.path().join("cpd.db-wal")).expect("a log").len() > 0);
    folder
}

fn copied(from: &Path) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for entry in fs::read_dir(from).expect("a folder").map(|entry| entry.expect("an entry")) {
        fs::copy(entry.path(), folder.path().join(entry.file_name())).expect("copies");
    }
    folder
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<String> = entries.map(|name| name.into_string().expect("text")).collect();
    names.retain(|name| name.starts_with("cpd.db") && !name.ends_with("-lock") && !name.ends_with("-wal"));
    names.sort();
    names
}

fn version(path: &Path) -> i64 {
    let connection = sqlite::connect(path).expect("opens");
    connection.query_row("PRAGMA user_version", [], |row| row.get(0)).expect("reads")
}

/// Checks that the folder holds what it must, whatever was interrupted in it.
fn check_left_state(left: &Path) -> Result<(), String> {
    // One copy of what a crash leaves is examined, and one is started by each of the two versions.
    let (looked_at, new, old) = (copied(left), copied(left), copied(left));
    match version(&looked_at.path().join("cpd.db")) {
        1 => {
            let (ids, said) = start(old.path(), schema::MIGRATIONS).map_err(|e| format!("the old cpd: {e}"))?;
            if ids != all() || !said.is_empty() {
                return Err(format!("the old cpd finds {} messages, {said:?}", ids.len()));
            }
        }
        _ => check_way_back(old.path())?,
    }
    let (ids, _) = start(new.path(), STEPS).map_err(|e| format!("the new cpd: {e}"))?;
    if ids != few() || names(new.path()) != ["cpd.db", KEPT] {
        return Err(format!("the new cpd finds {ids:?} and {:?}", names(new.path())));
    }
    check_way_back(new.path())
}

/// Checks that the old cpd can go back to the copy.
fn check_way_back(folder: &Path) -> Result<(), String> {
    let refused = start(folder, schema::MIGRATIONS).err().map(|e| e.kind);
    if refused != Some(OpenErrorKind::Newer) {
        return Err(format!("the old cpd opens the new store: {refused:?}"));
    }
    let source = RestoreSource::open(&folder.join(KEPT)).map_err(|e| e.to_string())?;
    restore(&folder.join("cpd.db"), &source, NOW).map_err(|e| e.to_string())?;
    let (ids, _) = start(folder, schema::MIGRATIONS).map_err(|e| e.to_string())?;
    (ids == all()).then_some(()).ok_or(format!("{} messages came back", ids.len()))
}

#[test]
fn a_start_that_migrates_keeps_what_the_store_was() {
    let folder = killed_store();
    let (ids, said) = start(folder.path(), STEPS).expect("migrates");
    assert_eq!(ids, few());
    let kept = folder.path().join(KEPT);
    let [said] = &said[..] else { panic!("{said:?}") };
    assert!(said.contains("gets schema 2") && said.contains(&format!("cpd --restore {}", kept.display())), "{said}");
    assert_eq!(fs::metadata(&kept).expect("is kept").permissions().mode() & 0o7777, 0o600);
    // The copy needs no log, and later starts leave it alone.
    assert_eq!(names(folder.path()), ["cpd.db", KEPT]);
    let copy = fs::read(&kept).expect("reads");
    assert_eq!(start(folder.path(), STEPS).expect("is current"), (few(), vec![]));
    assert!(fs::read(&kept).expect("reads") == copy);
    check_way_back(folder.path()).expect("goes back");
}

#[test]
fn a_store_of_the_current_version_is_not_copied() {
    let folder = killed_store();
    assert_eq!(start(folder.path(), schema::MIGRATIONS).expect("opens"), (all(), vec![]));
    assert_eq!(names(folder.path()), ["cpd.db"]);
}

#[test]
fn a_migration_that_ends_after_any_of_its_steps_leaves_the_old_store_or_the_new_one_and_the_copy() {
    let folder = killed_store();
    let states = Arc::new(Mutex::new(vec![copied(folder.path())]));
    let (noted, place) = (Arc::clone(&states), folder.path().to_owned());
    let faults = Faults(Some(Box::new(move |point| {
        if point == FaultPoint::StartStep {
            noted.lock().expect("no panic").push(copied(&place));
        }
        None
    })));
    let mut store = open(folder.path(), STEPS, faults).expect("migrates");
    states.lock().expect("no panic").push(copied(folder.path()));
    store.load(|_| (), |_| ()).expect("loads");
    drop(store);
    let states = states.lock().expect("no panic");
    let versions: Vec<i64> = states.iter().map(|state| version(&copied(state.path()).path().join("cpd.db"))).collect();
    assert!(versions.len() >= 9 && versions.is_sorted() && versions.contains(&1) && versions.contains(&2));
    for (number, state) in states.iter().enumerate() {
        check_left_state(state.path()).unwrap_or_else(|said| panic!("after step {number}: {said}"));
        // When the power failed, the copy was not on the disk, or only a part of it: it does not have its name yet.
        if let Ok(copy) = fs::read(state.path().join("cpd.db.incomplete-backup")) {
            for cut in [0, 100, copy.len() / 2] {
                fs::write(state.path().join("cpd.db.incomplete-backup"), &copy[..cut]).expect("writes");
                check_left_state(state.path())
                    .unwrap_or_else(|said| panic!("after step {number}, cut at {cut}: {said}"));
            }
        }
    }
    println!("proof: a migration cut after each of {} steps: 0 messages lost, each way back open", states.len());
}

#[test]
fn twin_a_migration_without_a_copy_is_found() {
    let folder = killed_store();
    let path = folder.path().join("cpd.db");
    let connection = sqlite::connect(&path).expect("opens");
    schema::migrate(&connection, &path, STEPS).expect("migrates");
    drop(connection);
    check_left_state(folder.path()).expect_err("nobody missed the copy");
    // The file alone is no copy either, without what was in its log.
    let folder = killed_store();
    let file = fs::read(folder.path().join("cpd.db")).expect("reads");
    start(folder.path(), STEPS).expect("migrates");
    fs::write(folder.path().join(KEPT), file).expect("writes");
    check_left_state(folder.path()).expect_err("nobody missed the log");
}

#[test]
fn each_step_that_fails_leaves_the_old_store() {
    for (failing, code) in (1..=5).flat_map(|step| [ffi::SQLITE_FULL, ffi::SQLITE_IOERR].map(|code| (step, code))) {
        let folder = killed_store();
        let mut points = 0;
        let faults = Faults(Some(Box::new(move |point| {
            points += u32::from(point == FaultPoint::StartStep);
            (point == FaultPoint::StartStep && points == failing).then_some(code)
        })));
        let error = open(folder.path(), STEPS, faults).err().expect("has failed");
        assert!(error.message.contains("it is still of schema 1"), "{error}");
        assert!(!folder.path().join("cpd.db.incomplete-backup").exists(), "step {failing}");
        assert_eq!(version(&copied(folder.path()).path().join("cpd.db")), 1);
        check_left_state(folder.path()).unwrap_or_else(|said| panic!("step {failing}: {said}"));
    }
}

#[test]
fn without_room_for_the_copy_nothing_is_migrated() {
    let folder = killed_store();
    let full = || Faults(Some(Box::new(|point| (point == FaultPoint::FreeSpace).then_some(ffi::SQLITE_FULL))));
    let error = open(folder.path(), STEPS, full()).err().expect("has no room");
    assert_eq!(error.kind, OpenErrorKind::CannotCreate);
    assert!(error.message.contains("schema 1") && error.message.contains("the disk has no room for its"), "{error}");
    assert_eq!(names(folder.path()), ["cpd.db"]);
    check_left_state(folder.path()).expect("is as before");
    // A copy that exists already needs no more room.
    let broken: &[schema::Migration] = &[schema::MIGRATIONS[0], |c| c.execute_batch("SELECT * FROM nowhere")];
    start(folder.path(), broken).expect_err("fails");
    assert_eq!(names(folder.path()), ["cpd.db", KEPT]);
    let copy = fs::read(folder.path().join(KEPT)).expect("reads");
    let store = open(folder.path(), STEPS, full()).expect("migrates");
    assert!(store.warnings().iter().any(|said| said.contains(KEPT)), "{:?}", store.warnings());
    drop(store);
    assert!(fs::read(folder.path().join(KEPT)).expect("reads") == copy);
    assert_eq!(names(folder.path()), ["cpd.db", KEPT]);
}

#[test]
fn a_second_migration_keeps_a_second_copy() {
    let folder = killed_store();
    start(folder.path(), STEPS).expect("migrates");
    let first = fs::read(folder.path().join(KEPT)).expect("reads");
    check_way_back(folder.path()).expect("goes back");
    let mut rig = Rig::start(folder, |_| None);
    let next = rig.next_id;
    rig.run(BatchBuilder::new(0).insert(next, "bob", "after the way back"));
    let folder = rig.close();
    let (_, said) = start(folder.path(), STEPS).expect("migrates");
    assert!(said.iter().any(|said| said.contains(&format!("{KEPT}.2"))), "{said:?}");
    assert!(fs::read(folder.path().join(KEPT)).expect("reads") == first, "the first copy was written over");
    let source = RestoreSource::open(&folder.path().join(format!("{KEPT}.2"))).expect("opens");
    restore(&folder.path().join("cpd.db"), &source, NOW + 60).expect("restores");
    let (ids, _) = start(folder.path(), schema::MIGRATIONS).expect("opens");
    assert_eq!((ids.len(), ids.last()), (301, Some(&next)));
}

#[test]
fn a_name_that_is_in_use_is_not_replaced() {
    for link in [false, true] {
        let folder = killed_store();
        let kept = folder.path().join(KEPT);
        let target = folder.path().join("target");
        fs::write(&target, "mine").expect("writes");
        match link {
            true => std::os::unix::fs::symlink(&target, &kept).expect("links"),
            false => fs::create_dir(&kept).expect("makes"),
        }
        start(folder.path(), STEPS).expect("migrates");
        assert_eq!(fs::read(&target).expect("reads"), b"mine");
        assert_eq!(names(folder.path()), ["cpd.db".to_owned(), KEPT.to_owned(), format!("{KEPT}.2")]);
    }
}

#[test]
fn a_backup_of_an_earlier_version_is_restored_into_the_current_one() {
    let folder = killed_store();
    start(folder.path(), STEPS).expect("migrates");
    let (path, kept) = (folder.path().join("cpd.db"), folder.path().join(KEPT));
    let copy = fs::read(&kept).expect("reads");
    let restored =
        restore_with_migrations(&path, &RestoreSource::open(&kept).expect("opens"), NOW, STEPS).expect("restores");
    assert_eq!(restored.messages, 10, "the migration took the others");
    assert!(fs::read(&kept).expect("reads") == copy, "what was restored was changed");
    assert_eq!(start(folder.path(), STEPS).expect("is current").0, few());
    // The old cpd refuses a backup of the new one, and changes nothing.
    let newer = folder.path().join("newer");
    fs::copy(&path, &newer).expect("copies");
    let error = restore(&path, &RestoreSource::open(&newer).expect("opens"), NOW + 60).expect_err("is newer");
    assert_eq!(error.kind, OpenErrorKind::Newer);
    assert_eq!(start(folder.path(), STEPS).expect("is as before").0, few());
}

#[test]
fn tables_that_are_not_ours_are_found_before_they_are_changed() {
    let folder = killed_store();
    let path = folder.path().join("cpd.db");
    start(folder.path(), schema::MIGRATIONS).expect("opens");
    let connection = Connection::open(&path).expect("opens");
    connection.execute_batch("CREATE TABLE others(x)").expect("writes");
    drop(connection);
    assert_eq!(start(folder.path(), STEPS).expect_err("is not ours").kind, OpenErrorKind::Damaged);
    assert_eq!((version(&path), names(folder.path())), (1, vec!["cpd.db".to_owned()]));
}
