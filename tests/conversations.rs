//! The conversations of tests/conversations, played against the pure engine and against a real daemon; and what they cover together.
//!
//! `CONVERSATION=login cargo test --test conversations` plays those with `login` in their file name.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use cpd_testing::conversation::coverage::{KINDS, STATES, cells};
use cpd_testing::conversation::daemon::Daemon;
use cpd_testing::conversation::parser::{Action, Expected, Script, parse};
use cpd_testing::conversation::pure::Pure;
use cpd_testing::conversation::runner::{Peer, play};

/// Conversations that are played at once.
const THREADS: usize = 6;
/// Fewer than this, and some were lost.
const SCRIPTS_MIN: usize = 120;
/// What the first word of a file name may be.
const GROUPS: [&str; 21] = [
    "admin",
    "classic",
    "colon",
    "error",
    "fin",
    "framing",
    "help",
    "strangers",
    "texts",
    "limits",
    "login",
    "order",
    "pipelining",
    "quota",
    "receive",
    "send",
    "telnet",
    "term",
    "timeout",
    "wait",
    "window",
];
/// Every code of docs/protocol.md section 4.
const CODES: [&str; 14] =
    ["201", "214", "220", "230", "240", "255", "256", "500", "540", "545", "546", "550", "560", "565"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conversations")
}

/// Every script, in the order of the names; a wrong one is a failure of every test here.
fn scripts() -> Vec<Script> {
    let entries = std::fs::read_dir(folder()).expect("tests/conversations");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    let read = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).expect("UTF-8");
        let short = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap_or(path);
        parse(short, &text).unwrap_or_else(|error| panic!("{}: {error}", short.display()))
    };
    paths.iter().map(read).collect()
}

fn expectations(scripts: &[Script]) -> impl Iterator<Item = &Expected> {
    scripts.iter().flat_map(|script| &script.steps).filter_map(|step| match &step.action {
        Action::Expect { what, .. } => Some(what),
        _ => None,
    })
}

/// Plays what `CONVERSATION` wants on peers that `start` makes, and tells every difference.
fn play_all<P: Peer>(start: impl Fn(&Script) -> Result<P, String> + Sync, log: impl Fn(&P) -> String + Sync) {
    let wanted = std::env::var("CONVERSATION").unwrap_or_default();
    let mut scripts = scripts();
    scripts.retain(|script| script.path.to_string_lossy().contains(&wanted));
    assert!(!scripts.is_empty(), "CONVERSATION={wanted}: no file under tests/conversations has that in its path");
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let one = |script: &Script| match start(script) {
        Ok(mut peer) => play(script, &mut peer).map_err(|failure| format!("{failure}    {}", log(&peer))),
        Err(fault) => Err(format!("{}: {fault}", script.path.display())),
    };
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(script) = scripts.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(failure) = one(script) {
                        failures.lock().expect("no panic").push(failure);
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().expect("no panic");
    failures.sort();
    assert!(failures.is_empty(), "{} of {} failed:\n\n{}", failures.len(), scripts.len(), failures.join("\n"));
}

#[test]
fn every_conversation_on_the_daemon() {
    play_all(Daemon::start, Daemon::log);
}

#[test]
fn every_conversation_on_the_pure_engine() {
    play_all(Pure::start, |_| String::new());
}

/// Nobody can tell that another process has taken over between any two steps.
#[test]
fn every_conversation_across_restarts() {
    play_all(Pure::start_with_restarts, |_| String::new());
}

#[test]
fn parser_reads_every_script_and_its_name_says_its_group() {
    let scripts = scripts();
    assert!(scripts.len() >= SCRIPTS_MIN, "only {} conversations", scripts.len());
    let group = |script: &Script| {
        let name = script.path.file_name().map(|name| name.to_string_lossy().to_string()).unwrap_or_default();
        name.split('-').next().map(String::from).unwrap_or_default()
    };
    let groups: BTreeSet<String> = scripts.iter().map(group).collect();
    assert_eq!(groups, GROUPS.map(String::from).into());
}

#[test]
fn every_title_says_where_the_contract_has_it() {
    for script in scripts() {
        assert!(script.title.contains("section"), "{}: {}", script.path.display(), script.title);
    }
}

#[test]
fn every_reply_code_is_expected_somewhere() {
    let scripts = scripts();
    let codes: BTreeSet<&str> = expectations(&scripts)
        .filter_map(|what| match what {
            Expected::Code(code) => Some(code.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(codes, CODES.into(), "the codes of section 4, and no other");
    let carried = |what: &Expected| matches!(what, Expected::Line(line) if line.starts_with(b"RMSG"));
    assert!(expectations(&scripts).any(carried), "no message");
}

#[test]
fn every_cell_of_the_state_table_is_played() {
    let played: BTreeSet<_> = scripts().iter().flat_map(cells).collect();
    let all = STATES.iter().flat_map(|state| KINDS.iter().map(|kind| (*state, *kind)));
    let missing: Vec<_> = all.filter(|cell| !played.contains(cell)).collect();
    assert!(missing.is_empty(), "no conversation for {missing:?}");
}
