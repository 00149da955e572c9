//! Copies: consistent while batches go on, one at a time, gone when they are no longer needed.

use std::fs;

use super::*;

fn read(rig: &mut Rig, backup: u64, bytes: u64) -> Vec<u8> {
    let mut copy = Vec::new();
    while (copy.len() as u64) < bytes {
        let op = AdminOp::BackupRead { backup, offset: copy.len() as u64, length: 10_000 };
        let came = rig.go(Build::new(0).admin(1, op));
        let AdminAnswer::Bytes(part) = &came.admin[&1] else { panic!("no bytes") };
        assert!(!part.is_empty());
        copy.extend_from_slice(part);
    }
    copy
}

/// Opens a copy as a store and returns its messages.
fn messages(copy: &[u8]) -> Vec<u64> {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("cpd.db"), copy).expect("writes");
    stored(&folder).expect("the copy is a store")
}

#[test]
fn a_copy_is_consistent_while_batches_go_on() {
    let mut rig = Rig::new();
    let body = "x".repeat(1000);
    for start in (1..=4000).step_by(500) {
        rig.go((start..start + 500).fold(Build::new(0), |batch, id| batch.insert(id, "bob", &body)));
    }
    rig.submit(Build::new(0).admin(1, AdminOp::BackupBegin));
    // Each batch moves one message from the front to the end, so every consistent state has 4000 in a row.
    let mut moved = 0;
    let mut during = 0;
    let answer = loop {
        rig.submit(Build::new(0).insert(4001 + moved, "bob", &body).delete(1 + moved).admin(2, AdminOp::BackupBegin));
        moved += 1;
        let mut came = Came::default();
        let mut answer = None;
        while came.done.is_empty() || rig.writer().outstanding() > 0 {
            match rig.recv() {
                FromStore::Answers(answers) => note(&mut came, answers),
                FromStore::Done(batch, outcome) => {
                    assert!(outcome.inserts && outcome.deletes);
                    came.done.push((batch, outcome));
                }
                FromStore::Broken(cause) | FromStore::Changed { what: cause, .. } => panic!("{cause}"),
            }
            answer = answer.or(came.admin.remove(&1));
        }
        assert!(matches!(came.admin[&2], AdminAnswer::Busy));
        if let Some(answer) = answer {
            break answer;
        }
        during += 1;
        assert!(moved < 3000, "the copy never ends");
    };
    assert!(during > 0, "no batch was committed while the copy was made");
    let AdminAnswer::Backup { backup, bytes } = answer else { panic!("unexpected {answer:?}") };
    let copy = read(&mut rig, backup, bytes);
    let ids = messages(&copy);
    assert_eq!(ids.len(), 4000);
    assert!(ids.windows(2).all(|w| w[1] == w[0] + 1) && ids[0] > 1, "{:?}", &ids[..3]);
    let names: Vec<_> = fs::read_dir(rig.folder.path()).expect("lists").map(|e| e.expect("e").file_name()).collect();
    assert!(!names.iter().any(|n| n.to_string_lossy().contains("-backup")), "the copy has a name: {names:?}");
}

#[test]
fn one_copy_at_a_time_until_its_end() {
    let mut rig = Rig::new();
    rig.go(Build::new(0).insert(1, "bob", "one"));
    rig.go(Build::new(0).admin(1, AdminOp::BackupBegin));
    let AdminAnswer::Backup { backup, bytes } = rig.answer(1) else { panic!("no copy") };
    let came = rig.go(Build::new(0).admin(2, AdminOp::BackupBegin));
    assert!(matches!(came.admin[&2], AdminAnswer::Busy));
    let beyond = AdminOp::BackupRead { backup, offset: bytes + 5, length: 10 };
    let other = AdminOp::BackupRead { backup: backup + 1, offset: 0, length: 10 };
    let came = rig.go(Build::new(0).admin(1, beyond).admin(2, other));
    assert!(matches!(&came.admin[&1], AdminAnswer::Bytes(bytes) if bytes.is_empty()));
    assert!(matches!(came.admin[&2], AdminAnswer::Missing));
    assert_eq!(messages(&read(&mut rig, backup, bytes)), [1]);
    let came = rig.go(Build::new(0).admin(1, AdminOp::BackupEnd { backup }));
    assert!(matches!(came.admin[&1], AdminAnswer::Done));
    let gone = AdminOp::BackupRead { backup, offset: 0, length: 10 };
    assert!(matches!(rig.go(Build::new(0).admin(1, gone)).admin[&1], AdminAnswer::Missing));
    rig.go(Build::new(0).admin(3, AdminOp::BackupBegin));
    let AdminAnswer::Backup { backup: next, .. } = rig.answer(3) else { panic!("no copy") };
    assert_ne!(next, backup);
}

#[test]
fn a_copy_that_a_failed_commit_breaks_off_is_answered() {
    let mut commits = 0;
    let mut rig = Rig::faulty(move |point| {
        commits += u32::from(point == Point::Commit);
        (point == Point::Commit && commits == 9).then_some(rusqlite::ffi::SQLITE_IOERR_FSYNC)
    });
    let body = "x".repeat(1000);
    for start in (1..=4000).step_by(500) {
        rig.go((start..start + 500).fold(Build::new(0), |batch, id| batch.insert(id, "bob", &body)));
    }
    rig.submit(Build::new(0).admin(1, AdminOp::BackupBegin));
    rig.submit(Build::new(0).delete(1));
    let mut came = rig.collect(2);
    let answer = came.admin.remove(&1).unwrap_or_else(|| rig.answer(1));
    // The delete may have been committed before the copy began; then the copy is whole.
    assert!(matches!(answer, AdminAnswer::Failed(_) | AdminAnswer::Backup { .. }), "{answer:?}");
    if let AdminAnswer::Backup { backup, .. } = answer {
        rig.go(Build::new(0).admin(3, AdminOp::BackupEnd { backup }));
    }
    rig.go(Build::new(0).admin(2, AdminOp::BackupBegin));
    assert!(matches!(rig.answer(2), AdminAnswer::Backup { .. }), "no copy after one that was broken off");
    assert_eq!(rig.reopen().ids().first(), Some(&2));
}

#[test]
fn closing_ends_a_copy() {
    let mut rig = Rig::new();
    let body = "x".repeat(1000);
    for start in (1..=4000).step_by(500) {
        rig.go((start..start + 500).fold(Build::new(0), |batch, id| batch.insert(id, "bob", &body)));
    }
    rig.submit(Build::new(0).admin(1, AdminOp::BackupBegin));
    rig.writer.take().expect("is open").close();
    assert!(!rig.folder.path().join("cpd.db-backup").exists());
    assert_eq!(stored(&rig.folder).expect("opens").len(), 4000);
}
