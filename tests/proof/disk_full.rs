//! A real cpd on a small ext4 that fills up: by messages until it takes no more, and by another file to the last block.
//! Senders get 540, downloads and their 250s go on working, and once there is room again senders get 240 within a second
//! and without a restart. What the clients saw is in a ledger, as in tests/kill.rs.
//!
//! `cargo test --test disk_full -- --nocapture`. It wants root, a loop device and e2fsprogs.

use std::thread::sleep;
use std::time::{Duration, Instant};

use cpd_core::sabotage::Fault;
use cpd_testing::{disk, ledger, rounds};
use disk::{Disk, apart};
use ledger::{End, Kind, Parting};
use rounds::client::{Client, Manner, Over, Site};
use rounds::load;
use rounds::random::Random;
use rounds::trial::{Trial, setup};
use rustix::process::Signal;

const DISK_MIB: u64 = 32;
/// Bytes of a message, and of some a little more.
const LONG: usize = 1000;
/// Messages of a burst.
const BURST: usize = 100;
/// Bursts after which a disk of `DISK_MIB` is full, whatever a message takes.
const BURSTS_MAX: usize = 1000;
/// Messages that are all refused, one after the other, before the disk counts as full.
const REFUSED: usize = 3;
/// How often a disk is filled and freed.
const CYCLES: usize = 3;
/// How soon after there is room a message must be taken, at the best of all times: a machine may be busy at one.
const RECOVERY_MAX: Duration = Duration::from_secs(1);
/// And at every time.
const RECOVERY_LATEST: Duration = Duration::from_secs(5);
/// Whose queue is filled before the disk is, and with how many messages.
const OWNER: &str = "0";
const QUEUED: usize = 200;
/// cpd's exit code for a system that fails it.
const EX_OSERR: i32 = 71;
const STEP: Duration = Duration::from_millis(5);
/// Load while the disk is full.
const LOAD: Duration = Duration::from_millis(700);

