//! Errors during operation: each is reported with its cause, affects nothing else, and has no consequences once its
//! cause is gone.

use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rusqlite::ffi::{SQLITE_CORRUPT, SQLITE_FULL, SQLITE_IOERR_FSYNC, SQLITE_IOERR_WRITE};

use super::*;
use crate::{admin_ops, row, users};

/// Points that fail while they are switched on.
#[derive(Clone, Default)]
struct Switches(Arc<[(AtomicBool, i32); 4]>);

const POINTS: [FaultPoint; 4] = [FaultPoint::Writes, FaultPoint::Commit, FaultPoint::Rollback, FaultPoint::Checkpoint];

impl Switches {
    fn rig(codes: [i32; 4]) -> (Switches, Rig) {
        let switches = Switches(Arc::new(codes.map(|code| (AtomicBool::new(false), code))));
        let seen = switches.clone();
        let fault = move |point| {
            let number = POINTS.iter().position(|known| *known == point)?;
            let (on, code) = &seen.0[number];
            on.load(Ordering::SeqCst).then_some(*code)
        };
        (switches, Rig::faulty(fault))
    }

    fn set(&self, point: FaultPoint, on: bool) {
        let number = POINTS.iter().position(|known| *known == point).expect("has a switch");
        self.0[number].0.store(on, Ordering::SeqCst);
    }
}

const CODES: [i32; 4] = [SQLITE_FULL, SQLITE_IOERR_FSYNC, SQLITE_IOERR_WRITE, SQLITE_IOERR_WRITE];

/// Waits for the next event without giving the writer anything to do.
fn next_event(rig: &Rig) -> StoreEvent {
    rig.events.recv_timeout(PATIENCE).expect("an event")
}

fn log_bytes(rig: &Rig) -> u64 {
    std::fs::metadata(rig.folder.path().join("cpd.db-wal")).expect("a log").len()
}

// ---- the log ----

