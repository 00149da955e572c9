//! The power is cut under a real cpd, again and again: its store is on an ext4 in a file that is shut down without being
//! flushed, under load, in the silence after it, while cpd moves its log into the store's file, and while it starts.
//! Whatever had not been synced is gone then, also what the kernel had taken; that is what a kill (tests/kill.rs) does
//! not show. What its clients saw is in a ledger, as there.
//!
//! `CUTS=500 cargo test --test power_cut -- --nocapture` cuts more often than the usual ten times. It wants root, a loop
//! device, python3, strace and e2fsprogs. What is lost is the cache of the file system and its journal's open transaction; a disk
//! that lies about its own cache is not played.

use std::os::unix::fs::MetadataExt;
use std::process::ExitStatus;
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::{Duration, Instant};

use cpd_core::sabotage::Fault;
use cpd_testing::environment::number;
use cpd_testing::{disk, ledger, rounds, running};
use disk::{Disk, apart};
use ledger::{Kind, Parting};
use rounds::client::{Client, Site};
use rounds::load::body;
use rounds::trial::{LOAD_MS, Trial, setup};
use running::{Daemon, PATIENCE, Setup};
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

/// And for what it cannot make.
const EX_CANTCREAT: i32 = 73;

/// When the power goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Moment {
    /// Under load.
    Load,
    /// In the silence after it, about when cpd moves its log into the store's file.
    Silence,
    /// As soon as that move has begun to change the store's file, or a little later.
    Checkpoint,
    /// A while after cpd was started on a log that a killed one had left.
    Start,
    /// As soon as such a start has begun to change the store's file.
    Recovery,
}

/// The moments of a run, one cut after the other and again from the beginning: a third of them in silence.
const MOMENTS: [Moment; 6] =
    [Moment::Load, Moment::Checkpoint, Moment::Start, Moment::Load, Moment::Silence, Moment::Recovery];
/// Silence in milliseconds: cpd waits for 500.
const SILENCE_MS: (u64, u64) = (450, 700);
/// Time after the process was made, in microseconds.
const START_US: (u64, u64) = (0, 50_000);
/// Messages behind which the silence begins.
const BURST: usize = 50;
/// Whose syncs take 0.2 s: on a disk in memory a recovery is over before anybody has seen it.
const SLOW_SYNCS: [&str; 11] = [
    "strace",
    "-D",
    "-f",
    "-qq",
    "--seccomp-bpf",
    "-o",
    "/dev/null",
    "-e",
    "trace=fdatasync,fsync",
    "-e",
    "inject=fdatasync,fsync:delay_enter=200000",
];

/// What came of all cuts.
#[derive(Default)]
struct Tally {
    cuts: usize,
    /// cpd ended by itself.
    gave_up: u64,
    /// After a checkpoint of the same life had changed the store's file.
    checkpointed: u64,
    /// In the first 50 ms of a process, or in its recovery.
    starts: u64,
    /// Of those, when the start had begun to change the store's file and had not emptied the log yet.
    recovering: u64,
}

/// One cut: no power, the end of the process in its own or another way, and power again.
fn cut(trial: &mut Trial, disk: &Disk, tally: &mut Tally) {
    let moment = MOMENTS[tally.cuts % MOMENTS.len()];
    tally.cuts += 1;
    let from = trial.cpd.log().len();
    let busy = moment == Moment::Load && trial.random.one_in(2);
    let status = match moment {
        Moment::Load => under_load(trial, disk, busy),
        Moment::Silence | Moment::Checkpoint => in_silence(trial, disk, moment, tally),
        Moment::Start | Moment::Recovery => at_a_start(trial, disk, moment, tally),
    };
    let log = trial.cpd.log()[from..].to_owned();
    match status {
        Some(status) => {
            let starts = matches!(moment, Moment::Start | Moment::Recovery);
            // A start may be about to make a lock or a socket.
            let codes: &[i32] = if starts { &[EX_OSERR, EX_CANTCREAT] } else { &[EX_OSERR] };
            assert!(
                status.code().is_some_and(|code| codes.contains(&code)),
                "{moment:?}: {status}: {}",
                trial.cpd.log_tail()
            );
            let causes: &[&str] = match moment {
                Moment::Load => &["a commit failed"],
                Moment::Silence | Moment::Checkpoint => &["(SQLite ", "(os error "],
                // The last: it could not make its control socket.
                Moment::Start | Moment::Recovery => &["(SQLite ", "(os error ", "control.sock: I/O error"],
            };
            assert!(causes.iter().any(|cause| log.contains(cause)), "{moment:?}: {}", trial.cpd.log_tail());
            tally.gave_up += 1;
        }
        None => assert!(!busy, "cpd goes on over a dead disk after {GIVES_UP_MAX:?}: {}", trial.cpd.log_tail()),
    }
    for word in ["panicked", "internal error"] {
        assert!(!log.contains(word), "{moment:?}: {}", trial.cpd.log_tail());
    }
    trial.book().next_life(Parting::Torn);
    disk.unmount();
    disk.mount();
}

