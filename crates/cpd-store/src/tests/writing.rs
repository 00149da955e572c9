//! What is written can be read: messages, users, their order, and reads after writes.

use super::*;
use crate::{BATCHES_MAX, admin_ops, users};

const GOOD: Outcome = Outcome { inserts: true, no_room: false, deletes: true, epoch: 0 };

#[test]
fn a_message_is_stored_fetched_and_deleted() {
    let mut rig = Rig::new();
    assert_eq!(rig.next_id, 1);
    assert_eq!(rig.run(BatchBuilder::new(0).insert(1, "bob", "one").insert(2, "bob", "zwölf\t✓")).outcome(), GOOD);
    let received = rig.run(BatchBuilder::new(0).fetch(&[2, 1]));
    assert_eq!(received.bodies().expect("a page"), ["zwölf\t✓", "one"]);
    assert_eq!(received.outcome(), GOOD);
    let sender = received.pages[0].as_ref().expect("a page").messages[0].sender;
    assert_eq!(sender, name("ann"));

    let mut rig = rig.reopen();
    assert_eq!(rig.ids(), [1, 2]);
    let second = rig.loaded[1];
    assert_eq!((second.recipient, second.sender, second.queued_at, second.bytes), (name("bob"), name("ann"), 1002, 10));
    assert_eq!(rig.run(BatchBuilder::new(0).delete(1).forget(2)).outcome(), GOOD);
    assert!(rig.reopen().ids().is_empty());
}

#[test]
fn a_page_with_a_missing_message_is_none() {
    let mut rig = Rig::new();
    rig.run(BatchBuilder::new(0).insert(1, "bob", "one"));
    let received = rig.run(BatchBuilder::new(0).fetch(&[1, 3]));
    assert!(received.bodies().is_none());
    assert!(matches!(rig.events()[..], [StoreEvent::DamagedRow(_)]));
}

#[test]
fn ids_are_not_used_again_after_a_restart() {
    let mut rig = Rig::new();
    rig.run(BatchBuilder::new(0).insert(1, "bob", "one").delete(1));
    let rig = rig.reopen();
    assert!(rig.ids().is_empty());
    assert_eq!(rig.next_id, 65_536);
    let mut rig = rig.reopen();
    assert_eq!(rig.next_id, 65_536, "a start alone uses no ids up");
    rig.run(BatchBuilder::new(0).insert(65_536, "bob", "next"));
    assert_eq!(rig.reopen().next_id, 131_072);
}

#[test]
fn batches_come_back_whole_and_in_order() {
    let mut rig = Rig::new();
    for id in 1..=40 {
        rig.submit(if id % 3 == 0 {
            BatchBuilder::new(0).fetch(&[])
        } else {
            BatchBuilder::new(0).insert(id, "bob", "text")
        });
    }
    let received = rig.collect(40);
    for (at, (batch, outcome)) in received.done.iter().enumerate() {
        let id = at as u64 + 1;
        match &batch.ops[..] {
            [Op::Fetch { .. }] => assert_eq!(id % 3, 0),
            [Op::Insert { id: found, .. }] => assert_eq!(found.0, id),
            other => panic!("unexpected {other:?}"),
        }
        assert_eq!(*outcome, GOOD);
    }
    assert_eq!(rig.writer().outstanding(), 0);
    assert_eq!(rig.writer().progress().outstanding(), 0);
}

#[test]
fn more_batches_than_agreed_are_handed_back() {
    let (hold, held) = mpsc::channel::<()>();
    let mut rig = Rig::faulty(move |point| {
        if point == FaultPoint::Commit {
            let _ = held.recv();
        }
        None
    });
    for id in 0..BATCHES_MAX as u64 {
        rig.submit(BatchBuilder::new(0).insert(id + 1, "bob", "text"));
    }
    let refused = rig.writer().submit(BatchBuilder::new(0).insert(999, "bob", "text").0).expect_err("is one too many");
    assert_eq!(refused.ops.len(), 1);
    let progress = rig.writer().progress();
    assert_eq!(progress.outstanding(), BATCHES_MAX as u64);
    let before = progress.steps();
    drop(hold);
    assert_eq!(rig.collect(BATCHES_MAX).done.len(), BATCHES_MAX);
    assert!(progress.steps() > before);
    rig.submit(BatchBuilder::new(0));
    rig.collect(1);
}

#[test]
fn close_finishes_what_was_submitted() {
    let mut rig = Rig::new();
    for id in 1..=50 {
        rig.submit(BatchBuilder::new(0).insert(id, "bob", "text"));
    }
    let left = rig.writer.take().expect("is open").close();
    let done = left.iter().filter(|r| matches!(r, FromStore::Done(_, o) if *o == GOOD)).count();
    assert_eq!(done, 50);
    let log = std::fs::metadata(rig.folder.path().join("cpd.db-wal")).expect("is kept");
    assert_eq!(log.len(), 0, "what was in the log stayed behind");
    assert_eq!(stored(&rig.folder).expect("opens").len(), 50);
}

