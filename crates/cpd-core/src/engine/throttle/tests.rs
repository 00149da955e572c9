//! The rules of docs/protocol.md section 7 against guessing.

use super::*;
use crate::record::{RecordReader, RecordWriter};

const HERE: AddressKey = AddressKey::V4(1);
const THERE: AddressKey = AddressKey::V4(2);

fn name(text: &str) -> Username {
    Username::parse(text.as_bytes()).expect("a name")
}

fn limits(address: u32, user: u32) -> Limits {
    Limits {
        failures_per_address: address,
        failures_per_user: user,
        failures_per_user_day: 1_000_000,
        ..Limits::default()
    }
}

/// An attempt that ends at once.
#[derive(Clone, Copy)]
struct Try<'a> {
    who: &'a str,
    from: AddressKey,
    known: bool,
    fails: bool,
}

const WRONG: Try<'_> = Try { who: "bob", from: HERE, known: false, fails: true };
const RIGHT: Try<'_> = Try { fails: false, ..WRONG };

/// `None`: the password is tried.
fn attempt(throttle: &mut Throttle, one: Try<'_>, limits: &Limits, now: Millis) -> Option<ThrottleCause> {
    match throttle.begin(name(one.who), one.from, one.known, limits, now) {
        Decision::Allowed(attempt) => {
            throttle.end(attempt, one.fails, now);
            None
        }
        Decision::Throttled(attempt, too_many) => {
            throttle.end(attempt, true, now);
            Some(too_many)
        }
        Decision::Undecided => panic!("nothing is under way"),
    }
}

fn from(number: u32) -> AddressKey {
    AddressKey::V4(number)
}

#[test]
fn after_too_many_failures_in_a_minute_a_name_is_throttled() {
    let (mut throttle, limits) = (Throttle::default(), limits(1000, 3));
    let mut from_there =
        |number, one: Try<'_>, now| attempt(&mut throttle, Try { from: from(number), ..one }, &limits, now);
    for number in 1..=3 {
        assert_eq!(from_there(number, WRONG, 1000), None);
    }
    assert_eq!(from_there(9, WRONG, 1000), Some(ThrottleCause::Name));
    assert_eq!(from_there(9, RIGHT, 1000), Some(ThrottleCause::Name), "whatever its password");
    assert_eq!(from_there(9, Try { who: "eve", ..WRONG }, 1000), None, "others are not concerned");
    // One third of a minute later one of three failures is forgotten, and only one.
    assert_eq!(from_there(10, WRONG, 1000 + 19_999), Some(ThrottleCause::Name));
    assert_eq!(from_there(11, WRONG, 1000 + 20_000), None);
    assert_eq!(from_there(12, WRONG, 1000 + 20_000), Some(ThrottleCause::Name));
    // After a minute without an attempt all are.
    for number in 1..=3 {
        assert_eq!(from_there(number, WRONG, 200_000), None);
    }
    assert_eq!(from_there(13, WRONG, 200_000), Some(ThrottleCause::Name));
}

#[test]
fn an_address_is_throttled_whatever_names_it_tries() {
    let (mut throttle, limits) = (Throttle::default(), limits(4, 1000));
    for who in ["a", "b", "c", "d"] {
        assert_eq!(attempt(&mut throttle, Try { who, ..WRONG }, &limits, 0), None);
    }
    let e = Try { who: "e", ..WRONG };
    assert_eq!(attempt(&mut throttle, e, &limits, 0), Some(ThrottleCause::Address));
    assert!(throttle.is_throttled(HERE, &limits, 0) && !throttle.is_throttled(THERE, &limits, 0));
    assert_eq!(attempt(&mut throttle, Try { from: THERE, ..e }, &limits, 0), None);
}

#[test]
fn a_throttled_address_does_not_fill_a_name() {
    let (mut throttle, limits) = (Throttle::default(), limits(1, 4));
    for number in 0..2 {
        for _ in 0..1000 {
            attempt(&mut throttle, Try { from: from(number), ..WRONG }, &limits, 0);
        }
    }
    assert_eq!(attempt(&mut throttle, Try { from: THERE, ..RIGHT }, &limits, 0), None);
}

