use super::*;

const HERE: AddressKey = AddressKey::V4(1);

fn session(serial: u64) -> SessionId {
    SessionId { serial, slot: serial as u32 }
}

fn name(text: &str) -> Username {
    Username::parse(text.as_bytes()).expect("a name")
}

fn record(hash: &str, locked: bool) -> Option<Box<LoginRecord>> {
    Some(Box::new(LoginRecord { hash: hash.to_owned(), locked, known_address: false }))
}

fn begin(logins: &mut Logins, serial: u64, who: &str, password: &str) {
    logins.begin(session(serial), name(who), HERE, Password::parse(password.as_bytes()));
}

fn end(logins: &mut Logins, serial: u64, ok: bool) -> Option<Ended> {
    logins.end(session(serial), ok, &Limits::default(), 0)
}

/// The next verification: its session, password and hash, and whether it is throttled.
fn next(logins: &mut Logins, limits: &Limits) -> Option<(u64, String, Option<String>, bool)> {
    let (Verification { session, password, hash }, throttled) = logins.next(limits, 0)?;
    Some((session.serial, String::from_utf8_lossy(password.as_bytes()).into_owned(), hash, throttled.is_some()))
}

#[test]
fn logins_are_verified_in_the_order_in_which_they_were_looked_up() {
    let (mut logins, limits) = (Logins::default(), Limits::default());
    for serial in 1..=3 {
        begin(&mut logins, serial, "bob", "secret");
    }
    assert!(next(&mut logins, &limits).is_none(), "nothing is known of them yet");
    for serial in [2, 1, 3] {
        logins.looked_up(session(serial), record("hash", false));
    }
    for serial in [2, 1, 3] {
        assert_eq!(next(&mut logins, &limits), Some((serial, "secret".into(), Some("hash".into()), false)));
    }
    assert!(next(&mut logins, &limits).is_none());
    let ended = end(&mut logins, 1, true).expect("a login");
    assert_eq!(ended, Ended { name: name("bob"), from: HERE, ok: true, throttled: false, guessing: None });
    assert!(!end(&mut logins, 2, false).expect("a login").ok);
    assert!(end(&mut logins, 2, true).is_none(), "it has ended");
}

#[test]
fn every_login_that_must_fail_costs_the_same_work() {
    let (mut logins, limits) = (Logins::default(), Limits { failures_per_user: 1, ..Limits::default() });
    begin(&mut logins, 1, "nobody", "secret");
    logins.looked_up(session(1), None);
    assert_eq!(next(&mut logins, &limits), Some((1, "secret".into(), None, false)), "unknown");
    begin(&mut logins, 2, "locked", "secret");
    logins.looked_up(session(2), record("hash", true));
    assert_eq!(next(&mut logins, &limits), Some((2, "secret".into(), None, false)), "locked");
    logins.begin(session(3), name("bob"), HERE, None);
    logins.looked_up(session(3), record("hash", false));
    let (serial, _, hash, throttled) = next(&mut logins, &limits).expect("malformed");
    assert_eq!((serial, hash, throttled), (3, None, false));
    assert!(!end(&mut logins, 3, false).expect("a login").ok);
    // That was a failure for bob's name.
    begin(&mut logins, 4, "bob", "secret");
    logins.looked_up(session(4), record("hash", false));
    assert_eq!(next(&mut logins, &limits), Some((4, "secret".into(), None, true)), "throttled");
}

#[test]
fn an_undecided_attempt_waits_and_holds_up_no_other() {
    let (mut logins, limits) = (Logins::default(), Limits { failures_per_user: 1, ..Limits::default() });
    for (serial, who) in [(1, "bob"), (2, "bob"), (3, "eve")] {
        begin(&mut logins, serial, who, "secret");
        logins.looked_up(session(serial), record("hash", false));
    }
    assert_eq!(next(&mut logins, &limits).expect("the first").0, 1);
    assert_eq!(next(&mut logins, &limits).expect("the third").0, 3);
    assert!(next(&mut logins, &limits).is_none());
    end(&mut logins, 1, true);
    assert_eq!(next(&mut logins, &limits), Some((2, "secret".into(), Some("hash".into()), false)));
}

#[test]
fn a_changed_user_invalidates_logins_looked_up_before() {
    let (mut logins, limits) = (Logins::default(), Limits::default());
    for (serial, who) in [(1, "bob"), (2, "bob"), (3, "bob"), (4, "eve")] {
        begin(&mut logins, serial, who, "secret");
    }
    for serial in [1, 2, 4] {
        logins.looked_up(session(serial), record("old", false));
    }
    assert_eq!(next(&mut logins, &limits).expect("the first").0, 1);
    logins.invalidate(name("bob"));
    logins.looked_up(session(3), record("new", false));
    while next(&mut logins, &limits).is_some() {}
    let mut ends = |serial| end(&mut logins, serial, true).map(|ended| ended.ok);
    assert_eq!([ends(1), ends(2), ends(3), ends(4)], [Some(false), Some(false), Some(true), Some(true)]);
}

#[test]
fn a_session_that_leaves_is_forgotten_unless_its_verification_has_begun() {
    let (mut logins, limits) = (Logins::default(), Limits { failures_per_user: 1, ..Limits::default() });
    for serial in 1..=3 {
        begin(&mut logins, serial, "bob", "secret");
    }
    logins.abandon(session(1));
    logins.looked_up(session(1), record("hash", false));
    logins.looked_up(session(2), record("hash", false));
    logins.abandon(session(2));
    assert!(next(&mut logins, &limits).is_none());
    assert!(end(&mut logins, 1, true).is_none() && end(&mut logins, 2, true).is_none());
    // A guess counts even if its client does not wait for the answer.
    logins.looked_up(session(3), record("hash", false));
    assert_eq!(next(&mut logins, &limits).expect("the third").0, 3);
    logins.abandon(session(3));
    assert!(end(&mut logins, 3, false).is_some());
    begin(&mut logins, 4, "bob", "secret");
    logins.looked_up(session(4), record("hash", false));
    assert!(next(&mut logins, &limits).expect("the fourth").3, "throttled");
    assert!(logins.under_way.len() == 1 && logins.login_queue.is_empty());
}

#[test]
fn a_session_that_stays_is_verified_however_many_have_left() {
    let (mut logins, limits) = (Logins::default(), Limits::default());
    let crowd = 2560u64;
    for serial in 1..=crowd {
        begin(&mut logins, serial, "nobody", "secret");
        logins.looked_up(session(serial), None);
        logins.abandon(session(serial));
    }
    begin(&mut logins, crowd + 1, "bob", "secret");
    logins.looked_up(session(crowd + 1), record("hash", false));
    assert_eq!(next(&mut logins, &limits).map(|(serial, ..)| serial), Some(crowd + 1));
    assert!(logins.login_queue.is_empty(), "nothing is left of those who left");
}
