//! Failing commits and full disks: what the store has answered must be true afterwards.

use rusqlite::ffi::{SQLITE_FULL, SQLITE_IOERR_FSYNC, SQLITE_IOERR_READ};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::{recovery, round};

/// Fails at the given visits of a point, counted from 0.
fn failing(
    at: FaultPoint,
    visits: &'static [usize],
    code: i32,
) -> impl FnMut(FaultPoint) -> Option<i32> + Send + 'static {
    let mut visit = 0;
    move |point| {
        if point != at {
            return None;
        }
        visit += 1;
        visits.contains(&(visit - 1)).then_some(code)
    }
}

/// While the switch is on, every visit fails.
fn switched(at: FaultPoint, code: i32) -> (Arc<AtomicBool>, impl FnMut(FaultPoint) -> Option<i32> + Send + 'static) {
    let switch = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&switch);
    (switch, move |point| (point == at && seen.load(Ordering::SeqCst)).then_some(code))
}

const REFUSED: Outcome = Outcome { inserts: false, no_room: false, deletes: true, epoch: 1 };
/// As [`REFUSED`], because the disk is full.
const NO_ROOM: Outcome = Outcome { no_room: true, ..REFUSED };

/// The second transaction fails at `point`, with an unknown outcome.
fn unknown_outcome(point: FaultPoint) {
    let mut rig = Rig::faulty(failing(point, &[1], SQLITE_IOERR_FSYNC));
    let first = BatchBuilder::new(0).insert(1, "bob", "kept").insert(2, "bob", "read").insert(3, "bob", "forgotten");
    assert!(rig.run(first).outcome().inserts);
    let login = Op::LoggedIn { name: name("al"), from: HOME, at: 9, rehash: None };
    let batch = BatchBuilder::new(0)
        .insert(4, "bob", "in doubt")
        .delete(2)
        .forget(3)
        .user(1, "al", "hash")
        .user(2, "al", "other")
        .op(login)
        .lookup("al");
    let received = rig.run(batch);
    assert_eq!(received.outcome(), REFUSED);
    assert!(matches!((&received.admin[&1], &received.admin[&2]), (AdminAnswer::Done, AdminAnswer::Exists)));
    let record = received.logins[0].clone().expect("readable").expect("exists");
    assert_eq!((record.hash.as_str(), record.known_address), ("hash", true));
    assert!(matches!(rig.events()[..], [StoreEvent::CommitFailed(_), StoreEvent::Recovered]));
    // The lock was kept while the file was closed.
    assert_eq!(Store::open(&rig.path()).err().expect("is held").kind, crate::OpenErrorKind::Busy);

    // Inserts of a batch made before the failure was known are refused; the batch's other operations are executed.
    let received = rig.run(BatchBuilder::new(0).insert(5, "bob", "behind").delete(1));
    assert_eq!(received.outcome(), REFUSED);
    let received = rig.run(BatchBuilder::new(1).insert(6, "bob", "after"));
    assert_eq!(received.outcome(), Outcome { inserts: true, no_room: false, deletes: true, epoch: 1 });
    let rig = rig.reopen();
    assert_eq!(rig.ids(), [6]);
    assert_eq!(rig.users, [name("al")]);
}

#[test]
fn a_commit_that_failed_and_is_not_there_leaves_nothing() {
    unknown_outcome(FaultPoint::Commit);
}

#[test]
fn a_commit_that_failed_and_is_there_leaves_nothing() {
    unknown_outcome(FaultPoint::Committed);
}

