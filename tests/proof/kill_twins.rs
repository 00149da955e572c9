//! The twins of tests/kill.rs: cpds that break a promise on purpose, and must be found out by the same rounds.
//!
//! ```sh
//! cargo test --test kill_twins -- --nocapture
//! ```
//!
//! The sabotaged cpd is built into target/sabotage; `CPD_SABOTAGED=path` names one that is elsewhere.

use cpd_core::sabotage::Fault;
use cpd_testing::{ledger, rounds};
use ledger::Kind;
use rounds::trial::{Trial, setup};
use rustix::process::Signal;

/// Rounds within which a broken promise must have been found: fewer than tests/kill.rs plays by itself.
const ROUNDS_MAX: u64 = 20;

fn is_caught(fault: Fault, rule: Kind) {
    let mut trial = Trial::new(setup().sabotaged(fault));
    let caught = trial.rounds(ROUNDS_MAX, |trial| trial.play(Signal::KILL)).expect_err(fault.name());
    assert!(caught.kinds.contains(&rule), "{}: {caught}", fault.name());
    let name = fault.name();
    println!("proof: kill -9: twin {name}: caught in round {} of {ROUNDS_MAX}, {:?}", caught.round, caught.kinds);
}

#[test]
fn a_cpd_that_answers_240_before_the_commit_is_caught() {
    is_caught(Fault::EarlyReply, Kind::Lost);
}

#[test]
fn a_cpd_that_deletes_before_the_250_is_caught() {
    is_caught(Fault::EarlyDelete, Kind::Lost);
}
