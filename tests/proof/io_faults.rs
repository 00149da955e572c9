//! Reads, writes and syncs of the store fail under a real cpd with load, each at its nth time and from there on: strace(1)
//! makes the system calls fail. No 240 may be false, nothing may panic, the log must name the cause, and cpd recovers
//! or ends with an exit code of cpd(8). What the clients saw is in a ledger, as in tests/kill.rs; src/store/tests/faults.rs
//! has the same from inside.
//!
//! ```sh
//! cargo build --features sabotage --target-dir target/sabotage
//! FAULTS=20 cargo test --test io_faults -- --nocapture
//! ```
//!
//! `FAULTS` is how many n are tried of each kind of call, two by itself and two more at a start. It wants strace.

#[path = "../support/ledger.rs"]
mod ledger;
#[path = "../rounds/mod.rs"]
mod rounds;

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::Duration;

use ledger::{Kind, Parting};
use rounds::cpd::Recipe;
use rounds::trial::{Trial, number};
use rustix::process::Signal;

const FAULTS: u64 = 2;
/// Load with faults.
const LOAD: Duration = Duration::from_millis(250);
/// Longer than cpd waits before it moves its log into the store's file.
const QUIET: Duration = Duration::from_millis(700);
/// How long cpd may take to end on a busy machine.
const END_MAX: Duration = Duration::from_secs(20);
/// The exit codes of cpd(8) for a store that cannot be read or written.
const EX_OF_THE_DISK: [i32; 3] = [71, 73, 77];
/// That for a damaged store.
const EX_DATAERR: i32 = 65;
/// What the log says of a call that failed.
const CAUSES: [&str; 5] = ["a commit failed: ", "cannot checkpoint: ", "cannot read: ", "error ended cause=", "cpd: "];

/// A system call that fails.
#[derive(Clone, Copy)]
struct Fault {
    call: &'static str,
    error: &'static str,
    /// The store's file, its log, or both.
    files: &'static [&'static str],
}

const FILE: &[&str] = &["cpd.db"];
const LOG: &[&str] = &["cpd.db-wal"];
const BOTH: &[&str] = &["cpd.db", "cpd.db-wal"];

/// While cpd serves.
const SERVING: [Fault; 8] = [
    Fault { call: "fdatasync,fsync", error: "EIO", files: LOG },
    Fault { call: "fdatasync,fsync", error: "EIO", files: FILE },
    Fault { call: "pwrite64,write", error: "EIO", files: LOG },
    Fault { call: "pwrite64,write", error: "EIO", files: FILE },
    Fault { call: "pwrite64,write", error: "ENOSPC", files: BOTH },
    Fault { call: "pwrite64,write", error: "EDQUOT", files: BOTH },
    Fault { call: "pread64,read", error: "EIO", files: BOTH },
    Fault { call: "ftruncate", error: "EIO", files: BOTH },
];

/// While cpd starts, on a store that was killed.
const STARTING: [Fault; 6] = [
    Fault { call: "openat", error: "EIO", files: &["cpd.db", "cpd.db-wal", "cpd.db-lock", "cpd.db-new", "."] },
    Fault { call: "pread64,read", error: "EIO", files: BOTH },
    Fault { call: "pwrite64,write", error: "EIO", files: BOTH },
    Fault { call: "pwrite64,write", error: "ENOSPC", files: BOTH },
    Fault { call: "fdatasync,fsync", error: "EIO", files: &["cpd.db", "cpd.db-wal", "."] },
    Fault { call: "ftruncate,unlink", error: "EIO", files: BOTH },
];

/// While cpd makes a store: its tables come by the same steps as a migration's.
const MAKING: [Fault; 5] = [
    Fault { call: "openat", error: "EIO", files: &["cpd.db-new", "cpd.db-new-wal", "cpd.db", "."] },
    Fault { call: "pwrite64,write", error: "EIO", files: &["cpd.db-new", "cpd.db-new-wal"] },
    Fault { call: "pwrite64,write", error: "ENOSPC", files: &["cpd.db-new", "cpd.db-new-wal"] },
    Fault { call: "fdatasync,fsync", error: "EIO", files: &["cpd.db-new", "cpd.db-new-wal", "."] },
    Fault { call: "rename,renameat,renameat2", error: "EIO", files: &["cpd.db-new", "cpd.db"] },
];

