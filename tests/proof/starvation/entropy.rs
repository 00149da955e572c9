//! The kernel gives no randomness for a while: getrandom fails, by strace.

use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::findings::{Verdict, Wrong, found};
use crate::running::{Daemon, cpctl, run, wait_for};

/// How getrandom(2) fails, one after the other.
pub const ERRORS: [&str; 3] = ["EAGAIN", "ENOSYS", "EIO"];

/// strace at a process, whose system calls fail until this is dropped.
struct Tracer(Child);

impl Tracer {
    fn attach(pid: u32, error: &str) -> Tracer {
        let inject = format!("inject=getrandom:error={error}");
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o", "/dev/null", "-p", &pid.to_string(), "-e", "trace=getrandom", "-e", &inject]);
        let tracer = Tracer(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("strace"));
        wait_for("strace has all threads", || all_traced(pid).then_some(()));
        tracer
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // It lets go of the process at this signal; it fails only when it is gone already.
        let _ = kill_process(Pid::from_child(&self.0), Signal::INT);
        let _ = self.0.wait();
    }
}

/// Whether strace has every thread of a process.
pub fn all_traced(pid: u32) -> bool {
    std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").flatten().all(|task| {
        let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
        status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|tracer| tracer.trim() != "0"))
    })
}

/// Takes randomness away and gives it back; `fails`: whether it is really taken.
pub fn goes_and_comes(fails: bool) -> Verdict {
    let mut daemon = Daemon::start("");
    daemon.add_user("bob", "bob");
    let mut bob = daemon.connect();
    bob.logs_in("bob", "bob");
    for error in ERRORS {
        let tracer = fails.then(|| Tracer::attach(daemon.id(), error));
        let name = format!("u{error}");
        let ended = run(&mut cpctl(&daemon.socket(), &["user", "add", &name, "--password-stdin"]), "secret\n");
        if ended.code() == 0 {
            return found(Wrong::NotRefused, format!("{error}: a password was hashed"));
        }
        if ended.code() != 1 || !ended.stderr.contains("no randomness from the kernel") {
            return found(Wrong::Answer, format!("{error}: {ended:?}"));
        }
        let reloads = daemon.log().matches("configuration reloaded").count();
        daemon.signal(Signal::HUP);
        wait_for("a reload", || (daemon.log().matches("configuration reloaded").count() > reloads).then_some(()));
        bob.asks("SMSGbob:still here", "240 ");
        daemon.connect().logs_in("bob", "bob");
        drop(tracer);
        daemon.add_user(&name, "secret");
        daemon.connect().logs_in(&name, "secret");
    }
    if !daemon.runs() || daemon.log().contains("internal error") {
        return found(Wrong::Ended, daemon.log());
    }
    Ok(format!("{} refused a new user with the cause, served logins and messages, and went on", ERRORS.join(", ")))
}
