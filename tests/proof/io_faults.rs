//! Reads, writes, syncs and other calls of the store fail under a real cpd, each at its nth time, or then and from there on:
//! strace(1) makes them fail. How many there are of each kind is counted first, in a life in which nothing fails; then
//! every n is tried, or some that are spread over all of them. No 240 may be false, nothing may panic, the log must name
//! the cause, and cpd goes on to 240s in the same life or ends with an exit code of cpd(8). What the clients saw is in a
//! ledger, as in tests/kill.rs; crates/cpd-store/src/tests/faults.rs has the same from inside.
//!
//! `FAULTS=400 cargo test --test io_faults -- --nocapture`: that many n of each kind of call while it serves and stops, and
//! six times as many while it starts and makes a store; by itself three. A kind of which there are fewer than half as many
//! calls is tried at every n, once and on. It wants strace.

use std::collections::BTreeMap;
use std::process::ExitStatus;
use std::thread::sleep;
use std::time::{Duration, Instant};

use cpd_testing::environment::number;
use cpd_testing::running::PATIENCE;
use cpd_testing::{ledger, rounds};
use ledger::{Kind, Parting};
use rounds::client::{Client, Manner, Over, Site};
use rounds::load;
use rounds::random::Random;
use rounds::strace::{Fault, Nth, Watch, count};
use rounds::trial::{Trial, setup};
use rustix::process::Signal;

const FAULTS: u64 = 3;
/// A crowd's load with faults.
const LOAD: Duration = Duration::from_millis(250);
/// How long the move of the log into the store's file may take, once it has begun.
const MOVE: Duration = Duration::from_millis(100);
/// How long after a fault that has passed a message may be refused, on a busy machine.
const RECOVERY_MAX: Duration = Duration::from_secs(20);
/// How long strace may take to tell of a call on a busy machine.
const TOLD_MAX: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_millis(5);
/// The exit codes of cpd(8) for a store that cannot be read or written.
const EX_OF_THE_DISK: [i32; 3] = [71, 73, 77];
/// That for a damaged store.
const EX_DATAERR: i32 = 65;
/// How a line of the log names what failed: SQLite's number or the system's.
const CAUSES: [&str; 2] = ["(SQLite ", "(os error "];

const FILE: &[&str] = &["cpd.db"];
const LOG: &[&str] = &["cpd.db-wal"];
const BOTH: &[&str] = &["cpd.db", "cpd.db-wal"];
const NEW: &[&str] = &["cpd.db.incomplete-new", "cpd.db.incomplete-new-wal"];
const SYNC: &[&str] = &["fdatasync", "fsync"];
const WRITE: &[&str] = &["pwrite64", "write"];
const READ: &[&str] = &["pread64", "read"];

/// While cpd serves.
const SERVING: &[Fault] = &[
    Fault { calls: SYNC, error: "EIO", files: LOG },
    Fault { calls: SYNC, error: "EIO", files: FILE },
    Fault { calls: WRITE, error: "EIO", files: LOG },
    Fault { calls: WRITE, error: "EIO", files: FILE },
    Fault { calls: WRITE, error: "ENOSPC", files: BOTH },
    Fault { calls: WRITE, error: "EDQUOT", files: BOTH },
    Fault { calls: READ, error: "EIO", files: BOTH },
    Fault { calls: &["ftruncate"], error: "EIO", files: BOTH },
];

/// While cpd stops, with something in its log.
const STOPPING: &[Fault] = &[
    Fault { calls: READ, error: "EIO", files: BOTH },
    Fault { calls: WRITE, error: "EIO", files: BOTH },
    Fault { calls: WRITE, error: "ENOSPC", files: BOTH },
    Fault { calls: SYNC, error: "EIO", files: BOTH },
    Fault { calls: &["ftruncate"], error: "EIO", files: BOTH },
];

