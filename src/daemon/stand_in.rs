//! The program that serves cpd's sockets while cpd cannot start: `cpd-failed.service`, which the service manager starts
//! when `cpd.service` has failed (`OnFailure=`). Otherwise the sockets would start cpd again for every client, as fast
//! as it fails; while this runs, such a start waits. It closes every client's connection and tells operators the cause,
//! for a while; then the next connection starts cpd once more.
//!
//! A cpd that is killed at every start, or ends with a code that is not its own, does not count as failed: the manager
//! starts it again every second, and nobody would learn the cause. So cpd's unit runs this program after every end of
//! cpd (`ExecStopPost=`), and it starts the stand-in, which turns away those who wait and leaves the next start alone.
//!
//! It is a program of its own, because cpd may be what cannot be executed. It interprets nothing that a peer sends.

use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};

use super::fd;
use super::unserved::{Period, UnservedSockets, one_line, unavailable_message};

const SERVICE: &str = "cpd.service";
const STAND_IN: &str = "cpd-failed.service";
/// The argument with which `ExecStopPost=` of cpd.service runs this program.
const ENDED_ARGUMENT: &str = "--ended";
/// How long no cpd must have served before those who wait for one that is restarted again and again are turned away.
/// Before that, it is better for them to wait for the next start.
const UNSERVED_MIN: Duration = Duration::from_secs(2);
/// How long turning them away may take.
const SWEEP_MAX: Duration = Duration::from_millis(500);
/// The shortest time between two starts of a cpd that cannot start.
const PAUSE_MIN: Duration = Duration::from_secs(20);
/// The longest time between two such starts.
const PAUSE_MAX: Duration = Duration::from_secs(600);
/// A start that used much processor time, because it read a damaged store of gigabytes for example, is followed by a
/// pause that is this many times as long: cpd then uses at most one second of a processor in a minute and a half.
const PAUSE_PER_PROCESSOR_TIME: u32 = 90;
/// How long a command to the manager may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(2);
/// cpd's own exit codes (sysexits.h).
const OWN_EXIT_CODES: std::ops::RangeInclusive<u8> = 64..=78;
/// The user and group id of nobody.
const NOBODY: u32 = 65534;

/// The stand-in's main function.
pub fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|argument| argument == ENDED_ARGUMENT) {
        return after_service_end();
    }
    let sockets = fd::take_inherited().map(|inherited| UnservedSockets::duplicates_of(&inherited)).unwrap_or_default();
    let state = FailedService::query();
    let Some(period) = state.period(time_since_boot()) else { return ExitCode::SUCCESS };
    if already_stood_in(&runtime_folder(), &state) {
        return ExitCode::SUCCESS;
    }
    if drop_privileges().is_err() {
        return ExitCode::FAILURE;
    }
    sockets.turn_away(&unavailable_message(&state.cause()), period);
    ExitCode::SUCCESS
}

/// Runs after every end of cpd, wanted or not; `$SERVICE_RESULT` and `$EXIT_STATUS` say how it ended (systemd.exec(5)).
/// Starts the stand-in if the manager will restart cpd, unless cpd ended with a code of its own: then it has already
/// turned away those who waited.
fn after_service_end() -> ExitCode {
    let state = FailedService {
        result: environment_variable("SERVICE_RESULT"),
        exit_code: environment_variable("EXIT_STATUS").parse().ok(),
        ..FailedService::default()
    };
    if state.is_restarted_by_manager() && !state.has_own_exit_code() {
        output_of(Command::new("systemctl").args(["start", "--no-block", STAND_IN]));
    }
    ExitCode::SUCCESS
}

/// How cpd ended, as the manager reports it.
#[derive(Default, PartialEq, Eq, Debug)]
struct FailedService {
    /// The invocation id of the start that failed.
    invocation: String,
    /// cpd runs, or is about to run.
    is_running: bool,
    /// The manager is about to restart cpd by itself.
    restart_pending: bool,
    /// When cpd last ceased to serve, since the system's start; zero if it has not served since.
    served_until: Duration,
    /// The numbers of the manager's pending jobs for cpd and for this unit. They grow; zero means that there is none.
    jobs: [u32; 2],
    /// The last status of cpd. If cpd ended with a code of its own, this is the cause.
    status: String,
    /// The value of `Result=`: `exit-code`, `signal`, `timeout` and others (systemd.exec(5)).
    result: String,
    /// The exit code, or the signal's number if a signal ended cpd.
    exit_code: Option<u8>,
    /// The processor time that the last start used.
    processor_time: Duration,
}

