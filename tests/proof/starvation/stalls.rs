//! What no restart mends does not end cpd: a pause of the whole process, a disk that does not answer. What one mends does:
//! an event loop that is stuck.

use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::entropy::all_traced;
use crate::findings::{Findings, Verdict, Wrong, found};
use crate::running::{Daemon, cpctl, wait_for};

/// Longer than cpd's thread that watches the others would wait for one of them.
const PAUSE: Duration = Duration::from_secs(36);
/// How long a sender may wait for its 540, on a busy machine; the disk is away for longer.
const TOLD_MAX: Duration = Duration::from_secs(40);
/// How long each sync takes, in microseconds.
const SYNC_US: u64 = 120_000_000;
/// cpd's exit code for a fault of its own.
pub const EX_SOFTWARE: i32 = 70;

/// strace at a process, whose syncs do not come back until this is dropped.
struct StuckDisk(Child);

impl StuckDisk {
    fn attach(pid: u32) -> StuckDisk {
        let inject = format!("inject=fsync,fdatasync:delay_enter={SYNC_US}");
        let mut command = Command::new("strace");
        command.args([
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-p",
            &pid.to_string(),
            "-e",
            "trace=fsync,fdatasync",
            "-e",
            &inject,
        ]);
        let tracer = StuckDisk(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("strace"));
        wait_for("strace has all threads", || all_traced(pid).then_some(()));
        tracer
    }
}

impl Drop for StuckDisk {
    fn drop(&mut self) {
        // It lets go of the process at this signal; it fails only when it is gone already.
        let _ = kill_process(Pid::from_child(&self.0), Signal::INT);
        let _ = self.0.wait();
    }
}

/// The whole process stands still, and goes on.
pub fn paused() -> Verdict {
    let mut daemon = Daemon::start("");
    daemon.add_user("bob", "bob");
    let mut bob = daemon.connect();
    bob.logs_in("bob", "bob");
    daemon.signal(Signal::STOP);
    bob.send("SMSGbob:while it stood still");
    sleep(PAUSE);
    daemon.signal(Signal::CONT);
    let mut wrong = Findings::default();
    let heard = bob.line_within(TOLD_MAX);
    let right = heard.as_deref().is_some_and(|line| line.starts_with("240 "));
    wrong.unless(right, Wrong::Answer, || format!("{heard:?}"));
    // The ticks of a thread that ends stuck ones go on from here: long enough to see that it counted one for the pause.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(4) && daemon.runs() {
        sleep(Duration::from_millis(50));
    }
    wrong.unless(daemon.runs(), Wrong::Ended, || daemon.log());
    wrong.or(|| format!("stood still for {PAUSE:?}, and went on with its session"))
}

/// The disk does not answer, and comes back. `answers`: it does, all the time.
pub fn disk_that_does_not_answer(answers: bool) -> Verdict {
    let mut daemon = Daemon::start("");
    for name in ["ann", "bob", "idle"] {
        daemon.add_user(name, name);
    }
    let [mut first, mut second, mut idle] = ["ann", "ann", "idle"].map(|name| {
        let mut client = daemon.connect();
        client.logs_in(name, name);
        client
    });
    let disk = (!answers).then(|| StuckDisk::attach(daemon.id()));
    let begun = Instant::now();
    // Of what is sent ahead only the first is uncertain: behind an error the rest are bad commands.
    first.send("SMSGbob:uncertain\r\nSMSGbob:behind it");
    let mut wrong = Findings::default();
    let mut hears = |client: &mut crate::running::Client, expected: &str| {
        let line = client.line_within(TOLD_MAX);
        let right = line.as_deref().is_some_and(|line| line.starts_with(expected));
        wrong.unless(right, Wrong::Answer, || format!("{line:?} instead of {expected}"));
        right
    };
    if !hears(&mut first, "540 error sending message: not known to be stored") {
        return wrong.or(String::new);
    }
    let told = begun.elapsed();
    hears(&mut first, "500 ");
    first.send("201");
    hears(&mut first, "201 ");
    for client in [&mut first, &mut second] {
        client.send("SMSGbob:refused at once");
        hears(client, "540 error sending message: not stored, the disk does not answer");
        client.send("201");
        hears(client, "201 ");
    }
    second.send("SMSGnobody:x");
    hears(&mut second, "545 ");
    idle.send("RMSG");
    hears(&mut idle, "256 ");
    let pings = cpctl(&daemon.socket(), &["session", "list"]).output().is_ok_and(|output| output.status.success());
    wrong.unless(pings, Wrong::NotServed, || "an operator".to_owned());
    drop(disk);
    daemon.waits_for_log("it answers again");
    let mut again = daemon.connect();
    again.logs_in("ann", "ann");
    again.asks("SMSGbob:afterwards", "240 ");
    let mut bob = daemon.connect();
    bob.logs_in("bob", "bob");
    bob.send("RMSG8");
    // Each message once, in its order: what was uncertain is stored all the same.
    for body in ["uncertain", "behind it", "afterwards"] {
        let line = bob.line();
        wrong.unless(line == format!("RMSGann:{body}"), Wrong::Answer, || format!("{line} instead of {body}"));
    }
    idle.send("RMSG");
    let line = idle.line();
    wrong.unless(line.starts_with("256 "), Wrong::Early, || line);
    wrong.unless(daemon.runs(), Wrong::Ended, || daemon.log());
    wrong.or(|| format!("540 after {told:.1?} of a sync that did not come back; others served; all went on with it"))
}

/// cpd ends by itself, and says why.
pub fn ends(mut daemon: Daemon) -> Verdict {
    let mut asks = cpctl(&daemon.socket(), &["user", "add", "bob", "--password-stdin"]);
    let mut asks = asks.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("cpctl");
    let sent = std::io::Write::write_all(&mut asks.stdin.take().expect("a pipe"), b"secret\n");
    sent.expect("sent");
    let begun = Instant::now();
    let code = daemon.ends().code();
    let _ = asks.kill();
    let _ = asks.wait();
    let log = daemon.log();
    if code != Some(EX_SOFTWARE) || !log.contains("\ncpd: the event loop made no progress for 30 s\n") {
        return found(Wrong::Answer, format!("{code:?}: {log}"));
    }
    Ok(format!("ended with {EX_SOFTWARE} after {:.0?}", begun.elapsed()))
}
