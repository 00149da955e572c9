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

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::thread::sleep;
use std::time::{Duration, Instant};

use ledger::{Kind, Ledger, Parting};
use rounds::client::{Client, Manner, Site};
use rounds::cpd::Cpd;
use rounds::load::{self, USERS};
use rounds::random::Random;
use rounds::sabotage::{self, Row};
use rustix::process::Signal;

const ROUNDS: u64 = 25;
/// Every queue is downloaded to its end after so many rounds.
const DRAIN_EVERY: u64 = 5;
/// How long a round's load may last, in milliseconds.
const LOAD_MS: (u64, u64) = (30, 300);
/// An orderly stop takes at most 2 s (cpd(8)), and a busy machine's while.
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
        self.book().next_life(if signal == Signal::TERM { Parting::Orderly } else { Parting::Torn });
    }

    /// Starts the daemon again, sometimes after it was killed while it started.
    fn restart(&mut self) {
        while self.random.one_in(4) {
            self.cpd.spawn();
            sleep(Duration::from_micros(self.random.between(0, 20_000)));
            self.cpd.kill();
        }
        self.cpd.start().unwrap_or_else(|status| panic!("no restart, {status}; {}", self.cpd.log()));
        self.count();
    }

    /// Compares what cpctl says with what there can be.
    fn count(&mut self) {
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
    Trial::new().rounds(rounds().div_ceil(2), Signal::TERM);
}

// ---- a checker that cannot fail is none: the same ledger, and stores that were tampered with ----

/// Messages of a sabotaged store: `ann`'s to `bob`, then to `anna`.
const LETTERS: usize = 40;

impl Trial {
    /// Sends the letters, kills the daemon while they stand in its log alone, and calls `sabotage` with its folder.
    fn sabotaged(sabotage: impl FnOnce(&Path)) -> Trial {
        let mut trial = Trial::new();
        // Now the users are in the store's file.
        trial.cpd.signal(Signal::TERM);
        assert!(trial.cpd.wait().success());
        trial.cpd.start().expect("a start");
        let site = Site { address: trial.cpd.address(), ledger: &trial.ledger, orderly: false };
        let mut ann = Client::login(&site, "ann").expect("a login");
        for recipient in ["bob", "anna"] {
            let letters: Vec<_> = (0..LETTERS).map(|_| (recipient, load::body(&mut trial.random))).collect();
            ann.send(&letters).expect("240s");
        }
        trial.cpd.kill();
        ann.close(Parting::Torn);
        trial.book().next_life(Parting::Torn);
        assert_eq!(trial.book().counts().kept, 2 * LETTERS as u64);
        sabotage(&trial.cpd.data());
        trial
    }

    /// Starts the daemon, drains it, kills it; what the ledger has found until then, or how the daemon refused.
    fn findings(&mut self) -> Result<Vec<Kind>, ExitStatus> {
        self.cpd.start()?;
        self.count();
        self.drain();
        self.cpd.kill();
        self.book().next_life(Parting::Torn);
        let kinds: BTreeSet<Kind> = self.book().violations().iter().map(|violation| violation.kind).collect();
        Ok(kinds.into_iter().collect())
    }
}

/// Writes other rows in the place of those that are there, right checksums and all, and says what the ledger finds.
fn with_rows(change: impl FnOnce(&mut [Row])) -> Vec<Kind> {
    let sabotage = |data: &Path| {
        let mut rows = sabotage::rows(data);
        change(&mut rows);
        sabotage::replace(data, &rows);
    };
    Trial::sabotaged(sabotage).findings().expect("the checksums are right")
}

#[test]
fn ledger_finds_nothing_in_a_store_that_was_let_alone() {
    assert_eq!(Trial::sabotaged(|_| ()).findings(), Ok(vec![]));
    assert_eq!(with_rows(|_| ()), []);
}

#[test]
fn ledger_misses_a_deleted_row() {
    let delete = |data: &Path| {
        let rows = sabotage::rows(data);
        sabotage::sql(data, &format!("DELETE FROM message WHERE id = {}", rows[LETTERS / 2].id));
    };
    let mut trial = Trial::sabotaged(delete);
    assert_eq!(trial.findings(), Ok(vec![Kind::Order, Kind::Lost, Kind::Count]));
    assert!(trial.ledger.into_inner().expect("no panic").violations().len() < 5, "one finding for each rule");
}

#[test]
fn ledger_misses_the_log_of_a_killed_daemon() {
    let remove = |data: &Path| {
        let [_, log] = sabotage::files(data);
        assert!(fs::metadata(&log).expect("a log").len() > 0);
        fs::remove_file(log).expect("removed");
    };
    let mut trial = Trial::sabotaged(remove);
    assert_eq!(trial.findings(), Ok(vec![Kind::Lost, Kind::Count]));
    let lost = trial.book().violations().iter().filter(|violation| violation.kind == Kind::Lost).count();
    assert_eq!(lost, 2 * LETTERS, "every one that had its 240");
}

#[test]
fn ledger_knows_messages_that_come_from_an_old_copy() {
    let mut trial = Trial::sabotaged(|_| ());
    let files = sabotage::files(&trial.cpd.data());
    let copies = files.each_ref().map(|file| fs::read(file).expect("a file"));
    assert_eq!(trial.findings(), Ok(vec![]));
    for (file, copy) in files.iter().zip(copies) {
        fs::write(file, copy).expect("written");
    }
    assert_eq!(trial.findings(), Ok(vec![Kind::Again, Kind::Count]));
}

#[test]
fn ledger_knows_altered_rows_with_right_checksums() {
    let swap = |rows: &mut [Row], a: usize, b: usize| {
        let body = std::mem::take(&mut rows[a].body);
        rows[a].body = std::mem::replace(&mut rows[b].body, body);
    };
    assert_eq!(with_rows(|rows| swap(rows, 3, 4)), [Kind::Order], "two bodies of one queue");
    let swapped = with_rows(|rows| swap(rows, 3, LETTERS + 3));
    assert!(swapped.contains(&Kind::WrongRecipient) && swapped.contains(&Kind::Lost), "{swapped:?}");
    let altered = with_rows(|rows| rows[3].body.push('.'));
    assert!(altered.contains(&Kind::Invented) && altered.contains(&Kind::Lost), "{altered:?}");
    let renamed = with_rows(|rows| rows[3].sender = "Ann".into());
    assert!(renamed.contains(&Kind::WrongSender) && renamed.contains(&Kind::Lost), "{renamed:?}");
    let doubled = with_rows(|rows| rows[4].body = rows[3].body.clone());
    assert!(doubled.contains(&Kind::TwiceInDownload) && doubled.contains(&Kind::Lost), "{doubled:?}");
}

#[test]
fn cpd_refuses_altered_rows_with_wrong_checksums() {
    let swap = |data: &Path| {
        let rows = sabotage::rows(data);
        let (a, b) = (rows[3].id, rows[4].id);
        let set = format!("body = CASE id WHEN {a} THEN '{}' ELSE '{}' END", rows[4].body, rows[3].body);
        sabotage::sql(data, &format!("UPDATE message SET {set} WHERE id IN ({a}, {b})"));
    };
    let status = Trial::sabotaged(swap).findings().expect_err("was started");
    assert_eq!(status.code(), Some(EX_DATAERR));
}
