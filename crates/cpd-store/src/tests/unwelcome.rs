//! Folders and files that are not as they should be: one that cannot be used is named with its cause, and left alone.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use rusqlite::Connection;

use super::*;
use crate::{OpenErrorKind, open_error, paths, schema, sqlite};

/// A user and a group other than this process's.
const NOBODY: u32 = 65_534;

fn refused(path: &Path) -> OpenError {
    Store::open(path).err().expect("was opened")
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("sets the mode");
}

/// A closed store with one user and one message.
fn closed() -> TempDir {
    let mut rig = Rig::new();
    rig.run(BatchBuilder::new(0).user(1, "bob", "hash").insert(1, "bob", "one"));
    rig.close()
}

/// Whether this process can give files to other users; tests that need this do nothing otherwise.
fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Runs `what` as a user to whom file modes apply.
fn as_nobody<T: Send>(what: impl FnOnce() -> T + Send) -> T {
    let become_and_run = || {
        let (uid, gid) = (rustix::process::Uid::from_raw(NOBODY), rustix::process::Gid::from_raw(NOBODY));
        // This changes the user of this thread only, because rustix calls the kernel directly and not the C library.
        rustix::thread::set_thread_groups(&[]).expect("no groups");
        rustix::thread::set_thread_res_gid(gid, gid, gid).expect("a group");
        rustix::thread::set_thread_res_uid(uid, uid, uid).expect("a user");
        what()
    };
    std::thread::scope(|scope| scope.spawn(become_and_run).join().expect("no panic"))
}

#[test]
fn files_that_may_only_be_read_are_named() {
    if !is_root() {
        return;
    }
    for suffix in ["", "-wal"] {
        let folder = closed();
        let path = folder.path().join("cpd.db");
        let file = folder.path().join(format!("cpd.db{suffix}"));
        fs::OpenOptions::new().append(true).create(true).open(&file).expect("is there, be it empty");
        for entry in fs::read_dir(folder.path()).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            chown(entry, Some(NOBODY), Some(NOBODY)).expect("gives");
        }
        chown(folder.path(), Some(NOBODY), Some(NOBODY)).expect("gives");
        for mode in [0o400, 0o200, 0o000] {
            set_mode(&file, mode);
            let error = as_nobody(|| refused(&path));
            assert_eq!(error.kind, OpenErrorKind::Permission, "{error}");
            assert_eq!(
                error.message,
                format!("{}: cannot read and write: Permission denied (os error 13)", file.display())
            );
        }
        set_mode(&file, 0o600);
        assert_eq!(as_nobody(|| stored(&folder)).expect("opens"), [1]);
    }
}

#[test]
fn files_and_folders_of_others_are_refused() {
    if !is_root() {
        // Only root can give files to other users.
        return;
    }
    let folder = closed();
    let path = folder.path().join("cpd.db");
    chown(&path, Some(NOBODY), None).expect("gives");
    let error = refused(&path);
    assert_eq!(error.kind, OpenErrorKind::Permission);
    assert!(error.message.contains("cpd.db: belongs to uid 65534"), "{error}");
    chown(&path, Some(0), None).expect("takes");
    chown(folder.path(), Some(NOBODY), None).expect("gives");
    let error = refused(&path);
    assert_eq!(error.kind, OpenErrorKind::Permission);
    assert!(error.message.contains("folder belongs to uid 65534"), "{error}");
    chown(folder.path(), Some(0), Some(NOBODY)).expect("takes");
    set_mode(folder.path(), 0o770);
    let error = refused(&path);
    assert_eq!(error.kind, OpenErrorKind::Exposed);
    assert!(error.message.contains("by group 65534 (mode 0770)"), "{error}");
    // The sticky bit keeps others from replacing a file, but not from being the first to create one.
    for mode in [0o1770, 0o1777, 0o777] {
        set_mode(folder.path(), mode);
        let error = refused(&path);
        assert_eq!(error.kind, OpenErrorKind::Exposed);
        assert!(error.message.contains(&format!("(mode {mode:04o})")), "{error}");
    }
    set_mode(folder.path(), 0o755);
    assert_eq!(stored(&folder).expect("opens"), [1]);
}