#[test]
fn a_failing_checkpoint_is_reported_once_and_loses_nothing() {
    let (switches, mut rig) = Switches::rig(CODES);
    switches.set(FaultPoint::Checkpoint, true);
    rig.run(BatchBuilder::new(0).insert(1, "bob", "one"));
    let said = next_event(&rig);
    assert!(matches!(&said, StoreEvent::CheckpointFailed(cause) if cause.contains("made to fail")), "{said:?}");
    let before = rig.writer().progress().steps();
    // It is tried again each time the store is idle.
    while rig.writer().progress().steps() < before + 2 {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(rig.run(BatchBuilder::new(0).insert(2, "bob", "two").delete(1)).outcome().deletes);
    assert_eq!(rig.events(), [], "it was said again");
    assert!(log_bytes(&rig) > 0);
    switches.set(FaultPoint::Checkpoint, false);
    let file = rig.path();
    let moved = || std::fs::metadata(&file).expect("a file").mtime_nsec();
    let unmoved = moved();
    rig.run(BatchBuilder::new(0).insert(3, "bob", "three"));
    while moved() == unmoved {
        std::thread::sleep(Duration::from_millis(20));
    }
    // A failure after a success is reported again.
    switches.set(FaultPoint::Checkpoint, true);
    rig.run(BatchBuilder::new(0).insert(4, "bob", "four"));
    assert!(matches!(next_event(&rig), StoreEvent::CheckpointFailed(_)));
    switches.set(FaultPoint::Checkpoint, false);
    assert_eq!(rig.reopen().ids(), [2, 3, 4]);
}

#[test]
fn a_log_that_cannot_be_moved_at_the_end_stays_for_the_next_start() {
    let (switches, mut rig) = Switches::rig(CODES);
    rig.run(BatchBuilder::new(0).insert(1, "bob", "one"));
    switches.set(FaultPoint::Checkpoint, true);
    rig.writer.take().expect("is open").close();
    assert!(matches!(rig.events()[..], [StoreEvent::CheckpointFailed(_)]));
    assert!(log_bytes(&rig) > 0, "the log is the only one that has the message");
    assert_eq!(stored(&rig.folder).expect("opens"), [1]);
}

// ---- transactions ----

#[test]
fn pending_deletes_are_retried_while_idle() {
    let (switches, mut rig) = Switches::rig(CODES);
    rig.run(BatchBuilder::new(0).insert(1, "bob", "one").insert(2, "bob", "two"));
    switches.set(FaultPoint::Writes, true);
    assert!(!rig.run(BatchBuilder::new(0).delete(1)).outcome().deletes);
    switches.set(FaultPoint::Writes, false);
    let before = rig.writer().progress().steps();
    while rig.writer().progress().steps() < before + 3 {
        std::thread::sleep(Duration::from_millis(20));
    }
    // A read is answered before the writes of its round.
    assert_eq!(rig.run(BatchBuilder::new(0).fetch(&[1])).bodies(), None);
    assert_eq!(rig.reopen().ids(), [2]);
}

#[test]
fn deletes_that_find_no_room_have_it_in_a_log_begun_anew() {
    let (full, points) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
    let (fails, seen) = (Arc::clone(&full), Arc::clone(&points));
    let mut rig = Rig::faulty(move |at| {
        if matches!(at, FaultPoint::Writes | FaultPoint::Checkpoint) {
            seen.lock().expect("no panic").push(at);
        }
        (at == FaultPoint::Writes && fails.swap(false, Ordering::SeqCst)).then_some(SQLITE_FULL)
    });
    rig.run(BatchBuilder::new(0).insert(1, "bob", "one").insert(2, "bob", "two"));
    full.store(true, Ordering::SeqCst);
    assert!(rig.run(BatchBuilder::new(0).delete(1)).outcome().deletes);
    assert!(matches!(rig.events()[..], [StoreEvent::CommitFailed(_)]));
    let points = points.lock().expect("no panic").clone();
    assert!(
        points.windows(3).any(|three| three == [FaultPoint::Writes, FaultPoint::Checkpoint, FaultPoint::Writes]),
        "{points:?}"
    );
    assert_eq!(rig.reopen().ids(), [2]);
}

#[test]
fn pending_deletes_survive_a_recovery() {
    let (switches, mut rig) = Switches::rig(CODES);
    rig.run(BatchBuilder::new(0).insert(1, "bob", "one").insert(2, "bob", "two"));
    switches.set(FaultPoint::Writes, true);
    assert!(!rig.run(BatchBuilder::new(0).delete(1)).outcome().deletes);
    switches.set(FaultPoint::Writes, false);
    switches.set(FaultPoint::Commit, true);
    rig.submit(BatchBuilder::new(0).insert(3, "bob", "three"));
    while !matches!(next_event(&rig), StoreEvent::CommitFailed(cause) if cause.contains("1034")) {}
    switches.set(FaultPoint::Commit, false);
    let received = rig.collect(1);
    assert_eq!(received.outcome(), Outcome { inserts: false, no_room: false, deletes: true, epoch: 1 });
    assert_eq!(rig.run(BatchBuilder::new(1).fetch(&[1])).bodies(), None);
    assert_eq!(rig.reopen().ids(), [2]);
}

#[test]
fn deletes_that_fail_at_the_end_are_reported_and_their_messages_stay() {
    for (point, code) in [(FaultPoint::Commit, SQLITE_IOERR_FSYNC), (FaultPoint::Writes, SQLITE_CORRUPT)] {
        let mut writes = 0;
        let failing = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&failing);
        let mut rig = Rig::faulty(move |at| {
            let on = seen.load(Ordering::SeqCst);
            writes += u32::from(on && at == FaultPoint::Writes);
            match at {
                FaultPoint::Writes if on && writes <= 2 => Some(SQLITE_FULL),
                _ => (on && at == point && writes > 2).then_some(code),
            }
        });
        rig.run(BatchBuilder::new(0).insert(1, "bob", "one").insert(2, "bob", "two"));
        failing.store(true, Ordering::SeqCst);
        assert!(!rig.run(BatchBuilder::new(0).delete(1)).outcome().deletes);
        let before = rig.events().len();
        rig.writer.take().expect("is open").close();
        let events = rig.events();
        assert!(before > 0 && matches!(events[..], [StoreEvent::CommitFailed(_)]), "{events:?}");
        assert_eq!(stored(&rig.folder).expect("opens"), [1, 2], "a message is rather delivered twice than lost");
    }
}