/// With `by_itself` cpd has to end before anybody kills it.
fn under_load(trial: &mut Trial, disk: &Disk, by_itself: bool) -> Option<ExitStatus> {
    let time = trial.random.between(LOAD_MS.0, LOAD_MS.1);
    let grace = grace(trial);
    let (hand, mut status) = (disk.hand(), None);
    trial.busy(false, true, |site, cpd| {
        sleep(Duration::from_millis(time));
        site.book().ending();
        // A 240 that is read from here on may have been sent after the power was gone. The process goes on for a while
        // here, which it would not; and an fdatasync(2) that runs while ext4 is shut down can return 0 for what is lost,
        // as a plain writer of a plain file finds too.
        site.dark.store(true, Ordering::SeqCst);
        hand.cut();
        status = over(cpd, if by_itself { GIVES_UP_MAX } else { grace });
    });
    status
}

/// All clients have gone: every 240 was read.
fn in_silence(trial: &mut Trial, disk: &Disk, moment: Moment, tally: &mut Tally) -> Option<ExitStatus> {
    let hand = disk.hand();
    load(trial);
    // Some clients of the load wait at its end: the silence begins with the last of these.
    burst(trial);
    let before = changed(trial);
    let time = trial.random.between(SILENCE_MS.0, SILENCE_MS.1);
    match moment {
        Moment::Checkpoint => {
            waits_for_change(trial, before);
            let later = if trial.random.one_in(2) { 0 } else { trial.random.between(0, 10_000) };
            sleep(Duration::from_micros(later));
        }
        _ => sleep(Duration::from_millis(time)),
    }
    tally.checkpointed += u64::from(changed(trial) != before);
    hand.cut();
    let grace = grace(trial);
    over(&mut trial.cpd, grace)
}

/// After a kill, which leaves a log of which nobody knows how much was synced.
fn at_a_start(trial: &mut Trial, disk: &Disk, moment: Moment, tally: &mut Tally) -> Option<ExitStatus> {
    trial.play(Signal::KILL);
    while log_bytes(trial) == 0 {
        // The machine was too busy for a commit.
        trial.start();
        trial.play(Signal::KILL);
    }
    let (hand, before) = (disk.hand(), changed(trial));
    let time = trial.random.between(START_US.0, START_US.1);
    if moment == Moment::Recovery {
        trial.cpd.setup.wrapper = SLOW_SYNCS.map(String::from).into();
    }
    trial.cpd.relaunch();
    trial.cpd.setup.wrapper = Vec::new();
    let amid = match moment {
        Moment::Recovery => waits_for_change(trial, before),
        _ => {
            sleep(Duration::from_micros(time));
            is_amid(trial, before)
        }
    };
    tally.starts += 1;
    tally.recovering += u64::from(amid);
    hand.cut();
    let grace = grace(trial);
    over(&mut trial.cpd, grace)
}

fn load(trial: &mut Trial) {
    let time = trial.random.between(LOAD_MS.0, LOAD_MS.1);
    trial.busy(false, true, |_, _| sleep(Duration::from_millis(time)));
}

/// Messages that all have their 240.
fn burst(trial: &mut Trial) {
    let letters: Vec<_> = (0..BURST).map(|_| ("anna", body(&mut trial.random))).collect();
    let site = Site::new(trial.cpd.address(), &trial.ledger);
    let mut ann = Client::login(&site, "ann").expect("a login");
    assert_eq!(ann.send(&letters).expect("the daemon is there"), BURST);
    ann.close(Parting::Torn);
}

