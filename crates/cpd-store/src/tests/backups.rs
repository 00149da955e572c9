//! Copies: consistent although batches are executed meanwhile, one at a time, removed when they are no longer needed.

use std::fs;

use super::*;

fn read(rig: &mut Rig, backup: u64, bytes: u64) -> Vec<u8> {
    let mut copy = Vec::new();
    while (copy.len() as u64) < bytes {
        let op = AdminOp::BackupRead { backup, offset: copy.len() as u64, length: 10_000 };
        let received = rig.run(BatchBuilder::new(0).admin(1, op));
        let AdminAnswer::Bytes(part) = &received.admin[&1] else { panic!("no bytes") };
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
        rig.run((start..start + 500).fold(BatchBuilder::new(0), |batch, id| batch.insert(id, "bob", &body)));
    }
    rig.submit(BatchBuilder::new(0).admin(1, AdminOp::BackupBegin));
    // Each batch moves one message from the front to the end, so every consistent state has 4000 consecutive ids.
    let mut moved = 0;
    let mut during = 0;
    let answer = loop {
        rig.submit(
            BatchBuilder::new(0).insert(4001 + moved, "bob", &body).delete(1 + moved).admin(2, AdminOp::BackupBegin),
        );
        moved += 1;
        let mut received = Received::default();
        let mut answer = None;
        while received.done.is_empty() || rig.writer().outstanding() > 0 {
            match rig.recv() {
                FromStore::Answers(answers) => collect_answers(&mut received, answers),
                FromStore::Done(batch, outcome) => {
                    assert!(outcome.inserts && outcome.deletes);
                    received.done.push((batch, outcome));
                }
                FromStore::Broken(cause) | FromStore::Changed { what: cause, .. } => panic!("{cause}"),
            }
            answer = answer.or(received.admin.remove(&1));
        }
        assert!(matches!(received.admin[&2], AdminAnswer::Busy));
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
    rig.run(BatchBuilder::new(0).insert(1, "bob", "one"));
    rig.run(BatchBuilder::new(0).admin(1, AdminOp::BackupBegin));
    let AdminAnswer::Backup { backup, bytes } = rig.answer(1) else { panic!("no copy") };
    let received = rig.run(BatchBuilder::new(0).admin(2, AdminOp::BackupBegin));
    assert!(matches!(received.admin[&2], AdminAnswer::Busy));
    let beyond = AdminOp::BackupRead { backup, offset: bytes + 5, length: 10 };
    let other = AdminOp::BackupRead { backup: backup + 1, offset: 0, length: 10 };
    let received = rig.run(BatchBuilder::new(0).admin(1, beyond).admin(2, other));
    assert!(matches!(&received.admin[&1], AdminAnswer::Bytes(bytes) if bytes.is_empty()));
    assert!(matches!(received.admin[&2], AdminAnswer::Missing));
    assert_eq!(messages(&read(&mut rig, backup, bytes)), [1]);
    let received = rig.run(BatchBuilder::new(0).admin(1, AdminOp::BackupEnd { backup }));
    assert!(matches!(received.admin[&1], AdminAnswer::Done));
    let gone = AdminOp::BackupRead { backup, offset: 0, length: 10 };
    assert!(matches!(rig.run(BatchBuilder::new(0).admin(1, gone)).admin[&1], AdminAnswer::Missing));
    rig.run(BatchBuilder::new(0).admin(3, AdminOp::BackupBegin));
    let AdminAnswer::Backup { backup: next, .. } = rig.answer(3) else { panic!("no copy") };
    assert_ne!(next, backup);
}

#[test]
fn a_copy_that_a_failed_commit_breaks_off_is_answered() {
    let mut commits = 0;
    let mut rig = Rig::faulty(move |point| {
        commits += u32::from(point == FaultPoint::Commit);
        (point == FaultPoint::Commit && commits == 9).then_some(rusqlite::ffi::SQLITE_IOERR_FSYNC)
    });
    let body = "x".repeat(1000);
    for start in (1..=4000).step_by(500) {
        rig.run((start..start + 500).fold(BatchBuilder::new(0), |batch, id| batch.insert(id, "bob", &body)));
    }
    rig.submit(BatchBuilder::new(0).admin(1, AdminOp::BackupBegin));
    rig.submit(BatchBuilder::new(0).delete(1));
    let mut received = rig.collect(2);
    let answer = received.admin.remove(&1).unwrap_or_else(|| rig.answer(1));
    // The delete may have been committed before the copy began; then the copy is whole.
    assert!(matches!(answer, AdminAnswer::Failed(_) | AdminAnswer::Backup { .. }), "{answer:?}");
    if let AdminAnswer::Backup { backup, .. } = answer {
        rig.run(BatchBuilder::new(0).admin(3, AdminOp::BackupEnd { backup }));
    }
    rig.run(BatchBuilder::new(0).admin(2, AdminOp::BackupBegin));
    assert!(matches!(rig.answer(2), AdminAnswer::Backup { .. }), "no copy after one that was broken off");
    assert_eq!(rig.reopen().ids().first(), Some(&2));
}

#[test]
fn closing_ends_a_copy() {
    let mut rig = Rig::new();
    let body = "x".repeat(1000);
    for start in (1..=4000).step_by(500) {
        rig.run((start..start + 500).fold(BatchBuilder::new(0), |batch, id| batch.insert(id, "bob", &body)));
    }
    rig.submit(BatchBuilder::new(0).admin(1, AdminOp::BackupBegin));
    rig.writer.take().expect("is open").close();
    assert!(!rig.folder.path().join("cpd.db.incomplete-backup").exists());
    assert_eq!(stored(&rig.folder).expect("opens").len(), 4000);
}

/// Fills the store and empties it again, but for the first and the last message.
fn fill_and_empty(rig: &mut Rig, count: u64) {
    let body = "x".repeat(1000);
    for start in (1..=count).step_by(500) {
        rig.run((start..start + 500).fold(BatchBuilder::new(0), |batch, id| batch.insert(id, "bob", &body)));
    }
    for start in (2..count).step_by(500) {
        rig.run((start..(start + 500).min(count)).fold(BatchBuilder::new(0), |batch, id| batch.delete(id)));
    }
}

#[test]
fn a_copy_holds_what_is_alive() {
    let mut rig = Rig::new();
    rig.run(BatchBuilder::new(0).user(1, "bob", "hash").op(Op::LoggedIn {
        name: name("bob"),
        from: HOME,
        at: 7,
        rehash: None,
    }));
    fill_and_empty(&mut rig, 5000);
    rig.submit(BatchBuilder::new(0).admin(1, AdminOp::BackupBegin));
    // Batches are served while either copy is made.
    let mut during = 0;
    let answer = loop {
        rig.submit(BatchBuilder::new(0).insert(10_000 + during, "bob", "meanwhile").delete(10_000 + during));
        during += 1;
        let mut received = rig.collect(1);
        if let Some(answer) = received.admin.remove(&1) {
            break answer;
        }
        assert!(during < 20_000, "the copy never ends");
    };
    let AdminAnswer::Backup { backup, bytes } = answer else { panic!("unexpected {answer:?}") };
    assert!(bytes < 64 * 1024, "{bytes}");
    // The batch with the request counts too, so one more has to come back.
    rig.collect(1);
    let copy = read(&mut rig, backup, bytes);
    assert_eq!(copy[48..52], [0; 4], "no log belongs to it");
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("cpd.db"), &copy).expect("writes");
    let report = crate::check(&folder.path().join("cpd.db")).expect("reads");
    assert_eq!(report.damage, [""; 0]);
    assert_eq!(report.users, 1);
    assert!(!folder.path().join("cpd.db-wal").exists());
    let ids = messages(&copy);
    assert_eq!(ids[..2], [1, 5000]);
    // The copy gives out ids above those that its original had reserved.
    let next = Rig::start(folder, |_| None).next_id;
    assert!(next >= 65_536, "{next}");
}