/// While cpd starts, on a store that was killed.
const STARTING: &[Fault] = &[
    Fault { calls: &["openat"], error: "EIO", files: &["cpd.db", "cpd.db-wal", "cpd.db-lock"] },
    Fault { calls: &["openat"], error: "EIO", files: &["."] },
    Fault { calls: READ, error: "EIO", files: BOTH },
    Fault { calls: WRITE, error: "EIO", files: BOTH },
    Fault { calls: WRITE, error: "ENOSPC", files: BOTH },
    Fault { calls: SYNC, error: "EIO", files: BOTH },
    Fault { calls: SYNC, error: "EIO", files: &["."] },
    Fault { calls: &["ftruncate"], error: "EIO", files: BOTH },
    Fault { calls: &["fallocate"], error: "ENOSPC", files: LOG },
];

/// While cpd makes a store: its tables come by the same steps as a migration's.
const MAKING: &[Fault] = &[
    Fault {
        calls: &["openat"],
        error: "EIO",
        files: &["cpd.db.incomplete-new", "cpd.db.incomplete-new-wal", "cpd.db"],
    },
    Fault { calls: WRITE, error: "EIO", files: NEW },
    Fault { calls: WRITE, error: "ENOSPC", files: NEW },
    Fault { calls: READ, error: "EIO", files: NEW },
    Fault { calls: SYNC, error: "EIO", files: NEW },
    Fault { calls: SYNC, error: "EIO", files: &["."] },
    Fault { calls: &["rename", "renameat", "renameat2"], error: "EIO", files: &["cpd.db.incomplete-new", "cpd.db"] },
];

/// When the calls fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// While two clients have a short exchange: each life makes the same calls, so that every n means something.
    Exchange,
    /// While all kinds of clients are there.
    Crowd,
    Stopping,
    Starting,
    Making,
}

impl Phase {
    fn faults(self) -> &'static [Fault] {
        match self {
            Phase::Exchange | Phase::Crowd => SERVING,
            Phase::Stopping => STOPPING,
            Phase::Starting => STARTING,
            Phase::Making => MAKING,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Phase::Exchange => "in a short exchange",
            Phase::Crowd => "under load",
            Phase::Stopping => "at the stop",
            Phase::Starting => "at the start",
            Phase::Making => "while a store is made",
        }
    }

    /// How many n of each kind are tried.
    fn tried(self) -> u64 {
        let faults = number("FAULTS").unwrap_or(FAULTS);
        if matches!(self, Phase::Starting | Phase::Making) { 6 * faults } else { faults }
    }
}

/// The n of `calls` that are tried, and whether each is for once or on: all of them in both ways, or `tried`.
fn spread(calls: u64, tried: u64) -> Vec<(u64, bool)> {
    if calls.saturating_mul(2) <= tried {
        return (1..=calls).flat_map(|n| [(n, false), (n, true)]).collect();
    }
    (0..tried).map(|i| (1 + i * (calls - 1) / (tried - 1).max(1), i % 2 == 1)).collect()
}

/// How a life with faults ended.
#[derive(Clone, Debug)]
struct Life {
    name: String,
    /// Calls that were made to fail.
    injected: u64,
    code: i32,
    /// Without a signal.
    by_itself: bool,
    /// Whether a message got its 240 after the fault had passed, if one was sent.
    kept: Option<bool>,
    /// Nothing can fail at its end.
    sound: bool,
    /// What it wrote meanwhile.
    log: String,
    /// A read failed once and then did not: what SQLite took for damage looks sound afterwards.
    passing_read: bool,
    /// SQLite's own sync of the folder, of whose failure it says nothing; cpd syncs it once more (`Place::sync_folder`).
    untold: bool,
}

impl Life {
    /// What is wrong with it.
    fn judge(&self) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("{}: {what} ({} calls failed):\n{}", self.name, self.injected, self.log));
        if self.log.contains("panicked") || self.log.contains("internal error") {
            return wrong("a panic");
        }
        if self.by_itself && self.injected == 0 {
            return wrong("it ended by itself, and nothing had failed");
        }
        match self.code {
            0 if !self.by_itself => {}
            code if EX_OF_THE_DISK.contains(&code) && !self.sound => {}
            EX_DATAERR if self.passing_read && self.by_itself => {}
            code => return wrong(&format!("exit code {code}")),
        }
        let damage = self.code == EX_DATAERR && self.log.contains("left as it ");
        let told = damage || CAUSES.iter().any(|cause| self.log.contains(cause));
        if self.injected > 0 && !told && !self.untold {
            return wrong("it said nothing of the cause");
        }
        if self.kept == Some(false) {
            return wrong("no 240 came any more");
        }
        Ok(())
    }
}