#[test]
fn users_are_added_changed_and_removed() {
    let mut rig = Rig::new();
    let received =
        rig.run(BatchBuilder::new(0).user(1, "bob", "h1").user(2, "bob", "h2").user(3, "Al", "h3").lookup("bob"));
    assert!(matches!(received.admin[&1], AdminAnswer::Done));
    assert!(matches!(received.admin[&2], AdminAnswer::Exists));
    let login = received.logins[0].clone().expect("readable").expect("exists");
    assert_eq!((login.hash.as_str(), login.locked, login.known_address), ("h1", false, false));

    let lock = |locked| AdminOp::UserLock { name: name("bob"), locked };
    let passwd = |user: &str| AdminOp::UserPasswd { name: name(user), hash: "h9".into() };
    let received = rig
        .run(BatchBuilder::new(0).admin(1, lock(true)).admin(2, passwd("bob")).admin(3, passwd("eve")).lookup("bob"));
    assert!(matches!((&received.admin[&1], &received.admin[&2]), (AdminAnswer::Done, AdminAnswer::Done)));
    assert!(matches!(received.admin[&3], AdminAnswer::Missing));
    let login = received.logins[0].clone().expect("readable").expect("exists");
    assert_eq!((login.hash.as_str(), login.locked), ("h9", true), "the read came before the writes");

    rig.run(BatchBuilder::new(0).insert(1, "bob", "one").insert(2, "Al", "two"));
    let mut rig = rig.reopen();
    assert_eq!(rig.users, [name("Al"), name("bob")]);
    let remove = |user: &str| AdminOp::UserRemove { name: name(user), ids: vec![1] };
    let received = rig.run(BatchBuilder::new(0).admin(1, remove("eve")).admin(2, remove("bob")).lookup("bob"));
    assert!(matches!((&received.admin[&1], &received.admin[&2]), (AdminAnswer::Missing, AdminAnswer::Done)));
    assert!(matches!(received.logins[0], Ok(None)));
    let rig = rig.reopen();
    assert_eq!(rig.users, [name("Al")]);
    assert_eq!(rig.ids(), [2]);
}

#[test]
fn a_login_is_remembered_with_its_address() {
    let mut rig = Rig::new();
    rig.run(BatchBuilder::new(0).user(1, "bob", "old"));
    let login = |from, at, rehash: Option<(&str, &str)>| Op::LoggedIn {
        name: name("bob"),
        from,
        at,
        rehash: rehash.map(|(old, new)| Box::new((old.to_owned(), new.to_owned()))),
    };
    let received = rig.run(BatchBuilder::new(0).op(login(HOME, 50, Some(("wrong", "bad")))).lookup("bob"));
    let record = received.logins[0].clone().expect("readable").expect("exists");
    assert_eq!((record.hash.as_str(), record.known_address), ("old", true));
    let received = rig.run(BatchBuilder::new(0).op(login(HOME, 51, Some(("old", "new")))).lookup("bob"));
    assert_eq!(received.logins[0].clone().expect("readable").expect("exists").hash, "new");
    // Sixteen newer addresses displace the first one; the oldest of the sixteen stays.
    for at in 0..u64::from(users::ADDRESSES_PER_USER_MAX) {
        rig.run(BatchBuilder::new(0).op(login(AddressKey::V6(at), 100 + at, None)));
    }
    let look = |from| Op::Lookup { session: SESSION, name: name("bob"), from: Origin::from(from) };
    let mut rig = rig.reopen();
    let received =
        rig.run(BatchBuilder::new(0).op(look(HOME)).op(look(AddressKey::V6(0))).op(look(AddressKey::Local(0))));
    let known: Vec<bool> =
        received.logins.iter().map(|l| l.clone().expect("readable").expect("exists").known_address).collect();
    assert_eq!(known, [false, true, false]);
    let received = rig.run(BatchBuilder::new(0).admin(1, AdminOp::User { name: name("bob") }));
    let AdminAnswer::Users(rows) = &received.admin[&1] else { panic!("no row") };
    assert_eq!((rows[0].created, rows[0].last_login), (5, Some(115)));
}

