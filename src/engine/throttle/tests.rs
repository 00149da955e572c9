//! The rules of docs/protocol.md section 7 for those who guess.

use super::*;

const HERE: AddressKey = AddressKey::V4(1);
const THERE: AddressKey = AddressKey::V4(2);

fn name(text: &str) -> Username {
    Username::parse(text.as_bytes()).expect("a name")
}

fn limits(address: u32, user: u32) -> Limits {
    Limits { failures_per_address: address, failures_per_user: user, ..Limits::default() }
}

/// An attempt from its begin to its end at once; `false`: throttled.
fn attempt(throttle: &mut Throttle, who: &str, from: AddressKey, fails: bool, limits: &Limits, now: Millis) -> bool {
    match throttle.begin(name(who), from, false, limits, now) {
        Verdict::Allowed(attempt) => {
            throttle.end(attempt, fails, now);
            true
        }
        Verdict::Throttled => false,
        Verdict::Undecided => panic!("nothing is under way"),
    }
}

#[test]
fn after_so_many_failures_in_a_minute_a_name_is_throttled() {
    let (mut throttle, limits) = (Throttle::default(), limits(1000, 3));
    for from in 1..=3 {
        assert!(attempt(&mut throttle, "bob", AddressKey::V4(from), true, &limits, 1000));
    }
    assert!(!attempt(&mut throttle, "bob", AddressKey::V4(9), true, &limits, 1000));
    assert!(!attempt(&mut throttle, "bob", AddressKey::V4(9), false, &limits, 1000), "whatever its password");
    assert!(attempt(&mut throttle, "eve", AddressKey::V4(9), true, &limits, 1000), "others are not concerned");
    // One third of a minute later one of three failures is forgotten, and only one.
    assert!(!attempt(&mut throttle, "bob", HERE, true, &limits, 1000 + 19_999));
    assert!(attempt(&mut throttle, "bob", HERE, true, &limits, 1000 + 20_000));
    assert!(!attempt(&mut throttle, "bob", HERE, true, &limits, 1000 + 20_000));
    // After a minute of peace all are.
    for from in 1..=3 {
        assert!(attempt(&mut throttle, "bob", AddressKey::V4(from), true, &limits, 200_000));
    }
    assert!(!attempt(&mut throttle, "bob", HERE, true, &limits, 200_000));
}

#[test]
fn an_address_is_throttled_whatever_names_it_tries() {
    let (mut throttle, limits) = (Throttle::default(), limits(4, 1000));
    for who in ["a", "b", "c", "d"] {
        assert!(attempt(&mut throttle, who, HERE, true, &limits, 0));
    }
    assert!(!attempt(&mut throttle, "e", HERE, true, &limits, 0));
    assert!(attempt(&mut throttle, "e", THERE, true, &limits, 0));
}

#[test]
fn success_does_not_count_and_leaves_nothing() {
    let (mut throttle, limits) = (Throttle::default(), limits(2, 2));
    for _ in 0..100 {
        assert!(attempt(&mut throttle, "bob", HERE, false, &limits, 0));
    }
    assert!(throttle.is_empty());
    // It does not forgive either.
    assert!(attempt(&mut throttle, "bob", HERE, true, &limits, 0));
    assert!(attempt(&mut throttle, "bob", HERE, false, &limits, 0));
    assert!(attempt(&mut throttle, "bob", HERE, true, &limits, 0));
    assert!(!attempt(&mut throttle, "bob", HERE, false, &limits, 0));
}

#[test]
fn attempts_side_by_side_are_no_way_round() {
    let (mut throttle, limits) = (Throttle::default(), limits(1000, 2));
    let begin = |throttle: &mut Throttle, from| throttle.begin(name("bob"), AddressKey::V4(from), false, &limits, 0);
    let Verdict::Allowed(first) = begin(&mut throttle, 1) else { panic!("the first") };
    let Verdict::Allowed(second) = begin(&mut throttle, 2) else { panic!("the second") };
    assert!(matches!(begin(&mut throttle, 3), Verdict::Undecided));
    throttle.end(first, false, 0);
    let Verdict::Allowed(third) = begin(&mut throttle, 3) else { panic!("the third") };
    throttle.end(second, true, 0);
    assert!(matches!(begin(&mut throttle, 4), Verdict::Undecided));
    throttle.end(third, true, 0);
    assert!(matches!(begin(&mut throttle, 4), Verdict::Throttled));
}

