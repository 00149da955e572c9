//! A real cpd on a small ext4 that fills up: by messages until it takes no more, and by another file to the last block.
//! Senders get 540, downloads and their 250s go on working, and once there is room again senders get 240 without a
//! restart. What the clients saw is in a ledger, as in tests/kill.rs.
//!
//! ```sh
//! cargo build --features sabotage --target-dir target/sabotage
//! cargo test --test disk_full -- --nocapture
//! ```
//!
//! It wants root, a loop device and e2fsprogs.

mod disk;
#[path = "../support/ledger.rs"]
mod ledger;
#[path = "../rounds/mod.rs"]
mod rounds;

use std::thread::sleep;
use std::time::{Duration, Instant};

use disk::{Disk, apart};
use ledger::{Kind, Parting};
use rounds::client::{Client, Over, Site};
use rounds::cpd::Recipe;
use rounds::load;
use rounds::trial::Trial;
use rustix::process::Signal;

const DISK_MIB: u64 = 32;
/// Bytes of a message, and of some a little more.
const LONG: usize = 1000;
/// Messages of a burst.
const BURST: usize = 100;
/// Bursts after which a disk of `DISK_MIB` is full, whatever a message takes.
const BURSTS_MAX: usize = 1000;
/// Bursts that are all refused, one after the other, before the disk counts as full.
const REFUSED: usize = 3;
/// How soon after there is room a message must be taken, on a quiet machine a matter of milliseconds.
const RECOVERY_MAX: Duration = Duration::from_secs(5);
/// cpd's exit code for a system that fails it.
const EX_OSERR: i32 = 71;
const STEP: Duration = Duration::from_millis(5);
/// Load while the disk is full.
const LOAD: Duration = Duration::from_millis(700);

/// `BURST` messages of full length from a new connection of ann's to `recipient`; how many got their 240.
fn burst(trial: &mut Trial, recipient: &str) -> Result<usize, Over> {
    let letters: Vec<_> = (0..BURST).map(|_| (recipient, long(trial))).collect();
    let site = site(trial);
    let mut ann = Client::login(&site, "ann")?;
    let kept = ann.send(&letters)?;
    ann.close(Parting::Torn);
    Ok(kept)
}

fn long(trial: &mut Trial) -> String {
    let mut body = load::body(&mut trial.random);
    if body.len() < LONG {
        body.push('.');
    }
    while body.len() < LONG {
        body.push('x');
    }
    body
}

fn site(trial: &Trial) -> Site<'_> {
    Site { failing: true, ..Site::new(trial.cpd.address(), &trial.ledger) }
}

/// Sends until nothing is taken any more; how many were.
fn fill_with_messages(trial: &mut Trial) -> usize {
    let (mut kept, mut refused) = (0, 0);
    for _ in 0..BURSTS_MAX {
        let now = burst(trial, "bob").expect("the daemon is there");
        kept += now;
        refused = if now == 0 { refused + 1 } else { 0 };
        if refused == REFUSED {
            return kept;
        }
    }
    let log = trial.cpd.whole_log();
    let told: Vec<&str> = log.lines().filter(|line| !line.contains(" info login ")).collect();
    panic!("{kept} messages of a kilobyte on a disk of {DISK_MIB} MiB:\n{}", told.join("\n"));
}

/// How long it takes until a message is taken; `None`: longer than `most`.
fn recovers(trial: &mut Trial, most: Duration) -> Option<Duration> {
    let begun = Instant::now();
    while begun.elapsed() < most {
        let letter = [("anna", long(trial))];
        let site = site(trial);
        let sent = Client::login(&site, "ann").and_then(|mut ann| {
            let kept = ann.send(&letter)?;
            ann.close(Parting::Torn);
            Ok(kept)
        });
        if matches!(sent, Ok(1)) {
            return Some(begun.elapsed());
        }
        sleep(STEP);
    }
    None
}

/// Clients of every kind while the disk is full.
fn busy(trial: &mut Trial) {
    trial.busy(false, true, |_, _| sleep(LOAD));
}

/// Ends the daemon, starts it, looks at everything.
fn settle(trial: &mut Trial, signal: Signal) {
    trial.book().ending();
    trial.cpd.signal(signal);
    let status = trial.cpd.wait();
    assert!(signal == Signal::KILL || status.success(), "{status}; {}", trial.cpd.log());
    trial.book().next_life(Parting::Torn);
    trial.start();
    trial.drain();
    trial.check(0).unwrap_or_else(|caught| panic!("{caught}"));
}

fn is_sane(trial: &mut Trial) {
    assert_eq!(trial.cpd.ended(), None, "{}", trial.cpd.log());
    let log = trial.cpd.whole_log();
    assert!(!log.contains("panicked") && !log.contains("internal error"), "{}", trial.cpd.log());
    trial.check(0).unwrap_or_else(|caught| panic!("{caught}"));
}

/// Downloads whole queues until nothing is left.
fn drain(trial: &mut Trial) {
    trial.drain();
    trial.check(0).unwrap_or_else(|caught| panic!("{caught}"));
}

