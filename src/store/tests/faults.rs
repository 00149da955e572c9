//! Commits that fail, disks that are full: what was said must be true afterwards.

use rusqlite::ffi::{SQLITE_FULL, SQLITE_IOERR_FSYNC, SQLITE_IOERR_READ};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::store::{cycle, recovery};

/// Fails at the given visits of a point, counted from 0.
fn failing(at: Point, visits: &'static [usize], code: i32) -> impl FnMut(Point) -> Option<i32> + Send + 'static {
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
fn switched(at: Point, code: i32) -> (Arc<AtomicBool>, impl FnMut(Point) -> Option<i32> + Send + 'static) {
    let switch = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&switch);
    (switch, move |point| (point == at && seen.load(Ordering::SeqCst)).then_some(code))
}

const REFUSED: Outcome = Outcome { inserts: false, no_room: false, deletes: true, epoch: 1 };
/// The same, because the disk is full.
const NO_ROOM: Outcome = Outcome { no_room: true, ..REFUSED };

/// The second transaction fails at `point`, with an unknown outcome.
fn unknown_outcome(point: Point) {
    let mut rig = Rig::faulty(failing(point, &[1], SQLITE_IOERR_FSYNC));
    let first = Build::new(0).insert(1, "bob", "kept").insert(2, "bob", "read").insert(3, "bob", "forgotten");
    assert!(rig.go(first).outcome().inserts);
    let login = Op::LoggedIn { name: name("al"), from: HOME, at: 9, rehash: None };
    let batch = Build::new(0)
        .insert(4, "bob", "in doubt")
        .delete(2)
        .forget(3)
        .user(1, "al", "hash")
        .user(2, "al", "other")
        .op(login)
        .lookup("al");
    let came = rig.go(batch);
    assert_eq!(came.outcome(), REFUSED);
    assert!(matches!((&came.admin[&1], &came.admin[&2]), (AdminAnswer::Done, AdminAnswer::Exists)));
    let record = came.logins[0].clone().expect("readable").expect("exists");
    assert_eq!((record.hash.as_str(), record.known_address), ("hash", true));
    assert!(matches!(rig.events()[..], [StoreEvent::CommitFailed(_), StoreEvent::Recovered]));
    // The lock was kept while the file was closed.
    assert_eq!(Store::open(&rig.path()).err().expect("is held").kind, crate::store::OpenErrorKind::Busy);

    // What was sent behind the failure is refused, its other work is done.
    let came = rig.go(Build::new(0).insert(5, "bob", "behind").delete(1));
    assert_eq!(came.outcome(), REFUSED);
    let came = rig.go(Build::new(1).insert(6, "bob", "after"));
    assert_eq!(came.outcome(), Outcome { inserts: true, no_room: false, deletes: true, epoch: 1 });
    let rig = rig.reopen();
    assert_eq!(rig.ids(), [6]);
    assert_eq!(rig.users, [name("al")]);
}

#[test]
fn a_commit_that_failed_and_is_not_there_leaves_nothing() {
    unknown_outcome(Point::Commit);
}

#[test]
fn a_commit_that_failed_and_is_there_leaves_nothing() {
    unknown_outcome(Point::Committed);
}

#[test]
fn what_was_removed_in_a_commit_in_doubt_stays_removed() {
    let mut rig = Rig::faulty(failing(Point::Committed, &[1], SQLITE_IOERR_FSYNC));
    rig.go(Build::new(0).user(1, "bob", "h").user(2, "al", "h").insert(1, "bob", "one").insert(2, "al", "two"));
    let remove = AdminOp::UserRemove { name: name("bob"), ids: vec![1] };
    let passwd = AdminOp::UserPasswd { name: name("al"), hash: "new".into() };
    let came = rig.go(Build::new(0).admin(1, remove).admin(2, passwd).admin(3, AdminOp::Purge { ids: vec![2] }));
    assert!((1..=3).all(|r| matches!(came.admin[&r], AdminAnswer::Done)));
    assert_eq!(came.outcome(), Outcome { inserts: true, no_room: false, deletes: true, epoch: 0 });
    let came = rig.go(Build::new(0).lookup("al"));
    assert_eq!(came.logins[0].clone().expect("readable").expect("exists").hash, "new");
    let rig = rig.reopen();
    assert_eq!((rig.users.clone(), rig.ids()), (vec![name("al")], vec![]));
}

#[test]
fn every_batch_of_a_failed_transaction_hears_of_it() {
    let (hold, held) = mpsc::channel::<()>();
    let mut visits = 0;
    let mut rig = Rig::faulty(move |point| {
        if point != Point::Commit {
            return None;
        }
        visits += 1;
        if visits == 1 {
            let _ = held.recv();
        }
        (visits == 2).then_some(SQLITE_IOERR_FSYNC)
    });
    rig.submit(Build::new(0).insert(1, "bob", "first"));
    // These wait while the first commits, and share the transaction that fails.
    while rig.writer().progress().steps() == 0 {
        std::thread::yield_now();
    }
    for id in 2..=9 {
        rig.submit(Build::new(0).insert(id, "bob", "together"));
    }
    rig.submit(Build::new(0).delete(1));
    drop(hold);
    let came = rig.collect(10);
    assert!(came.done[0].1.inserts);
    assert!(came.done[1..9].iter().all(|(_, outcome)| !outcome.inserts && outcome.epoch == 1));
    assert_eq!(came.done[9].1, Outcome { inserts: true, no_room: false, deletes: true, epoch: 1 });
    assert!(rig.reopen().ids().is_empty());
}

#[test]
fn recovery_is_tried_again_and_then_given_up() {
    let mut rig = Rig::faulty({
        let mut commit = failing(Point::Commit, &[0], SQLITE_IOERR_FSYNC);
        let mut reopen = failing(Point::Reopen, &[0, 1], SQLITE_IOERR_READ);
        move |point| commit(point).or_else(|| reopen(point))
    });
    assert_eq!(rig.go(Build::new(0).insert(1, "bob", "one")).outcome(), REFUSED);
    assert!(rig.go(Build::new(1).insert(2, "bob", "two")).outcome().inserts);
    assert_eq!(rig.reopen().ids(), [2]);

    let mut rig = Rig::faulty(failing(Point::Commit, &[1, 2, 3, 4, 5, 6], SQLITE_IOERR_FSYNC));
    const { assert!(recovery::TRIES_MAX <= 5) };
    rig.go(Build::new(0).insert(1, "bob", "one"));
    rig.submit(Build::new(0).insert(2, "bob", "two"));
    let FromStore::Broken(cause) = rig.recv() else { panic!("is not broken") };
    assert!(cause.contains("cpd.db"), "{cause}");
    let left = rig.writer.take().expect("is open").close();
    assert!(left.is_empty(), "something was answered after the end: {left:?}");
    assert_eq!(stored(&rig.folder).expect("opens"), [1]);
}

#[test]
fn an_insert_that_fails_takes_no_delete_with_it() {
    let mut rig = Rig::faulty(failing(Point::Inserts, &[1], SQLITE_FULL));
    rig.go(Build::new(0).insert(1, "bob", "one"));
    let came = rig.go(Build::new(0).insert(2, "bob", "two").delete(1).user(1, "al", "h"));
    assert_eq!(came.outcome(), NO_ROOM);
    assert!(matches!(came.admin[&1], AdminAnswer::Done));
    assert!(!rig.go(Build::new(0).insert(3, "bob", "behind")).outcome().inserts);
    assert!(rig.go(Build::new(1).insert(4, "bob", "after")).outcome().inserts);
    let rig = rig.reopen();
    assert_eq!((rig.ids(), rig.users.clone()), (vec![4], vec![name("al")]));
}

#[test]
fn an_id_that_is_in_use_harms_nothing() {
    let mut rig = Rig::new();
    rig.go(Build::new(0).insert(1, "bob", "mine"));
    assert_eq!(rig.go(Build::new(0).insert(1, "al", "theirs")).outcome(), REFUSED);
    assert_eq!(rig.go(Build::new(1).fetch(&[1])).bodies().expect("a page"), ["mine"]);
    let mut wild = Build::new(1);
    wild.0.ops.push(Op::Insert {
        session: SESSION,
        id: MessageId(u64::MAX),
        recipient: name("bob"),
        sender: name("al"),
        queued_at: 0,
        body: 5..90,
    });
    assert!(!rig.go(wild).outcome().inserts);
    assert_eq!(rig.reopen().ids(), [1]);
}

#[test]
fn a_full_disk_at_commit_refuses_inserts_alone() {
    let mut rig = Rig::faulty(failing(Point::Commit, &[1], SQLITE_FULL));
    rig.go(Build::new(0).insert(1, "bob", "one"));
    assert_eq!(rig.go(Build::new(0).insert(2, "bob", "two").delete(1)).outcome(), NO_ROOM);
    assert!(!rig.events().contains(&StoreEvent::Recovered), "nothing was in doubt");
    assert!(rig.go(Build::new(1).insert(3, "bob", "three")).outcome().inserts);
    assert_eq!(rig.reopen().ids(), [3]);
}

#[test]
fn deletes_that_fail_are_tried_until_they_succeed() {
    let (full, fault) = switched(Point::Writes, SQLITE_FULL);
    let mut rig = Rig::faulty(fault);
    rig.go(Build::new(0).insert(1, "bob", "one").insert(2, "bob", "two").insert(3, "bob", "three"));
    full.store(true, Ordering::SeqCst);
    let came = rig.go(Build::new(0).delete(1).admin(1, AdminOp::Purge { ids: vec![3] }));
    assert_eq!(came.outcome(), Outcome { inserts: true, no_room: false, deletes: false, epoch: 0 });
    assert!(matches!(came.admin[&1], AdminAnswer::Failed(_)));
    assert!(rig.events().contains(&StoreEvent::DeletesPending { count: 1 }));
    let came = rig.go(Build::new(0).insert(4, "bob", "four").forget(2));
    assert_eq!(came.outcome(), Outcome { inserts: false, no_room: true, deletes: false, epoch: 1 });
    full.store(false, Ordering::SeqCst);
    // The next transaction takes them along.
    assert!(rig.go(Build::new(1).insert(5, "bob", "five")).outcome().inserts);
    assert_eq!(rig.reopen().ids(), [3, 5]);
}

#[test]
fn deletes_that_fail_are_tried_without_a_batch() {
    let (full, fault) = switched(Point::Writes, SQLITE_FULL);
    let mut rig = Rig::faulty(fault);
    rig.go(Build::new(0).insert(1, "bob", "one").insert(2, "bob", "two"));
    full.store(true, Ordering::SeqCst);
    assert!(!rig.go(Build::new(0).delete(1)).outcome().deletes);
    full.store(false, Ordering::SeqCst);
    for _ in 0..600 {
        if rig.go(Build::new(0).fetch(&[1])).bodies().is_none() {
            assert_eq!(rig.reopen().ids(), [2]);
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("was never deleted");
}

#[test]
fn deletes_that_fail_are_tried_at_the_end() {
    let (full, fault) = switched(Point::Writes, SQLITE_FULL);
    let mut rig = Rig::faulty(fault);
    rig.go(Build::new(0).insert(1, "bob", "one").insert(2, "bob", "two"));
    full.store(true, Ordering::SeqCst);
    assert!(!rig.go(Build::new(0).delete(1)).outcome().deletes);
    full.store(false, Ordering::SeqCst);
    assert_eq!(rig.reopen().ids(), [2]);
}

#[test]
fn a_cause_is_told_once_a_round() {
    for (second, told) in [(SQLITE_FULL, 1), (SQLITE_IOERR_READ, 2)] {
        let mut codes = [SQLITE_FULL, second].into_iter().cycle();
        let mut rig = Rig::faulty(move |point| if point == Point::Writes { codes.next() } else { None });
        assert!(!rig.go(Build::new(0).delete(1)).outcome().deletes);
        let events = rig.events();
        let failures = events.iter().filter(|event| matches!(event, StoreEvent::CommitFailed(_)));
        assert_eq!(failures.count(), told, "{events:?}");
    }
}

#[test]
fn too_many_deletes_that_fail_end_it() {
    let (full, fault) = switched(Point::Writes, SQLITE_FULL);
    let mut rig = Rig::faulty(fault);
    full.store(true, Ordering::SeqCst);
    let mut batch = Build::new(0);
    for id in 0..=cycle::PENDING_MAX as u64 {
        batch = batch.delete(id + 1);
    }
    rig.submit(batch);
    assert!(matches!(rig.recv(), FromStore::Broken(_)));
}

#[test]
fn a_nearly_full_disk_takes_deletes_only() {
    let (low, fault) = switched(Point::Space, SQLITE_FULL);
    let mut rig = Rig::faulty(fault);
    rig.go(Build::new(0).insert(1, "bob", "one"));
    low.store(true, Ordering::SeqCst);
    assert_eq!(rig.go(Build::new(0).insert(2, "bob", "two").delete(1)).outcome(), NO_ROOM);
    assert_eq!(rig.go(Build::new(1).insert(3, "bob", "three")).outcome().epoch, 2);
    low.store(false, Ordering::SeqCst);
    assert!(!rig.go(Build::new(1).insert(4, "bob", "behind")).outcome().inserts);
    assert!(rig.go(Build::new(2).insert(5, "bob", "five")).outcome().inserts);
    let events = rig.events();
    assert!(matches!(events[..], [StoreEvent::DiskLow { .. }, StoreEvent::DiskOk]), "{events:?}");
    assert_eq!(rig.reopen().ids(), [5]);
}

#[test]
fn senders_are_told_of_a_full_disk_and_only_of_a_full_one() {
    for (point, code, no_room) in [
        (Point::Space, SQLITE_FULL, true),
        (Point::Inserts, SQLITE_FULL, true),
        (Point::Commit, SQLITE_FULL, true),
        (Point::Inserts, SQLITE_IOERR_READ, false),
        (Point::Commit, SQLITE_IOERR_FSYNC, false),
    ] {
        let mut rig = Rig::faulty(failing(point, &[1], code));
        assert!(rig.go(Build::new(0).insert(1, "bob", "one")).outcome().inserts);
        let refused = rig.go(Build::new(0).insert(2, "bob", "two")).outcome();
        assert_eq!((refused.inserts, refused.no_room), (false, no_room), "{code} at {point:?}");
        let after = rig.go(Build::new(refused.epoch).insert(3, "bob", "three")).outcome();
        assert!(after.inserts && !after.no_room, "{code} at {point:?}: it is over");
    }
}