#[test]
fn an_address_may_have_half_of_the_failures_of_a_name() {
    // In a minute.
    let (mut throttle, limits) = (Throttle::default(), limits(1000, 10));
    let tried = (0..100).filter(|_| attempt(&mut throttle, WRONG, &limits, 0).is_none()).count();
    assert_eq!(tried, 5);
    assert_eq!(attempt(&mut throttle, Try { from: THERE, ..RIGHT }, &limits, 0), None, "others get in");
    // In a day, whose failures are half available at once.
    let limits = Limits { failures_per_user_day: 40, ..limits };
    let mut throttle = Throttle::default();
    let hour = 60 * MINUTE_MS;
    let tried = |throttle: &mut Throttle, one: Try<'_>, hours: u64| {
        (0_u64..hours * 60).filter(|minute| attempt(throttle, one, &limits, minute * MINUTE_MS).is_none()).count()
    };
    assert_eq!(tried(&mut throttle, WRONG, 1), 10, "a half of the half that comes at once");
    assert_eq!(attempt(&mut throttle, Try { from: THERE, ..RIGHT }, &limits, hour), None);
    let mut throttle = Throttle::default();
    assert_eq!(tried(&mut throttle, WRONG, 24), 10 + 20 - 1, "and what comes back in a day");
}

#[test]
fn strangers_fail_a_hundred_times_in_a_day_at_most() {
    let limits = Limits::default();
    assert_eq!(limits.failures_per_user_day, 100);
    let mut throttle = Throttle::default();
    let (mut guesses, mut told) = (Vec::new(), Vec::new());
    for second in 0..3 * 24 * 60 * 60_u64 {
        let now = second * 1000;
        let source = from(u32::try_from(second % 5000).expect("small"));
        match throttle.begin(name("bob"), source, false, &limits, now) {
            Decision::Allowed(attempt) => {
                guesses.push(now);
                told.extend(throttle.end(attempt, true, now));
            }
            Decision::Throttled(attempt, _) => assert_eq!(throttle.end(attempt, true, now), None),
            Decision::Undecided => panic!("nothing is under way"),
        }
    }
    for first in &guesses {
        let day = guesses.iter().filter(|now| (*first..first + DAY_MS).contains(*now)).count();
        assert!(day <= 100, "{day} guesses in a day");
    }
    assert!(guesses.len() >= 190, "{} in three days", guesses.len());
    // At most one alert a day.
    assert_eq!(
        told.first(),
        Some(&GuessingAlert { name: name("bob"), failures: 50, addresses: name_failures::SHARES_MAX })
    );
    assert!((2..=3).contains(&told.len()), "{told:?}");
    // Where bob has logged in before, the attempt is not affected.
    assert_eq!(attempt(&mut throttle, Try { known: true, ..RIGHT }, &limits, 3 * DAY_MS), None);
}

#[test]
fn success_does_not_count_and_leaves_nothing() {
    let (mut throttle, limits) = (Throttle::default(), limits(2, 4));
    for _ in 0..100 {
        assert_eq!(attempt(&mut throttle, RIGHT, &limits, 0), None);
    }
    assert!(throttle.is_empty());
    // It does not make up for a failure either.
    for one in [WRONG, RIGHT, WRONG] {
        assert_eq!(attempt(&mut throttle, one, &limits, 0), None);
    }
    assert!(attempt(&mut throttle, RIGHT, &limits, 0).is_some());
}

#[test]
fn concurrent_attempts_do_not_bypass_the_limit() {
    let (mut throttle, limits) = (Throttle::default(), limits(1000, 2));
    let begin = |throttle: &mut Throttle, number| throttle.begin(name("bob"), from(number), false, &limits, 0);
    let Decision::Allowed(first) = begin(&mut throttle, 1) else { panic!("the first") };
    let Decision::Allowed(second) = begin(&mut throttle, 2) else { panic!("the second") };
    assert!(matches!(begin(&mut throttle, 3), Decision::Undecided));
    throttle.end(first, false, 0);
    let Decision::Allowed(third) = begin(&mut throttle, 3) else { panic!("the third") };
    throttle.end(second, true, 0);
    assert!(matches!(begin(&mut throttle, 4), Decision::Undecided));
    throttle.end(third, true, 0);
    assert!(matches!(begin(&mut throttle, 4), Decision::Throttled(_, ThrottleCause::Name)));
}

#[test]
fn attempts_from_known_addresses_are_judged_by_the_pair_alone() {
    let (mut throttle, limits) = (Throttle::default(), limits(3, 3));
    let known = Try { known: true, ..RIGHT };
    for number in 10..20 {
        attempt(&mut throttle, Try { from: from(number), ..WRONG }, &limits, 0);
    }
    for who in ["a", "b", "c", "d", "e"] {
        attempt(&mut throttle, Try { who, ..WRONG }, &limits, 0);
    }
    assert_eq!(attempt(&mut throttle, RIGHT, &limits, 0), Some(ThrottleCause::Address));
    // That attempt counts as a failure, too, because its password was not tried.
    for one in [known, WRONG, known, WRONG] {
        assert_eq!(attempt(&mut throttle, Try { known: true, ..one }, &limits, 0), None);
    }
    assert_eq!(attempt(&mut throttle, known, &limits, 0), Some(ThrottleCause::Name), "it is bounded as well");
}