/// What there is after a fault.
enum After {
    Kept,
    Ended(ExitStatus),
    Refused,
}

/// Sends until a message gets its 240.
fn sends(trial: &mut Trial, user: &str) -> After {
    let begun = Instant::now();
    while begun.elapsed() < RECOVERY_MAX {
        if let Some(status) = trial.cpd.ended() {
            return After::Ended(status);
        }
        let letter = [(user, load::body(&mut trial.random))];
        let site = Site { failing: true, ..Site::new(trial.cpd.address(), &trial.ledger) };
        let sent = Client::login(&site, user).and_then(|mut client| {
            let kept = client.send(&letter)?;
            client.close(Parting::Torn);
            Ok(kept)
        });
        if matches!(sent, Ok(1)) {
            return After::Kept;
        }
        sleep(STEP);
    }
    After::Refused
}

/// Two clients: some messages, and the download of most of them. A failing store may end it at any point.
fn exchange(trial: &mut Trial) {
    let mut random = Random::new(trial.seed, 1);
    let letters: Vec<_> = (0..6).map(|_| ("bob", load::body(&mut random))).collect();
    let site = Site { failing: true, ..Site::new(trial.cpd.address(), &trial.ledger) };
    let mut talk = || -> Result<(), Over> {
        let mut ann = Client::login(&site, "ann")?;
        for burst in letters.chunks(2) {
            ann.send(burst)?;
        }
        ann.close(Parting::Torn);
        let mut bob = Client::login(&site, "bob")?;
        bob.download(&Manner { reject_one_in: 4, ..Manner::WHOLE }, &mut random)?;
        bob.close(Parting::Torn);
        Ok(())
    };
    // It is in the ledger how far it came.
    let _ = talk();
}

/// Waits until the log was moved into the store's file, a call has failed, or cpd has ended.
fn waits_for_move(trial: &mut Trial, watch: &Watch, before: Vec<u8>) -> Option<ExitStatus> {
    let begun = Instant::now();
    while changed(trial) == before && watch.injected() == 0 {
        if let Some(status) = trial.cpd.ended() {
            return Some(status);
        }
        assert!(begun.elapsed() < PATIENCE, "the log stays where it is: {}", trial.cpd.log_tail());
        sleep(STEP);
    }
    sleep(MOVE);
    trial.cpd.ended()
}

/// What is in the store's file: only moving the log into it changes that.
fn changed(trial: &Trial) -> Vec<u8> {
    std::fs::read(trial.cpd.data().join("cpd.db")).expect("a store")
}

/// What a life came to.
struct Course {
    status: ExitStatus,
    by_itself: bool,
    kept: Option<bool>,
    /// What strace had written when the phase was over.
    seen: String,
}

/// One life under `watch`, of a cpd that runs at first and does not afterwards. `on`: faults go on until the watch is over.
fn live(trial: &mut Trial, phase: Phase, watch: &Watch, on: bool) -> Course {
    let (mut status, mut kept, mut seen) = (None, None, None);
    let mut attached = None;
    match phase {
        Phase::Exchange | Phase::Crowd => {
            let before = changed(trial);
            let strace = watch.attach(trial.cpd.id());
            match phase {
                Phase::Crowd => trial.busy(false, true, |_, _| sleep(LOAD)),
                _ => exchange(trial),
            }
            status = waits_for_move(trial, watch, before);
            seen = watch.counts.then(|| told(trial, phase, watch));
            let strace = (!on).then_some(strace);
            (status, kept) = goes_on(trial, "ann", status);
            drop(strace);
        }
        Phase::Stopping => {
            // As long as the log was not moved into the file before anybody watches.
            while attached.is_none() {
                let before = changed(trial);
                exchange(trial);
                attached = Some(watch.attach(trial.cpd.id())).filter(|_| changed(trial) == before);
            }
        }
        Phase::Starting | Phase::Making => {
            let user = if phase == Phase::Making { "late" } else { "ann" };
            trial.cpd.setup.wrapper = watch.wrapper();
            status = trial.cpd.restart().err();
            seen = Some(told(trial, phase, watch));
            if status.is_none() && !on {
                if phase == Phase::Making {
                    trial.cpd.cpctl(&["user", "add", "late", "--password-stdin"], "late\n");
                }
                (status, kept) = goes_on(trial, user, status);
            }
            trial.cpd.setup.wrapper = Vec::new();
        }
    }
    let by_itself = status.is_some();
    if !by_itself {
        trial.book().ending();
        trial.cpd.signal(Signal::TERM);
        status = trial.cpd.ends_within(PATIENCE);
    }
    drop(attached);
    let status = status.unwrap_or_else(|| panic!("{phase:?}: it does not end: {}", trial.cpd.log_tail()));
    trial.book().next_life(Parting::Torn);
    Course { status, by_itself, kept, seen: seen.unwrap_or_else(|| watch.text()) }
}

