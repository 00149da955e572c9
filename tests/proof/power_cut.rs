//! The power is cut under a real cpd with load, again and again: its store is on an ext4 in a file that is shut down at any
//! moment without being flushed. Whatever had not been synced is gone then, also what the kernel had taken; that is
//! what a kill (tests/kill.rs) does not show. What its clients saw is in a ledger, as there.
//!
//! ```sh
//! cargo build --features sabotage --target-dir target/sabotage
//! CUTS=500 cargo test --test power_cut -- --nocapture
//! ```
//!
//! By itself it cuts ten times. It wants root, a loop device, python3 and e2fsprogs. What is lost is the cache of the
//! file system and its journal's open transaction; a disk that lies about its own cache is not played.

mod disk;
#[path = "../support/ledger.rs"]
mod ledger;
#[path = "../rounds/mod.rs"]
mod rounds;

use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::Duration;

use disk::{Disk, apart};
use ledger::{Kind, Parting};
use rounds::cpd::Recipe;
use rounds::trial::{LOAD_MS, Trial, number};
use rustix::process::Signal;

const CUTS: u64 = 10;
/// Cuts within which a cpd that does not keep what it has acknowledged must be caught.
const TWIN_CUTS_MAX: u64 = 20;
/// Size of the file system: a store of some seconds, and a log.
const DISK_MIB: u64 = 96;
/// How long cpd may need to give up on a busy machine, once nothing can be written any more.
const GIVES_UP_MAX: Duration = Duration::from_secs(20);
/// cpd's exit code for a system that fails it.
const EX_OSERR: i32 = 71;

/// One cut: load, no power, the end of the process in its own or another way, and power again.
fn cut(trial: &mut Trial, disk: &Disk, gave_up: &mut u64) {
    let time = trial.random.between(LOAD_MS.0, LOAD_MS.1);
    let grace = trial.random.between(0, 100);
    let by_itself = trial.random.one_in(4);
    let (hand, mut status) = (disk.hand(), None);
    trial.busy(false, true, |site, cpd| {
        sleep(Duration::from_millis(time));
        site.book().ending();
        // A 240 that is read from here on may have been sent after the power was gone. The process goes on for a while
        // here, which it would not; and an fdatasync(2) that runs while ext4 is shut down can return 0 for what is lost,
        // as a plain writer of a plain file finds too.
        site.dark.store(true, Ordering::SeqCst);
        hand.cut();
        status = cpd.ends_within(if by_itself { GIVES_UP_MAX } else { Duration::from_millis(grace) });
        if status.is_none() {
            cpd.signal(Signal::KILL);
            cpd.wait();
        }
    });
    let log = trial.cpd.whole_log();
    match status {
        Some(status) => {
            assert_eq!(status.code(), Some(EX_OSERR), "{}", trial.cpd.log());
            assert!(log.contains("a commit failed"), "{}", trial.cpd.log());
            *gave_up += 1;
        }
        None => assert!(!by_itself, "cpd goes on over a dead disk after {GIVES_UP_MAX:?}: {}", trial.cpd.log()),
    }
    for word in ["panicked", "internal error"] {
        assert!(!log.contains(word), "{}", trial.cpd.log());
    }
    trial.book().next_life(Parting::Torn);
    disk.unmount();
    disk.mount();
}

/// A trial whose users are in the store's file, come what may: only messages are to be at stake.
fn trial(recipe: Recipe, disk: &Disk) -> Trial {
    let mut trial = Trial::new(recipe.in_folder(disk.folder().join("data")));
    trial.cpd.signal(Signal::TERM);
    assert!(trial.cpd.wait().success());
    trial.start();
    trial
}

#[test]
fn after_a_power_cut_everything_acknowledged_is_there() {
    apart("after_a_power_cut_everything_acknowledged_is_there", || {
        let cuts = number("CUTS").unwrap_or(CUTS);
        let (disk, mut gave_up) = (Disk::new("power", DISK_MIB, &[]), 0);
        let mut trial = trial(Recipe::plain(), &disk);
        trial.rounds(cuts, |trial| cut(trial, &disk, &mut gave_up)).unwrap_or_else(|caught| panic!("{caught}"));
        println!("proof: power cut: {cuts} cuts, cpd gave up by itself at {gave_up}: {}", trial.figures(cuts));
    });
}

fn is_caught(test: &str, fault: &'static str) {
    apart(test, || {
        let disk = Disk::new(fault, DISK_MIB, &[]);
        let mut trial = trial(Recipe::sabotaged(fault), &disk);
        let rounds = trial.rounds(TWIN_CUTS_MAX, |trial| cut(trial, &disk, &mut 0));
        let caught = rounds.expect_err(fault);
        assert!(caught.kinds.contains(&Kind::Lost), "{fault}: {caught}");
        println!(
            "proof: power cut: twin {fault}: caught at cut {} of {TWIN_CUTS_MAX}, {:?}",
            caught.round, caught.kinds
        );
    });
}

#[test]
fn a_store_that_does_not_sync_is_caught() {
    is_caught("a_store_that_does_not_sync_is_caught", "weak-sync");
}

#[test]
fn a_240_before_the_commit_is_caught() {
    is_caught("a_240_before_the_commit_is_caught", "early-reply");
}
