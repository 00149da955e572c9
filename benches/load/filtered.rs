//! A program under a filter of system calls, as cpd's unit starts cpd. With one the kernel looks at every call before it
//! does it, which takes a part of a microsecond whatever the filter says: a build that gives itself one and a build that
//! does not are the same to an administrator, whose cpd is started under one anyway.

use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::libc;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

/// The argument of a child that becomes the program which follows, with its arguments.
pub const FILTERED: &str = "filtered";

/// Becomes `program`, to which every call stays allowed but ptrace(2), which it does not need; returns only when that
/// fails.
pub fn become_it(program: &str, arguments: &[String]) -> Result<(), String> {
    filter().map_err(|error| format!("no filter of system calls: {error}"))?;
    Err(format!("{program}: {}", Command::new(program).args(arguments).exec()))
}

fn filter() -> Result<(), seccompiler::Error> {
    let refused = [(libc::SYS_ptrace, Vec::new())].into_iter().collect();
    let refusal = SeccompAction::Errno(Errno::EPERM as u32);
    let machine = std::env::consts::ARCH.try_into()?;
    let filter: BpfProgram = SeccompFilter::new(refused, SeccompAction::Allow, refusal, machine)?.try_into()?;
    seccompiler::apply_filter(&filter)
}