/// cpd 0.1.0 identified clients behind a NAT64 and 6to4 clients by their /64, and stored that as text.
#[test]
fn addresses_in_the_form_of_0_1_0_are_still_known() {
    let mut rig = Rig::new();
    for (request, user) in (1..).zip(["nat", "sixto", "new"]) {
        rig.run(BatchBuilder::new(0).user(request, user, "hash"));
    }
    let folder = rig.close();
    let connection = rusqlite::Connection::open(folder.path().join("cpd.db")).expect("opens");
    for (user, address) in [("nat", "64:ff9b::/64"), ("sixto", "2002:c000:201:7::/64"), ("new", "192.0.2.1")] {
        users::write_seen(&connection, user, address, 50).expect("writes");
    }
    drop(connection);
    let mut rig = Rig::start(folder, |_| None);
    let mut known = |user: &str, address: &str| {
        let from = Origin::of(address.parse().expect("an address"));
        let received = rig.run(BatchBuilder::new(0).op(Op::Lookup { session: SESSION, name: name(user), from }));
        received.logins[0].clone().expect("readable").expect("exists").known_address
    };
    let table = [
        // The addresses that 0.1.0 stored.
        ("nat", "64:ff9b::192.0.2.1", true),
        ("sixto", "2002:c000:201:7::1", true),
        // To 0.1.0, all clients behind a NAT64 were one.
        ("nat", "64:ff9b::198.51.100.9", true),
        // Another /64 of the same 6to4 client, the IPv4 client behind it, a stranger.
        ("sixto", "2002:c000:201:8::1", false),
        ("sixto", "192.0.2.1", false),
        ("sixto", "2002:c633:6409:7::1", false),
        ("nat", "2002:c000:201:7::1", false),
        // The addresses that this version stores, in each notation.
        ("new", "192.0.2.1", true),
        ("new", "::ffff:192.0.2.1", true),
        ("new", "64:ff9b::192.0.2.1", true),
        ("new", "2002:c000:201:9::1", true),
    ];
    let found: Vec<_> = table.iter().map(|(user, address, _)| (*user, *address, known(user, address))).collect();
    assert_eq!(found, table);
}

#[test]
fn recording_a_login_does_not_recreate_a_removed_user() {
    let mut rig = Rig::new();
    let op = Op::LoggedIn { name: name("bob"), from: HOME, at: 1, rehash: None };
    assert_eq!(rig.run(BatchBuilder::new(0).op(op)).outcome(), GOOD);
    assert!(rig.reopen().users.is_empty());
}

#[test]
fn lists_come_in_pages() {
    let mut rig = Rig::new();
    let mut batch = BatchBuilder::new(0);
    for (at, user) in ["a", "B", "c", "d"].iter().enumerate() {
        batch = batch.user(at as u64, user, "h");
    }
    rig.run(batch.insert(1, "a", "one").insert(2, "a", "two").insert(3, "a", "three"));
    let list = |after: Option<&str>, limit| AdminOp::Users { after: after.map(name), limit };
    let received = rig.run(
        BatchBuilder::new(0)
            .admin(1, list(None, 3))
            .admin(2, list(Some("c"), 3))
            .admin(3, AdminOp::Messages { ids: vec![3, 9, 1], bodies: true })
            .admin(4, AdminOp::Messages { ids: vec![2], bodies: false })
            .admin(5, AdminOp::User { name: name("zed") })
            .admin(6, AdminOp::Size),
    );
    let names = |answer: &AdminAnswer| match answer {
        AdminAnswer::Users(rows) => rows.iter().map(|r| r.name.to_string()).collect::<Vec<_>>(),
        other => panic!("unexpected {other:?}"),
    };
    assert_eq!(names(&received.admin[&1]), ["B", "a", "c"]);
    assert_eq!(names(&received.admin[&2]), ["d"]);
    let AdminAnswer::Messages(rows) = &received.admin[&3] else { panic!("no messages") };
    let shown: Vec<_> = rows.iter().map(|r| (r.id.0, r.bytes, r.body.as_deref())).collect();
    assert_eq!(shown, [(3, 5, Some("three")), (1, 3, Some("one"))]);
    let AdminAnswer::Messages(rows) = &received.admin[&4] else { panic!("no messages") };
    assert_eq!((rows[0].queued_at, rows[0].bytes, rows[0].body.as_deref()), (1002, 3, None));
    assert!(matches!(received.admin[&5], AdminAnswer::Missing));
    assert!(matches!(received.admin[&6], AdminAnswer::Size { bytes } if bytes >= 4096));
}

#[test]
fn an_administrator_reads_what_the_same_batch_wrote() {
    let mut rig = Rig::new();
    rig.run(BatchBuilder::new(0).insert(1, "bob", "one"));
    let look = || AdminOp::Messages { ids: vec![1, 2], bodies: false };
    let purge = AdminOp::Purge { ids: vec![1] };
    let received =
        rig.run(BatchBuilder::new(0).admin(1, look()).insert(2, "bob", "two").admin(2, purge).admin(3, look()));
    let ids = |answer: &AdminAnswer| match answer {
        AdminAnswer::Messages(rows) => rows.iter().map(|r| r.id.0).collect::<Vec<_>>(),
        other => panic!("unexpected {other:?}"),
    };
    assert_eq!(ids(&received.admin[&1]), [1]);
    assert_eq!(ids(&received.admin[&3]), [2]);
    assert!(matches!(received.admin[&2], AdminAnswer::Done));
}

