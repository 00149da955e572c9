//! Looking for a secret in the memory of a process.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// How often the bytes are in the memory of the process, and in which parts of it.
pub fn copies(pid: u32, secret: &[u8]) -> Vec<String> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("ours");
    let memory = File::open(format!("/proc/{pid}/mem")).expect("ours");
    let mut found = Vec::new();
    for line in maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|mode| mode.starts_with("rw"))) {
        let (from, to) = line.split(' ').next().and_then(|range| range.split_once('-')).expect("a range");
        let address = |text| u64::from_str_radix(text, 16).expect("an address");
        let mut bytes = vec![0; usize::try_from(address(to) - address(from)).expect("fits")];
        if memory.read_exact_at(&mut bytes, address(from)).is_ok() {
            let times = bytes.windows(secret.len()).filter(|window| *window == secret).count();
            found.extend((0..times).map(|_| line.to_owned()));
        }
    }
    found
}

/// The end of a secret. An allocator overwrites the first 16 bytes of what is freed; the end is still there if nobody wiped
/// it.
pub fn tail(secret: &str) -> &str {
    &secret[secret.len() - 5..]
}

/// The processes that run `program` with `argument` among their arguments.
pub fn processes(program: &str, argument: &str) -> Vec<u32> {
    let runs = |pid: &u32| {
        let shown = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let shown = String::from_utf8_lossy(&shown).into_owned();
        shown.split('\0').next().is_some_and(|first| first.ends_with(program)) && shown.contains(argument)
    };
    let all = std::fs::read_dir("/proc").expect("Linux");
    all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).filter(runs).collect()
}
