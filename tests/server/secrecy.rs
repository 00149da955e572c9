//! Nobody learns who exists (docs/protocol.md section 7): for an unknown user, a wrong password, a locked and a throttled
//! user the server says the same, byte for byte, in whole conversations. `CONVERSATIONS=2000 cargo test --test server secrecy`
//! plays more of them, `SEED=17` the same once more. How long the answers take: tests/proof/secrecy.rs.

use cpd_testing::environment::number;
use cpd_testing::{random, secret};
use random::Random;
use secret::bytes::{End, FAILURES_MAX, Figures, Heard, Script, compare, told_apart};
use secret::statistics::intervals;
use secret::{Cause, House};

const CONVERSATIONS: u64 = 40;

#[test]
fn every_cause_of_a_failed_login_has_the_same_bytes() {
    let conversations = number("CONVERSATIONS").unwrap_or(CONVERSATIONS);
    let seed = number("SEED").unwrap_or_else(random::entropy);
    println!("SEED={seed}");
    let mut random = Random::new(seed, 0);
    let mut house = House::new(FAILURES_MAX, 8, |setup| setup);
    let mut figures = Figures::default();
    let others = (0..conversations).map(|_| Script::random(&mut random));
    for script in Script::plain().into_iter().chain(others) {
        let differences = compare(&mut house, &script, &mut figures);
        assert!(differences.is_empty(), "SEED={seed}: {script:?}: {differences:#?}");
    }
    println!(
        "proof: secrecy, bytes: {} conversations for {} causes, {} failed logins, {} bytes, 0 differences",
        figures.conversations,
        Cause::ALL.len(),
        figures.logins,
        figures.bytes
    );
}

#[test]
fn a_difference_in_what_is_said_or_how_it_ends_is_found() {
    let heard = |text: &str, end| Heard { text: text.to_owned(), end };
    let same = heard("220 \r\n565 \r\n", End::Closed);
    let others = [heard("220 \r\n565 no such user\r\n", End::Closed), heard("220 \r\n565 \r\n", End::Reset)];
    assert!(told_apart(&[(Cause::Unknown, same.clone()), (Cause::Wrong, same.clone())]).is_empty());
    for other in others {
        assert_eq!(told_apart(&[(Cause::Unknown, same.clone()), (Cause::Wrong, other)]).len(), 1);
    }
}

/// Times as a machine with other things to do has them: now and then one is far too long, and all get slower.
fn times(random: &mut Random, extra_ns: u64) -> Vec<u64> {
    let noise = |random: &mut Random| random.between(0, 200_000) + if random.one_in(20) { 5_000_000 } else { 0 };
    (0..1000).map(|block| 600_000 + block * 100 + noise(random) + extra_ns).collect()
}

#[test]
fn a_difference_in_time_is_found_and_noise_is_none() {
    let mut random = Random::new(7, 0);
    let groups = [times(&mut random, 0), times(&mut random, 0), times(&mut random, 200_000)];
    let found = intervals(&groups, 1);
    let of = |a, b| found.iter().find(|pair| (pair.0, pair.1) == (a, b)).expect("a pair").2;
    assert!(of(0, 1).within(100.0) && !of(0, 1).beyond(100.0), "{found:?}");
    assert!(of(0, 2).beyond(100.0) && of(1, 2).beyond(100.0), "{found:?}");
    assert!(of(0, 2).low < -180.0 && of(0, 2).high > -220.0, "{found:?}");
}