/// What strace has written. It may write of a call when cpd has gone on already: where every call is watched, each kind is
/// waited for.
fn told(trial: &Trial, phase: Phase, watch: &Watch) -> String {
    let begun = Instant::now();
    loop {
        let text = watch.text();
        let made = |fault: &Fault| !count(&text, fault, &trial.cpd.data()).is_empty();
        if !watch.counts || phase.faults().iter().all(made) || begun.elapsed() > TOLD_MAX {
            return text;
        }
        sleep(STEP);
    }
}

/// Whether messages are taken, unless it has ended or does then.
fn goes_on(trial: &mut Trial, user: &str, status: Option<ExitStatus>) -> (Option<ExitStatus>, Option<bool>) {
    if status.is_some() {
        return (status, None);
    }
    match sends(trial, user) {
        After::Kept => (None, Some(true)),
        After::Refused => (None, Some(false)),
        After::Ended(status) => (Some(status), None),
    }
}

/// Brings about what a life of `phase` begins with: a cpd that runs, or one that is to be started.
fn prepare(trial: &mut Trial, phase: Phase) {
    match phase {
        Phase::Exchange | Phase::Crowd | Phase::Stopping => {}
        Phase::Starting => {
            // Something is in the log, which the start has to bring into the file.
            exchange(trial);
            trial.cpd.kill();
            trial.book().next_life(Parting::Torn);
        }
        Phase::Making => {
            trial.cpd.kill();
            std::fs::remove_dir_all(trial.cpd.data()).expect("removed");
        }
    }
}

/// Starts without a fault, and looks at what is there.
fn look(trial: &mut Trial, phase: Phase, what: &str) {
    if phase == Phase::Making {
        // Whatever is left is none, or a whole one.
        trial.cpd.restart().unwrap_or_else(|status| panic!("after {what}: {status}: {}", trial.cpd.log_tail()));
        if !trial.cpd.cpctl(&["user", "list"], "").contains("late") {
            trial.cpd.cpctl(&["user", "add", "late", "--password-stdin"], "late\n");
        }
        return;
    }
    trial.start();
    trial.drain();
    trial.check(0).unwrap_or_else(|caught| panic!("after {what}: {caught}"));
}

/// One life with a fault.
fn suffer(trial: &mut Trial, phase: Phase, fault: &Fault, nth: Nth) -> Life {
    prepare(trial, phase);
    let from = trial.cpd.log().len();
    let watch = Watch::failing(fault, nth, &trial.cpd.data(), trial.cpd.folder.path().join("strace"));
    let course = live(trial, phase, &watch, nth.on);
    Life {
        name: format!("{phase:?}: {nth:?} of {}: {}", fault.files.join(","), fault.error),
        injected: watch.injected(),
        code: course.status.code().unwrap_or(-1),
        by_itself: course.by_itself,
        kept: course.kept,
        sound: matches!(phase, Phase::Exchange | Phase::Crowd) && !course.by_itself,
        log: trial.cpd.log()[from..].to_owned(),
        passing_read: READ.contains(&nth.call) && !nth.on,
        // cpd's own is made by fsync(2), and its opening is the last of all.
        untold: fault.files == ["."] && (nth.call == "fdatasync" || nth.call == "openat" && !nth.on),
    }
}

