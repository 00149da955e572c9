//! Where the figures were found: figures without it mean nothing.

use std::fs::read_to_string;
use std::path::Path;

/// Cores, kernel and the file system that holds `folder`, in one line.
pub fn describe(folder: &Path) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let cpuinfo = read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let kernel = read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let model = model.trim_start_matches([' ', '\t', ':']);
    format!("{cores} cores ({model}), Linux {}, data on {}", kernel.trim(), file_system(folder))
}

/// Type and device of the mount that holds `folder`.
fn file_system(folder: &Path) -> String {
    let mounts = read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut best = (0, "an unknown file system".to_string());
    for line in mounts.lines() {
        let Some((mount, kind)) = line.split_once(" - ") else { continue };
        let Some(point) = mount.split(' ').nth(4) else { continue };
        let depth = Path::new(point).components().count();
        // A later mount on the same point covers the earlier one.
        if folder.starts_with(point) && depth >= best.0 {
            let mut fields = kind.split(' ');
            let (name, device) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
            best = (depth, format!("{name} ({device})"));
        }
    }
    best.1
}