/// How long the process lives on without power.
fn grace(trial: &mut Trial) -> Duration {
    Duration::from_millis(trial.random.between(0, 100))
}

/// Ends the process, unless it ends by itself within `grace`.
fn over(cpd: &mut Daemon, grace: Duration) -> Option<ExitStatus> {
    let status = cpd.ends_within(grace);
    if status.is_none() {
        cpd.signal(Signal::KILL);
        cpd.ends();
    }
    status
}

/// When the store's file was last written to: only what moves the log into it does.
fn changed(trial: &Trial) -> (i64, i64) {
    let found = std::fs::metadata(trial.cpd.data().join("cpd.db")).expect("a store");
    (found.mtime(), found.mtime_nsec())
}

fn log_bytes(trial: &Trial) -> u64 {
    std::fs::metadata(trial.cpd.data().join("cpd.db-wal")).map_or(0, |found| found.len())
}

/// Whether the log is being moved into the store's file, which was last written to at `before`.
fn is_amid(trial: &Trial, before: (i64, i64)) -> bool {
    changed(trial) != before && log_bytes(trial) > 0
}

/// Until the log is being moved, and whether that was seen: one without a whole commit is cut off at a start, and nothing
/// of it moved.
fn waits_for_change(trial: &Trial, before: (i64, i64)) -> bool {
    let begun = Instant::now();
    // Without a pause: the move takes a few milliseconds.
    loop {
        if is_amid(trial, before) {
            return true;
        }
        if log_bytes(trial) == 0 {
            return false;
        }
        assert!(begun.elapsed() < PATIENCE, "the log stays where it is: {}", trial.cpd.log_tail());
    }
}

/// A trial whose users are in the store's file, come what may: only messages are to be at stake.
fn trial(setup: Setup, disk: &Disk) -> Trial {
    let mut trial = Trial::new(setup.data(disk.folder().join("data")));
    trial.cpd.signal(Signal::TERM);
    assert!(trial.cpd.ends().success());
    trial.start();
    trial
}

#[test]
fn after_a_power_cut_everything_acknowledged_is_there() {
    apart("after_a_power_cut_everything_acknowledged_is_there", || {
        let cuts = number("CUTS").unwrap_or(CUTS);
        let (disk, mut tally) = (Disk::new("power", DISK_MIB, &[]), Tally::default());
        let mut trial = trial(setup(), &disk);
        trial.rounds(cuts, |trial| cut(trial, &disk, &mut tally)).unwrap_or_else(|caught| panic!("{caught}"));
        let Tally { gave_up, checkpointed, starts, recovering, .. } = tally;
        if cuts >= MOMENTS.len() as u64 {
            assert!(checkpointed > 0, "no cut fell after a checkpoint");
            assert!(starts > 0 && recovering > 0, "{starts} cuts fell into a start, {recovering} into its recovery");
        }
        println!(
            "proof: power cut: {cuts} cuts, {checkpointed} after a checkpoint had changed the store's file, {starts} at a \
             start ({recovering} amid its recovery), cpd gave up by itself at {gave_up}: {}",
            trial.figures(cuts)
        );
    });
}

fn is_caught(test: &str, fault: Fault) {
    apart(test, || {
        let disk = Disk::new(fault.name(), DISK_MIB, &[]);
        let (mut trial, mut tally) = (trial(setup().sabotaged(fault), &disk), Tally::default());
        let rounds = trial.rounds(TWIN_CUTS_MAX, |trial| cut(trial, &disk, &mut tally));
        let caught = rounds.expect_err(fault.name());
        assert!(caught.kinds.contains(&Kind::Lost), "{}: {caught}", fault.name());
        println!(
            "proof: power cut: twin {}: caught at cut {} of {TWIN_CUTS_MAX}, {:?}",
            fault.name(),
            caught.round,
            caught.kinds
        );
    });
}

#[test]
fn a_store_that_does_not_sync_is_caught() {
    is_caught("a_store_that_does_not_sync_is_caught", Fault::WeakSync);
}

#[test]
fn a_240_before_the_commit_is_caught() {
    is_caught("a_240_before_the_commit_is_caught", Fault::EarlyReply);
}