#[test]
fn a_store_that_was_emptied_shrinks_and_serves_on() {
    let mut rig = Rig::new();
    rig.run(BatchBuilder::new(0).user(1, "bob", "hash"));
    fill_and_empty(&mut rig, 5000);
    rig.run(BatchBuilder::new(0).admin(1, AdminOp::Shrink));
    let answer = rig.answer(1);
    let AdminAnswer::Shrunk { before, after } = answer else { panic!("unexpected {answer:?}") };
    assert!(before > 5_000_000 && after < 200_000, "{before} {after}");
    assert!(fs::metadata(rig.path()).expect("a store").len() < 100_000);
    // The daemon still takes the file for the one that it opened.
    for id in 6000..6010 {
        assert!(rig.run(BatchBuilder::new(0).insert(id, "bob", "after")).outcome().inserts);
    }
    rig.run(BatchBuilder::new(0).admin(2, AdminOp::Shrink).admin(3, AdminOp::Shrink).admin(4, AdminOp::BackupBegin));
    assert!(matches!(rig.answer(2), AdminAnswer::Shrunk { .. }));
    assert!(matches!(rig.answer(4), AdminAnswer::Backup { .. }));
    let received = rig.run(BatchBuilder::new(0).admin(5, AdminOp::Shrink));
    assert!(matches!(received.admin[&5], AdminAnswer::Busy), "while a copy is held");
    assert_eq!(rig.events(), []);
    let rig = rig.reopen();
    let expected: Vec<u64> = [1, 5000].into_iter().chain(6000..6010).collect();
    assert_eq!((rig.ids(), rig.users.len()), (expected, 1));
    assert!(rig.next_id < crate::history::ID_GAP);
}

#[test]
fn a_large_store_answers_why_it_does_not_shrink() {
    let mut rig = Rig::new();
    let body = "x".repeat(30_000);
    rig.run((1..400).fold(BatchBuilder::new(0), |batch, id| batch.insert(id, "bob", &body)));
    rig.run(BatchBuilder::new(0).admin(1, AdminOp::Shrink));
    let answer = rig.answer(1);
    assert!(matches!(&answer, AdminAnswer::Failed(said) if said.contains("cpd --restore")), "{answer:?}");
    assert!(rig.run(BatchBuilder::new(0).insert(400, "bob", "after")).outcome().inserts);
}

#[test]
fn a_shrink_with_an_unknown_outcome_is_recovered_from() {
    let mut commits = 0;
    let mut rig = Rig::faulty(move |point| {
        commits += u32::from(point == FaultPoint::Commit);
        (point == FaultPoint::Commit && commits == 2).then_some(rusqlite::ffi::SQLITE_IOERR_FSYNC)
    });
    rig.run(BatchBuilder::new(0).insert(1, "bob", "one"));
    rig.run(BatchBuilder::new(0).admin(1, AdminOp::Shrink));
    assert!(matches!(rig.answer(1), AdminAnswer::Failed(_)));
    assert!(rig.run(BatchBuilder::new(0).insert(2, "bob", "two")).outcome().inserts);
    assert!(rig.events().contains(&StoreEvent::Recovered));
    assert_eq!(rig.reopen().ids(), [1, 2]);
}