#[test]
fn a_rollback_that_fails_is_recovered_from_and_everybody_is_answered() {
    let (switches, mut rig) = Switches::rig(CODES);
    rig.run(BatchBuilder::new(0).insert(1, "bob", "one").insert(2, "bob", "two"));
    switches.set(FaultPoint::Rollback, true);
    // An insert in the middle cannot be executed: its body lies outside of the batch.
    let mut batch = BatchBuilder::new(0).user(1, "al", "h").insert(3, "bob", "three").delete(1);
    batch.0.ops.push(Op::Insert {
        session: SESSION,
        id: MessageId(4),
        recipient: name("bob"),
        sender: name("al"),
        queued_at: 0,
        body: 5..900,
    });
    let remove = AdminOp::UserRemove { name: name("eve"), ids: vec![] };
    let received = rig.run(batch.user(2, "bob", "h").admin(3, remove).delete(2));
    assert_eq!(received.outcome(), REFUSED);
    assert!(matches!((&received.admin[&1], &received.admin[&2]), (AdminAnswer::Done, AdminAnswer::Done)));
    assert!(matches!(received.admin[&3], AdminAnswer::Missing));
    assert!(matches!(rig.events()[..], [StoreEvent::CommitFailed(_), StoreEvent::Recovered]));
    let rig = rig.reopen();
    assert_eq!((rig.ids(), rig.users.clone()), (vec![], vec![name("al"), name("bob")]));
}

const REFUSED: Outcome = Outcome { inserts: false, no_room: false, deletes: true, epoch: 1 };

#[test]
fn a_file_that_shows_damage_is_not_written_to_again() {
    // Without inserts, with inserts, and with inserts that were refused before.
    let damage = |point: FaultPoint, first: Option<i32>| {
        let mut visits = 0;
        Rig::faulty(move |at| {
            visits += u32::from(at == point);
            match (at == point, visits) {
                (true, 2) => first,
                (true, 3) => Some(SQLITE_CORRUPT),
                _ => None,
            }
        })
    };
    for (first, batch) in [
        (Some(SQLITE_CORRUPT), BatchBuilder::new(0).delete(1)),
        (Some(SQLITE_CORRUPT), BatchBuilder::new(0).insert(2, "bob", "two")),
        (Some(SQLITE_FULL), BatchBuilder::new(0).insert(2, "bob", "two").delete(1)),
    ] {
        let mut rig = damage(FaultPoint::Writes, first);
        rig.run(BatchBuilder::new(0).insert(1, "bob", "one"));
        rig.submit(batch);
        let FromStore::Broken(cause) = rig.recv() else { panic!("goes on") };
        assert!(cause.contains("(SQLite 11)"), "{cause}");
        // Batches are not accepted any more, and a refused batch does not count as outstanding.
        let progress = rig.writer().progress();
        while !progress.ended() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let out = progress.outstanding();
        assert_eq!(rig.writer().submit(BatchBuilder::new(0).delete(1).0).expect_err("is broken").ops.len(), 1);
        assert_eq!(progress.outstanding(), out);
        assert!(rig.writer().try_recv().is_none(), "it is said once that it is broken");
        drop(rig.writer.take());
        assert_eq!(stored(&rig.folder).expect("opens"), [1]);
    }
}

#[test]
fn a_second_failure_without_the_inserts_is_recovered_from() {
    let mut commits = 0;
    let mut rig = Rig::faulty(move |point| {
        commits += u32::from(point == FaultPoint::Commit);
        match (point, commits) {
            (FaultPoint::Commit, 2) => Some(SQLITE_FULL),
            (FaultPoint::Commit, 3) => Some(SQLITE_IOERR_FSYNC),
            _ => None,
        }
    });
    rig.run(BatchBuilder::new(0).insert(1, "bob", "one"));
    let received = rig.run(BatchBuilder::new(0).insert(2, "bob", "two").delete(1).user(1, "al", "h"));
    assert_eq!(received.outcome(), Outcome { no_room: true, ..REFUSED });
    assert!(matches!(received.admin[&1], AdminAnswer::Done));
    let rig = rig.reopen();
    assert_eq!((rig.ids(), rig.users.clone()), (vec![], vec![name("al")]));
}

#[test]
fn a_thread_that_dies_is_noticed() {
    let mut rig = Rig::faulty(|point| match point {
        FaultPoint::Commit => panic!("made to die"),
        _ => None,
    });
    rig.submit(BatchBuilder::new(0).insert(1, "bob", "one"));
    let progress = rig.writer().progress();
    while !progress.ended() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let Some(FromStore::Broken(cause)) = rig.writer().try_recv() else { panic!("goes on") };
    assert_eq!(cause, "the store's thread has ended");
    assert!(rig.writer().try_recv().is_none());
}

