//! Which files are opened and which are refused; a refused file is left as it was.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rusqlite::Connection;

use super::*;
use crate::{OpenErrorKind, schema, sqlite};

fn open_and_load(path: &Path) -> Result<(), OpenError> {
    Store::open(path)?.load(|_| (), |_| ()).map(|_| ())
}

fn refused(path: &Path) -> OpenError {
    open_and_load(path).expect_err("was opened")
}

/// A store with a user and a few hundred messages, closed.
fn filled() -> TempDir {
    let mut rig = Rig::new();
    let mut batch = BatchBuilder::new(0).user(1, "bob", "hash");
    for id in 1..=300 {
        batch = batch.insert(id, "bob", "a letter of some length, so that there is more than one page of them");
    }
    rig.run(batch);
    rig.close()
}

fn files(folder: &TempDir) -> Vec<(String, Vec<u8>)> {
    let mut found: Vec<_> = fs::read_dir(folder.path())
        .expect("lists")
        .map(|e| e.expect("an entry"))
        .filter(|e| !e.file_name().to_string_lossy().ends_with("-lock"))
        .map(|e| (e.file_name().to_string_lossy().into_owned(), fs::read(e.path()).expect("reads")))
        .collect();
    found.sort();
    found
}

/// Asserts that the store is refused as damaged and that none of its files is changed.
fn damaged(folder: &TempDir, what: &str) {
    let path = folder.path().join("cpd.db");
    let before = files(folder);
    let error = refused(&path);
    assert_eq!(error.kind, OpenErrorKind::Damaged, "{what}: {error}");
    assert!(error.message.contains("cpd.db"), "{error}");
    assert!(files(folder) == before, "{what}: a file was touched");
}

#[test]
fn files_are_for_the_owner_alone() {
    let mut rig = Rig::new();
    rig.run(BatchBuilder::new(0).insert(1, "bob", "one"));
    for suffix in ["", "-wal", "-lock"] {
        let path = rig.folder.path().join(format!("cpd.db{suffix}"));
        assert_eq!(fs::metadata(&path).expect("is there").mode() & 0o777, 0o600, "{suffix:?}");
    }
    assert!(!rig.folder.path().join("cpd.db-shm").exists());
}

#[test]
fn a_file_that_others_may_read_is_restricted_with_a_warning() {
    let folder = filled();
    let path = folder.path().join("cpd.db");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("sets the mode");
    let store = Store::open(&path).expect("opens");
    assert_eq!(fs::metadata(&path).expect("is there").mode() & 0o777, 0o600);
    assert!(store.warnings()[0].contains("0644"), "{:?}", store.warnings());
}

#[test]
fn the_connection_is_set_up_as_promised() {
    let folder = filled();
    let connection = sqlite::connect(&folder.path().join("cpd.db")).expect("opens");
    let get = |pragma: &str| -> String {
        let value: rusqlite::types::Value =
            connection.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get(0)).expect(pragma);
        match value {
            rusqlite::types::Value::Integer(number) => number.to_string(),
            rusqlite::types::Value::Text(text) => text,
            other => format!("{other:?}"),
        }
    };
    let expected = [
        ("journal_mode", "wal"),
        ("synchronous", "2"),
        ("locking_mode", "exclusive"),
        ("secure_delete", "1"),
        ("cell_size_check", "1"),
        ("trusted_schema", "0"),
        ("temp_store", "2"),
        ("wal_autocheckpoint", "0"),
        ("user_version", "1"),
        ("application_id", "1129342001"),
    ];
    for (pragma, value) in expected {
        assert_eq!(get(pragma), value, "{pragma}");
    }
}

/// `.cargo/config.toml` sets SQLite's compile options. Code that is left out cannot be reached by a maliciously crafted
/// store.
#[test]
fn sqlite_is_built_without_unused_parts() {
    let connection = Connection::open_in_memory().expect("opens");
    let mut statement = connection.prepare("PRAGMA compile_options").expect("is known");
    let rows = statement.query_map([], |row| row.get(0)).expect("lists");
    let options: Vec<String> = rows.collect::<Result<_, _>>().expect("lists");
    for without in ["FTS", "RTREE", "DBSTAT", "STAT4", "COLUMN_METADATA", "LOAD_EXTENSION", "SOUNDEX", "USE_URI"] {
        let found = options.iter().find(|option| option.contains(without) && !option.starts_with("OMIT_"));
        assert_eq!(found, None);
    }
    for with in ["OMIT_LOAD_EXTENSION", "OMIT_SHARED_CACHE", "OMIT_JSON", "DQS=0", "DEFAULT_MEMSTATUS=0"] {
        assert!(options.iter().any(|option| option == with), "{with}: {options:?}");
    }
    for sql in [
        "CREATE VIRTUAL TABLE t USING fts5(a)",
        "CREATE VIRTUAL TABLE t USING fts3(a)",
        "CREATE VIRTUAL TABLE t USING rtree(id, a, b)",
        "SELECT * FROM dbstat",
        "SELECT json('1')",
        "SELECT load_extension('a')",
        "SELECT soundex('a')",
        "SELECT \"text\"",
    ] {
        connection.execute_batch(sql).expect_err(sql);
    }
}