/// Every call of each fault of `phase`: how often a life makes it in which nothing fails.
fn clean_run(trial: &mut Trial, phase: Phase) -> Vec<(Fault, &'static str, u64)> {
    prepare(trial, phase);
    let faults = phase.faults();
    let course = live(trial, phase, &Watch::counting(faults, trial.cpd.folder.path().join("strace")), true);
    assert!(course.status.success(), "{phase:?}: {}: {}", course.status, trial.cpd.log_tail());
    look(trial, phase, "nothing");
    let mut kinds = Vec::new();
    for fault in faults {
        let calls = count(&course.seen, fault, &trial.cpd.data());
        assert!(!calls.is_empty(), "{phase:?}: there is no call to fail: {fault:?}");
        kinds.extend(calls.into_iter().map(|(call, count)| (*fault, call, count)));
    }
    kinds
}

fn all_fail(phase: Phase) {
    let mut trial = Trial::new(setup());
    let (mut cases, mut injected, mut idle, mut whole) = (0, 0, 0, 0);
    let mut ends: BTreeMap<String, u64> = BTreeMap::new();
    let kinds = clean_run(&mut trial, phase);
    for &(fault, call, calls) in &kinds {
        let nths = spread(calls, phase.tried());
        let mut of_kind = 0;
        for &(n, on) in &nths {
            let life = suffer(&mut trial, phase, &fault, Nth { call, n, on });
            life.judge().unwrap_or_else(|wrong| panic!("{wrong}"));
            look(&mut trial, phase, &life.name);
            of_kind += life.injected;
            idle += u64::from(life.injected == 0);
            let end = if life.by_itself { "ended" } else { "went on" };
            *ends.entry(format!("{end} ({})", life.code)).or_default() += 1;
        }
        let files = fault.files.join(",");
        println!(
            "{call} of {files}, {}: {calls} calls in a clean run, {} n tried, {of_kind} failed",
            fault.error,
            nths.len()
        );
        assert!(of_kind > 0, "{phase:?}: {call} of {files} never failed");
        cases += nths.len();
        injected += of_kind;
        whole += u64::from(calls.saturating_mul(2) <= phase.tried());
    }
    let figures = match phase {
        Phase::Making => "each start after it served".to_owned(),
        _ => trial.figures(1),
    };
    println!(
        "proof: I/O faults {}: {} kinds of calls, each of which failed ({whole} at every n), {cases} lives ({idle} without a \
         failure), {injected} calls failed, {ends:?}: {figures}",
        phase.name(),
        kinds.len(),
    );
}

#[test]
fn calls_that_fail_while_it_serves_two() {
    all_fail(Phase::Exchange);
}

#[test]
fn calls_that_fail_while_it_serves_a_crowd() {
    all_fail(Phase::Crowd);
}

#[test]
fn calls_that_fail_while_it_stops() {
    all_fail(Phase::Stopping);
}

#[test]
fn calls_that_fail_while_it_starts() {
    all_fail(Phase::Starting);
}

#[test]
fn calls_that_fail_while_it_makes_a_store() {
    all_fail(Phase::Making);
}

#[test]
fn a_used_up_quota_is_a_full_disk() {
    let mut trial = Trial::new(setup());
    let mut times = 0;
    for error in ["EDQUOT", "ENOSPC", "EDQUOT"] {
        let from = trial.cpd.log().len();
        let fault = Fault { calls: WRITE, error, files: LOG };
        let nth = Nth { call: "pwrite64", n: 1, on: true };
        let watch = Watch::failing(&fault, nth, &trial.cpd.data(), trial.cpd.folder.path().join("strace"));
        let strace = watch.attach(trial.cpd.id());
        let letters = [("bob", load::body(&mut trial.random))];
        let site = Site { failing: true, ..Site::new(trial.cpd.address(), &trial.ledger) };
        let mut ann = Client::login(&site, "ann").expect("served");
        assert_eq!(ann.send(&letters).expect("a reply"), 0, "{error}");
        ann.close(Parting::Torn);
        assert!(watch.injected() > 0 && trial.cpd.ended().is_none(), "{error}: {}", trial.cpd.log_tail());
        let log = trial.cpd.log();
        assert!(log[from..].contains("(SQLite 13)"), "{error}: {log}");
        drop(strace);
        assert!(matches!(sends(&mut trial, "ann"), After::Kept), "{error}: {}", trial.cpd.log_tail());
        times += 1;
    }
    trial.drain();
    trial.check(0).unwrap_or_else(|caught| panic!("{caught}"));
    println!("proof: I/O faults, quota: refused and taken again {times} times: {}", trial.figures(1));
}