impl FailedService {
    /// Asks the manager how cpd ended.
    fn query() -> FailedService {
        let mut state =
            FailedService { result: environment_variable("MONITOR_SERVICE_RESULT"), ..FailedService::default() };
        state.exit_code = environment_variable("MONITOR_EXIT_STATUS").parse().ok();
        state.invocation = environment_variable("MONITOR_INVOCATION_ID");
        let properties = "Job,ActiveState,SubState,InvocationID,StatusText,Result,ExecMainStatus,CPUUsageNSec,\
                          ActiveExitTimestampMonotonic";
        let text = output_of(Command::new("systemctl").args(["show", "--property", properties, SERVICE]));
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            state.read(&text);
        }
        if let Some(text) = output_of(Command::new("systemctl").args(["show", "--property", "Job", STAND_IN])) {
            state.jobs[1] = property(&text, "Job").parse().unwrap_or(0);
        }
        state
    }

    fn read(&mut self, properties: &str) {
        let (state, detail) = (property(properties, "ActiveState"), property(properties, "SubState"));
        self.restart_pending = detail.contains("auto-restart") || detail == "stop-post" || detail.starts_with("final-");
        self.is_running = !self.restart_pending && !matches!(state, "failed" | "inactive" | "");
        self.jobs[0] = property(properties, "Job").parse().unwrap_or(0);
        let microseconds = property(properties, "ActiveExitTimestampMonotonic").parse().unwrap_or(0);
        self.served_until = Duration::from_micros(microseconds);
        let invocation = property(properties, "InvocationID");
        if !invocation.is_empty() {
            self.invocation = invocation.to_owned();
        }
        self.status = property(properties, "StatusText").to_owned();
        self.result = property(properties, "Result").to_owned();
        self.exit_code = property(properties, "ExecMainStatus").parse().ok();
        self.processor_time = Duration::from_nanos(property(properties, "CPUUsageNSec").parse().unwrap_or(0));
    }

    /// How long clients and operators have to be turned away; `None`: not at all. `now` is the time since the system's
    /// start.
    fn period(&self, now: Duration) -> Option<Period> {
        if self.restart_pending {
            let waited = now.saturating_sub(self.served_until) >= UNSERVED_MIN;
            return (waited && self.is_restarted_by_manager()).then_some(Period::UntilIdle(SWEEP_MAX));
        }
        (!self.is_running && !self.is_restarted_by_manager() && !self.start_is_ordered())
            .then(|| Period::Throughout(self.pause()))
    }

    /// Whether a start of cpd was ordered before that of this program: somebody has restarted cpd, and does not want to
    /// wait for the end of the pause. A start that a client causes is ordered later.
    fn start_is_ordered(&self) -> bool {
        let [cpd, own] = self.jobs;
        cpd != 0 && cpd < own
    }

    /// Whether the manager restarts cpd by itself after such an end (`Restart=`, `RestartPreventExitStatus=`). If cpd
    /// has failed nevertheless, somebody has stopped or restarted it meanwhile.
    fn is_restarted_by_manager(&self) -> bool {
        match (self.result.as_str(), self.exit_code) {
            ("exit-code", Some(code)) => !matches!(code, 64 | 65 | 73 | 77 | 78 | 200..=245),
            (result, _) => matches!(result, "signal" | "core-dump" | "timeout" | "watchdog" | "oom-kill"),
        }
    }

    /// Whether cpd ended with a code of its own, and so has reported the cause.
    fn has_own_exit_code(&self) -> bool {
        self.result == "exit-code" && self.exit_code.is_some_and(|code| OWN_EXIT_CODES.contains(&code))
    }

    /// The cause of the failure, for operators.
    fn cause(&self) -> String {
        if self.has_own_exit_code() && !self.status.is_empty() {
            return one_line(&self.status);
        }
        let cause = match (self.result.as_str(), self.exit_code) {
            ("exit-code", Some(code)) => match systemd_exit_meaning(code) {
                Some(meaning) => format!("{SERVICE} failed with {code}: {meaning}"),
                None => format!("{SERVICE} failed with exit code {code}"),
            },
            ("signal" | "core-dump", Some(number)) => format!("{SERVICE} was killed by {}", signal_name(number)),
            ("timeout", _) => format!("{SERVICE} took too long to start or to stop, and was killed"),
            ("success" | "", _) => format!("{SERVICE} was not started, a unit that it needs has failed"),
            (result, _) => format!("{SERVICE} failed ({})", one_line(result)),
        };
        format!("{cause}; systemctl status cpd and journalctl -u cpd say more")
    }

    /// How long to wait before the next start, depending on what the last one cost.
    fn pause(&self) -> Duration {
        self.processor_time.saturating_mul(PAUSE_PER_PROCESSOR_TIME).clamp(PAUSE_MIN, PAUSE_MAX)
    }
}

