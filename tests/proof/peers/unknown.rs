//! A control connection of which the kernel does not say whose it is: getsockopt fails, by strace, which writes down what
//! cpd does with the connection.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::findings::{Findings, Verdict, Wrong};
use crate::running::{Daemon, PATIENCE, wait_for};

const REQUEST: &[u8] = b"{\"v\":1,\"cmd\":\"user.add\",\"name\":\"evil\",\"password\":\"hunter2\"}\n";

/// Asks for something over such a connection; `fails`: whether the kernel really says nothing.
pub fn asks(fails: bool) -> Verdict {
    let daemon = Daemon::start("");
    let trace = daemon.folder.path().join("trace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-yy", "-e", "trace=getsockopt,read,recvfrom,recvmsg,readv", "-o"]).arg(&trace);
    if fails {
        strace.args(["-e", "inject=getsockopt:error=EPERM"]);
    }
    strace.args(["-p", &daemon.id().to_string()]).stdin(Stdio::null()).stderr(Stdio::null());
    let tracer = strace.spawn().expect("strace");
    wait_for("strace has the thread that accepts", || is_traced(daemon.id()).then_some(()));
    let mut stream = UnixStream::connect(daemon.socket()).expect("permitted");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    // It may be closed already.
    let _ = stream.write_all(REQUEST);
    let mut heard = Vec::new();
    let end = stream.shutdown(std::net::Shutdown::Write).and_then(|()| stream.read_to_end(&mut heard));
    let_go(tracer);

    let trace = std::fs::read_to_string(&trace).expect("written");
    let asked = trace.lines().filter(|line| line.contains("SO_PEERCRED")).count();
    // Only the control socket is a local one here.
    let local = |line: &&str| line.contains("<UNIX") && !line.contains("getsockopt(");
    let reads: Vec<&str> = trace.lines().filter(local).collect();
    let users = daemon.cpctl(&["--json", "user", "list"], "");
    let mut found = Findings::default();
    found.unless(asked == 1, Wrong::NoPressure, || format!("asked {asked} times for the credentials"));
    found.unless(heard.is_empty(), Wrong::Answer, || String::from_utf8_lossy(&heard).into_owned());
    let closed = end.as_ref().err().is_none_or(|error| error.kind() != ErrorKind::WouldBlock);
    found.unless(closed, Wrong::NotEnded, || format!("{end:?}"));
    found.unless(reads.is_empty(), Wrong::Read, || reads.join(", "));
    found.unless(!users.contains("evil"), Wrong::NotRefused, || users.clone());
    if fails {
        daemon.waits_for_log("its user is not known");
    }
    found.or(|| {
        format!("asked {asked} time, not a byte read, dropped with {end:?}, told in the log, and served after that")
    })
}

fn is_traced(pid: u32) -> bool {
    std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").flatten().all(|task| {
        let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
        status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|tracer| tracer.trim() != "0"))
    })
}

/// It lets go of the process at this signal, and has written everything then.
fn let_go(mut tracer: Child) {
    kill_process(Pid::from_child(&tracer), Signal::INT).expect("it runs");
    tracer.wait().expect("a child");
}
