//! What answers at cpd's sockets while cpd cannot start: `cpd-failed.service`, which the service manager starts when
//! `cpd.service` has failed (`OnFailure=`). The sockets would start cpd again for every client, as fast as it fails; as
//! long as this runs, they wait with it. It closes every client's connection and tells administrators the cause, for a
//! while, then the next one who connects starts cpd once more.
//!
//! A cpd that is killed at every start, or ends with a code that is not its own, does not fail: the manager starts it
//! again every second, and nobody would be told anything. So its unit runs this program once it has ended
//! (`ExecStopPost=`), which asks for the stand-in; who waits then is turned away, and the next start comes as before.
//!
//! A program of its own, because cpd may be what cannot be executed. It reads nothing that anybody sends.

use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};

use super::doors::{Doors, Stay, one_line, words};
use super::fd;

const SERVICE: &str = "cpd.service";
const STAND_IN: &str = "cpd-failed.service";
/// The argument with which `ExecStopPost=` of cpd.service runs this.
const ENDED: &str = "--ended";
/// How long nobody has served before those who wait for a cpd that is started again all the time are turned away.
/// Shorter, and they are better off waiting for the next start.
const NOBODY_SERVED: Duration = Duration::from_secs(2);
/// How long that may take.
const SWEEP: Duration = Duration::from_millis(500);
/// Between two starts of a cpd that cannot start.
const PAUSE: Duration = Duration::from_secs(20);
const PAUSE_MAX: Duration = Duration::from_secs(600);
/// A start that took processor time, because it read a damaged store of gigabytes, is followed by a pause so many times
/// as long: cpd takes a second of a processor in a minute and a half at most.
const PAUSE_PER_PROCESSOR_TIME: u32 = 90;
/// How long the manager may take to say how cpd failed.
const PATIENCE: Duration = Duration::from_secs(2);
/// Exit codes of cpd itself, sysexits.h.
const OWN_CODES: std::ops::RangeInclusive<u8> = 64..=78;
/// A user without rights.
const NOBODY: u32 = 65534;

/// The stand-in's main function.
pub fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|argument| argument == ENDED) {
        return after_an_end();
    }
    let doors = fd::take_inherited().map(|inherited| Doors::of(&inherited)).unwrap_or_default();
    let end = End::ask();
    let Some(stay) = end.stay(since_boot()) else { return ExitCode::SUCCESS };
    if already_stood_in(&runtime_folder(), &end) {
        return ExitCode::SUCCESS;
    }
    if drop_rights().is_err() {
        return ExitCode::FAILURE;
    }
    doors.turn_away(&words(&end.cause()), stay);
    ExitCode::SUCCESS
}

/// Of every end of cpd, a wanted one included: `$SERVICE_RESULT` and `$EXIT_STATUS`, systemd.exec(5). A cpd that ends
/// with a code of its own has turned away who waited.
fn after_an_end() -> ExitCode {
    let end =
        End { result: variable("SERVICE_RESULT"), exit_code: variable("EXIT_STATUS").parse().ok(), ..End::default() };
    if end.may_pass() && !end.own_code() {
        output(Command::new("systemctl").args(["start", "--no-block", STAND_IN]));
    }
    ExitCode::SUCCESS
}

/// How cpd ended, as the manager tells it.
#[derive(Default, PartialEq, Eq, Debug)]
struct End {
    /// Of the start that failed.
    invocation: String,
    /// cpd runs, or is about to.
    goes_on: bool,
    /// The manager starts cpd again by itself.
    again: bool,
    /// When cpd last ceased to serve, since the system's start; zero if it has not served since then.
    served_until: Duration,
    /// What the manager is to do with cpd, and with this unit: numbers that grow, zero for nothing.
    jobs: [u32; 2],
    /// The last status of cpd. When it ended with a code of its own, that is the cause.
    status: String,
    /// `exit-code`, `signal`, `timeout` and others of systemd.exec(5).
    result: String,
    exit_code: Option<u8>,
    processor_time: Duration,
}