#[test]
fn a_check_counts_every_row_and_goes_on() {
    let mut rig = Rig::new();
    let login = Op::LoggedIn { name: name("bob"), from: HOME, at: 1, rehash: None };
    rig.run(
        BatchBuilder::new(0)
            .user(1, "bob", "h")
            .op(login)
            .insert(1, "bob", "a")
            .insert(2, "bob", "b")
            .insert(5, "bob", "c"),
    );
    let mut after = 0;
    let mut counts = Vec::new();
    loop {
        let received = rig.run(BatchBuilder::new(0).admin(1, AdminOp::Check { after, limit: 2 }));
        let AdminAnswer::Checked { rows, damaged, next } = &received.admin[&1] else { panic!("not checked") };
        assert!(damaged.is_empty(), "{damaged:?}");
        counts.push(*rows);
        match next {
            Some(next) => after = *next,
            None => break,
        }
    }
    assert_eq!(counts, [5, 1], "a user, an address, the record of ids and two messages; then the third");
}

#[test]
fn damaged_rows_are_found_while_running() {
    let mut rig = Rig::new();
    rig.run(BatchBuilder::new(0).user(1, "bob", "hash").insert(1, "bob", "first one").insert(2, "bob", "second one"));
    // Two writes that bypass the checksums.
    let folder = rig.close();
    let connection = rusqlite::Connection::open(folder.path().join("cpd.db")).expect("opens");
    connection.execute("UPDATE message SET body = 'sEcond one' WHERE id = 2", []).expect("writes");
    connection.execute("UPDATE user SET locked = 1", []).expect("writes");
    let limit = admin_ops::CHECK_MAX_ROWS;
    let place = crate::files::StoreFiles::acquire(&folder.path().join("cpd.db"), 1, &mut || true).expect("locks");
    let answer = admin_ops::read(&connection, &place, &AdminOp::Check { after: 0, limit }, &|_| ());
    let AdminAnswer::Checked { damaged, next: None, .. } = answer else { panic!("not checked: {answer:?}") };
    assert_eq!(damaged.len(), 2, "{damaged:?}");
    assert!(damaged[0].contains("bob") && damaged[1].contains("message 2"), "{damaged:?}");
    assert!(matches!(
        admin_ops::read(&connection, &place, &AdminOp::User { name: name("bob") }, &|_| ()),
        AdminAnswer::Failed(_)
    ));
    let refused = users::login_record(&connection, name("bob"), HOME.into());
    assert!(refused.is_err(), "a locked flag that nobody set was believed");
    for unknown in ["ann", "bo", "bobby", "zed"] {
        let other = users::login_record(&connection, name(unknown), HOME.into());
        assert!(matches!(other, Ok(None)), "{unknown} is answered for bob: {other:?}");
    }
}

#[test]
fn a_login_finds_its_own_user_and_no_neighbour() {
    let mut rig = Rig::new();
    for unknown in ["a", "bob"] {
        assert!(rig.run(BatchBuilder::new(0).lookup(unknown)).logins[0].clone().expect("readable").is_none());
    }
    rig.run(BatchBuilder::new(0).user(1, "bob", "of bob").user(2, "dan", "of dan"));
    let table = [("a", None), ("bo", None), ("bob", Some("of bob")), ("bobb", None), ("d", None)];
    for (user, hash) in table.into_iter().chain([("dan", Some("of dan")), ("dann", None), ("z", None)]) {
        let found = rig.run(BatchBuilder::new(0).lookup(user)).logins[0].clone().expect("readable");
        assert_eq!(found.as_ref().map(|record| record.hash.as_str()), hash, "{user}");
    }
}

#[test]
fn addresses_that_are_known_are_loaded_in_the_order_of_their_last_logins() {
    let mut rig = Rig::new();
    rig.run(BatchBuilder::new(0).user(1, "ann", "h").user(2, "bob", "h"));
    let (v4, v6, local) = (AddressKey::V4(0xc000_0201), AddressKey::V6(0x2001_0db8_0000_0001), AddressKey::Local(1000));
    for (name, from, at) in [("ann", v6, 30), ("ann", v4, 10), ("bob", v4, 40), ("bob", local, 20)] {
        let op = Op::LoggedIn { name: self::name(name), from, at, rehash: None };
        rig.run(BatchBuilder::new(0).op(op));
    }
    let folder = rig.close();
    let mut store = Store::open(&folder.path().join("cpd.db")).expect("opens");
    assert_eq!(store.load(|_| (), |_| ()).expect("loads").known_addresses, [local, v6, v4]);
}
