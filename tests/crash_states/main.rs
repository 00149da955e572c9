//! What a power cut may leave of the real store: a real cpd is recorded under load (tests/crash_states/recording.rs), through
//! checkpoints, a kill, a start on what that left, and an orderly stop. Of the recording's moments crash states are made:
//! what was synced is there, of what was written since then any part, torn into sectors (tests/crash_states/disk.rs). Each is
//! opened by the production store and held against the ledger of that moment: every message that had its 240 and whose
//! 250 had not come is there, as it was sent and in order, and nothing else.
//!
//! ```sh
//! STATES=20000 cargo test --test crash_states -- --nocapture
//! ```
//!
//! `STATES` is how many states chance makes, 400 by itself; those around each sync, with nothing and with everything of
//! what was not synced, come on top. `SEED` makes the same choice again, but of another recording. It wants strace.
//! tests/proof/power_cut.rs has the same promise from a real file system, at far fewer moments.

mod disk;
mod judge;
mod recording;
mod wire;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use cpd_core::sabotage::Fault;
use cpd_testing::environment::number;
use cpd_testing::running::Setup;
use cpd_testing::{ledger, rounds};
use disk::{Bytes, Disk, Kept};
use judge::{FILES, judge, lay};
use ledger::{Kind, Parting};
use recording::{Event, File};
use rounds::random::Random;
use rounds::trial::{Trial, setup};
use rustix::process::Signal;
use wire::Wire;

const STATES: u64 = 400;
/// Load before each silence and before the end.
const LOAD: Duration = Duration::from_millis(250);
/// Longer than cpd waits before it moves its log into the store's file.
const QUIET: Duration = Duration::from_millis(800);
/// Silences of each life.
const QUIETS: usize = 2;
/// Violations that are shown.
const SHOWN_MAX: usize = 5;

struct Recording {
    seed: u64,
    /// The store's file, its log and its history at the beginning, when everything was synced.
    files: [Bytes; 3],
    events: Vec<Event>,
}

/// Two lives of a cpd under load: the first is killed in the middle of it, the second begins on what that left and is
/// stopped in order.
fn record(setup: Setup) -> Recording {
    let mut trial = Trial::new(setup);
    // Only messages are to be at stake.
    trial.cpd.signal(Signal::TERM);
    assert!(trial.cpd.ends().success());
    let data = trial.cpd.data();
    let files = FILES.map(|name| std::fs::read(data.join(name)).ok());
    let mut events = Vec::new();
    for signal in [Signal::KILL, Signal::TERM] {
        let trace = trial.cpd.folder.path().join(format!("trace-{}", signal.as_raw()));
        trial.cpd.setup.wrapper = recording::wrapper(&trace);
        trial.cpd.restart().unwrap_or_else(|status| panic!("no start, {status}; {}", trial.cpd.log_tail()));
        for _ in 0..QUIETS {
            trial.busy(false, false, |_, _| sleep(LOAD));
            sleep(QUIET);
        }
        let id = trial.cpd.id();
        trial.busy(false, false, |site, cpd| {
            sleep(LOAD);
            site.book().ending();
            cpd.signal(signal);
            cpd.ends();
        });
        trial.book().next_life(Parting::Torn);
        events.extend(recording::read(&trace, id, &data));
    }
    Recording { seed: trial.seed, files, events }
}

/// What is to be made at which moment: after so many events.
type Plan = BTreeMap<usize, Vec<Kept>>;

/// What there is to choose from.
#[derive(Default)]
struct Moments {
    /// Something is written and not synced.
    unsettled: Vec<usize>,
    /// The log is on its way into the file.
    moving: Vec<usize>,
    syncs: usize,
    around_syncs: Plan,
}

impl Moments {
    fn of(recording: &Recording) -> Moments {
        let (mut moments, mut disk) = (Moments::default(), Disk::new(recording.files.clone()));
        for (number, event) in recording.events.iter().enumerate() {
            if matches!(event, Event::Synced { .. } | Event::FolderSynced) {
                moments.syncs += 1;
                moments.around_syncs.entry(number).or_default().extend([Kept::Nothing, Kept::All]);
                moments.around_syncs.entry(number + 1).or_default().push(Kept::Nothing);
            }
            disk.note(event);
            if !disk.is_settled() {
                moments.unsettled.push(number + 1);
            }
            if disk.is_moving() {
                moments.moving.push(number + 1);
            }
        }
        moments
    }

    /// The states around each sync, and `states` of chance, half of them where the log is being moved.
    fn plan(&self, states: u64, random: &mut Random) -> Plan {
        let mut plan = self.around_syncs.clone();
        for number in 0..states {
            let moments = if number % 2 == 0 { &self.moving } else { &self.unsettled };
            plan.entry(*random.pick(moments)).or_default().push(Kept::Some);
        }
        plan
    }
}

/// What came of all states.
#[derive(Default)]
struct Findings {
    states: u64,
    kept: u64,
    wrong: Vec<(Kind, String)>,
    /// The first state in which something was wrong.
    first: Option<[Bytes; 3]>,
}

