//! A migration cut off at every write: whatever part of its log has reached the disk, and however far the log was moved
//! into the file, the next start finds the old version or the new one complete, completes the migration, and no row is
//! missing.

use std::fs;
use std::path::Path;

use rusqlite::Connection;

use super::*;
use crate::{schema, sqlite};

const PAGE: usize = 4096;
const WAL_HEADER: usize = 32;
const FRAME: usize = 24 + PAGE;
const ROWS: u64 = 300;

/// An invented second version: every message is rewritten into another table.
fn second(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
        "ALTER TABLE message RENAME TO old;
         CREATE TABLE message(id INTEGER PRIMARY KEY, body TEXT NOT NULL, sum INTEGER NOT NULL) STRICT;
         INSERT INTO message SELECT id, upper(body), sum FROM old;
         DROP TABLE old;",
    )
}

const STEPS: &[schema::Migration] = &[schema::MIGRATIONS[0], second];

fn version(connection: &Connection) -> i64 {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0)).expect("reads")
}

fn rows(connection: &Connection) -> Vec<(i64, String)> {
    let mut statement = connection.prepare("SELECT id, body FROM message ORDER BY id").expect("reads");
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).expect("reads");
    rows.map(|row| row.expect("reads")).collect()
}

fn expected() -> Vec<(i64, String)> {
    (1..=ROWS as i64).map(|id| (id, format!("LETTER {id}, OF SOME LENGTH SO THAT THERE ARE MANY PAGES"))).collect()
}

/// The store's file before the migration, and the log that the whole migration wrote.
fn migrated() -> (Vec<u8>, Vec<u8>) {
    let mut rig = Rig::new();
    let mut batch = BatchBuilder::new(0).user(1, "bob", "hash");
    for id in 1..=ROWS {
        batch = batch.insert(id, "bob", &format!("letter {id}, of some length so that there are many pages"));
    }
    rig.run(batch);
    let folder = rig.close();
    let path = folder.path().join("cpd.db");
    let before = fs::read(&path).expect("reads");
    let connection = sqlite::connect(&path).expect("opens");
    schema::migrate(&connection, &path, STEPS).expect("migrates");
    let wal = fs::read(folder.path().join("cpd.db-wal")).expect("reads");
    assert!(fs::read(&path).expect("reads") == before, "the file is written before the log is whole");
    (before, wal)
}

/// Starts with these files, as a crash has left them, and returns the version that was found.
fn completes(folder: &Path, file: &[u8], wal: &[u8], what: &str) -> i64 {
    let path = folder.join("cpd.db");
    fs::write(&path, file).expect("writes");
    fs::write(folder.join("cpd.db-wal"), wal).expect("writes");
    let connection = sqlite::connect(&path).expect("opens");
    let found = version(&connection);
    schema::migrate(&connection, &path, STEPS).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(version(&connection), 2, "{what}");
    sqlite::truncate_log(&connection).unwrap_or_else(|error| panic!("{what}: {error}"));
    drop(connection);
    let again = sqlite::connect(&path).expect("opens");
    assert_eq!((version(&again), rows(&again)), (2, expected()), "{what}");
    found
}

#[test]
fn a_migration_cut_at_every_write_of_its_log_is_completed() {
    let (file, wal) = migrated();
    let folder = tempfile::tempdir().expect("a folder");
    let frames = (wal.len() - WAL_HEADER) / FRAME;
    assert!(frames > 10, "{frames} frames show little");
    let mut cuts: Vec<usize> = vec![0, 1, WAL_HEADER - 1];
    for frame in 0..=frames {
        let end = WAL_HEADER + frame * FRAME;
        cuts.extend([end, end + 12, end + 24, end + 24 + PAGE / 2]);
    }
    cuts.retain(|cut| *cut <= wal.len());
    for cut in &cuts {
        let found = completes(folder.path(), &file, &wal[..*cut], &format!("the log cut at byte {cut}"));
        assert_eq!(found, if *cut == wal.len() { 2 } else { 1 }, "all or nothing: cut at byte {cut}");
    }
    println!("proof: migration: its log of {frames} frames cut at {} places, 0 rows lost", cuts.len());
}

#[test]
fn a_migration_cut_while_its_log_is_moved_is_completed() {
    let (mut file, wal) = migrated();
    let folder = tempfile::tempdir().expect("a folder");
    let mut moved = 0;
    for frame in wal[WAL_HEADER..].chunks_exact(FRAME) {
        let number = u32::from_be_bytes(frame[..4].try_into().expect("four bytes")) as usize;
        let (at, page) = ((number - 1) * PAGE, &frame[24..]);
        file.resize(file.len().max(at + PAGE), 0);
        // Half of the page first, then all of it, as a torn write.
        for half in [PAGE / 2, PAGE] {
            file[at..at + half].copy_from_slice(&page[..half]);
            let found = completes(folder.path(), &file, &wal, &format!("page {number} half moved"));
            assert_eq!(found, 2);
            moved += 1;
        }
    }
    println!("proof: migration: cut at {moved} writes of its checkpoint, 0 rows lost");
}

#[test]
fn a_log_that_ends_too_early_is_found() {
    // A check of the tests above: without the last frame of its log the commit must not be found.
    let (file, wal) = migrated();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cpd.db");
    fs::write(&path, file).expect("writes");
    fs::write(folder.path().join("cpd.db-wal"), &wal[..wal.len() - FRAME]).expect("writes");
    let connection = sqlite::connect(&path).expect("opens");
    assert_eq!(version(&connection), 1);
    assert_ne!(rows(&connection), expected());
}
