//! The real daemon is killed at any moment under load, again and again, and started on what it left. What its clients
//! saw is written into a ledger (crates/cpd-testing/src/ledger.rs), which knows what docs/protocol.md section 7 promises.
//!
//! `ROUNDS=1000 cargo test --test kill -- --nocapture` plays more rounds than the usual 25, and shows the figures;
//! `SEED=17` does once more what the clients did, though not in which order the threads had their turns.
//!
//! Killing a process does not lose what it has written, synced or not: a power cut is the test of proof/power_cut.rs.
//! That this test finds a cpd that breaks its promises is shown by proof/kill_twins.rs.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::ExitStatus;

use cpd_testing::environment::number;
use cpd_testing::{ledger, rounds};
use ledger::{Kind, Parting};
use rounds::client::{Client, Site};
use rounds::load;
use rounds::sabotage::{self, Row};
use rounds::trial::{Trial, setup};
use rustix::process::Signal;

const ROUNDS: u64 = 25;
/// cpd's exit code for a damaged store.
const EX_DATAERR: i32 = 65;

fn rounds() -> u64 {
    number("ROUNDS").unwrap_or(ROUNDS)
}

fn keeps_its_promises(rounds: u64, signal: Signal) {
    let mut trial = Trial::new(setup());
    trial.rounds(rounds, |trial| trial.play(signal)).unwrap_or_else(|caught| panic!("{caught}"));
    let how = if signal == Signal::KILL { "kill -9" } else { "orderly stop" };
    println!("proof: {how}: {rounds} rounds: {}", trial.figures(rounds));
}

#[test]
fn killed_at_any_moment_it_keeps_its_promises() {
    keeps_its_promises(rounds(), Signal::KILL);
}

#[test]
fn stopped_in_order_it_keeps_its_promises() {
    keeps_its_promises(rounds().div_ceil(2), Signal::TERM);
}

// ---- a checker that cannot fail is none: the same ledger, and stores that were tampered with ----

/// Messages of a sabotaged store: `ann`'s to `bob`, then to `anna`.
const LETTERS: usize = 40;

/// Sends the letters, kills the daemon while they stand in its log alone, and calls `sabotage` with its folder.
fn sabotaged(sabotage: impl FnOnce(&Path)) -> Trial {
    let mut trial = Trial::new(setup());
    // Now the users are in the store's file.
    trial.cpd.signal(Signal::TERM);
    assert!(trial.cpd.ends().success());
    trial.cpd.restart().expect("a start");
    let site = Site::new(trial.cpd.address(), &trial.ledger);
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
fn findings(trial: &mut Trial) -> Result<Vec<Kind>, ExitStatus> {
    trial.cpd.restart()?;
    trial.count();
    trial.drain();
    trial.cpd.kill();
    trial.book().next_life(Parting::Torn);
    let kinds: BTreeSet<Kind> = trial.book().violations().iter().map(|violation| violation.kind).collect();
    Ok(kinds.into_iter().collect())
}

/// Writes other rows in the place of those that are there, right checksums and all, and says what the ledger finds.
fn with_rows(change: impl FnOnce(&mut [Row])) -> Vec<Kind> {
    let sabotage = |data: &Path| {
        let mut rows = sabotage::rows(data);
        change(&mut rows);
        sabotage::replace(data, &rows);
    };
    findings(&mut sabotaged(sabotage)).expect("the checksums are right")
}

#[test]
fn ledger_finds_nothing_in_a_store_that_was_let_alone() {
    assert_eq!(findings(&mut sabotaged(|_| ())), Ok(vec![]));
    assert_eq!(with_rows(|_| ()), []);
}

#[test]
fn ledger_notices_a_deleted_row() {
    let delete = |data: &Path| {
        let rows = sabotage::rows(data);
        sabotage::sql(data, &format!("DELETE FROM message WHERE id = {}", rows[LETTERS / 2].id));
    };
    let mut trial = sabotaged(delete);
    assert_eq!(findings(&mut trial), Ok(vec![Kind::Order, Kind::Lost, Kind::Count]));
    assert!(trial.ledger.into_inner().expect("no panic").violations().len() < 5, "one finding for each rule");
}

#[test]
fn ledger_notices_the_missing_log_of_a_killed_daemon() {
    let remove = |data: &Path| {
        let [_, log] = sabotage::files(data);
        assert!(fs::metadata(&log).expect("a log").len() > 0);
        fs::remove_file(log).expect("removed");
    };
    let mut trial = sabotaged(remove);
    assert_eq!(findings(&mut trial), Ok(vec![Kind::Lost, Kind::Count]));
    let lost = trial.book().violations().iter().filter(|violation| violation.kind == Kind::Lost).count();
    assert_eq!(lost, 2 * LETTERS, "every one that had its 240");
}

#[test]
fn ledger_knows_messages_that_come_from_an_old_copy() {
    let mut trial = sabotaged(|_| ());
    let files = sabotage::files(&trial.cpd.data());
    let copies = files.each_ref().map(|file| fs::read(file).expect("a file"));
    assert_eq!(findings(&mut trial), Ok(vec![]));
    for (file, copy) in files.iter().zip(copies) {
        fs::write(file, copy).expect("written");
    }
    // cpd knows it as well, by the log beside it.
    let status = findings(&mut trial).expect_err("was started");
    assert_eq!(status.code(), Some(EX_DATAERR));
    fs::remove_file(trial.cpd.data().join(".cpd.db.history")).expect("removed");
    assert_eq!(findings(&mut trial), Ok(vec![Kind::Again, Kind::Count]));
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
    let status = findings(&mut sabotaged(swap)).expect_err("was started");
    assert_eq!(status.code(), Some(EX_DATAERR));
}