/// The meaning of the exit codes with which the manager reports that it could not start the program (systemd.exec(5)).
/// The common ones are described one by one.
fn systemd_exit_meaning(code: u8) -> Option<&'static str> {
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

/// A signal's name.
fn signal_name(number: u8) -> String {
    Signal::try_from(i32::from(number)).map_or_else(|_| format!("signal {number}"), |signal| signal.as_str().to_owned())
}

/// The value of a property in the output of `systemctl show`; empty if it is missing.
fn property<'a>(properties: &'a str, key: &str) -> &'a str {
    let lines = properties.lines().filter_map(|line| line.split_once('='));
    lines.filter(|(name, _)| *name == key).map(|(_, value)| value).next_back().unwrap_or_default()
}

fn time_since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

fn runtime_folder() -> PathBuf {
    std::env::var_os("RUNTIME_DIRECTORY").map_or_else(|| PathBuf::from("/run/cpd-failed"), PathBuf::from)
}

/// Whether the stand-in has already run for this failure and was ended by somebody: restarting cpd.service restarts the
/// stand-in as well (`PartOf=`), and whoever does that does not want to wait. When the stand-in ends by itself, the
/// manager removes `folder`.
fn already_stood_in(folder: &Path, state: &FailedService) -> bool {
    let file = folder.join("stood-in-for");
    if state.invocation.is_empty() {
        return false;
    }
    if std::fs::read_to_string(&file).is_ok_and(|before| before == state.invocation) {
        return true;
    }
    // If it cannot be written, whoever restarts cpd waits for the end of the pause.
    let _ = std::fs::write(&file, &state.invocation);
    false
}

/// Gives up root's rights, which are needed only to ask the manager, before any client is met.
fn drop_privileges() -> nix::Result<()> {
    if !Uid::effective().is_root() {
        return Ok(());
    }
    setgroups(&[])?;
    setgid(Gid::from_raw(NOBODY))?;
    setuid(Uid::from_raw(NOBODY))
}

fn environment_variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