impl Fault {
    /// strace in front of cpd, which stays the child of this test.
    fn wrapper(&self, trial: &Trial, nth: u64, on: bool) -> Vec<String> {
        let mut words: Vec<String> =
            ["strace", "-D", "-f", "-Z", "-qq", "--seccomp-bpf", "-o"].map(String::from).into();
        words.push(trial.cpd.folder().join("strace").display().to_string());
        for file in self.files {
            words.extend(["-P".into(), trial.cpd.data().join(file).display().to_string()]);
        }
        let when = if on { format!("{nth}+") } else { nth.to_string() };
        words.extend(["-e".into(), format!("trace={}", self.call)]);
        words.extend(["-e".into(), format!("inject={}:error={}:when={when}", self.call, self.error)]);
        words
    }

    fn name(&self, nth: u64, on: bool) -> String {
        let from = if on { " and every one from there" } else { "" };
        format!("{} number {nth}{from} of {}: {}", self.call, self.files.join(","), self.error)
    }
}

/// What came of all faults.
#[derive(Default)]
struct Tally {
    injected: u64,
    cases: u64,
    without: u64,
    ends: BTreeMap<String, u64>,
}

/// How a life with faults ended.
struct Life {
    name: String,
    /// Calls that were made to fail.
    injected: u64,
    /// The exit code, if it ended by itself.
    code: Option<i32>,
    /// What it wrote meanwhile.
    log: String,
    /// A read failed once and then did not: what SQLite took for damage looks sound afterwards.
    passing_read: bool,
}

impl Life {
    /// What is wrong with it.
    fn judge(&self) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("{}: {what}:\n{}", self.name, self.log));
        if self.log.contains("panicked") || self.log.contains("internal error") {
            return wrong("a panic");
        }
        match self.code {
            Some(0) | None => {}
            Some(code) if EX_OF_THE_DISK.contains(&code) => {}
            Some(EX_DATAERR) if self.passing_read => {}
            Some(code) => return wrong(&format!("exit code {code}")),
        }
        let told = CAUSES.iter().any(|cause| self.log.contains(cause));
        if self.code.is_some_and(|code| code != 0) && !told {
            return wrong("it ended and said nothing");
        }
        Ok(())
    }
}

/// One life with a fault, between two without.
fn suffer(trial: &mut Trial, fault: Fault, nth: u64, on: bool, serve: bool, tally: &mut Tally) {
    let before = trial.cpd.whole_log().len();
    let _ = std::fs::remove_file(trial.cpd.folder().join("strace"));
    trial.cpd.recipe.wrapper = fault.wrapper(trial, nth, on);
    let mut status = trial.cpd.start().err();
    if status.is_none() {
        if serve {
            trial.busy(false, true, |_, _| sleep(LOAD));
            sleep(QUIET);
        }
        status = trial.cpd.ended();
    }
    let stopped = status.is_none();
    if stopped {
        trial.book().ending();
        trial.cpd.signal(Signal::TERM);
        status = trial.cpd.ends_within(END_MAX);
    }
    let status = status.unwrap_or_else(|| panic!("{}: it does not end: {}", fault.name(nth, on), trial.cpd.log()));
    trial.book().next_life(Parting::Torn);
    let code = Some(status.code().unwrap_or(-1));
    let trace = std::fs::read_to_string(trial.cpd.folder().join("strace")).unwrap_or_default();
    let injected = trace.matches("(INJECTED)").count() as u64;
    let log = trial.cpd.whole_log()[before..].to_owned();
    let passing_read = fault.call.contains("read") && !on;
    let life = Life { name: fault.name(nth, on), injected, code, log, passing_read };
    life.judge().unwrap_or_else(|wrong| panic!("{wrong}"));
    trial.cpd.recipe.wrapper = Vec::new();
    tally.cases += 1;
    tally.injected += life.injected;
    tally.without += u64::from(life.injected == 0);
    let end = if stopped { "went on" } else { "ended" };
    *tally.ends.entry(format!("{end} ({})", status.code().unwrap_or(-1))).or_default() += 1;
}

/// Starts without a fault, and looks at what is there.
fn look(trial: &mut Trial, what: &str) {
    trial.start();
    trial.drain();
    trial.check(0).unwrap_or_else(|caught| panic!("after {what}: {caught}"));
}