#[test]
fn a_second_cpd_is_refused_and_may_come_later() {
    let rig = Rig::new();
    let error = refused(&rig.path());
    assert_eq!(error.kind, OpenErrorKind::Busy);
    assert!(error.message.contains("cpd.db"), "{error}");
    // The same holds for another name of the file.
    let link = rig.folder.path().join("link.db");
    std::os::unix::fs::symlink(rig.path(), &link).expect("links");
    assert_eq!(refused(&link).kind, OpenErrorKind::Busy);
    let folder = rig.close();
    open_and_load(&folder.path().join("cpd.db")).expect("opens");
}

#[test]
fn another_program_in_the_file_is_busy() {
    let folder = filled();
    let path = folder.path().join("cpd.db");
    let other = Connection::open(&path).expect("opens");
    other.execute_batch("BEGIN IMMEDIATE; DELETE FROM message WHERE id = 1").expect("writes");
    let error = refused(&path);
    assert_eq!(error.kind, OpenErrorKind::Busy, "{error}");
    drop(other);
    assert_eq!(stored(&folder).expect("opens").len(), 300);
}

#[test]
fn files_that_are_no_store_are_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cpd.db");
    let garbage: Vec<u8> = (0..20_000u32).map(|n| ((n * 7919) >> 3) as u8).collect();
    for (what, bytes) in [("empty", &[][..]), ("text", b"hello"), ("garbage", &garbage), ("cut", b"SQLite format 3\0")]
    {
        fs::write(&path, bytes).expect("writes");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("sets the mode");
        damaged(&folder, what);
    }
    fs::remove_file(&path).expect("removes");
    let other = Connection::open(&path).expect("opens");
    other.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE message(id)").expect("writes");
    drop(other);
    damaged(&folder, "another program's database");
}

#[test]
fn a_damaged_file_is_left_alone() {
    let whole = fs::read(filled().path().join("cpd.db")).expect("reads");
    let mut cases: Vec<(String, Vec<u8>)> = Vec::new();
    for at in [0, 5, 18, 19, 20, 21, 22, 23, 57, 68, 71] {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x5a;
        cases.push((format!("header byte {at}"), bytes));
    }
    cases.push(("cut inside the header".into(), whole[..64].to_vec()));
    cases.push(("cut inside the first page".into(), whole[..2000].to_vec()));
    cases.push(("cut in the middle".into(), whole[..whole.len() / 2].to_vec()));
    let text = b"a letter of some length";
    let at = whole.windows(text.len()).position(|w| w == text).expect("has a letter");
    let mut bytes = whole.clone();
    bytes[at] ^= 1;
    cases.push(("a letter".into(), bytes));
    for page in 1..whole.len() / 4096 {
        let mut bytes = whole.clone();
        bytes[page * 4096..(page + 1) * 4096].fill(0);
        cases.push((format!("page {page} zeroed"), bytes));
    }
    let folder = tempfile::tempdir().expect("a folder");
    for (what, bytes) in cases {
        let path = folder.path().join("cpd.db");
        fs::write(&path, bytes).expect("writes");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("sets the mode");
        damaged(&folder, &what);
    }
}

#[test]
fn a_log_is_not_replayed_into_a_damaged_file() {
    // A killed process leaves a log. A copy of the files of a running process looks the same.
    let mut rig = Rig::new();
    rig.run(BatchBuilder::new(0).user(1, "bob", "hash").insert(1, "bob", "a letter"));
    let folder = tempfile::tempdir().expect("a folder");
    for suffix in ["", "-wal"] {
        let name = format!("cpd.db{suffix}");
        fs::copy(rig.folder.path().join(&name), folder.path().join(&name)).expect("copies");
    }
    assert!(fs::metadata(folder.path().join("cpd.db-wal")).expect("is there").len() > 0);
    let connection = Connection::open(folder.path().join("cpd.db")).expect("opens");
    connection.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).expect("configures");
    connection.execute("UPDATE message SET body = 'another letter'", []).expect("writes");
    drop(connection);
    let _ = fs::remove_file(folder.path().join("cpd.db-shm"));
    damaged(&folder, "a row in the log");
    fs::remove_file(folder.path().join("cpd.db")).expect("removes");
    let before = files(&folder);
    assert_eq!(refused(&folder.path().join("cpd.db")).kind, OpenErrorKind::Gone);
    assert!(files(&folder) == before, "a file was touched");
}