#[test]
fn numbers_out_of_range_are_refused_and_nothing_else() {
    let mut rig = Rig::new();
    let login = Op::LoggedIn { name: name("bob"), from: HOME, at: u64::MAX, rehash: None };
    rig.run(BatchBuilder::new(0).user(1, "bob", "h").insert(1, "bob", "one"));
    assert_eq!(rig.run(BatchBuilder::new(0).op(login).insert(2, "bob", "two")).outcome(), REFUSED);
    let add = AdminOp::UserAdd { name: name("al"), hash: "h".into(), at: u64::MAX };
    let received = rig.run(BatchBuilder::new(1).admin(1, add));
    assert!(matches!(&received.admin[&1], AdminAnswer::Failed(cause) if cause.contains("out of range")));
    let look = AdminOp::Messages { ids: vec![u64::MAX], bodies: true };
    let check = AdminOp::Check { after: u64::MAX, limit: 1 };
    let received = rig.run(BatchBuilder::new(1).admin(1, look).admin(2, check).fetch(&[u64::MAX]).fetch(&[1]));
    assert!([1, 2].iter().all(|n| matches!(&received.admin[n], AdminAnswer::Failed(cause) if cause.contains("range"))));
    assert!(received.pages[0].is_none() && received.pages[1].is_some());
    let mut wild = BatchBuilder::new(1);
    wild.0.ops.push(Op::Fetch { session: SESSION, download: 7, ids: 3..9 });
    assert_eq!(rig.run(wild).bodies(), None);
    let read_failed = |event: &StoreEvent| matches!(event, StoreEvent::ReadFailed(_));
    assert_eq!(rig.events().iter().filter(|event| read_failed(event)).count(), 2);
    assert_eq!(rig.reopen().ids(), [1]);
}

// ---- rows ----

#[test]
fn a_message_missing_between_others_is_named() {
    let mut rig = Rig::new();
    rig.run(BatchBuilder::new(0).insert(1, "bob", "one").insert(2, "bob", "two").insert(3, "bob", "three"));
    rig.run(BatchBuilder::new(0).delete(2));
    assert_eq!(rig.run(BatchBuilder::new(0).fetch(&[1, 2, 3])).bodies(), None, "half a page");
    assert_eq!(rig.events(), [StoreEvent::DamagedRow("message 2 is missing".into())]);
    assert_eq!(rig.run(BatchBuilder::new(0).fetch(&[1, 3])).bodies().expect("a page"), ["one", "three"]);
}

/// A closed store whose rows were changed by other means than cpd: its folder, a connection, and its locked files.
fn changed(changes: &str) -> (TempDir, rusqlite::Connection, crate::files::StoreFiles) {
    let mut rig = Rig::new();
    let login = Op::LoggedIn { name: name("bob"), from: HOME, at: 9, rehash: None };
    let mut batch = BatchBuilder::new(0).user(1, "bob", "hash").op(login);
    for id in 1..=300 {
        batch = batch.insert(id, "bob", "a letter of some length, so that there is more than one page of them");
    }
    rig.run(batch);
    let folder = rig.close();
    let path = folder.path().join("cpd.db");
    let connection = rusqlite::Connection::open(&path).expect("opens");
    connection.execute_batch(changes).expect("changes");
    let place = crate::files::StoreFiles::acquire(&path, 1, &mut || true).expect("locks");
    (folder, connection, place)
}