/// What others can see of an attempt: whether it waits, and what becomes of all attempts that come later.
#[test]
fn nothing_that_others_see_depends_on_known_addresses() {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let names = ["bob", "eve", "ann"];
    let (mut waited, mut refused) = (0, 0);
    for round in 0..300 {
        let limits = Limits { failures_per_user_day: 10 + 10 * (round % 3), ..limits(2 + round % 4, 1 + round % 5) };
        // In one world bob is known at one address, in the other nobody is known anywhere.
        let mut worlds = [Throttle::default(), Throttle::default()];
        let mut under_way: Vec<[Attempt; 2]> = Vec::new();
        let mut now = 0;
        for _ in 0..200 {
            now += next(20_000);
            if !under_way.is_empty() && next(3) > 0 {
                let pair = under_way.swap_remove(next(under_way.len() as u64) as usize);
                for (world, attempt) in worlds.iter_mut().zip(pair) {
                    world.end(attempt, true, now);
                }
                continue;
            }
            let (who, source) = (names[next(3) as usize], from(next(3) as u32));
            let mut begun = Vec::new();
            for (world, throttle) in worlds.iter_mut().enumerate() {
                let known = world == 0 && who == "bob" && source == from(1);
                match throttle.begin(name(who), source, known, &limits, now) {
                    Decision::Allowed(attempt) => begun.push(Some((attempt, known, true))),
                    Decision::Throttled(attempt, _) => begun.push(Some((attempt, known, false))),
                    Decision::Undecided => begun.push(None),
                }
            }
            match begun[..] {
                [Some((one, known, first)), Some((other, _, second))] => {
                    assert!(known || first == second, "{who} from {source}");
                    refused += usize::from(!second);
                    under_way.push([one, other]);
                }
                [None, None] => waited += 1,
                _ => panic!("whether {who} from {source} waits depends on who is known"),
            }
        }
        let mut records = worlds.map(|throttle| {
            let (addresses, names) = (throttle.addresses, throttle.names);
            let mut all: Vec<String> = addresses.iter().map(|found| format!("{found:?}")).collect();
            all.extend(names.iter().map(|found| format!("{found:?}")));
            all.extend(throttle.pairs.iter().map(|found| format!("{found:?}")));
            all.sort();
            all
        });
        assert_eq!(std::mem::take(&mut records[0]), records[1]);
    }
    assert!(waited > 1000 && refused > 1000, "{waited} waited, {refused} were refused");
}

#[test]
fn a_full_table_forgets_the_emptiest_and_locks_nobody_out() {
    let (mut throttle, limits) = (Throttle::default(), limits(3, 3));
    for number in 0..3 {
        assert_eq!(attempt(&mut throttle, Try { from: from(number), ..WRONG }, &limits, 0), None);
    }
    for number in 0..70_000 {
        let who = format!("u{number}");
        attempt(&mut throttle, Try { who: &who, from: from(1_000_000 + number), ..WRONG }, &limits, 1);
    }
    assert_eq!(throttle.addresses.len(), ADDRESSES_MAX);
    assert_eq!(throttle.pairs.len(), PAIRS_MAX);
    assert_eq!(throttle.names.len(), NAMES_MAX);
    assert_eq!(
        attempt(&mut throttle, Try { from: THERE, ..RIGHT }, &limits, 1),
        Some(ThrottleCause::Name),
        "bob's is kept"
    );
    let new = Try { who: "new", from: AddressKey::V6(7), ..RIGHT };
    assert_eq!(attempt(&mut throttle, new, &limits, 1), None, "a newcomer gets in");
    // Empty buckets are removed in time.
    for number in 0..70_000 {
        attempt(&mut throttle, Try { from: from(number), ..RIGHT }, &limits, 2 * DAY_MS);
    }
    assert!(throttle.is_empty(), "{}", throttle.len());
}