/// `count` messages of full length from a new connection of ann's to `recipient`; how many got their 240.
fn burst(trial: &mut Trial, recipient: &str, count: usize) -> Result<usize, Over> {
    let letters: Vec<_> = (0..count).map(|_| (recipient, long(trial))).collect();
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

/// Sends until not one message is taken any more, where a burst asks for more room; how many were.
fn fill_with_messages(trial: &mut Trial) -> usize {
    let (mut kept, mut refused, mut count) = (0, 0, BURST);
    for _ in 0..BURSTS_MAX {
        let now = burst(trial, "bob", count).expect("the daemon is there");
        kept += now;
        refused = if now == 0 && count == 1 { refused + 1 } else { 0 };
        count = if now == 0 { 1 } else { BURST };
        if refused == REFUSED {
            return kept;
        }
    }
    let log = trial.cpd.log();
    let told: Vec<&str> = log.lines().filter(|line| !line.contains(" info login ")).collect();
    panic!("{kept} messages of a kilobyte on a disk of {DISK_MIB} MiB:\n{}", told.join("\n"));
}

/// What the owner of a queue saw of it on a full disk.
#[derive(Clone, Debug)]
struct Download {
    /// Messages in the queue before and after, as cpctl says.
    queued: [u64; 2],
    /// How often the server broke it off with 550, and it was begun again.
    failed: usize,
    /// How the server ended it at last.
    end: Option<End>,
    /// Messages that came.
    delivered: u64,
}

impl Download {
    fn judge(&self) -> Result<(), String> {
        let [before, after] = self.queued;
        let wrong = |what: &str| Err(format!("a download from a full disk: {what}: {self:?}"));
        match self.end {
            _ if before < QUEUED as u64 => wrong("the queue was not filled"),
            _ if self.delivered < before => wrong("not all came"),
            Some(End::All) if after >= before => wrong("the queue is as long as before"),
            Some(End::All) if self.failed == 0 => Ok(()),
            _ => wrong("no 255"),
        }
    }
}

/// Fills a queue while there is room.
fn fill_a_queue(trial: &mut Trial) {
    let letters: Vec<_> = (0..QUEUED).map(|_| (OWNER, long(trial))).collect();
    let site = site(trial);
    let mut ann = Client::login(&site, "ann").expect("a login");
    assert_eq!(ann.send(&letters).expect("the daemon is there"), QUEUED);
    ann.close(Parting::Torn);
}

fn queued(trial: &Trial) -> u64 {
    trial.cpd.queues().iter().find(|(name, _)| name == OWNER).map_or(0, |(_, queued)| *queued)
}

/// Downloads the whole queue while the disk is full, which must work.
fn empty_a_queue(trial: &mut Trial) -> Download {
    let download = look_at_a_queue(trial);
    download.judge().unwrap_or_else(|wrong| panic!("{wrong}: {}", trial.cpd.log_tail()));
    download
}

/// Downloads the whole queue, as far as that goes.
fn look_at_a_queue(trial: &mut Trial) -> Download {
    let (before, delivered) = (queued(trial), trial.book().counts().delivered);
    let mut random = Random::new(trial.seed, 0);
    let site = site(trial);
    let mut owner = Client::login(&site, OWNER).expect("a login on a full disk");
    let (mut end, mut failed) = (Some(End::Failed), 0);
    while end == Some(End::Failed) && failed <= QUEUED {
        end = owner.download_to_its_end(&Manner::WHOLE, &mut random).expect("the daemon is there");
        failed += usize::from(end == Some(End::Failed));
    }
    owner.close(Parting::Torn);
    let came = trial.book().counts().delivered - delivered;
    Download { queued: [before, queued(trial)], end, delivered: came, failed }
}

/// The best of these times until a message was taken.
fn in_time(times: &[Option<Duration>]) -> Result<Duration, String> {
    let best = times.iter().flatten().min().filter(|best| **best < RECOVERY_MAX);
    match best {
        _ if times.contains(&None) => Err(format!("no 240 after {RECOVERY_LATEST:?}: {times:?}")),
        Some(best) => Ok(*best),
        None => Err(format!("no 240 within {RECOVERY_MAX:?}: {times:?}")),
    }
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
    let status = trial.cpd.ends();
    assert!(signal == Signal::KILL || status.success(), "{status}; {}", trial.cpd.log_tail());
    trial.book().next_life(Parting::Torn);
    trial.start();
    trial.drain();
    trial.check(0).unwrap_or_else(|caught| panic!("{caught}"));
}

fn is_sane(trial: &mut Trial) {
    assert_eq!(trial.cpd.ended(), None, "{}", trial.cpd.log_tail());
    let log = trial.cpd.log();
    assert!(!log.contains("panicked") && !log.contains("internal error"), "{}", trial.cpd.log_tail());
    trial.check(0).unwrap_or_else(|caught| panic!("{caught}"));
}

/// Downloads whole queues until nothing is left.
fn drain(trial: &mut Trial) {
    trial.drain();
    trial.check(0).unwrap_or_else(|caught| panic!("{caught}"));
}

/// Fills a disk, by messages alone or with another file that leaves `left` bytes at first, and makes room again, and that
/// some times.
fn fills_up(name: &str, left: Option<u64>) {
    let disk = Disk::new(name, DISK_MIB, &[]);
    let mut trial = Trial::new(setup().data(disk.folder().join("data")));
    let (mut times, mut failed) = (Vec::new(), Vec::new());
    for cycle in 0..CYCLES {
        fill_a_queue(&mut trial);
        let ballast = left.map(|left| disk.fill(left));
        let taken = fill_with_messages(&mut trial);
        trial.cpd.waits_for_log("the disk is full: ");
        let full = disk.free();
        let download = empty_a_queue(&mut trial);
        if cycle == 0 {
            busy(&mut trial);
            // The twin of the recovery below: where nothing makes room, nothing may be found to recover.
            fill_with_messages(&mut trial);
            assert_eq!(recovers(&mut trial, LOAD), None, "{}", trial.cpd.log_tail());
        }
        is_sane(&mut trial);
        match ballast {
            Some(ballast) => std::fs::remove_file(&ballast).expect("removed"),
            None => drain(&mut trial),
        }
        let time = recovers(&mut trial, RECOVERY_LATEST);
        println!("{name}: {taken} messages until {full} bytes were free; {download:?}; room, and 240 after {time:?}");
        times.push(time);
        failed.push(download.failed);
        drain(&mut trial);
    }
    let best = in_time(&times).unwrap_or_else(|wrong| panic!("{name}: {wrong}; {}", trial.cpd.log_tail()));
    settle(&mut trial, Signal::KILL);
    println!(
        "proof: disk full, {name}: {CYCLES} queues of {QUEUED} downloaded meanwhile (550 in between: {failed:?}); 240 again at best {best:?} \
         after there was room, without a restart ({times:?}): {}",
        trial.figures(1)
    );
}

#[test]
fn a_full_disk_refuses_messages_alone_and_is_over_when_there_is_room() {
    apart("a_full_disk_refuses_messages_alone_and_is_over_when_there_is_room", || {
        for (name, left) in [("own", None), ("roomy", Some(1 << 20)), ("tight", Some(64 << 10)), ("none", Some(0))] {
            fills_up(name, left);
        }
    });
}

/// Messages in the queue when the disk fills up and cpd is ended.
const KEPT: usize = 1000;

/// Another program takes the last block, cpd is ended, and started without a byte of room: every message is fetched and
/// acknowledged. `meanwhile`: what is done between the two.
fn starts_without_room(trial: &mut Trial, disk: &Disk, signal: Signal, meanwhile: impl FnOnce(&Disk)) -> Download {
    for _ in 0..KEPT / QUEUED {
        fill_a_queue(trial);
    }
    let ballast = disk.fill(0);
    trial.book().ending();
    trial.cpd.signal(signal);
    let status = trial.cpd.ends();
    assert!(signal == Signal::KILL || status.success(), "{status}; {}", trial.cpd.log_tail());
    trial.book().next_life(Parting::Torn);
    // What the end gave back somebody else takes.
    std::fs::remove_file(&ballast).expect("removed");
    let ballast = disk.fill(0);
    meanwhile(disk);
    trial.start();
    // Some may fit into what its files have inside.
    fill_with_messages(trial);
    let download = look_at_a_queue(trial);
    is_sane(trial);
    std::fs::remove_file(&ballast).expect("removed");
    recovers(trial, RECOVERY_LATEST).unwrap_or_else(|| panic!("no recovery: {}", trial.cpd.log_tail()));
    drain(trial);
    download
}

#[test]
fn a_start_without_a_byte_of_room_hands_out_what_is_there() {
    apart("a_start_without_a_byte_of_room_hands_out_what_is_there", || {
        let disk = Disk::new("start", DISK_MIB, &[]);
        let mut trial = Trial::new(setup().data(disk.folder().join("data")));
        let mut lives = 0;
        for signal in [Signal::TERM, Signal::KILL, Signal::TERM, Signal::KILL] {
            let download = starts_without_room(&mut trial, &disk, signal, |_| ());
            download.judge().unwrap_or_else(|wrong| panic!("{signal:?}: {wrong}: {}", trial.cpd.log_tail()));
            lives += 1;
        }
        // Without the room that is kept over the stop there is none.
        let twin = starts_without_room(&mut trial, &disk, Signal::TERM, |disk| {
            std::fs::write(disk.folder().join("data/cpd.db-wal"), "").expect("emptied");
            disk.fill_up();
        });
        let twin = twin.judge().expect_err("no room was kept");
        println!(
            "proof: disk full, started without a byte of room: {lives} lives, {KEPT} messages fetched and acknowledged in each: {}; twin without the room that is kept: caught at once: {twin:.80}",
            trial.figures(1)
        );
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
    let mut trial = Trial::new(setup());
    let [roomy, none] = FILE_LIMITS.map(|limit| limit.to_string());
    let (mut taken, mut times) = (0, Vec::new());
    for _ in 0..CYCLES {
        fill_a_queue(&mut trial);
        limit_files(&trial, &roomy);
        taken += fill_with_messages(&mut trial);
        empty_a_queue(&mut trial);
        busy(&mut trial);
        // Whatever room that has made.
        fill_with_messages(&mut trial);
        is_sane(&mut trial);
        limit_files(&trial, "unlimited");
        times.push(recovers(&mut trial, RECOVERY_LATEST));
        drain(&mut trial);
    }
    let best = in_time(&times).unwrap_or_else(|wrong| panic!("{wrong}; {}", trial.cpd.log_tail()));
    // A limit below what is there: not a byte more can be written at the end of a file. SIGXFSZ must not end it.
    limit_files(&trial, &none);
    busy(&mut trial);
    let ended = trial.cpd.ends_within(RECOVERY_LATEST);
    if let Some(status) = ended {
        assert_eq!(status.code(), Some(EX_OSERR), "{status}; {}", trial.cpd.log_tail());
        trial.book().next_life(Parting::Torn);
        trial.start();
    } else {
        limit_files(&trial, "unlimited");
        recovers(&mut trial, RECOVERY_LATEST).unwrap_or_else(|| panic!("no recovery: {}", trial.cpd.log_tail()));
    }
    settle(&mut trial, Signal::KILL);
    println!(
        "proof: RLIMIT_FSIZE: {taken} messages until 540; {CYCLES} queues of {QUEUED} downloaded to 255 meanwhile; 240 \
         again at best {best:?} after it was raised ({times:?}); below the files' own length: {}: {}",
        ended.map_or("went on".to_owned(), |status| status.to_string()),
        trial.figures(1)
    );
}

// ---- twins ----

/// What got its 240 from a cpd that says it too early is gone.
fn is_lost(trial: &mut Trial, what: &str, kept: usize) {
    trial.start();
    trial.drain();
    let caught = trial.check(1).expect_err("early-reply");
    assert!(caught.kinds.contains(&Kind::Lost), "{caught}");
    println!("proof: {what}: twin early-reply: {kept} of {BURST} got 240, caught at once, {:?}", caught.kinds);
}

#[test]
fn a_240_for_what_a_full_disk_does_not_take_is_caught() {
    apart("a_240_for_what_a_full_disk_does_not_take_is_caught", || {
        let disk = Disk::new("twin", DISK_MIB, &[]);
        let mut trial = Trial::new(setup().sabotaged(Fault::EarlyReply).data(disk.folder().join("data")));
        let ballast = disk.fill(0);
        let kept = burst(&mut trial, "bob", BURST).expect("the daemon is there");
        trial.cpd.kill();
        trial.book().next_life(Parting::Torn);
        std::fs::remove_file(ballast).expect("removed");
        is_lost(&mut trial, "disk full", kept);
    });
}

#[test]
fn a_240_for_what_a_limit_of_files_does_not_let_in_is_caught() {
    let mut trial = Trial::new(setup().sabotaged(Fault::EarlyReply));
    limit_files(&trial, &FILE_LIMITS[1].to_string());
    let kept = burst(&mut trial, "bob", BURST).expect("the daemon is there");
    trial.cpd.kill();
    trial.book().next_life(Parting::Torn);
    is_lost(&mut trial, "RLIMIT_FSIZE", kept);
}

#[test]
fn a_delete_before_the_250_on_a_full_disk_is_caught() {
    apart("a_delete_before_the_250_on_a_full_disk_is_caught", || {
        let disk = Disk::new("deletes", DISK_MIB, &[]);
        let mut trial = Trial::new(setup().sabotaged(Fault::EarlyDelete).data(disk.folder().join("data")));
        fill_a_queue(&mut trial);
        let ballast = disk.fill(1 << 20);
        // The connection is lost at the first message, which may have had its 250 before; the others had none.
        let mut random = Random::new(trial.seed, 0);
        let site = site(&trial);
        let mut owner = Client::login(&site, OWNER).expect("a login on a full disk");
        let lost = Manner { drop_one_in: 1, ..Manner::WHOLE };
        owner.download_to_its_end(&lost, &mut random).expect_err("the connection is lost");
        // Its deletes were written by then.
        sleep(LOAD);
        trial.cpd.kill();
        trial.book().next_life(Parting::Torn);
        std::fs::remove_file(ballast).expect("removed");
        trial.start();
        trial.drain();
        let caught = trial.check(1).expect_err("early-delete");
        assert!(caught.kinds.contains(&Kind::Lost), "{caught}");
        println!("proof: disk full: twin early-delete: caught at once, {:?}", caught.kinds);
    });
}

#[test]
fn downloads_and_recoveries_that_are_not_as_promised_are_caught() {
    let good = Download { queued: [200, 0], end: Some(End::All), delivered: 200, failed: 0 };
    assert_eq!(good.judge(), Ok(()));
    let caught = |download: Download| download.judge().unwrap_err();
    assert!(caught(Download { queued: [200, 200], ..good }).contains("as long as before"));
    assert!(caught(Download { queued: [0, 0], delivered: 0, ..good }).contains("was not filled"));
    assert!(caught(Download { delivered: 199, ..good }).contains("not all came"));
    assert!(caught(Download { end: Some(End::Failed), ..good }).contains("no 255"));
    assert!(caught(Download { failed: 1, ..good }).contains("no 255"));
    assert!(caught(Download { end: None, ..good }).contains("no 255"));

    let [soon, late] = [300, 1200].map(|ms| Some(Duration::from_millis(ms)));
    assert_eq!(in_time(&[late, soon, late]), Ok(Duration::from_millis(300)));
    assert!(in_time(&[late, late, late]).unwrap_err().contains("within 1s"));
    assert!(in_time(&[soon, None, soon]).unwrap_err().contains("no 240 after 5s"));
    assert!(in_time(&[]).is_err());
}
