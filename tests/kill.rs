//! The real daemon is killed at any moment under load, again and again, and started on what it left. What its clients
//! saw is written into a ledger (tests/support/ledger.rs), which knows what docs/protocol.md section 7 promises.
//!
//! `ROUNDS=200 cargo test --test kill -- --nocapture` plays more rounds than the usual 25, and shows the figures;
//! `SEED=17` does once more what the clients did, though not in which order the threads had their turns.
//!
//! Killing a process does not lose what it has written, synced or not: a power cut is another test's.

#[path = "support/ledger.rs"]
mod ledger;
mod rounds;

use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::thread::sleep;
use std::time::{Duration, Instant};

use ledger::{Kind, Ledger, Parting};
use rounds::client::{Client, Manner, Site};
use rounds::cpd::Cpd;
use rounds::load::{self, USERS};
use rounds::random::Random;
use rustix::process::Signal;

const ROUNDS: u64 = 25;
/// Every queue is downloaded to its end after so many rounds.
const DRAIN_EVERY: u64 = 5;
/// How long a round's load may last, in milliseconds.
const LOAD_MS: (u64, u64) = (30, 300);
/// An orderly stop takes at most 2 s (docs/interfaces of cpd), and a busy machine's while.
const STOP_MAX: Duration = Duration::from_secs(4);
/// cpd's exit code for a damaged store.
const EX_DATAERR: i32 = 65;
/// Violations that are shown.
const SHOWN_MAX: usize = 10;

/// A daemon, its ledger, and chance.
struct Trial {
    cpd: Cpd,
    ledger: Mutex<Ledger>,
    random: Random,
    seed: u64,
}

impl Trial {
    fn new() -> Trial {
        let seed = number("SEED").unwrap_or_else(rounds::random::entropy);
        println!("SEED={seed}");
        let ledger = Mutex::new(Ledger::default());
        Trial { cpd: Cpd::with_users(&USERS), ledger, random: Random::new(seed, u64::MAX), seed }
    }

    fn book(&mut self) -> &mut Ledger {
        self.ledger.get_mut().expect("no client has failed")
    }

    /// Keeps the daemon busy for a while, then ends it.
    fn play(&mut self, signal: Signal) {
        let (seed, time) = (self.random.next(), self.random.between(LOAD_MS.0, LOAD_MS.1));
        let site = Site { address: self.cpd.address(), ledger: &self.ledger, orderly: signal == Signal::TERM };
        let mut signalled = Instant::now();
        load::run(&site, seed, &AtomicBool::new(false), || {
            sleep(Duration::from_millis(time));
            site.book().ending();
            self.cpd.signal(signal);
            signalled = Instant::now();
        });
        let status = self.cpd.wait();
        if signal == Signal::TERM {
            assert!(status.success(), "an orderly stop: {status}; {}", self.cpd.log());
            assert!(signalled.elapsed() < STOP_MAX, "stopping took {:?}", signalled.elapsed());
        }
        self.book().next_life();
    }

    /// Starts the daemon again, sometimes after it was killed while it started.
    fn restart(&mut self) {
        while self.random.one_in(4) {
            self.cpd.spawn();
            sleep(Duration::from_micros(self.random.between(0, 20_000)));
            self.cpd.kill();
        }
        self.cpd.start().unwrap_or_else(|status| panic!("no restart, {status}; {}", self.cpd.log()));
        let queues = self.cpd.queues();
        for user in USERS {
            let queued = queues.iter().find(|(name, _)| name == user).map_or(0, |(_, queued)| *queued);
            self.book().counted(user, queued);
        }
    }

    /// Downloads everything that is there.
    fn drain(&mut self) {
        let site = Site { address: self.cpd.address(), ledger: &self.ledger, orderly: false };
        for user in USERS {
            let mut client = Client::login(&site, user).expect("the daemon is there");
            while client.download(&Manner::WHOLE, &mut self.random).expect("the daemon is there") {}
            client.close(Parting::Torn);
        }
        self.book().drained();
    }

    /// Panics when anything was wrong.
    fn check(&mut self, round: u64) {
        let seed = self.seed;
        let violations = self.book().violations();
        if !violations.is_empty() {
            let texts: Vec<&str> = violations.iter().take(SHOWN_MAX).map(|v| v.text.as_str()).collect();
            panic!("SEED={seed}, round {round}: {} violations:\n{}", violations.len(), texts.join("\n"));
        }
    }

    fn rounds(&mut self, rounds: u64, signal: Signal) {
        let begun = Instant::now();
        for round in 1..=rounds {
            self.play(signal);
            self.restart();
            self.check(round);
            if round % DRAIN_EVERY == 0 || round == rounds {
                self.drain();
                self.check(round);
            }
        }
        let counts = self.book().counts();
        println!(
            "{rounds} rounds in {:.1} s: {} messages sent, {} acknowledged (240), {} delivered, of them {} without a 240; \
             again: {} without a 250, {} duplicates (allowed); violations = 0",
            begun.elapsed().as_secs_f64(),
            counts.sent,
            counts.kept,
            counts.delivered,
            counts.unconfirmed,
            counts.given_back,
            counts.duplicates
        );
        assert!(counts.kept >= rounds && counts.delivered >= counts.kept, "there was no load: {counts:?}");
    }
}

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable}={value} is no number")))
}

fn rounds() -> u64 {
    number("ROUNDS").unwrap_or(ROUNDS)
}

#[test]
fn killed_at_any_moment_it_keeps_its_promises() {
    Trial::new().rounds(rounds(), Signal::KILL);
}

#[test]
fn stopped_in_order_it_keeps_its_promises() {
    Trial::new().rounds(rounds().div_ceil(5), Signal::TERM);
}