impl Findings {
    fn has(&self, kind: Kind) -> bool {
        self.wrong.iter().any(|(found, _)| *found == kind)
    }
}

/// Makes the plan's states and judges them; stops soon after something is found.
fn play(recording: &Recording, plan: &Plan, random: &mut Random) -> Findings {
    // In memory, where there is such a place: the syncs are cpd's here, and nobody's power goes.
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder");
    let (mut disk, mut wire) = (Disk::new(recording.files.clone()), Wire::default());
    let mut findings = Findings::default();
    for moment in 0..=recording.events.len() {
        for kept in plan.get(&moment).into_iter().flatten() {
            let files = disk.crashed(*kept, random);
            lay(folder.path(), &files);
            findings.states += 1;
            let wrong = judge(folder.path(), wire.after_the_end());
            if !wrong.is_empty() && findings.first.is_none() {
                findings.first = Some(files);
            }
            let told = wrong.into_iter().map(|(kind, text)| (kind, format!("moment {moment}, {kept:?}: {text}")));
            findings.wrong.extend(told);
        }
        let Some(event) = recording.events.get(moment).filter(|_| findings.wrong.len() < SHOWN_MAX) else { break };
        disk.note(event);
        wire.note(event);
    }
    let meanwhile = wire.ledger.violations();
    assert!(meanwhile.is_empty(), "the server was wrong without a crash, or this test is: {meanwhile:?}");
    findings.kept = wire.kept;
    findings
}

#[test]
fn every_crash_state_has_what_was_acknowledged() {
    let begun = Instant::now();
    let recording = record(setup());
    let moments = Moments::of(&recording);
    let mut random = Random::new(recording.seed, 1);
    let plan = moments.plan(number("STATES").unwrap_or(STATES), &mut random);
    let findings = play(&recording, &plan, &mut random);
    let (total, Moments { syncs, moving, .. }) = (recording.events.len(), &moments);
    if let Some(files) = &findings.first {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("crash-state");
        std::fs::create_dir_all(&folder).expect("a folder");
        lay(&folder, files);
        let texts: Vec<&str> = findings.wrong.iter().take(SHOWN_MAX).map(|(_, text)| text.as_str()).collect();
        panic!("SEED={}; the first is in {}:\n{}", recording.seed, folder.display(), texts.join("\n"));
    }
    println!(
        "proof: crash states: {} states of {total} moments ({} with the log on its way), {syncs} syncs, {} messages \
         acknowledged (240): 0 violations; {:.1} s",
        findings.states,
        moving.len(),
        findings.kept,
        begun.elapsed().as_secs_f64()
    );
    assert!(findings.kept > 100 && *syncs > 20 && moving.len() > 100, "there was no load");
    assert!(has_checkpoint_between_writes(&recording.events), "no checkpoint was recorded under load");
    what_the_judge_is_worth(&recording);
}

/// The file was written and synced, and then the log was begun anew.
fn has_checkpoint_between_writes(events: &[Event]) -> bool {
    let moved = events.iter().position(|event| matches!(event, Event::Synced { file: File::Store }));
    let anew = |event: &Event| matches!(event, Event::Wrote { file: File::Log, at: 0, .. });
    moved.is_some_and(|moved| events[moved..].iter().any(anew))
}

/// A disk that has lost its log is found out at the moment of the kill.
fn what_the_judge_is_worth(recording: &Recording) {
    let (mut disk, mut wire) = (Disk::new(recording.files.clone()), Wire::default());
    for event in recording.events.iter().take_while(|event| !matches!(event, Event::Ended)) {
        disk.note(event);
        wire.note(event);
    }
    let folder = tempfile::tempdir().expect("a folder");
    let [file, log, history] = disk.crashed(Kept::All, &mut Random::new(0, 0));
    lay(folder.path(), &[file.clone(), log, history.clone()]);
    assert_eq!(judge(folder.path(), wire.after_the_end()), []);
    lay(folder.path(), &[file, None, history]);
    let wrong = judge(folder.path(), wire.after_the_end());
    assert!(wrong.iter().any(|(kind, _)| *kind == Kind::Lost), "{wrong:?}");
}

// ---- twins ----

fn is_caught(fault: Fault) {
    let recording = record(setup().sabotaged(fault));
    let moments = Moments::of(&recording);
    let mut random = Random::new(recording.seed, 1);
    let plan = moments.plan(STATES, &mut random);
    let findings = play(&recording, &plan, &mut random);
    let name = fault.name();
    assert!(findings.has(Kind::Lost), "{name}: not caught in {} states: {:?}", findings.states, findings.wrong);
    println!("proof: crash states: twin {name}: caught in state {}, {}", findings.states, findings.wrong[0].1);
}

#[test]
fn a_store_that_does_not_sync_is_caught() {
    is_caught(Fault::WeakSync);
}

#[test]
fn a_240_before_the_commit_is_caught() {
    is_caught(Fault::EarlyReply);
}