#[test]
fn what_was_removed_in_a_commit_in_doubt_stays_removed() {
    let mut rig = Rig::faulty(failing(FaultPoint::Committed, &[1], SQLITE_IOERR_FSYNC));
    rig.run(BatchBuilder::new(0).user(1, "bob", "h").user(2, "al", "h").insert(1, "bob", "one").insert(2, "al", "two"));
    let remove = AdminOp::UserRemove { name: name("bob"), ids: vec![1] };
    let passwd = AdminOp::UserPasswd { name: name("al"), hash: "new".into() };
    let received =
        rig.run(BatchBuilder::new(0).admin(1, remove).admin(2, passwd).admin(3, AdminOp::Purge { ids: vec![2] }));
    assert!((1..=3).all(|r| matches!(received.admin[&r], AdminAnswer::Done)));
    assert_eq!(received.outcome(), Outcome { inserts: true, no_room: false, deletes: true, epoch: 0 });
    let received = rig.run(BatchBuilder::new(0).lookup("al"));
    assert_eq!(received.logins[0].clone().expect("readable").expect("exists").hash, "new");
    let rig = rig.reopen();
    assert_eq!((rig.users.clone(), rig.ids()), (vec![name("al")], vec![]));
}

#[test]
fn every_batch_of_a_failed_transaction_gets_its_outcome() {
    let (hold, held) = mpsc::channel::<()>();
    let mut visits = 0;
    let mut rig = Rig::faulty(move |point| {
        if point != FaultPoint::Commit {
            return None;
        }
        visits += 1;
        if visits == 1 {
            let _ = held.recv();
        }
        (visits == 2).then_some(SQLITE_IOERR_FSYNC)
    });
    rig.submit(BatchBuilder::new(0).insert(1, "bob", "first"));
    // These wait while the first commits, and share the transaction that fails.
    while rig.writer().progress().steps() == 0 {
        std::thread::yield_now();
    }
    for id in 2..=9 {
        rig.submit(BatchBuilder::new(0).insert(id, "bob", "together"));
    }
    rig.submit(BatchBuilder::new(0).delete(1));
    drop(hold);
    let received = rig.collect(10);
    assert!(received.done[0].1.inserts);
    assert!(received.done[1..9].iter().all(|(_, outcome)| !outcome.inserts && outcome.epoch == 1));
    assert_eq!(received.done[9].1, Outcome { inserts: true, no_room: false, deletes: true, epoch: 1 });
    assert!(rig.reopen().ids().is_empty());
}

#[test]
fn recovery_is_tried_again_and_then_given_up() {
    let mut rig = Rig::faulty({
        let mut commit = failing(FaultPoint::Commit, &[0], SQLITE_IOERR_FSYNC);
        let mut reopen = failing(FaultPoint::Reopen, &[0, 1], SQLITE_IOERR_READ);
        move |point| commit(point).or_else(|| reopen(point))
    });
    assert_eq!(rig.run(BatchBuilder::new(0).insert(1, "bob", "one")).outcome(), REFUSED);
    assert!(rig.run(BatchBuilder::new(1).insert(2, "bob", "two")).outcome().inserts);
    assert_eq!(rig.reopen().ids(), [2]);

    let mut rig = Rig::faulty(failing(FaultPoint::Commit, &[1, 2, 3, 4, 5, 6], SQLITE_IOERR_FSYNC));
    const { assert!(recovery::ATTEMPTS_MAX <= 5) };
    rig.run(BatchBuilder::new(0).insert(1, "bob", "one"));
    rig.submit(BatchBuilder::new(0).insert(2, "bob", "two"));
    let FromStore::Broken(cause) = rig.recv() else { panic!("is not broken") };
    assert!(cause.contains("cpd.db"), "{cause}");
    let left = rig.writer.take().expect("is open").close();
    assert!(left.is_empty(), "something was answered after the end: {left:?}");
    assert_eq!(stored(&rig.folder).expect("opens"), [1]);
}

#[test]
fn an_insert_that_fails_takes_no_delete_with_it() {
    let mut rig = Rig::faulty(failing(FaultPoint::Inserts, &[1], SQLITE_FULL));
    rig.run(BatchBuilder::new(0).insert(1, "bob", "one"));
    let received = rig.run(BatchBuilder::new(0).insert(2, "bob", "two").delete(1).user(1, "al", "h"));
    assert_eq!(received.outcome(), NO_ROOM);
    assert!(matches!(received.admin[&1], AdminAnswer::Done));
    assert!(!rig.run(BatchBuilder::new(0).insert(3, "bob", "behind")).outcome().inserts);
    assert!(rig.run(BatchBuilder::new(1).insert(4, "bob", "after")).outcome().inserts);
    let rig = rig.reopen();
    assert_eq!((rig.ids(), rig.users.clone()), (vec![4], vec![name("al")]));
}

