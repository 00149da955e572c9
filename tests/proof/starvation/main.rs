//! A real cpd that lacks what it needs, as far as it takes root, packages or a cpd that was broken on purpose: memory, a
//! right clock, entropy, a log service. The rest is in tests/server/starvation.
//!
//! `cargo test --test proof_starvation -- --nocapture`; it builds the sabotaged cpd, unless CPD_SABOTAGED names one. `SQUEEZES=50` takes memory away that often.

mod clock;
mod entropy;
mod log_service;
mod memory;
mod stalls;

use cpd_core::sabotage::Fault;
use cpd_testing::environment::number;
use cpd_testing::{findings, ledger, rounds, running, stopped, wire};
use findings::{Wrong, caught};
use ledger::Kind;
use running::{PATIENCE, Setup, need};

/// How often the twin may be squeezed until it is noticed.
const TWIN_SQUEEZES: u64 = 20;

#[test]
fn killed_for_want_of_memory_it_keeps_its_promises() {
    let squeezes = number("SQUEEZES").unwrap_or(3);
    let figures = memory::squeeze(squeezes, |setup| setup);
    let figures = figures.expect("nothing is lost");
    let twin = memory::squeeze(TWIN_SQUEEZES, |setup| setup.sabotaged(Fault::EarlyReply));
    let twin = caught(twin, &[Wrong::Messages(Kind::Lost)]);
    println!("proof: memory limit: {figures}; twin early-reply: {twin}");
}

#[test]
fn a_leap_of_the_clock_ends_nobody() {
    let figures = clock::leaps(&clock::start(false), &clock::WAYS).expect("timers do not care");
    let [on, back] = clock::WAYS;
    let early = caught(clock::leaps(&clock::start(true), &[on]), &[Wrong::Early]);
    let late = caught(clock::leaps(&clock::start(true), &[back]), &[Wrong::NotEnded]);
    println!("proof: the clock leaps: {figures}; twin whose timers leap as well: {early}; and back: {late}");
}

#[test]
fn a_stop_that_blames_clients_is_noticed() {
    let mut cpd = Setup::new(&stopped::settings(stopped::TIMEOUT)).sabotaged(Fault::EarlyTimer).start();
    let twin = stopped::longer_than_every_timeout(&mut cpd, 10, stopped::STOPPED, PATIENCE);
    let twin = caught(twin, &[Wrong::Answer]);
    println!("proof: stopped: twin early-timer: {twin}");
}

#[test]
fn a_pause_of_the_whole_process_ends_nothing() {
    println!("proof: paused: {}", stalls::paused().expect("it goes on"));
}

#[test]
fn a_disk_that_does_not_answer_ends_nothing() {
    need("strace", "strace");
    let figures = stalls::disk_that_does_not_answer(false).expect("senders are told");
    let twin = caught(stalls::disk_that_does_not_answer(true), &[Wrong::Answer]);
    println!("proof: stuck disk: {figures}; twin whose disk answers: {twin}");
}

#[test]
fn a_stuck_event_loop_ends_with_70() {
    let figures = stalls::ends(Setup::new("").sabotaged(Fault::StuckLoop).start()).expect("it ends");
    println!("proof: stuck event loop: {figures}");
}

#[test]
fn without_randomness_it_says_so_and_goes_on() {
    need("strace", "strace");
    let figures = entropy::goes_and_comes(true).expect("it goes on");
    let twin = caught(entropy::goes_and_comes(false), &[Wrong::NotRefused]);
    println!("proof: entropy: {figures}; twin whose kernel does not fail: {twin}");
}

#[test]
fn syslog_that_goes_away_holds_nobody_up_and_learns_what_it_missed() {
    goes_away(log_service::Kind::Syslog);
}

#[test]
fn a_journal_that_goes_away_holds_nobody_up_and_learns_what_it_missed() {
    goes_away(log_service::Kind::Journal);
}

fn goes_away(kind: log_service::Kind) {
    need("unshare", "util-linux");
    let (mut lines, logins) = log_service::play(kind);
    let figures = log_service::accounts(&lines, logins).expect("all is told");
    // The check fails for a log that forgets to tell.
    lines.retain(|line| !line.contains(" dropped="));
    let twin = caught(log_service::accounts(&lines, logins), &[Wrong::Miscounted, Wrong::NoPressure]);
    println!("proof: log service, {kind:?}: {figures}; twin that does not tell what it dropped: {twin}");
}