#[test]
fn a_folder_that_may_not_be_written_to_is_named() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    set_mode(folder.path(), 0o755);
    let path = folder.path().join("cpd.db");
    let error = as_nobody(|| refused(&path));
    assert_eq!(error.kind, OpenErrorKind::Permission);
    assert!(error.message.contains("cannot write in the store's folder"), "{error}");
    // If the lock exists already, it is the new store that cannot be created.
    let lock = folder.path().join("cpd.db-lock");
    fs::write(&lock, "").expect("writes");
    set_mode(&lock, 0o666);
    let error = as_nobody(|| refused(&path));
    assert_eq!(error.kind, OpenErrorKind::Permission);
    assert!(error.message.contains("cpd.db: cannot create the store"), "{error}");
    set_mode(folder.path(), 0o600);
    let error = as_nobody(|| refused(&path));
    assert_eq!(error.kind, OpenErrorKind::Permission);
    assert!(error.message.contains("folder"), "{error}");
}

#[test]
fn what_stands_in_the_way_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("file"), "").expect("writes");
    let error = refused(&folder.path().join("file/sub/cpd.db"));
    assert_eq!(error.kind, OpenErrorKind::System);
    assert!(error.message.contains("file/sub"), "{error}");
    fs::create_dir(folder.path().join("cpd.db-lock")).expect("makes");
    let error = refused(&folder.path().join("cpd.db"));
    assert_eq!(error.kind, OpenErrorKind::CannotCreate);
    assert!(error.message.contains("cpd.db-lock: cannot create"), "{error}");
    let long = folder.path().join("x".repeat(300));
    assert!(refused(&long).message.contains("xxx"));
}

#[test]
fn a_file_that_the_disk_does_not_give_is_not_called_damaged() {
    let folder = closed();
    let path = folder.path().join("cpd.db");
    let corrupt = sqlite::new_error(rusqlite::ffi::SQLITE_CORRUPT, "made here");
    assert_eq!(OpenError::from_sqlite(&path, "reading", &corrupt).kind, OpenErrorKind::Damaged);
    // Reading a folder fails for every user. A log that is missing is no error.
    fs::remove_file(folder.path().join("cpd.db-wal")).expect("removed");
    fs::create_dir(folder.path().join("cpd.db-wal")).expect("makes");
    let error = OpenError::from_sqlite(&path, "reading", &corrupt);
    assert_eq!(error.kind, OpenErrorKind::System);
    assert!(error.message.contains("cpd.db: reading: Is a directory"), "{error}");
    paths::read_through(&folder.path().join("none")).expect("nothing to read");
}

#[test]
fn a_header_with_another_page_size_is_refused() {
    let folder = closed();
    let path = folder.path().join("cpd.db");
    let whole = fs::read(&path).expect("reads");
    for (size, said) in [([0, 1], "is cut off"), ([0, 0], "damaged header"), ([0, 255], "damaged header")] {
        let mut bytes = whole.clone();
        bytes[16..18].copy_from_slice(&size);
        fs::write(&path, &bytes).expect("writes");
        let error = refused(&path);
        assert_eq!(error.kind, OpenErrorKind::Damaged);
        assert!(error.message.contains(said), "{error}");
        assert!(fs::read(&path).expect("reads") == bytes, "it was touched");
    }
}

#[test]
fn a_version_or_a_mark_that_only_the_log_has_is_looked_at_too() {
    let connection = Connection::open_in_memory().expect("opens");
    let path = Path::new("/some/cpd.db");
    let bring = || schema::migrate(&connection, path, schema::MIGRATIONS).expect_err("is not ours");
    assert_eq!((bring().kind, bring().message.as_str()), (OpenErrorKind::Damaged, "/some/cpd.db: is not a cpd store"));
    connection.pragma_update(None, "application_id", schema::APPLICATION_ID).expect("writes");
    connection.pragma_update(None, "user_version", -1).expect("writes");
    assert_eq!((bring().kind, bring().message.as_str()), (OpenErrorKind::Damaged, "/some/cpd.db: has version -1"));
}