impl End {
    fn ask() -> End {
        let mut end = End { result: variable("MONITOR_SERVICE_RESULT"), ..End::default() };
        end.exit_code = variable("MONITOR_EXIT_STATUS").parse().ok();
        end.invocation = variable("MONITOR_INVOCATION_ID");
        let properties = "Job,ActiveState,SubState,InvocationID,StatusText,Result,ExecMainStatus,CPUUsageNSec,\
                          ActiveExitTimestampMonotonic";
        let text = output(Command::new("systemctl").args(["show", "--property", properties, SERVICE]));
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            end.read(&text);
        }
        if let Some(text) = output(Command::new("systemctl").args(["show", "--property", "Job", STAND_IN])) {
            end.jobs[1] = value(&text, "Job").parse().unwrap_or(0);
        }
        end
    }

    fn read(&mut self, properties: &str) {
        let (state, detail) = (value(properties, "ActiveState"), value(properties, "SubState"));
        self.again = detail.contains("auto-restart") || detail == "stop-post" || detail.starts_with("final-");
        self.goes_on = !self.again && !matches!(state, "failed" | "inactive" | "");
        self.jobs[0] = value(properties, "Job").parse().unwrap_or(0);
        let microseconds = value(properties, "ActiveExitTimestampMonotonic").parse().unwrap_or(0);
        self.served_until = Duration::from_micros(microseconds);
        let invocation = value(properties, "InvocationID");
        if !invocation.is_empty() {
            self.invocation = invocation.to_owned();
        }
        self.status = value(properties, "StatusText").to_owned();
        self.result = value(properties, "Result").to_owned();
        self.exit_code = value(properties, "ExecMainStatus").parse().ok();
        self.processor_time = Duration::from_nanos(value(properties, "CPUUsageNSec").parse().unwrap_or(0));
    }

    /// How long people are turned away, if at all; `now` is since the system's start.
    fn stay(&self, now: Duration) -> Option<Stay> {
        if self.again {
            let waited = now.saturating_sub(self.served_until) >= NOBODY_SERVED;
            return (waited && self.may_pass()).then_some(Stay::Pending(SWEEP));
        }
        (!self.goes_on && !self.may_pass() && !self.start_is_ordered()).then(|| Stay::Full(self.pause()))
    }

    /// Whether a start of cpd was asked for before this one: somebody has restarted it, and does not want to wait for
    /// the pause to end. One that a client brings about comes later.
    fn start_is_ordered(&self) -> bool {
        let [cpd, own] = self.jobs;
        cpd != 0 && cpd < own
    }

    /// Whether the manager starts cpd again by itself after such an end (`Restart=`, `RestartPreventExitStatus=`). That
    /// it has failed nonetheless means that somebody has stopped or restarted it meanwhile.
    fn may_pass(&self) -> bool {
        match (self.result.as_str(), self.exit_code) {
            ("exit-code", Some(code)) => !matches!(code, 64 | 65 | 73 | 77 | 78 | 200..=245),
            (result, _) => matches!(result, "signal" | "core-dump" | "timeout" | "watchdog" | "oom-kill"),
        }
    }

    fn own_code(&self) -> bool {
        self.result == "exit-code" && self.exit_code.is_some_and(|code| OWN_CODES.contains(&code))
    }

    fn cause(&self) -> String {
        if self.own_code() && !self.status.is_empty() {
            return one_line(&self.status);
        }
        let cause = match (self.result.as_str(), self.exit_code) {
            ("exit-code", Some(code)) => match by_systemd(code) {
                Some(meaning) => format!("{SERVICE} failed with {code}: {meaning}"),
                None => format!("{SERVICE} failed with exit code {code}"),
            },
            ("signal" | "core-dump", Some(number)) => format!("{SERVICE} was killed by {}", signal(number)),
            ("timeout", _) => format!("{SERVICE} took too long to start or to stop, and was killed"),
            ("success" | "", _) => format!("{SERVICE} was not started, a unit that it needs has failed"),
            (result, _) => format!("{SERVICE} failed ({})", one_line(result)),
        };
        format!("{cause}; systemctl status cpd and journalctl -u cpd say more")
    }

    fn pause(&self) -> Duration {
        self.processor_time.saturating_mul(PAUSE_PER_PROCESSOR_TIME).clamp(PAUSE, PAUSE_MAX)
    }
}

/// What the manager's own exit codes mean before a program runs (systemd.exec(5)), for those that people meet.
fn by_systemd(code: u8) -> Option<&'static str> {
    Some(match code {
        200 => "its working directory cannot be entered",
        203 => "/usr/sbin/cpd cannot be executed",
        205 => "a limit (Limit...=) cannot be set",
        208 | 209 => "its standard input or output cannot be set up",
        216 => "its group does not exist",
        217 => "its user does not exist",
        218 => "its capabilities cannot be set",
        225 => "its network namespace cannot be made",
        226 => "its view of the file system cannot be set up: a folder that the unit names may be missing",
        228 => "its system call filter cannot be installed",
        233 => "its folder below /run cannot be made",
        238 => "its state folder, /var/lib/cpd, cannot be made or given to it",
        _ if (201..=245).contains(&code) => "the service manager could not prepare it",
        _ => return None,
    })
}

