//! What fuzzing has kept, replayed: every input of `fuzz/corpus` through the body of its target, without cargo-fuzz. And
//! each body finds the faults that are put before it.

use std::fs;
use std::path::{Path, PathBuf};

use cpd_testing::fuzzing::{self, Twin};

type Check = fn(&[u8], Twin) -> Result<(), String>;

const TARGETS: [(&str, Check); 4] = [
    ("stream", fuzzing::stream::check),
    ("control", fuzzing::control::check),
    ("config", fuzzing::config::check),
    ("thaw", fuzzing::thaw::check),
];
/// Fewer inputs than this for a target, and some were lost.
const INPUTS_MIN: usize = 20;
/// All of them are part of every clone.
const CORPUS_MAX_BYTES: usize = 1 << 20;

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut inputs: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    inputs.sort();
    inputs.into_iter().map(|path| (path.clone(), fs::read(&path).expect("an input"))).collect()
}

/// The inputs for which the body of `target` complains of `twin`.
fn complaints(target: &str, twin: Twin) -> Vec<String> {
    let (_, check) = TARGETS.into_iter().find(|(name, _)| *name == target).expect("a target");
    let fault = |(path, bytes): (PathBuf, Vec<u8>)| {
        check(&bytes, twin).err().map(|fault| format!("{}: {fault}", path.display()))
    };
    corpus(target).into_iter().filter_map(fault).collect()
}

#[test]
fn every_kept_input_passes() {
    for (target, _) in TARGETS {
        let found = complaints(target, Twin::Honest);
        assert!(found.is_empty(), "\n{}\n", found.join("\n"));
        println!("proof: corpus {target}: {} inputs, 0 faults", corpus(target).len());
    }
}

#[test]
fn the_corpora_are_there_and_small() {
    let all = TARGETS.map(|(target, _)| corpus(target));
    assert!(all.iter().all(|inputs| inputs.len() >= INPUTS_MIN), "{:?}", all.each_ref().map(Vec::len));
    let bytes: usize = all.iter().flatten().map(|(_, bytes)| bytes.len()).sum();
    assert!(bytes <= CORPUS_MAX_BYTES, "{bytes} bytes");
}

#[test]
fn every_body_finds_its_twins() {
    let twins = [
        ("stream", Twin::LostByte),
        ("stream", Twin::LostReply),
        ("stream", Twin::UntoldStore),
        ("stream", Twin::DoubledReply),
        ("stream", Twin::ControlCharacter),
        ("stream", Twin::AlteredBody),
        ("stream", Twin::SkippedLine),
        ("control", Twin::UnknownFields),
        ("config", Twin::UnknownKeys),
        ("thaw", Twin::LongRecords),
    ];
    for (target, twin) in twins {
        let found = complaints(target, twin).len();
        assert!(found > 0, "{target} does not find {twin:?}");
        println!("proof: twin {twin:?} of {target}: caught by {found} inputs");
    }
}