#[test]
fn a_killed_process_loses_nothing() {
    let mut rig = Rig::new();
    for id in 1..=20 {
        rig.run(BatchBuilder::new(0).insert(id, "bob", "a letter").delete(id - 1));
        let folder = tempfile::tempdir().expect("a folder");
        for suffix in ["", "-wal"] {
            let name = format!("cpd.db{suffix}");
            fs::copy(rig.folder.path().join(&name), folder.path().join(&name)).expect("copies");
        }
        assert_eq!(stored(&folder).expect("opens"), [id]);
        assert_eq!(fs::metadata(folder.path().join("cpd.db-wal")).map_or(0, |m| m.len()), 0, "the log was not settled");
    }
}

#[test]
fn a_log_cut_anywhere_is_a_prefix_of_what_was_written() {
    let mut rig = Rig::new();
    for id in 1..=8 {
        rig.run(BatchBuilder::new(0).insert(id, "bob", "a letter"));
    }
    let wal = fs::read(rig.folder.path().join("cpd.db-wal")).expect("reads");
    let history = fs::read(rig.folder.path().join(".cpd.db.history")).expect("reads");
    let folder = tempfile::tempdir().expect("a folder");
    let mut last = 0;
    for length in (0..=wal.len()).step_by(997).chain([wal.len()]) {
        fs::copy(rig.path(), folder.path().join("cpd.db")).expect("copies");
        fs::write(folder.path().join("cpd.db-wal"), &wal[..length]).expect("writes");
        fs::write(folder.path().join(".cpd.db.history"), &history).expect("writes");
        let found = stored(&folder).expect("opens");
        let count = found.len() as u64;
        assert_eq!(found, (1..=count).collect::<Vec<_>>());
        assert!(count >= last, "a longer log holds less");
        last = count;
    }
    assert_eq!(last, 8);
}

#[test]
fn leftovers_of_a_crash_are_deleted() {
    let folder = filled();
    for name in ["cpd.db.incomplete-backup", "cpd.db.incomplete-new", "cpd.db.incomplete-new-journal"] {
        fs::write(folder.path().join(name), "half a file").expect("writes");
    }
    // Files that somebody has put next to the store.
    let theirs = ["cpd.db-backup", "cpd.db-new", "cpd.db.bak"];
    theirs.iter().for_each(|name| fs::write(folder.path().join(name), "a copy").expect("writes"));
    assert_eq!(stored(&folder).expect("opens").len(), 300);
    let names: Vec<String> = files(&folder).into_iter().map(|(name, _)| name).collect();
    assert!(!names.iter().any(|n| n.contains("incomplete")), "{names:?}");
    assert!(theirs.iter().all(|name| names.iter().any(|n| n == name)), "{names:?}");
}

#[test]
fn a_store_of_a_later_version_is_refused_untouched() {
    let folder = filled();
    let path = folder.path().join("cpd.db");
    let connection = Connection::open(&path).expect("opens");
    connection.pragma_update(None, "user_version", 2).expect("writes");
    drop(connection);
    let before = files(&folder);
    assert_eq!(refused(&path).kind, OpenErrorKind::Newer);
    assert!(files(&folder) == before);
    // The version is checked also after SQLite has opened the file, because only its log may have the later one.
    let steps: &[schema::Migration] = &[];
    let connection = sqlite::connect(&path).expect("opens");
    let error = schema::migrate(&connection, &path, steps).expect_err("is newer");
    assert_eq!(error.kind, OpenErrorKind::Newer);
}

#[test]
fn a_store_of_an_earlier_version_is_migrated() {
    // Version 0: it has the application id and no tables.
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cpd.db");
    let connection = Connection::open(&path).expect("opens");
    connection.pragma_update(None, "application_id", schema::APPLICATION_ID).expect("writes");
    connection.execute_batch("PRAGMA journal_mode=WAL").expect("writes");
    drop(connection);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("sets the mode");
    let mut rig = Rig::start(folder, |_| None);
    rig.run(BatchBuilder::new(0).insert(1, "bob", "one"));
    assert_eq!(rig.reopen().ids(), [1]);
}