#[test]
fn an_id_that_is_in_use_harms_nothing() {
    let mut rig = Rig::new();
    rig.run(BatchBuilder::new(0).insert(1, "bob", "mine"));
    assert_eq!(rig.run(BatchBuilder::new(0).insert(1, "al", "theirs")).outcome(), REFUSED);
    assert_eq!(rig.run(BatchBuilder::new(1).fetch(&[1])).bodies().expect("a page"), ["mine"]);
    let mut wild = BatchBuilder::new(1);
    wild.0.ops.push(Op::Insert {
        session: SESSION,
        id: MessageId(u64::MAX),
        recipient: name("bob"),
        sender: name("al"),
        queued_at: 0,
        body: 5..90,
    });
    assert!(!rig.run(wild).outcome().inserts);
    assert_eq!(rig.reopen().ids(), [1]);
}

#[test]
fn a_full_disk_at_commit_refuses_inserts_alone() {
    let mut rig = Rig::faulty(failing(FaultPoint::Commit, &[1], SQLITE_FULL));
    rig.run(BatchBuilder::new(0).insert(1, "bob", "one"));
    assert_eq!(rig.run(BatchBuilder::new(0).insert(2, "bob", "two").delete(1)).outcome(), NO_ROOM);
    assert!(!rig.events().contains(&StoreEvent::Recovered), "nothing was in doubt");
    assert!(rig.run(BatchBuilder::new(1).insert(3, "bob", "three")).outcome().inserts);
    assert_eq!(rig.reopen().ids(), [3]);
}

#[test]
fn deletes_that_fail_are_tried_until_they_succeed() {
    let (full, fault) = switched(FaultPoint::Writes, SQLITE_FULL);
    let mut rig = Rig::faulty(fault);
    rig.run(BatchBuilder::new(0).insert(1, "bob", "one").insert(2, "bob", "two").insert(3, "bob", "three"));
    full.store(true, Ordering::SeqCst);
    let received = rig.run(BatchBuilder::new(0).delete(1).admin(1, AdminOp::Purge { ids: vec![3] }));
    assert_eq!(received.outcome(), Outcome { inserts: true, no_room: false, deletes: false, epoch: 0 });
    assert!(matches!(received.admin[&1], AdminAnswer::Failed(_)));
    assert!(rig.events().contains(&StoreEvent::DeletesPending { count: 1 }));
    let received = rig.run(BatchBuilder::new(0).insert(4, "bob", "four").forget(2));
    assert_eq!(received.outcome(), Outcome { inserts: false, no_room: true, deletes: false, epoch: 1 });
    full.store(false, Ordering::SeqCst);
    // The next transaction includes the pending deletes.
    assert!(rig.run(BatchBuilder::new(1).insert(5, "bob", "five")).outcome().inserts);
    assert_eq!(rig.reopen().ids(), [3, 5]);
}