#[test]
fn damaged_rows_are_left_out_and_named() {
    let (_folder, connection, place) =
        changed("UPDATE message SET body = 'other' WHERE id = 2; UPDATE seen SET at = 10; UPDATE meta SET value = 1");
    let named = std::cell::RefCell::new(Vec::new());
    let look = AdminOp::Messages { ids: vec![1, 2, 3], bodies: false };
    let answer = admin_ops::read(&connection, &place, &look, &|what| named.borrow_mut().push(what));
    let AdminAnswer::Messages(rows) = answer else { panic!("{answer:?}") };
    assert_eq!(rows.iter().map(|row| row.id.0).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(named.take(), ["message 2 does not match its checksum"]);
    let answer = admin_ops::read(&connection, &place, &AdminOp::Check { after: 0, limit: 1000 }, &|_| ());
    let AdminAnswer::Checked { damaged, rows, next: None } = answer else { panic!("{answer:?}") };
    assert_eq!(damaged.len(), 3, "{damaged:?}");
    assert!(damaged[0].contains("an address of user \"bob\""), "{damaged:?}");
    assert!(damaged[1].contains("used message ids") && damaged[2].contains("message 2"), "{damaged:?}");
    assert_eq!(rows, 1 + 1 + 300);
    let refused =
        users::login_record(&connection, name("bob"), HOME.into()).expect_err("an address that nobody logged in from");
    assert!(refused.text().contains("an address of user bob"));
}

#[test]
fn an_administrator_cannot_change_a_damaged_user() {
    let (folder, connection, place) = changed("");
    drop(place);
    drop(connection);
    let mut rig = Rig::start(folder, |_| None);
    // The row is damaged after the start; this is a copy of the running store.
    let (folder, users) = (rig.folder.path().to_owned(), rig.users.clone());
    assert_eq!(users, [name("bob")]);
    let copy = tempfile::tempdir().expect("a folder");
    rig.run(BatchBuilder::new(0).delete(300));
    for suffix in ["", "-wal"] {
        let file = format!("cpd.db{suffix}");
        std::fs::copy(folder.join(&file), copy.path().join(&file)).expect("copies");
    }
    let connection = rusqlite::Connection::open(copy.path().join("cpd.db")).expect("opens");
    connection.execute("UPDATE user SET locked = 1", []).expect("changes");
    let mut hot = crate::hot_statements::HotStatements::prepare(&connection).expect("prepares");
    let unlock = AdminOp::UserLock { name: name("bob"), locked: false };
    let answer = admin_ops::write(&connection, &mut hot, &unlock).expect("the transaction can go on");
    assert!(matches!(&answer, AdminAnswer::Failed(cause) if cause.contains("user \"bob\"")), "{answer:?}");
    assert_eq!(connection.query_row("SELECT locked FROM user", [], |row| row.get(0)), Ok(1), "it was written");
}

#[test]
fn a_check_that_meets_a_damaged_tree_says_so() {
    let (folder, connection, place) = changed("");
    let path = folder.path().join("cpd.db");
    let leaf: i64 =
        connection.query_row("SELECT max(rootpage) + 2 FROM sqlite_schema", [], |row| row.get(0)).expect("a page");
    drop(connection);
    let mut bytes = std::fs::read(&path).expect("reads");
    // The type byte of a page after the root pages: a leaf of the B-tree of the messages.
    bytes[(leaf as usize - 1) * 4096] = 0xff;
    std::fs::write(&path, bytes).expect("writes");
    let connection = rusqlite::Connection::open(&path).expect("opens");
    let answer = admin_ops::read(&connection, &place, &AdminOp::Check { after: 0, limit: 1000 }, &|_| ());
    let AdminAnswer::Checked { damaged, next: None, .. } = &answer else { panic!("{answer:?}") };
    assert!(damaged.iter().any(|what| what.starts_with("the file's structure after message 0")), "{damaged:?}");
    // A missing table is not listed as damage: the request fails.
    let (_folder, connection, place) = changed("DROP TABLE meta");
    let answer = admin_ops::read(&connection, &place, &AdminOp::Check { after: 0, limit: 1000 }, &|_| ());
    assert!(matches!(&answer, AdminAnswer::Failed(cause) if cause.contains("meta")), "{answer:?}");
}

#[test]
fn rows_that_no_store_writes_are_refused_with_right_checksums_too() {
    let insert = |id: u64, recipient: &str, body: &str| {
        let sum = row::message_sum(id, recipient.as_bytes(), b"ann", 7, body.as_bytes());
        format!("INSERT INTO message VALUES({id}, '{recipient}', 'ann', 7, {sum}, '{body}')")
    };
    let cases = [
        (insert(400, "no such name", "text"), "message 400 has an impossible name"),
        (insert(400, "bob", &"x".repeat(70_000)), "message 400 is too long"),
    ];
    for (change, said) in cases {
        let (_folder, connection, _place) = changed(&change);
        let mut count = 0;
        let refused = row::each_message(&connection, |_| count += 1).expect_err("was read");
        assert_eq!((refused.text().as_str(), count), (said, 300));
    }
}