/// Fills a disk, by messages alone or with another file that leaves `left` bytes at first, and makes room again; how long
/// that was not noticed.
fn fills_up(name: &str, left: Option<u64>) -> (Duration, String) {
    let disk = Disk::new(name, DISK_MIB, &[]);
    let mut trial = Trial::new(Recipe::plain().in_folder(disk.folder().join("data")));
    let ballast = left.map(|left| disk.fill(left));
    let taken = fill_with_messages(&mut trial);
    assert!(trial.cpd.whole_log().contains("the disk is full: "), "{}", trial.cpd.log());
    let (full, before) = (disk.free(), trial.book().counts().delivered);
    busy(&mut trial);
    let delivered = trial.book().counts().delivered - before;
    assert!(taken == 0 || delivered > 0, "no downloads from a full disk: {}", trial.cpd.log());
    is_sane(&mut trial);
    // The twin of the recovery below: where nothing makes room, nothing may be found to recover.
    fill_with_messages(&mut trial);
    assert_eq!(recovers(&mut trial, LOAD), None, "{}", trial.cpd.log());
    match ballast {
        Some(ballast) => std::fs::remove_file(&ballast).expect("removed"),
        None => drain(&mut trial),
    }
    let time = recovers(&mut trial, RECOVERY_MAX)
        .unwrap_or_else(|| panic!("{left:?}: no recovery, {} bytes are free: {}", disk.free(), trial.cpd.log()));
    println!(
        "{left:?}: {taken} messages until {full} bytes were free; {delivered} downloaded; room, and 240 after {time:?}"
    );
    drain(&mut trial);
    settle(&mut trial, Signal::KILL);
    (time, trial.figures(1))
}

#[test]
fn a_full_disk_refuses_messages_alone_and_is_over_when_there_is_room() {
    apart("a_full_disk_refuses_messages_alone_and_is_over_when_there_is_room", || {
        for (name, left) in [("own", None), ("roomy", Some(1 << 20)), ("tight", Some(64 << 10)), ("none", Some(0))] {
            let (time, figures) = fills_up(name, left);
            println!("proof: disk full, {name}: 240 again {time:?} after there was room, without a restart: {figures}");
        }
    });
}

#[test]
fn a_240_for_what_a_full_disk_does_not_take_is_caught() {
    apart("a_240_for_what_a_full_disk_does_not_take_is_caught", || {
        let disk = Disk::new("twin", DISK_MIB, &[]);
        let mut trial = Trial::new(Recipe::sabotaged("early-reply").in_folder(disk.folder().join("data")));
        let ballast = disk.fill(0);
        let kept = burst(&mut trial, "bob").expect("the daemon is there");
        trial.cpd.kill();
        trial.book().next_life(Parting::Torn);
        std::fs::remove_file(ballast).expect("removed");
        trial.start();
        trial.drain();
        let caught = trial.check(1).expect_err("early-reply");
        assert!(caught.kinds.contains(&Kind::Lost), "{caught}");
        println!("proof: disk full: twin early-reply: {kept} of {BURST} got 240, caught at once, {:?}", caught.kinds);
    });
}

/// Bytes that cpd's files may have at first, and later.
const FILE_LIMITS: [u64; 2] = [12 << 20, 16 << 10];

fn limit_files(trial: &Trial, bytes: &str) {
    let pid = trial.cpd.id().to_string();
    disk::run("prlimit", &["--pid", &pid, &format!("--fsize={bytes}:")]);
}

#[test]
fn a_limit_of_files_is_a_full_disk() {
    let mut trial = Trial::new(Recipe::plain());
    let [roomy, none] = FILE_LIMITS.map(|limit| limit.to_string());
    limit_files(&trial, &roomy);
    let taken = fill_with_messages(&mut trial);
    busy(&mut trial);
    is_sane(&mut trial);
    limit_files(&trial, "unlimited");
    let time = recovers(&mut trial, RECOVERY_MAX).unwrap_or_else(|| panic!("no recovery: {}", trial.cpd.log()));
    is_sane(&mut trial);
    // A limit below what is there: not a byte more can be written at the end of a file. SIGXFSZ must not end it.
    limit_files(&trial, &none);
    busy(&mut trial);
    let ended = trial.cpd.ended();
    if let Some(status) = ended {
        assert_eq!(status.code(), Some(EX_OSERR), "{status}; {}", trial.cpd.log());
        trial.book().next_life(Parting::Torn);
        trial.start();
    } else {
        limit_files(&trial, "unlimited");
        recovers(&mut trial, RECOVERY_MAX).unwrap_or_else(|| panic!("no recovery: {}", trial.cpd.log()));
    }
    settle(&mut trial, Signal::KILL);
    println!(
        "proof: RLIMIT_FSIZE: {taken} messages until 540; 240 again {time:?} after it was raised; below the files' own \
         length: {}: {}",
        ended.map_or("went on".to_owned(), |status| status.to_string()),
        trial.figures(1)
    );
}