/// The standard output of a command; `None` if it does not end within [`COMMAND_TIMEOUT`] or cannot be run.
fn output_of(command: &mut Command) -> Option<String> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
    let end = Instant::now() + COMMAND_TIMEOUT;
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

    fn state_from(properties: &str) -> FailedService {
        let mut state = FailedService::default();
        state.read(properties);
        state
    }

    #[test]
    fn the_cause_is_the_last_status_of_cpd() {
        let state =
            state_from("ActiveState=failed\nResult=exit-code\nExecMainStatus=78\nStatusText=a.toml:3: wrong=key\n");
        assert!(!state.is_running);
        assert_eq!(state.cause(), "a.toml:3: wrong=key");
    }

    #[test]
    fn an_earlier_status_is_not_the_cause() {
        let state = state_from("ActiveState=failed\nResult=signal\nExecMainStatus=9\nStatusText=connections: 3\n");
        let more = "systemctl status cpd and journalctl -u cpd say more";
        assert_eq!(state.cause(), format!("cpd.service was killed by SIGKILL; {more}"));
        let state = state_from("ActiveState=failed\nResult=core-dump\nExecMainStatus=64\nStatusText=\n");
        assert_eq!(state.cause(), format!("cpd.service was killed by signal 64; {more}"));
        let state = state_from("ActiveState=failed\nResult=oom-kill\nExecMainStatus=9\nStatusText=\n");
        assert_eq!(state.cause(), format!("cpd.service failed (oom-kill); {more}"));
        let state = state_from("ActiveState=failed\nResult=exit-code\nExecMainStatus=203\nStatusText=connections: 3\n");
        assert!(!state.cause().contains("connections"), "{}", state.cause());
    }

    #[test]
    fn exit_codes_of_the_manager_are_explained() {
        for (code, part) in
            [(203, "/usr/sbin/cpd"), (217, "user"), (226, "file system"), (238, "/var/lib/cpd"), (241, "prepare")]
        {
            let cause =
                state_from(&format!("ActiveState=failed\nResult=exit-code\nExecMainStatus={code}\nStatusText=\n"))
                    .cause();
            assert!(cause.contains(part) && cause.contains(&code.to_string()), "{cause}");
        }
        assert!(state_from("Result=exit-code\nExecMainStatus=3").cause().contains("exit code 3"));
        assert!(
            state_from("ActiveState=inactive\nResult=success\nExecMainStatus=0").cause().contains("was not started")
        );
    }

    #[test]
    fn a_cpd_that_runs_or_is_about_to_is_left_alone() {
        for state in ["active", "activating", "reloading", "deactivating"] {
            assert!(state_from(&format!("ActiveState={state}")).is_running, "{state}");
        }
        assert!(!state_from("ActiveState=inactive").is_running && !FailedService::default().is_running);
    }

    #[test]
    fn a_failure_after_which_the_manager_restarts_needs_no_stand_in() {
        let ended =
            |result: &str, code: u8| state_from(&format!("ActiveState=failed\nResult={result}\nExecMainStatus={code}"));
        for (result, code) in [("exit-code", 69), ("exit-code", 71), ("exit-code", 1), ("signal", 9), ("oom-kill", 9)] {
            assert!(ended(result, code).is_restarted_by_manager(), "{result} {code}");
        }
        for (result, code) in
            [("exit-code", 78), ("exit-code", 65), ("exit-code", 203), ("resources", 0), ("success", 0)]
        {
            assert!(!ended(result, code).is_restarted_by_manager(), "{result} {code}");
        }
        assert!(!FailedService::default().is_restarted_by_manager());
    }

    #[test]
    fn clients_of_a_cpd_killed_at_every_start_are_turned_away_after_two_seconds() {
        let killed = |sub: &str, result: &str, code: u8| {
            state_from(&format!(
                "ActiveState=activating\nSubState={sub}\nResult={result}\nExecMainStatus={code}\n\
                 ActiveExitTimestampMonotonic=60000000"
            ))
        };
        let (soon, late) = (Duration::from_millis(61_999), Duration::from_secs(62));
        for sub in ["stop-post", "auto-restart", "auto-restart-queued", "failed-before-auto-restart", "final-sigkill"] {
            assert_eq!(killed(sub, "signal", 9).period(soon), None, "{sub}");
            assert_eq!(killed(sub, "signal", 9).period(late), Some(Period::UntilIdle(SWEEP_MAX)), "{sub}");
        }
        assert_eq!(killed("auto-restart", "exit-code", 127).period(late), Some(Period::UntilIdle(SWEEP_MAX)));
        // A start that is under way, and an end that somebody wanted.
        assert_eq!(killed("start", "signal", 9).period(late), None);
        assert_eq!(killed("stop-post", "success", 0).period(late), None);
    }

    #[test]
    fn a_restart_that_somebody_has_ordered_is_not_kept_waiting() {
        let failed = |cpd: u32, own: u32| {
            let mut state = state_from("ActiveState=failed\nResult=exit-code\nExecMainStatus=65");
            state.jobs = [cpd, own];
            state.period(Duration::from_secs(100))
        };
        assert_eq!(failed(7, 8), None);
        for (cpd, own) in [(9, 8), (0, 8), (0, 0)] {
            assert_eq!(failed(cpd, own), Some(Period::Throughout(PAUSE_MIN)), "{cpd} {own}");
        }
    }

    #[test]
    fn one_failure_is_stood_in_for_once() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (state_from("InvocationID=a1"), state_from("InvocationID=b2"));
        assert!(!already_stood_in(folder.path(), &first) && already_stood_in(folder.path(), &first));
        assert!(!already_stood_in(folder.path(), &second) && already_stood_in(folder.path(), &second));
        // A start that did not come about has no invocation id, and so looks like the next one.
        assert!(
            !already_stood_in(folder.path(), &FailedService::default())
                && !already_stood_in(folder.path(), &FailedService::default())
        );
        assert!(!already_stood_in(&folder.path().join("missing"), &first));
    }

    #[test]
    fn the_pause_grows_with_what_a_start_costs() {
        let pause = |cost: &str| state_from(&format!("CPUUsageNSec={cost}")).pause();
        assert_eq!(pause("[not set]"), PAUSE_MIN);
        assert_eq!(pause("20000000"), PAUSE_MIN);
        assert_eq!(pause("1000000000"), Duration::from_secs(90));
        assert_eq!(pause("18446744073709551615"), PAUSE_MAX);
    }

    #[test]
    fn a_command_that_prints_is_read_and_one_that_is_missing_is_not() {
        assert_eq!(output_of(Command::new("echo").arg("ActiveState=failed")).as_deref(), Some("ActiveState=failed\n"));
        assert_eq!(output_of(&mut Command::new("/nonexistent/systemctl")), None);
    }
}