fn signal(number: u8) -> String {
    Signal::try_from(i32::from(number)).map_or_else(|_| format!("signal {number}"), |signal| signal.as_str().to_owned())
}

/// The value of a property in what `systemctl show` prints, or nothing.
fn value<'a>(properties: &'a str, key: &str) -> &'a str {
    let lines = properties.lines().filter_map(|line| line.split_once('='));
    lines.filter(|(name, _)| *name == key).map(|(_, value)| value).next_back().unwrap_or_default()
}

fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

fn runtime_folder() -> PathBuf {
    std::env::var_os("RUNTIME_DIRECTORY").map_or_else(|| PathBuf::from("/run/cpd-failed"), PathBuf::from)
}

/// Whether the same failure was stood in for, and somebody has ended that: who restarts cpd.service restarts this with
/// it (`PartOf=`), and does not want to wait. The folder goes when the stand-in ends by itself.
fn already_stood_in(folder: &Path, end: &End) -> bool {
    let file = folder.join("stood-in-for");
    if end.invocation.is_empty() {
        return false;
    }
    if std::fs::read_to_string(&file).is_ok_and(|before| before == end.invocation) {
        return true;
    }
    // Where it cannot be written, whoever restarts waits for the pause to end.
    let _ = std::fs::write(&file, &end.invocation);
    false
}

