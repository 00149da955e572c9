//! Children that never outlive this program, and what the kernel says about a process.

use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use cpd_testing::running::PATIENCE;
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Units of utime and stime in /proc/PID/stat: USER_HZ, 100 on every architecture that matters here.
const TICKS_PER_SECOND: f64 = 100.0;
const END_STEP: Duration = Duration::from_millis(1);
/// The shell's exit code for "ended by SIGINT".
const EXIT_INTERRUPTED: i32 = 130;

/// What a signal must clean up, since it lets no destructor run.
static ALIVE: Mutex<(Vec<u32>, Option<PathBuf>)> = Mutex::new((Vec::new(), None));

/// From here on INT, TERM and HUP end the children and remove `folder` before they end this program.
pub fn clean_up_on_signals(folder: PathBuf) -> Result<(), String> {
    ALIVE.lock().map_err(|e| e.to_string())?.1 = Some(folder);
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(|e| format!("signals: {e}"))?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some()
            && let Ok(alive) = ALIVE.lock()
        {
            alive.0.iter().for_each(|pid| send(Signal::KILL, *pid));
            alive.1.iter().for_each(|folder| drop(std::fs::remove_dir_all(folder)));
            std::process::exit(EXIT_INTERRUPTED);
        }
    });
    Ok(())
}

/// A child that is killed, by its id, when it goes out of scope.
pub struct Guard(Child);

impl Guard {
    pub fn spawn(command: &mut Command) -> Result<Guard, String> {
        let child = command.spawn().map_err(|e| format!("{}: {e}", command.get_program().display()))?;
        if let Ok(mut alive) = ALIVE.lock() {
            alive.0.push(child.id());
        }
        Ok(Guard(child))
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Asks the child to end and waits for it.
    pub fn stop(&mut self) -> Result<(), String> {
        send(Signal::TERM, self.id());
        self.succeed()
    }

    /// Waits until the child has ended well; one that takes too long is left to be killed.
    pub fn succeed(&mut self) -> Result<(), String> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            match self.0.try_wait().map_err(|e| e.to_string())? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(status.to_string()),
                None => std::thread::sleep(END_STEP),
            }
        }
        Err(format!("process {} did not end within {} s", self.id(), PATIENCE.as_secs()))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        if let Ok(mut alive) = ALIVE.lock() {
            alive.0.retain(|pid| *pid != self.0.id());
        }
    }
}

fn send(signal: Signal, pid: u32) {
    // One that is gone already needs none.
    let _ = Pid::from_raw(pid.cast_signed()).map(|pid| kill_process(pid, signal));
}

/// User and system time that the process has spent in all its threads.
pub fn cpu_seconds(pid: u32) -> Result<f64, String> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
    // The second field is the program's name, which may hold anything; utime and stime are the 14th and 15th.
    let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let ticks: u64 = after_name.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(ticks as f64 / TICKS_PER_SECOND)
}

/// Resident memory in bytes.
pub fn rss_bytes(pid: u32) -> Result<f64, String> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.map(|kib| kib as f64 * 1024.0).ok_or_else(|| format!("{path} has no VmRSS"))
}