#[test]
fn repeated_attempts_with_the_right_password_succeed_in_time() {
    let (mut throttle, limits) = (Throttle::default(), limits(10, 10));
    // A script with a wrong password, which tries once a second; then somebody mends it.
    for second in 0..600 {
        attempt(&mut throttle, WRONG, &limits, second * 1000);
    }
    let mended = (600..).find(|second| attempt(&mut throttle, RIGHT, &limits, second * 1000).is_none());
    assert!(mended.is_some_and(|second| second <= 606), "{mended:?}");
    let known = Try { known: true, ..WRONG };
    for second in 1000..1600 {
        attempt(&mut throttle, known, &limits, second * 1000);
    }
    let right = Try { fails: false, ..known };
    let mended = (1600..).find(|second| attempt(&mut throttle, right, &limits, second * 1000).is_none());
    assert!(mended.is_some_and(|second| second <= 1606), "{mended:?}");
}

#[test]
fn what_is_throttled_is_shown_and_can_be_lifted() {
    let (mut throttle, limits) = (Throttle::default(), limits(4, 4));
    for number in 0..4 {
        attempt(&mut throttle, Try { from: from(number), ..WRONG }, &limits, 1000);
    }
    for who in ["a", "b", "c"] {
        attempt(&mut throttle, Try { who, ..WRONG }, &limits, 1000);
    }
    let (list, more) = throttle.list(&limits, 10, 1000);
    let subjects: Vec<Subject> = list.iter().map(|one| one.subject).collect();
    assert_eq!(subjects, [Subject::Address(HERE), Subject::Name(name("bob"))]);
    assert!(!more && throttle.list(&limits, 1, 1000).1);
    let bob = throttle.name_throttle(name("bob"), &limits, 1000).expect("throttled");
    assert_eq!((bob.failures, bob.addresses, bob.until), (4, 4, 16_000));
    assert_eq!(throttle.name_throttle(name("a"), &limits, 1000), None);
    throttle.clear_name(name("bob"));
    assert_eq!(throttle.name_throttle(name("bob"), &limits, 1000), None);
    assert_eq!(attempt(&mut throttle, RIGHT, &limits, 1000), Some(ThrottleCause::Address));
    throttle.clear_address(HERE, 1000);
    assert_eq!(attempt(&mut throttle, RIGHT, &limits, 1000), None);
    for _ in 0..4 {
        attempt(&mut throttle, Try { who: "carol", from: from(9), known: true, fails: true }, &limits, 31_000);
    }
    // Only half of these count for the name, and for the address as well.
    let (list, _) = throttle.list(&limits, 10, 31_000);
    let subjects: Vec<(Subject, u32, u32, Millis)> =
        list.iter().map(|one| (one.subject, one.failures, one.addresses, one.until)).collect();
    assert_eq!(subjects, [(Subject::NameAt(name("carol"), from(9)), 4, 1, 46_000)]);
    throttle.clear();
    assert!(throttle.is_empty());
}

#[test]
fn a_restart_forgets_nothing() {
    let limits = Limits { failures_per_user_day: 10, ..limits(3, 3) };
    let mut throttle = Throttle::default();
    for number in 0..4 {
        attempt(&mut throttle, Try { from: from(number), ..WRONG }, &limits, 1000 + u64::from(number) * 20_000);
    }
    for _ in 0..3 {
        attempt(&mut throttle, Try { who: "ann", known: true, ..WRONG }, &limits, 61_000);
    }
    let mut record = RecordWriter::default();
    throttle.freeze(61_000, &mut record);
    let record = record.into_bytes();
    let mut reader = RecordReader::new(&record);
    let mut thawed = Throttle::thaw(&mut reader, 500).expect("what was frozen");
    reader.expect_end().expect("all of it");
    assert_eq!(thawed.list(&limits, 10, 500).0.len(), throttle.list(&limits, 10, 61_000).0.len());
    assert_eq!(attempt(&mut thawed, Try { who: "ann", known: true, ..RIGHT }, &limits, 500), Some(ThrottleCause::Name));
    assert_eq!(attempt(&mut thawed, Try { from: THERE, ..WRONG }, &limits, 500), None);
    assert_eq!(
        attempt(&mut thawed, Try { from: from(7), ..RIGHT }, &limits, 500),
        Some(ThrottleCause::Name),
        "five in a day"
    );
}

#[test]
fn a_limit_of_nothing_lets_one_through_each_minute() {
    let (mut throttle, limits) = (Throttle::default(), limits(0, 0));
    assert_eq!(attempt(&mut throttle, WRONG, &limits, 0), None);
    assert!(attempt(&mut throttle, WRONG, &limits, 59_999).is_some());
    assert_eq!(attempt(&mut throttle, WRONG, &limits, 60_000), None);
}
