//! The texts that the store reports when something fails, and the kind of each failure for whoever opens it.

use std::io;
use std::path::Path;

use rusqlite::ffi;

use super::*;
use crate::{OpenErrorKind, open_error, paths, row, sqlite};

#[test]
fn every_event_has_its_text() {
    let cause = || "the cause".to_owned();
    let events = [
        (StoreEvent::CommitFailed(cause()), "a commit failed: the cause"),
        (StoreEvent::Recovered, "the store was reopened after a failed commit"),
        (
            StoreEvent::DiskLow { available: 7, needed: 9 },
            "the disk is full: 7 bytes available, 9 needed; messages are refused",
        ),
        (StoreEvent::DiskOk, "the disk has room again; messages are taken"),
        (StoreEvent::DeletesPending { count: 3 }, "3 deletes wait for room on the disk"),
        (StoreEvent::DamagedRow(cause()), "damaged: the cause"),
        (StoreEvent::CheckpointFailed(cause()), "cannot checkpoint: the cause"),
        (StoreEvent::ReadFailed(cause()), "cannot read: the cause"),
        (StoreEvent::FileCheckFailed(cause()), "cannot look at the store's files: the cause"),
    ];
    for (event, words) in events {
        assert_eq!(event.to_string(), words);
    }
}

#[test]
fn a_failing_system_call_names_path_and_cause() {
    let kinds = [
        (io::ErrorKind::PermissionDenied, OpenErrorKind::Permission),
        (io::ErrorKind::ReadOnlyFilesystem, OpenErrorKind::CannotCreate),
        (io::ErrorKind::StorageFull, OpenErrorKind::CannotCreate),
        (io::ErrorKind::TimedOut, OpenErrorKind::System),
    ];
    for (cause, kind) in kinds {
        let error = open_error::system_error(Path::new("/some/cpd.db"), "cannot open", &io::Error::new(cause, "no"));
        assert_eq!((error.kind, error.to_string().as_str()), (kind, "/some/cpd.db: cannot open: no"));
    }
}

#[test]
fn every_sqlite_error_has_a_kind() {
    let kinds = [
        (ffi::SQLITE_CORRUPT, OpenErrorKind::Damaged),
        (ffi::SQLITE_NOTADB, OpenErrorKind::Damaged),
        (ffi::SQLITE_BUSY, OpenErrorKind::Busy),
        (ffi::SQLITE_PERM, OpenErrorKind::Permission),
        (ffi::SQLITE_READONLY, OpenErrorKind::Permission),
        (ffi::SQLITE_CANTOPEN, OpenErrorKind::CannotCreate),
        (ffi::SQLITE_IOERR_READ, OpenErrorKind::System),
    ];
    for (code, kind) in kinds {
        let error = sqlite::new_error(code, "made here");
        assert_eq!(open_error::open_error_kind(&error), kind, "{code}");
        assert!(sqlite::error_text(&error).ends_with(&format!("(SQLite {code})")));
        assert_eq!(row::RowError::Sql(error).text(), format!("made here (SQLite {code})"));
    }
    // Not an error of SQLite itself.
    assert_eq!(open_error::open_error_kind(&rusqlite::Error::InvalidQuery), OpenErrorKind::Damaged);
    assert_eq!(sqlite::error_text(&rusqlite::Error::InvalidQuery), rusqlite::Error::InvalidQuery.to_string());
}

#[test]
fn a_read_only_file_system_is_named_where_sqlite_does_not() {
    let silent = [ffi::SQLITE_IOERR_WRITE, ffi::SQLITE_READONLY_DBMOVED, ffi::SQLITE_READONLY, ffi::SQLITE_CANTOPEN];
    for code in silent.into_iter().chain([ffi::SQLITE_IOERR_FSYNC, ffi::SQLITE_IOERR_LOCK]) {
        let made = |read_only| sqlite::name_read_only(sqlite::new_error(code, "made here"), || read_only);
        assert_eq!(sqlite::error_text(&made(true)), format!("read-only file system (SQLite {code})"));
        assert_eq!(sqlite::error_text(&made(false)), format!("made here (SQLite {code})"));
    }
    for code in [ffi::SQLITE_CORRUPT, ffi::SQLITE_FULL, ffi::SQLITE_IOERR_READ] {
        let error = sqlite::name_read_only(sqlite::new_error(code, "made here"), || panic!("{code} has another cause"));
        assert_eq!(sqlite::error_text(&error), format!("made here (SQLite {code})"));
    }
    let folder = tempfile::tempdir().expect("a folder");
    assert!(!paths::is_read_only(&folder.path().join("cpd.db")));
}

#[test]
fn a_folder_in_the_way_of_a_new_store_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("cpd.db.incomplete-new")).expect("makes");
    let error = Store::open(&folder.path().join("cpd.db")).err().expect("is in the way");
    assert!(error.message.contains("cpd.db.incomplete-new"), "{error}");
    assert!(!folder.path().join("cpd.db").exists());
}

#[test]
fn the_end_of_the_thread_is_visible() {
    let mut rig = Rig::new();
    let progress = rig.writer().progress();
    assert!(!progress.ended());
    rig.close();
    assert!(progress.ended());
}