// ---- twins ----

/// Syncs that fail within which the twin must be caught: one may have had deletes alone to bring to the disk.
const TWIN_FAULTS_MAX: u64 = 5;

#[test]
fn a_240_before_a_sync_that_fails_is_caught() {
    let mut trial = Trial::new(setup().sabotaged(cpd_core::sabotage::Fault::EarlyReply));
    for round in 1..=TWIN_FAULTS_MAX {
        // One that fails and is recovered from, which takes back what was not to be acknowledged.
        suffer(&mut trial, Phase::Crowd, &SERVING[0], Nth { call: "fdatasync", n: 1 + round, on: false });
        trial.start();
        trial.drain();
        if let Err(caught) = trial.check(round) {
            assert!(caught.kinds.contains(&Kind::Lost), "{caught}");
            return println!(
                "proof: I/O faults: twin early-reply: caught at sync {round} that failed, {:?}",
                caught.kinds
            );
        }
    }
    panic!("not caught: {}", trial.figures(1));
}

/// Of a cpd that does not look whether the folder of its store was synced.
fn a_deaf_one_is_caught(phase: Phase) {
    let mut trial = Trial::new(setup().sabotaged(cpd_core::sabotage::Fault::DeafFolder));
    let fault = Fault { calls: SYNC, error: "EIO", files: &["."] };
    let life = suffer(&mut trial, phase, &fault, Nth { call: "fsync", n: 1, on: true });
    let wrong = life.judge().expect_err("deaf-folder");
    assert!(wrong.contains("said nothing of the cause"), "{wrong}");
    println!("proof: I/O faults: twin deaf-folder, {}: caught at once", phase.name());
}

#[test]
fn a_start_that_overlooks_a_failure_is_caught() {
    a_deaf_one_is_caught(Phase::Starting);
}

#[test]
fn a_store_that_is_made_over_a_failure_is_caught() {
    a_deaf_one_is_caught(Phase::Making);
}

#[test]
fn a_life_that_went_badly_is_caught() {
    let good = Life {
        name: "made up".into(),
        injected: 1,
        code: 71,
        by_itself: true,
        kept: None,
        sound: false,
        log: "cpd: /x/cpd.db: cannot sync the store: disk I/O error (SQLite 1034)".into(),
        passing_read: false,
        untold: false,
    };
    assert_eq!(good.judge(), Ok(()));
    let went_on = Life { code: 0, by_itself: false, kept: Some(true), sound: true, ..good.clone() };
    assert_eq!(went_on.judge(), Ok(()));
    let caught = |life: Life| life.judge().unwrap_err();
    assert!(caught(Life { log: "cpd: it did not work".into(), ..good.clone() }).contains("said nothing of the cause"));
    assert!(caught(Life { log: String::new(), ..went_on.clone() }).contains("said nothing of the cause"));
    assert!(caught(Life { kept: Some(false), ..went_on.clone() }).contains("no 240 came any more"));
    assert!(caught(Life { code: 71, ..went_on.clone() }).contains("exit code 71"), "nothing failed any more");
    assert!(caught(Life { code: 0, ..good.clone() }).contains("exit code 0"), "without a signal");
    assert!(caught(Life { code: 65, ..good.clone() }).contains("exit code 65"));
    assert!(caught(Life { code: -1, ..good.clone() }).contains("exit code -1"));
    assert!(caught(Life { injected: 0, ..good.clone() }).contains("nothing had failed"));
    assert!(caught(Life { log: "cpd: internal error at x.rs:1".into(), ..good }).contains("a panic"));
}

#[test]
fn every_n_is_tried_or_some_from_the_first_to_the_last() {
    assert_eq!(spread(2, 4), [(1, false), (1, true), (2, false), (2, true)]);
    assert_eq!(spread(9, 3), [(1, false), (5, true), (9, false)]);
    assert_eq!(spread(9, 1), [(1, false)]);
}
