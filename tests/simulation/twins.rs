//! What is wrong on purpose, by which sort of violation it has to be found, and what is told of it then.

use super::plan::{Cut, Twin};
use super::problem::Sort;
use super::runs::{Failure, Runs};
use super::shrink;
use crate::ledger::Kind;

/// Seeds within which each twin must be found.
const SEEDS: u64 = 200;
/// Lines that a shortened trace has at most.
const STORY_MAX_LINES: usize = 110;

const LOST: Sort = Sort::Promise(Kind::Lost);
const ORDER: Sort = Sort::Promise(Kind::Order);
const AGAIN: Sort = Sort::Promise(Kind::Again);
/// Also what came back after its user was removed.
const BACK: Sort = Sort::Promise(Kind::FromNowhere);
const COUNT: Sort = Sort::Promise(Kind::Count);

/// Each with the sort that shows what is wrong with it, then others in which the same can be seen first.
const TWINS: [(Twin, &str, &[Sort]); 9] = [
    (Twin::Unsynced, "a store that answers before the sync", &[LOST, ORDER, AGAIN, COUNT, BACK]),
    (Twin::Forgetful, "a store that forgets a synced row in a crash", &[LOST, ORDER, COUNT]),
    (
        Twin::Mixing,
        "a store that hands out another's body",
        &[Sort::Promise(Kind::WrongRecipient), Sort::Promise(Kind::WrongSender), Sort::Promise(Kind::Invented)],
    ),
    (Twin::Sleepy, "a loop that wakes too late", &[Sort::Overdue]),
    (Twin::Flipping, "a network that alters a byte", &[Sort::Altered]),
    (Twin::Stuttering, "a socket that takes some output twice", &[Sort::Altered]),
    // An end in order, without an answer, says that what was sent last is not stored.
    (Twin::Hasty, "a session that ends before its last answer", &[Sort::Unanswered, Sort::Promise(Kind::Refused)]),
    (Twin::Crowding, "a server without a limit of a user's sessions", &[Sort::Bound]),
    (Twin::Careless, "a hand-over that forgets a record", &[Sort::Orphan]),
];

impl Twin {
    /// What `TWIN` says.
    pub fn from_environment() -> Twin {
        let Ok(name) = std::env::var("TWIN") else { return Twin::None };
        let mut all = TWINS.iter().map(|(twin, ..)| *twin).chain([Twin::Wandering]);
        all.find(|twin| format!("{twin:?}") == name).unwrap_or_else(|| panic!("TWIN={name} is none"))
    }
}

/// The simulation finds what is wrong on purpose around the engine. What is wrong in it takes the feature `sabotage`.
#[test]
fn twins_are_found() {
    for (twin, what, sorts) in TWINS {
        let runs = Runs::play(0..SEEDS, twin, &Cut::default(), sorts);
        let failure = runs.caught(sorts).unwrap_or_else(|text| panic!("{what}: {text}"));
        println!("proof: simulation: {what}: caught at seed {}: {}", failure.seed, failure.problem);
        check_told(failure, twin);
    }
}

/// What is told of a failure is short, and its command leads to the same failure.
pub fn check_told(failure: &Failure, twin: Twin) {
    let told = shrink::told(failure, twin, &Cut::default());
    assert!(told.events <= failure.events, "{} events of {} are left", told.events, failure.events);
    assert!((1..STORY_MAX_LINES).contains(&told.story_lines), "{}", told.text);
    let again = shrink::again(&told.text);
    let first = told.text.lines().next().expect("a line");
    assert!(first.starts_with(&format!("seed {}: {}", failure.seed, failure.problem.sort)), "another: {}", told.text);
    assert!(again.lines().any(|line| line == first), "not the same failure:\n{}\nbut\n{again}", told.text);
    println!(
        "proof: simulation: {} events made {}, told in {} lines; its command fails in the same way",
        failure.events, told.events, told.story_lines
    );
}

#[test]
fn a_command_says_all_that_it_takes() {
    let cut = Cut { clients: Some(vec![3, 9]), until: Some(7), no_crashes: true, good_weather: true, ..Cut::default() };
    assert_eq!(
        cut.command(17, Twin::Mixing, Some("early-reply")),
        "CPD_SABOTAGE=early-reply SEED=17 TWIN=Mixing CLIENTS=3,9 UNTIL=7 WITHOUT=crashes,weather \
         cargo test --features sabotage --test simulation -- --nocapture promises"
    );
    let nobody = Cut { clients: Some(Vec::new()), ..Cut::default() };
    assert_eq!(
        nobody.command(17, Twin::None, None),
        "SEED=17 CLIENTS= cargo test --test simulation -- --nocapture promises"
    );
    assert!(shrink::in_a_process([("SEED", "17"), ("CLIENTS", "")], ["--nocapture", "promises"]).contains("; trace "));
    assert_eq!(
        Cut::default().command(17, Twin::None, None),
        "SEED=17 cargo test --test simulation -- --nocapture promises"
    );
}