#[test]
fn an_owner_has_a_bucket_of_his_own() {
    let (mut throttle, limits) = (Throttle::default(), limits(3, 3));
    for _ in 0..3 {
        assert!(attempt(&mut throttle, "bob", HERE, true, &limits, 0));
    }
    assert!(!attempt(&mut throttle, "bob", HERE, false, &limits, 0));
    // From an address that bob has logged in from, even that of the one who guesses.
    let mut as_owner = |fails| match throttle.begin(name("bob"), HERE, true, &limits, 0) {
        Verdict::Allowed(attempt) => {
            throttle.end(attempt, fails, 0);
            true
        }
        Verdict::Throttled => false,
        Verdict::Undecided => panic!("nothing is under way"),
    };
    assert!(as_owner(false) && as_owner(true) && as_owner(true) && as_owner(true));
    assert!(!as_owner(false), "it is bounded as well");
}

#[test]
fn tables_are_bounded_and_what_does_not_fit_shares_one_bucket() {
    let (mut throttle, limits) = (Throttle::default(), limits(2, 1000));
    // Each in its own name from its own address: two buckets.
    for from in 0..BUCKETS_MAX as u32 / 2 + 1000 {
        attempt(&mut throttle, &format!("u{from}"), AddressKey::V4(from), true, &limits, 0);
        assert!(throttle.len() <= BUCKETS_MAX + 1);
    }
    assert!(!attempt(&mut throttle, "new", AddressKey::V6(7), false, &limits, 1), "the shared one is full");
    // When the others are empty there is room again.
    assert!(attempt(&mut throttle, "new", AddressKey::V6(7), true, &limits, 200_000_000));
    assert!(throttle.len() <= 3, "{}", throttle.len());
}

#[test]
fn a_full_table_takes_nothing_from_an_owner_and_owners_have_a_bound_too() {
    let (mut throttle, limits) = (Throttle::default(), limits(1, 1));
    for from in 0..BUCKETS_MAX as u32 {
        attempt(&mut throttle, &format!("u{from}"), AddressKey::V4(from), true, &limits, 0);
    }
    let owner =
        |throttle: &mut Throttle, who: &str, from, fails| match throttle.begin(name(who), from, true, &limits, 1) {
            Verdict::Allowed(attempt) => {
                throttle.end(attempt, fails, 1);
                true
            }
            Verdict::Throttled => false,
            Verdict::Undecided => panic!("nothing is under way"),
        };
    assert!(!attempt(&mut throttle, "bob", HERE, false, &limits, 1), "nobody else gets in");
    assert!(owner(&mut throttle, "bob", HERE, true) && !owner(&mut throttle, "bob", HERE, false));
    let mut frozen = crate::proto::codec::Writer::default();
    throttle.freeze(1, &mut frozen);
    let frozen = frozen.finish();
    let mut thawed = Throttle::thaw(&mut crate::proto::codec::Reader::new(&frozen), 1).expect("what was frozen");
    assert!(owner(&mut thawed, "ann", HERE, false) && !owner(&mut thawed, "bob", HERE, false));
    for from in 0..BUCKETS_MAX as u32 + 100 {
        owner(&mut throttle, "eve", AddressKey::V4(from), true);
        assert!(throttle.len() <= 2 * (BUCKETS_MAX + 1));
    }
    assert!(!owner(&mut throttle, "eve", AddressKey::V6(1), false), "what owners share is full");
}

#[test]
fn a_limit_of_nothing_lets_one_through_each_minute() {
    let (mut throttle, limits) = (Throttle::default(), limits(0, 0));
    assert!(attempt(&mut throttle, "bob", HERE, true, &limits, 0));
    assert!(!attempt(&mut throttle, "bob", HERE, true, &limits, 59_999));
    assert!(attempt(&mut throttle, "bob", HERE, true, &limits, 60_000));
}