#[test]
fn a_migration_happens_whole_or_not_at_all() {
    let folder = filled();
    let path = folder.path().join("cpd.db");
    let version = |c: &Connection| -> i64 { c.query_row("PRAGMA user_version", [], |r| r.get(0)).expect("reads") };
    let count =
        |c: &Connection| -> i64 { c.query_row("SELECT count(*) FROM message", [], |r| r.get(0)).expect("reads") };
    fn second(c: &Connection) -> rusqlite::Result<()> {
        c.execute_batch("CREATE TABLE list(name TEXT PRIMARY KEY) STRICT; DELETE FROM message WHERE id > 10")
    }
    fn failing(c: &Connection) -> rusqlite::Result<()> {
        c.execute_batch("CREATE TABLE other(x); SELECT * FROM nowhere")
    }
    let connection = sqlite::connect(&path).expect("opens");
    let broken: &[schema::Migration] = &[schema::MIGRATIONS[0], second, failing];
    schema::migrate(&connection, &path, broken).expect_err("fails");
    assert_eq!((version(&connection), count(&connection)), (1, 300));
    schema::migrate(&connection, &path, schema::MIGRATIONS).expect("is as before");

    let whole: &[schema::Migration] = &[schema::MIGRATIONS[0], second];
    schema::migrate(&connection, &path, whole).expect("migrates");
    assert_eq!((version(&connection), count(&connection)), (2, 10));
    schema::migrate(&connection, &path, whole).expect("is current");
}

#[test]
fn tables_that_are_not_ours_are_refused() {
    let folder = filled();
    let connection = Connection::open(folder.path().join("cpd.db")).expect("opens");
    connection
        .execute_batch("CREATE TRIGGER t AFTER INSERT ON message BEGIN DELETE FROM message; END")
        .expect("writes");
    drop(connection);
    let path = folder.path().join("cpd.db");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("sets the mode");
    damaged(&folder, "a trigger");
    assert_eq!(fs::metadata(&path).expect("is there").mode() & 0o7777, 0o644, "it is left as it was");
}

#[test]
fn checksums_hold_every_field_of_every_table() {
    for change in [
        "UPDATE message SET id = 1000 WHERE id = 7",
        "UPDATE message SET recipient = 'bo', sender = 'bann' WHERE id = 7",
        "UPDATE message SET sender = 'eve' WHERE id = 7",
        "UPDATE message SET queued_at = queued_at + 1 WHERE id = 7",
        "UPDATE message SET sum = sum + 1 WHERE id = 7",
        "UPDATE message SET body = body || ' ' WHERE id = 7",
        "UPDATE user SET name = 'eve'",
        "UPDATE user SET hash = 'other'",
        "UPDATE user SET locked = 1",
        "UPDATE user SET created = 6",
        "UPDATE user SET last_login = 0",
        "UPDATE seen SET user = 'eve'",
        "UPDATE seen SET address = '10.0.0.1'",
        "UPDATE seen SET at = 2",
        "UPDATE meta SET value = 0",
        "DELETE FROM meta",
    ] {
        let mut rig = Rig::start(filled(), |_| None);
        rig.run(BatchBuilder::new(0).op(Op::LoggedIn { name: name("bob"), from: HOME, at: 1, rehash: None }));
        let folder = rig.close();
        let connection = Connection::open(folder.path().join("cpd.db")).expect("opens");
        // Each statement must have changed something.
        assert!(connection.execute(change, []).expect(change) > 0, "{change}");
        drop(connection);
        damaged(&folder, change);
    }
}

#[test]
fn folders_that_cannot_hold_a_store_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let error = refused(&folder.path().join("no/such/cpd.db"));
    assert_eq!(error.kind, OpenErrorKind::CannotCreate);
    assert!(error.message.contains("no/such"), "{error}");
    fs::write(folder.path().join("file"), "").expect("writes");
    let error = refused(&folder.path().join("file/cpd.db"));
    assert!(error.message.contains("file"), "{error}");
    fs::create_dir(folder.path().join("cpd.db")).expect("makes");
    assert_eq!(refused(&folder.path().join("cpd.db")).kind, OpenErrorKind::CannotCreate);
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("sets the mode");
    let error = refused(&folder.path().join("other.db"));
    assert_eq!(error.kind, OpenErrorKind::Exposed, "{error}");
}

#[test]
fn a_journal_of_another_program_is_not_rolled_back() {
    let folder = filled();
    fs::write(folder.path().join("cpd.db-journal"), "something").expect("writes");
    damaged(&folder, "a journal");
}
