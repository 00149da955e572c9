//! strace(1) on a cpd: counts its system calls on some files, and makes one of them fail.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::open_stores;
use crate::running::PATIENCE;

const STEP: Duration = Duration::from_millis(1);

/// A system call that fails.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// The names that it may have.
    pub calls: &'static [&'static str],
    pub error: &'static str,
    /// In the folder of the store, which itself is `.`.
    pub files: &'static [&'static str],
}

/// Which of the calls fail: the nth of a thread, or that and every one from there.
#[derive(Clone, Copy, Debug)]
pub struct Nth {
    pub call: &'static str,
    pub n: u64,
    pub on: bool,
}

/// How often which call was made on the files of one [`Fault`], by the thread that made most of them: strace counts each
/// thread for itself, too.
pub type Calls = BTreeMap<&'static str, u64>;

/// What is watched for, and where it is written.
pub struct Watch {
    /// Nothing fails.
    pub counts: bool,
    words: Vec<String>,
    output: PathBuf,
}

impl Watch {
    /// Every call of `faults`, none of which fails.
    pub fn counting(faults: &[Fault], output: PathBuf) -> Watch {
        let calls: Vec<&str> = faults.iter().flat_map(|fault| fault.calls).copied().collect();
        let words = ["-y", "-s", "0", "-e", &format!("trace={}", calls.join(","))];
        Watch { counts: true, ..Watch::new(&words, output) }
    }

    /// One call, which fails.
    pub fn failing(fault: &Fault, nth: Nth, data: &Path, output: PathBuf) -> Watch {
        let mut watch = Watch::new(&["-Z"], output);
        for file in fault.files {
            watch.words.extend(["-P".into(), path(data, file).display().to_string()]);
        }
        let Nth { call, n, on } = nth;
        let when = if on { format!("{n}+") } else { n.to_string() };
        watch.words.extend(["-e".into(), format!("trace={call}")]);
        watch.words.extend(["-e".into(), format!("inject={call}:error={}:when={when}", fault.error)]);
        watch
    }

    fn new(words: &[&str], output: PathBuf) -> Watch {
        // What an earlier one wrote; there may be none.
        let _ = fs::remove_file(&output);
        let own = ["-f", "-qq", "-o"].map(String::from).into_iter().chain([output.display().to_string()]);
        Watch { counts: false, words: own.chain(words.iter().map(|word| (*word).to_owned())).collect(), output }
    }

    /// The words before those of a command that is to be watched from its beginning. It stays the child of this test.
    pub fn wrapper(&self) -> Vec<String> {
        ["strace", "-D", "--seccomp-bpf"].map(String::from).into_iter().chain(self.words.clone()).collect()
    }

    /// Watches a process that runs.
    pub fn attach(&self, process: u32) -> Attached {
        let mut command = Command::new("strace");
        command.args(&self.words).args(["-p", &process.to_string()]).stdin(Stdio::null());
        let mut strace = open_stores::spawn(&mut command).expect("strace: install the package strace");
        let begun = Instant::now();
        while !is_traced(process) {
            assert_eq!(strace.try_wait().expect("a child"), None, "strace has ended");
            assert!(begun.elapsed() < PATIENCE, "strace does not attach itself to {process}");
            sleep(STEP);
        }
        Attached { strace }
    }

    /// What was written; nothing is changed by strace having been too early or too late to say its last words.
    pub fn text(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }

    /// Calls that were made to fail.
    pub fn injected(&self) -> u64 {
        self.text().matches("(INJECTED)").count() as u64
    }
}

/// How often the calls of `fault` were made, by what [`Watch::counting`] wrote.
pub fn count(text: &str, fault: &Fault, data: &Path) -> Calls {
    let files = fault.files.iter().map(|file| path(data, file).display().to_string());
    let marks: Vec<String> = files.flat_map(|file| [format!("<{file}>"), format!("\"{file}\"")]).collect();
    let mut threads: BTreeMap<(&str, &'static str), u64> = BTreeMap::new();
    for line in text.lines().filter(|line| marks.iter().any(|mark| line.contains(mark))) {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let called = rest.trim_start().split_once('(').map_or("", |(name, _)| name);
        if let Some(call) = fault.calls.iter().find(|call| **call == called) {
            *threads.entry((thread, *call)).or_default() += 1;
        }
    }
    let mut calls = Calls::new();
    for ((_, call), count) in threads {
        let most = calls.entry(call).or_default();
        *most = count.max(*most);
    }
    calls
}

fn path(data: &Path, file: &str) -> PathBuf {
    if file == "." { data.to_path_buf() } else { data.join(file) }
}

/// Every thread is.
fn is_traced(process: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else { return false };
    threads.flatten().all(|thread| {
        let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|tracer| tracer.trim() != "0"))
    })
}

/// A strace that watches. It ends with what it watches, or when it is dropped: then nothing fails any more.
pub struct Attached {
    strace: Child,
}

impl Drop for Attached {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = kill_process(Pid::from_child(&self.strace), Signal::TERM);
        let _ = self.strace.wait();
    }
}