#[test]
fn pending_deletes_are_retried_without_a_batch() {
    let (full, fault) = switched(FaultPoint::Writes, SQLITE_FULL);
    let mut rig = Rig::faulty(fault);
    rig.run(BatchBuilder::new(0).insert(1, "bob", "one").insert(2, "bob", "two"));
    full.store(true, Ordering::SeqCst);
    assert!(!rig.run(BatchBuilder::new(0).delete(1)).outcome().deletes);
    full.store(false, Ordering::SeqCst);
    for _ in 0..600 {
        if rig.run(BatchBuilder::new(0).fetch(&[1])).bodies().is_none() {
            assert_eq!(rig.reopen().ids(), [2]);
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("was never deleted");
}

#[test]
fn deletes_that_fail_are_tried_at_the_end() {
    let (full, fault) = switched(FaultPoint::Writes, SQLITE_FULL);
    let mut rig = Rig::faulty(fault);
    rig.run(BatchBuilder::new(0).insert(1, "bob", "one").insert(2, "bob", "two"));
    full.store(true, Ordering::SeqCst);
    assert!(!rig.run(BatchBuilder::new(0).delete(1)).outcome().deletes);
    full.store(false, Ordering::SeqCst);
    assert_eq!(rig.reopen().ids(), [2]);
}

#[test]
fn a_cause_is_logged_once_a_round() {
    for (second, told) in [(SQLITE_FULL, 1), (SQLITE_IOERR_READ, 2)] {
        let mut codes = [SQLITE_FULL, second].into_iter().cycle();
        let mut rig = Rig::faulty(move |point| if point == FaultPoint::Writes { codes.next() } else { None });
        assert!(!rig.run(BatchBuilder::new(0).delete(1)).outcome().deletes);
        let events = rig.events();
        let failures = events.iter().filter(|event| matches!(event, StoreEvent::CommitFailed(_)));
        assert_eq!(failures.count(), told, "{events:?}");
    }
}

#[test]
fn too_many_pending_deletes_break_the_store() {
    let (full, fault) = switched(FaultPoint::Writes, SQLITE_FULL);
    let mut rig = Rig::faulty(fault);
    full.store(true, Ordering::SeqCst);
    let mut batch = BatchBuilder::new(0);
    for id in 0..=round::PENDING_DELETES_MAX as u64 {
        batch = batch.delete(id + 1);
    }
    rig.submit(batch);
    assert!(matches!(rig.recv(), FromStore::Broken(_)));
}

#[test]
fn a_nearly_full_disk_takes_deletes_only() {
    let (low, fault) = switched(FaultPoint::FreeSpace, SQLITE_FULL);
    let mut rig = Rig::faulty(fault);
    rig.run(BatchBuilder::new(0).insert(1, "bob", "one"));
    low.store(true, Ordering::SeqCst);
    assert_eq!(rig.run(BatchBuilder::new(0).insert(2, "bob", "two").delete(1)).outcome(), NO_ROOM);
    assert_eq!(rig.run(BatchBuilder::new(1).insert(3, "bob", "three")).outcome().epoch, 2);
    low.store(false, Ordering::SeqCst);
    assert!(!rig.run(BatchBuilder::new(1).insert(4, "bob", "behind")).outcome().inserts);
    assert!(rig.run(BatchBuilder::new(2).insert(5, "bob", "five")).outcome().inserts);
    let events = rig.events();
    assert!(matches!(events[..], [StoreEvent::DiskLow { .. }, StoreEvent::DiskOk]), "{events:?}");
    assert_eq!(rig.reopen().ids(), [5]);
}

#[test]
fn only_a_full_disk_is_reported_as_no_room() {
    for (point, code, no_room) in [
        (FaultPoint::FreeSpace, SQLITE_FULL, true),
        (FaultPoint::Inserts, SQLITE_FULL, true),
        (FaultPoint::Commit, SQLITE_FULL, true),
        (FaultPoint::Inserts, SQLITE_IOERR_READ, false),
        (FaultPoint::Commit, SQLITE_IOERR_FSYNC, false),
    ] {
        let mut rig = Rig::faulty(failing(point, &[1], code));
        assert!(rig.run(BatchBuilder::new(0).insert(1, "bob", "one")).outcome().inserts);
        let refused = rig.run(BatchBuilder::new(0).insert(2, "bob", "two")).outcome();
        assert_eq!((refused.inserts, refused.no_room), (false, no_room), "{code} at {point:?}");
        let after = rig.run(BatchBuilder::new(refused.epoch).insert(3, "bob", "three")).outcome();
        assert!(after.inserts && !after.no_room, "{code} at {point:?}: it is over");
    }
}