#[test]
fn a_store_without_a_log_of_its_own_is_not_served() {
    // Where a write-ahead log is impossible SQLite stays in another mode, without an error.
    let error = sqlite::truncate_log(&Connection::open_in_memory().expect("opens")).expect_err("has no log");
    assert!(sqlite::error_text(&error).contains("write-ahead log cannot be used"), "{error}");
    // A reader keeps the log from being emptied.
    let folder = closed();
    let open = || Connection::open(folder.path().join("cpd.db")).expect("opens");
    let (writing, reading) = (open(), open());
    let count = |c: &Connection| c.query_row("SELECT count(*) FROM message", [], |row| row.get::<_, u32>(0));
    reading.execute_batch("BEGIN").expect("begins");
    assert_eq!(count(&reading), Ok(1));
    writing.execute("DELETE FROM message", []).expect("deletes");
    writing.busy_timeout(Duration::ZERO).expect("sets");
    let error = sqlite::truncate_log(&writing).expect_err("is held");
    assert_eq!(open_error::open_error_kind(&error), OpenErrorKind::Busy);
}

#[test]
fn a_store_that_is_served_was_read_first() {
    let folder = closed();
    let path = folder.path().join("cpd.db");
    let store = Store::open(&path).expect("opens");
    assert_eq!(store.password_hashes().expect("reads"), ["hash"]);
    // `spawn` loads a store that was not loaded before, so that the ids in use are known.
    let mut writer = store.spawn(|| (), |_| ()).expect("spawns");
    writer.submit(BatchBuilder::new(0).delete(1).0).expect("is taken");
    assert!(matches!(writer.close()[..], [FromStore::Done(_, Outcome { deletes: true, .. })]));
    assert!(stored(&folder).expect("opens").is_empty());
    Connection::open(&path).expect("opens").execute("UPDATE user SET hash = 'other'", []).expect("changes");
    let store = Store::open(&path).expect("opens");
    assert_eq!(store.password_hashes().expect_err("believed a changed hash").kind, OpenErrorKind::Damaged);
    let error = store.spawn(|| (), |_| ()).expect_err("serves a damaged store");
    assert!(error.to_string().contains("user \"bob\""), "{error}");
}

// ---- copies ----

#[test]
fn a_copy_that_cannot_be_made_is_answered_and_another_may_follow() {
    let mut rig = Rig::start(closed(), |_| None);
    let backup = rig.folder.path().join("cpd.db.incomplete-backup");
    fs::create_dir(&backup).expect("makes");
    rig.run(BatchBuilder::new(0).admin(1, AdminOp::BackupBegin));
    let answer = rig.answer(1);
    let AdminAnswer::Failed(cause) = &answer else { panic!("{answer:?}") };
    assert!(cause.starts_with("cannot copy the store: ") && cause.contains("cpd.db.incomplete-backup: "), "{cause}");
    fs::remove_dir(&backup).expect("removes");
    rig.run(BatchBuilder::new(0).admin(2, AdminOp::BackupBegin));
    assert!(matches!(rig.answer(2), AdminAnswer::Backup { .. }));
    assert!(rig.run(BatchBuilder::new(0).insert(2, "bob", "two")).outcome().inserts);
}

#[test]
fn a_copy_that_the_disk_does_not_give_back_is_an_answer() {
    let mut rig = Rig::start(closed(), |_| None);
    rig.run(BatchBuilder::new(0).admin(1, AdminOp::BackupBegin));
    let AdminAnswer::Backup { backup, bytes } = rig.answer(1) else { panic!("no copy") };
    // The file of the copy has no name any more, so it is truncated through its descriptor.
    let held = format!("{} (deleted)", rig.folder.path().join("cpd.db.incomplete-backup").display());
    let mut descriptors = fs::read_dir("/proc/self/fd").expect("lists").map(|entry| entry.expect("an entry").path());
    let is_held = |path: &PathBuf| fs::read_link(path).is_ok_and(|file| file.to_string_lossy() == held);
    let descriptor = descriptors.find(is_held).expect("the copy is open");
    fs::OpenOptions::new().write(true).open(descriptor).expect("opens").set_len(100).expect("cuts");
    let read = AdminOp::BackupRead { backup, offset: 0, length: bytes as u32 };
    let received = rig.run(BatchBuilder::new(0).admin(1, read));
    let AdminAnswer::Failed(cause) = &received.admin[&1] else { panic!("{:?}", received.admin) };
    assert!(cause.starts_with("cannot read the copy: "), "{cause}");
}