fn report(name: &str, tally: &Tally, figures: &str) {
    let Tally { injected, cases, without, ends } = tally;
    assert!(without * 2 <= *cases, "{without} of {cases} faults never happened");
    println!(
        "proof: I/O faults {name}: {cases} cases, {injected} calls failed ({without} cases had none), {ends:?}: {figures}"
    );
}

#[test]
fn calls_that_fail_while_it_serves() {
    let faults = number("FAULTS").unwrap_or(FAULTS);
    let (mut trial, mut tally) = (Trial::new(Recipe::plain()), Tally::default());
    trial.cpd.kill();
    trial.book().next_life(Parting::Torn);
    for fault in SERVING {
        for nth in 1..=faults {
            // Beyond what the start does, which is the next test's.
            let on = nth % 2 == 0;
            suffer(&mut trial, fault, nth * nth, on, true, &mut tally);
            look(&mut trial, &fault.name(nth, on));
            trial.cpd.kill();
            trial.book().next_life(Parting::Torn);
        }
    }
    let figures = trial.figures(1);
    report("while serving", &tally, &figures);
}

#[test]
fn calls_that_fail_while_it_starts() {
    let faults = number("FAULTS").unwrap_or(FAULTS) + 2;
    let (mut trial, mut tally) = (Trial::new(Recipe::plain()), Tally::default());
    for fault in STARTING {
        for nth in 1..=faults {
            // Something is in the log, which the start has to bring into the file.
            trial.busy(false, false, |_, _| sleep(LOAD / 4));
            trial.cpd.kill();
            trial.book().next_life(Parting::Torn);
            suffer(&mut trial, fault, nth, nth % 2 == 0, false, &mut tally);
            look(&mut trial, &fault.name(nth, nth % 2 == 0));
        }
    }
    let figures = trial.figures(1);
    report("at the start", &tally, &figures);
}

#[test]
fn calls_that_fail_while_it_makes_a_store() {
    let faults = number("FAULTS").unwrap_or(FAULTS) + 2;
    let (mut trial, mut tally) = (Trial::new(Recipe::plain()), Tally::default());
    trial.cpd.kill();
    trial.book().next_life(Parting::Torn);
    for fault in MAKING {
        for nth in 1..=faults {
            std::fs::remove_dir_all(trial.cpd.data()).expect("removed");
            suffer(&mut trial, fault, nth, nth % 2 == 0, false, &mut tally);
            // Whatever is left is none, or a whole one.
            trial.cpd.start().unwrap_or_else(|status| panic!("{status}: {}", trial.cpd.log()));
            trial.cpd.cpctl(&["user", "add", "late", "--password-stdin"], "late\n");
            trial.cpd.kill();
        }
    }
    report("while a store is made", &tally, "each start after it served");
}

// ---- twins ----

/// Syncs that fail within which the twin must be caught: one may have had deletes alone to bring to the disk.
const TWIN_FAULTS_MAX: u64 = 5;

#[test]
fn a_240_before_a_sync_that_fails_is_caught() {
    let mut trial = Trial::new(Recipe::sabotaged("early-reply"));
    let mut tally = Tally::default();
    for round in 1..=TWIN_FAULTS_MAX {
        trial.cpd.kill();
        trial.book().next_life(Parting::Torn);
        // One that fails and is recovered from, which takes back what was not to be acknowledged.
        suffer(&mut trial, SERVING[0], 9 + round, false, true, &mut tally);
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

#[test]
fn a_life_that_ended_badly_is_caught() {
    let life = |code, log: &str| {
        let (name, log) = ("made up".to_owned(), log.to_owned());
        Life { name, injected: 1, code: Some(code), log, passing_read: false }.judge()
    };
    assert_eq!(life(71, "cpd: /x/cpd.db: a commit failed"), Ok(()));
    assert!(life(71, "").unwrap_err().contains("said nothing"));
    assert!(life(70, "cpd: internal error at x.rs:1").unwrap_err().contains("a panic"));
    assert!(life(65, "cpd: damaged").unwrap_err().contains("exit code 65"));
    assert!(life(-1, "cpd: killed").unwrap_err().contains("exit code -1"));
}
