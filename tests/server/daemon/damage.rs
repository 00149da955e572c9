//! A store that is not what cpd wrote: exit code 65, and the file as it was, byte for byte.

use std::path::Path;

use super::running::Daemon;
use super::{fails_in, folder_with_a_store};

/// Fails on the store in `folder`, as it is, over and over; then the original is put back and serves.
#[track_caller]
fn is_refused(folder: &tempfile::TempDir, damaged: &[u8], said: &str) {
    let store = folder.path().join("data/cpd.db");
    std::fs::write(&store, damaged).expect("written");
    // A stop leaves it, empty, for the room that it has.
    let log = || std::fs::metadata(folder.path().join("data/cpd.db-wal")).map_or(0, |found| found.len());
    assert_eq!(log(), 0);
    for _ in 0..2 {
        let cause = fails_in(folder, "", 65);
        assert!(cause.contains(&store.display().to_string()) && cause.contains(said), "{cause}");
        assert!(std::fs::read(&store).expect("still there") == damaged, "the file was changed: {cause}");
        assert_eq!(log(), 0, "{cause}");
        for left in ["cpd.db-journal", "cpd.db.incomplete-new"] {
            assert!(!folder.path().join("data").join(left).exists(), "{left} was left");
        }
    }
    assert!(!folder.path().join("data/control.sock").exists());
}

fn find(bytes: &[u8], what: &[u8]) -> usize {
    bytes.windows(what.len()).position(|window| window == what).expect("it is in the file")
}

#[test]
fn what_is_not_a_store_is_refused() {
    let folder = folder_with_a_store();
    let whole = std::fs::read(folder.path().join("data/cpd.db")).expect("a store");
    is_refused(&folder, b"", "is empty");
    is_refused(&folder, b"Dear diary, today I wrote no database.\n", "is not a cpd store");
    is_refused(&folder, &vec![0; 8192], "is not a cpd store");
    is_refused(&folder, &whole[..whole.len() / 2], "");
    is_refused(&folder, &whole[..50], "");
    // Another program's SQLite file.
    let mut foreign = whole.clone();
    foreign[68..72].copy_from_slice(b"Fred");
    is_refused(&folder, &foreign, "is not a cpd store");
    restored(folder, &whole);
}

#[test]
fn a_store_of_a_later_version_is_refused() {
    let folder = folder_with_a_store();
    let whole = std::fs::read(folder.path().join("data/cpd.db")).expect("a store");
    let mut newer = whole.clone();
    newer[60..64].copy_from_slice(&99u32.to_be_bytes());
    is_refused(&folder, &newer, "version 99");
    restored(folder, &whole);
}

#[test]
fn a_changed_row_is_refused() {
    let folder = folder_with_a_store();
    let whole = std::fs::read(folder.path().join("data/cpd.db")).expect("a store");
    for what in [&b"Lunch at one?"[..], b"$argon2id$"] {
        let mut changed = whole.clone();
        changed[find(&whole, what)] ^= 1;
        is_refused(&folder, &changed, "");
    }
    restored(folder, &whole);
}

/// With the file of before, everything is there again.
fn restored(folder: tempfile::TempDir, whole: &[u8]) {
    let store: &Path = &folder.path().join("data/cpd.db");
    std::fs::write(store, whole).expect("written");
    let daemon = Daemon::start_in(folder, "");
    let mut alice = daemon.connect();
    alice.logs_in("alice", "sesame");
    alice.asks("RMSG", "RMSGbob:Lunch at one?");
}