/// What asks the manager is root; what meets clients is nobody.
fn drop_rights() -> nix::Result<()> {
    if !Uid::effective().is_root() {
        return Ok(());
    }
    setgroups(&[])?;
    setgid(Gid::from_raw(NOBODY))?;
    setuid(Uid::from_raw(NOBODY))
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

/// What a command prints, if it ends within [`PATIENCE`].
fn output(command: &mut Command) -> Option<String> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
    let end = Instant::now() + PATIENCE;
    let mut pipe = child.stdout.take()?;
    let mut text = Vec::new();
    let mut piece = [0; 4096];
    let whole = loop {
        let left = end.saturating_duration_since(Instant::now());
        let ready = poll(
            &mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)],
            PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO),
        );
        match ready {
            Ok(1..) => match pipe.read(&mut piece) {
                Ok(0) => break true,
                Ok(length) => text.extend_from_slice(piece.get(..length).unwrap_or_default()),
                Err(_) => break false,
            },
            _ => break false,
        }
    };
    if !whole {
        let _ = child.kill();
    }
    let _ = child.wait();
    whole.then(|| String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(properties: &str) -> End {
        let mut end = End::default();
        end.read(properties);
        end
    }

    #[test]
    fn the_cause_is_what_cpd_said() {
        let end = told("ActiveState=failed\nResult=exit-code\nExecMainStatus=78\nStatusText=a.toml:3: wrong=key\n");
        assert!(!end.goes_on);
        assert_eq!(end.cause(), "a.toml:3: wrong=key");
    }

    #[test]
    fn a_status_of_better_days_is_no_cause() {
        let end = told("ActiveState=failed\nResult=signal\nExecMainStatus=9\nStatusText=connections: 3\n");
        let more = "systemctl status cpd and journalctl -u cpd say more";
        assert_eq!(end.cause(), format!("cpd.service was killed by SIGKILL; {more}"));
        let end = told("ActiveState=failed\nResult=core-dump\nExecMainStatus=64\nStatusText=\n");
        assert_eq!(end.cause(), format!("cpd.service was killed by signal 64; {more}"));
        let end = told("ActiveState=failed\nResult=oom-kill\nExecMainStatus=9\nStatusText=\n");
        assert_eq!(end.cause(), format!("cpd.service failed (oom-kill); {more}"));
        let end = told("ActiveState=failed\nResult=exit-code\nExecMainStatus=203\nStatusText=connections: 3\n");
        assert!(!end.cause().contains("connections"), "{}", end.cause());
    }

    #[test]
    fn what_the_manager_could_not_do_is_named() {
        for (code, part) in
            [(203, "/usr/sbin/cpd"), (217, "user"), (226, "file system"), (238, "/var/lib/cpd"), (241, "prepare")]
        {
            let cause =
                told(&format!("ActiveState=failed\nResult=exit-code\nExecMainStatus={code}\nStatusText=\n")).cause();
            assert!(cause.contains(part) && cause.contains(&code.to_string()), "{cause}");
        }
        assert!(told("Result=exit-code\nExecMainStatus=3").cause().contains("exit code 3"));
        assert!(told("ActiveState=inactive\nResult=success\nExecMainStatus=0").cause().contains("was not started"));
    }

    #[test]
    fn a_cpd_that_runs_or_is_about_to_is_left_alone() {
        for state in ["active", "activating", "reloading", "deactivating"] {
            assert!(told(&format!("ActiveState={state}")).goes_on, "{state}");
        }
        assert!(!told("ActiveState=inactive").goes_on && !End::default().goes_on);
    }

    #[test]
    fn what_is_started_again_anyway_needs_nobody_to_stand_in() {
        let ended =
            |result: &str, code: u8| told(&format!("ActiveState=failed\nResult={result}\nExecMainStatus={code}"));
        for (result, code) in [("exit-code", 69), ("exit-code", 71), ("exit-code", 1), ("signal", 9), ("oom-kill", 9)] {
            assert!(ended(result, code).may_pass(), "{result} {code}");
        }
        for (result, code) in
            [("exit-code", 78), ("exit-code", 65), ("exit-code", 203), ("resources", 0), ("success", 0)]
        {
            assert!(!ended(result, code).may_pass(), "{result} {code}");
        }
        assert!(!End::default().may_pass());
    }

    #[test]
    fn who_is_killed_at_every_start_is_swept_behind_after_two_seconds() {
        let killed = |sub: &str, result: &str, code: u8| {
            told(&format!(
                "ActiveState=activating\nSubState={sub}\nResult={result}\nExecMainStatus={code}\n\
                 ActiveExitTimestampMonotonic=60000000"
            ))
        };
        let (soon, late) = (Duration::from_millis(61_999), Duration::from_secs(62));
        for sub in ["stop-post", "auto-restart", "auto-restart-queued", "failed-before-auto-restart", "final-sigkill"] {
            assert_eq!(killed(sub, "signal", 9).stay(soon), None, "{sub}");
            assert_eq!(killed(sub, "signal", 9).stay(late), Some(Stay::Pending(SWEEP)), "{sub}");
        }
        assert_eq!(killed("auto-restart", "exit-code", 127).stay(late), Some(Stay::Pending(SWEEP)));
        // The next start, or an end that somebody wanted.
        assert_eq!(killed("start", "signal", 9).stay(late), None);
        assert_eq!(killed("stop-post", "success", 0).stay(late), None);
    }

    #[test]
    fn a_restart_that_somebody_has_ordered_is_not_kept_waiting() {
        let failed = |cpd: u32, own: u32| {
            let mut end = told("ActiveState=failed\nResult=exit-code\nExecMainStatus=65");
            end.jobs = [cpd, own];
            end.stay(Duration::from_secs(100))
        };
        assert_eq!(failed(7, 8), None);
        for (cpd, own) in [(9, 8), (0, 8), (0, 0)] {
            assert_eq!(failed(cpd, own), Some(Stay::Full(PAUSE)), "{cpd} {own}");
        }
    }

    #[test]
    fn one_failure_is_stood_in_for_once() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (told("InvocationID=a1"), told("InvocationID=b2"));
        assert!(!already_stood_in(folder.path(), &first) && already_stood_in(folder.path(), &first));
        assert!(!already_stood_in(folder.path(), &second) && already_stood_in(folder.path(), &second));
        // A start that never came to be has no number: nobody can tell it from the next one.
        assert!(!already_stood_in(folder.path(), &End::default()) && !already_stood_in(folder.path(), &End::default()));
        assert!(!already_stood_in(&folder.path().join("missing"), &first));
    }

    #[test]
    fn the_pause_grows_with_what_a_start_costs() {
        let pause = |cost: &str| told(&format!("CPUUsageNSec={cost}")).pause();
        assert_eq!(pause("[not set]"), PAUSE);
        assert_eq!(pause("20000000"), PAUSE);
        assert_eq!(pause("1000000000"), Duration::from_secs(90));
        assert_eq!(pause("18446744073709551615"), PAUSE_MAX);
    }

    #[test]
    fn a_command_that_prints_is_read_and_one_that_is_missing_is_not() {
        assert_eq!(output(Command::new("echo").arg("ActiveState=failed")).as_deref(), Some("ActiveState=failed\n"));
        assert_eq!(output(&mut Command::new("/nonexistent/systemctl")), None);
    }
}
