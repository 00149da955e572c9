//! Errors in the middle of things: each is said with its cause, harms nothing beside it, and is over when it is over.

use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rusqlite::ffi::{SQLITE_CORRUPT, SQLITE_FULL, SQLITE_IOERR_FSYNC, SQLITE_IOERR_WRITE};

use super::*;
use crate::store::{admin, row, users};

/// Points that fail while they are switched on.
#[derive(Clone, Default)]
struct Switches(Arc<[(AtomicBool, i32); 4]>);

const POINTS: [Point; 4] = [Point::Writes, Point::Commit, Point::Rollback, Point::Checkpoint];

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

    fn set(&self, point: Point, on: bool) {
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
fn a_checkpoint_that_fails_is_said_once_and_loses_nothing() {
    let (switches, mut rig) = Switches::rig(CODES);
    switches.set(Point::Checkpoint, true);
    rig.go(Build::new(0).insert(1, "bob", "one"));
    let said = next_event(&rig);
    assert!(matches!(&said, StoreEvent::CheckpointFailed(cause) if cause.contains("made to fail")), "{said:?}");
    let before = rig.writer().progress().steps();
    // It is tried again with each silence.
    while rig.writer().progress().steps() < before + 2 {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(rig.go(Build::new(0).insert(2, "bob", "two").delete(1)).outcome().deletes);
    assert_eq!(rig.events(), [], "it was said again");
    assert!(log_bytes(&rig) > 0);
    switches.set(Point::Checkpoint, false);
    let file = rig.path();
    let moved = || std::fs::metadata(&file).expect("a file").mtime_nsec();
    let unmoved = moved();
    rig.go(Build::new(0).insert(3, "bob", "three"));
    while moved() == unmoved {
        std::thread::sleep(Duration::from_millis(20));
    }
    // The next failure is news.
    switches.set(Point::Checkpoint, true);
    rig.go(Build::new(0).insert(4, "bob", "four"));
    assert!(matches!(next_event(&rig), StoreEvent::CheckpointFailed(_)));
    switches.set(Point::Checkpoint, false);
    assert_eq!(rig.reopen().ids(), [2, 3, 4]);
}

#[test]
fn a_log_that_cannot_be_moved_at_the_end_stays_for_the_next_start() {
    let (switches, mut rig) = Switches::rig(CODES);
    rig.go(Build::new(0).insert(1, "bob", "one"));
    switches.set(Point::Checkpoint, true);
    rig.writer.take().expect("is open").close();
    assert!(matches!(rig.events()[..], [StoreEvent::CheckpointFailed(_)]));
    assert!(log_bytes(&rig) > 0, "the log is the only one that has the message");
    assert_eq!(stored(&rig.folder).expect("opens"), [1]);
}

// ---- transactions ----

#[test]
fn deletes_are_tried_again_in_silence() {
    let (switches, mut rig) = Switches::rig(CODES);
    rig.go(Build::new(0).insert(1, "bob", "one").insert(2, "bob", "two"));
    switches.set(Point::Writes, true);
    assert!(!rig.go(Build::new(0).delete(1)).outcome().deletes);
    switches.set(Point::Writes, false);
    let before = rig.writer().progress().steps();
    while rig.writer().progress().steps() < before + 3 {
        std::thread::sleep(Duration::from_millis(20));
    }
    // A read is answered before the writes of its round.
    assert_eq!(rig.go(Build::new(0).fetch(&[1])).bodies(), None);
    assert_eq!(rig.reopen().ids(), [2]);
}

#[test]
fn deletes_that_find_no_room_have_it_in_a_log_begun_anew() {
    let (full, points) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
    let (fails, seen) = (Arc::clone(&full), Arc::clone(&points));
    let mut rig = Rig::faulty(move |at| {
        if matches!(at, Point::Writes | Point::Checkpoint) {
            seen.lock().expect("no panic").push(at);
        }
        (at == Point::Writes && fails.swap(false, Ordering::SeqCst)).then_some(SQLITE_FULL)
    });
    rig.go(Build::new(0).insert(1, "bob", "one").insert(2, "bob", "two"));
    full.store(true, Ordering::SeqCst);
    assert!(rig.go(Build::new(0).delete(1)).outcome().deletes);
    assert!(matches!(rig.events()[..], [StoreEvent::CommitFailed(_)]));
    let points = points.lock().expect("no panic").clone();
    assert!(points.windows(3).any(|three| three == [Point::Writes, Point::Checkpoint, Point::Writes]), "{points:?}");
    assert_eq!(rig.reopen().ids(), [2]);
}

#[test]
fn deletes_that_wait_are_not_forgotten_by_a_recovery() {
    let (switches, mut rig) = Switches::rig(CODES);
    rig.go(Build::new(0).insert(1, "bob", "one").insert(2, "bob", "two"));
    switches.set(Point::Writes, true);
    assert!(!rig.go(Build::new(0).delete(1)).outcome().deletes);
    switches.set(Point::Writes, false);
    switches.set(Point::Commit, true);
    rig.submit(Build::new(0).insert(3, "bob", "three"));
    while !matches!(next_event(&rig), StoreEvent::CommitFailed(cause) if cause.contains("1034")) {}
    switches.set(Point::Commit, false);
    let came = rig.collect(1);
    assert_eq!(came.outcome(), Outcome { inserts: false, no_room: false, deletes: true, epoch: 1 });
    assert_eq!(rig.go(Build::new(1).fetch(&[1])).bodies(), None);
    assert_eq!(rig.reopen().ids(), [2]);
}

#[test]
fn deletes_that_fail_at_the_end_are_said_and_their_messages_stay() {
    for (point, code) in [(Point::Commit, SQLITE_IOERR_FSYNC), (Point::Writes, SQLITE_CORRUPT)] {
        let mut writes = 0;
        let failing = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&failing);
        let mut rig = Rig::faulty(move |at| {
            let on = seen.load(Ordering::SeqCst);
            writes += u32::from(on && at == Point::Writes);
            match at {
                Point::Writes if on && writes <= 2 => Some(SQLITE_FULL),
                _ => (on && at == point && writes > 2).then_some(code),
            }
        });
        rig.go(Build::new(0).insert(1, "bob", "one").insert(2, "bob", "two"));
        failing.store(true, Ordering::SeqCst);
        assert!(!rig.go(Build::new(0).delete(1)).outcome().deletes);
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
    rig.go(Build::new(0).insert(1, "bob", "one").insert(2, "bob", "two"));
    switches.set(Point::Rollback, true);
    // The middle of it cannot be executed: its body is not in the batch.
    let mut batch = Build::new(0).user(1, "al", "h").insert(3, "bob", "three").delete(1);
    batch.0.ops.push(Op::Insert {
        session: SESSION,
        id: MessageId(4),
        recipient: name("bob"),
        sender: name("al"),
        queued_at: 0,
        body: 5..900,
    });
    let remove = AdminOp::UserRemove { name: name("eve"), ids: vec![] };
    let came = rig.go(batch.user(2, "bob", "h").admin(3, remove).delete(2));
    assert_eq!(came.outcome(), REFUSED);
    assert!(matches!((&came.admin[&1], &came.admin[&2]), (AdminAnswer::Done, AdminAnswer::Done)));
    assert!(matches!(came.admin[&3], AdminAnswer::Missing));
    assert!(matches!(rig.events()[..], [StoreEvent::CommitFailed(_), StoreEvent::Recovered]));
    let rig = rig.reopen();
    assert_eq!((rig.ids(), rig.users.clone()), (vec![], vec![name("al"), name("bob")]));
}

const REFUSED: Outcome = Outcome { inserts: false, no_room: false, deletes: true, epoch: 1 };

#[test]
fn a_file_that_shows_damage_is_not_written_to_again() {
    // With inserts and without; and with inserts that were refused already.
    let damage = |point: Point, first: Option<i32>| {
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
        (Some(SQLITE_CORRUPT), Build::new(0).delete(1)),
        (Some(SQLITE_CORRUPT), Build::new(0).insert(2, "bob", "two")),
        (Some(SQLITE_FULL), Build::new(0).insert(2, "bob", "two").delete(1)),
    ] {
        let mut rig = damage(Point::Writes, first);
        rig.go(Build::new(0).insert(1, "bob", "one"));
        rig.submit(batch);
        let FromStore::Broken(cause) = rig.recv() else { panic!("goes on") };
        assert!(cause.contains("(SQLite 11)"), "{cause}");
        // Nobody is left to take anything, and nothing counts as being under way.
        let progress = rig.writer().progress();
        while !progress.ended() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let out = progress.outstanding();
        assert_eq!(rig.writer().submit(Build::new(0).delete(1).0).expect_err("is broken").ops.len(), 1);
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
        commits += u32::from(point == Point::Commit);
        match (point, commits) {
            (Point::Commit, 2) => Some(SQLITE_FULL),
            (Point::Commit, 3) => Some(SQLITE_IOERR_FSYNC),
            _ => None,
        }
    });
    rig.go(Build::new(0).insert(1, "bob", "one"));
    let came = rig.go(Build::new(0).insert(2, "bob", "two").delete(1).user(1, "al", "h"));
    assert_eq!(came.outcome(), Outcome { no_room: true, ..REFUSED });
    assert!(matches!(came.admin[&1], AdminAnswer::Done));
    let rig = rig.reopen();
    assert_eq!((rig.ids(), rig.users.clone()), (vec![], vec![name("al")]));
}

#[test]
fn a_thread_that_dies_is_noticed() {
    let mut rig = Rig::faulty(|point| match point {
        Point::Commit => panic!("made to die"),
        _ => None,
    });
    rig.submit(Build::new(0).insert(1, "bob", "one"));
    let progress = rig.writer().progress();
    while !progress.ended() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let Some(FromStore::Broken(cause)) = rig.writer().try_recv() else { panic!("goes on") };
    assert_eq!(cause, "the store's thread has ended");
    assert!(rig.writer().try_recv().is_none());
}

#[test]
fn numbers_out_of_range_are_refused_and_nothing_beside_them() {
    let mut rig = Rig::new();
    let login = Op::LoggedIn { name: name("bob"), from: HOME, at: u64::MAX, rehash: None };
    rig.go(Build::new(0).user(1, "bob", "h").insert(1, "bob", "one"));
    assert_eq!(rig.go(Build::new(0).op(login).insert(2, "bob", "two")).outcome(), REFUSED);
    let add = AdminOp::UserAdd { name: name("al"), hash: "h".into(), at: u64::MAX };
    let came = rig.go(Build::new(1).admin(1, add));
    assert!(matches!(&came.admin[&1], AdminAnswer::Failed(cause) if cause.contains("out of range")));
    let look = AdminOp::Messages { ids: vec![u64::MAX], bodies: true };
    let check = AdminOp::Check { after: u64::MAX, limit: 1 };
    let came = rig.go(Build::new(1).admin(1, look).admin(2, check).fetch(&[u64::MAX]).fetch(&[1]));
    assert!([1, 2].iter().all(|n| matches!(&came.admin[n], AdminAnswer::Failed(cause) if cause.contains("range"))));
    assert!(came.pages[0].is_none() && came.pages[1].is_some());
    let mut wild = Build::new(1);
    wild.0.ops.push(Op::Fetch { session: SESSION, download: 7, ids: 3..9 });
    assert_eq!(rig.go(wild).bodies(), None);
    let read_failed = |event: &StoreEvent| matches!(event, StoreEvent::ReadFailed(_));
    assert_eq!(rig.events().iter().filter(|event| read_failed(event)).count(), 2);
    assert_eq!(rig.reopen().ids(), [1]);
}

// ---- rows ----

#[test]
fn a_message_missing_between_others_is_named() {
    let mut rig = Rig::new();
    rig.go(Build::new(0).insert(1, "bob", "one").insert(2, "bob", "two").insert(3, "bob", "three"));
    rig.go(Build::new(0).delete(2));
    assert_eq!(rig.go(Build::new(0).fetch(&[1, 2, 3])).bodies(), None, "half a page");
    assert_eq!(rig.events(), [StoreEvent::DamagedRow("message 2 is missing".into())]);
    assert_eq!(rig.go(Build::new(0).fetch(&[1, 3])).bodies().expect("a page"), ["one", "three"]);
}

/// A closed store, its rows changed behind its back, as a connection and its place.
fn changed(changes: &str) -> (TempDir, rusqlite::Connection, crate::store::files::Place) {
    let mut rig = Rig::new();
    let login = Op::LoggedIn { name: name("bob"), from: HOME, at: 9, rehash: None };
    let mut batch = Build::new(0).user(1, "bob", "hash").op(login);
    for id in 1..=300 {
        batch = batch.insert(id, "bob", "a letter of some length, so that there is more than one page of them");
    }
    rig.go(batch);
    let folder = rig.close();
    let path = folder.path().join("cpd.db");
    let connection = rusqlite::Connection::open(&path).expect("opens");
    connection.execute_batch(changes).expect("changes");
    let place = crate::store::files::Place::take(&path, 1, &mut || true).expect("locks");
    (folder, connection, place)
}

#[test]
fn damaged_rows_are_left_out_and_named() {
    let (_folder, connection, place) =
        changed("UPDATE message SET body = 'other' WHERE id = 2; UPDATE seen SET at = 10; UPDATE meta SET value = 1");
    let named = std::cell::RefCell::new(Vec::new());
    let look = AdminOp::Messages { ids: vec![1, 2, 3], bodies: false };
    let answer = admin::read(&connection, &place, &look, &|what| named.borrow_mut().push(what));
    let AdminAnswer::Messages(rows) = answer else { panic!("{answer:?}") };
    assert_eq!(rows.iter().map(|row| row.id.0).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(named.take(), ["message 2 does not match its checksum"]);
    let answer = admin::read(&connection, &place, &AdminOp::Check { after: 0, limit: 1000 }, &|_| ());
    let AdminAnswer::Checked { damaged, rows, next: None } = answer else { panic!("{answer:?}") };
    assert_eq!(damaged.len(), 3, "{damaged:?}");
    assert!(damaged[0].contains("an address of user \"bob\""), "{damaged:?}");
    assert!(damaged[1].contains("used message ids") && damaged[2].contains("message 2"), "{damaged:?}");
    assert_eq!(rows, 1 + 1 + 300);
    let refused =
        users::login(&connection, name("bob"), HOME.into()).expect_err("an address that nobody logged in from");
    assert!(refused.text().contains("an address of user bob"));
}

#[test]
fn an_administrator_cannot_change_a_damaged_user() {
    let (folder, connection, place) = changed("");
    drop(place);
    drop(connection);
    let mut rig = Rig::start(folder, |_| None);
    // Between the start and the change: the row of a running store.
    let (folder, users) = (rig.folder.path().to_owned(), rig.users.clone());
    assert_eq!(users, [name("bob")]);
    let copy = tempfile::tempdir().expect("a folder");
    rig.go(Build::new(0).delete(300));
    for suffix in ["", "-wal"] {
        let file = format!("cpd.db{suffix}");
        std::fs::copy(folder.join(&file), copy.path().join(&file)).expect("copies");
    }
    let connection = rusqlite::Connection::open(copy.path().join("cpd.db")).expect("opens");
    connection.execute("UPDATE user SET locked = 1", []).expect("changes");
    let mut hot = crate::store::sqlite::Hot::prepare(&connection).expect("prepares");
    let unlock = AdminOp::UserLock { name: name("bob"), locked: false };
    let answer = admin::write(&connection, &mut hot, &unlock).expect("the transaction can go on");
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
    // The kind of a page behind the roots: a leaf of the messages' tree.
    bytes[(leaf as usize - 1) * 4096] = 0xff;
    std::fs::write(&path, bytes).expect("writes");
    let connection = rusqlite::Connection::open(&path).expect("opens");
    let answer = admin::read(&connection, &place, &AdminOp::Check { after: 0, limit: 1000 }, &|_| ());
    let AdminAnswer::Checked { damaged, next: None, .. } = &answer else { panic!("{answer:?}") };
    assert!(damaged.iter().any(|what| what.starts_with("the file's structure after message 0")), "{damaged:?}");
    // A table that is not there is no damage that a check is to name, but an answer that fails.
    let (_folder, connection, place) = changed("DROP TABLE meta");
    let answer = admin::read(&connection, &place, &AdminOp::Check { after: 0, limit: 1000 }, &|_| ());
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
