//! Descriptors that systemd or a predecessor handed over, from numbers to owners.
//!
//! The one place where unsafe code is allowed: a descriptor known by its number can be adopted in no other way, and the
//! variables that announce it must go before another thread could read them. Nothing else belongs here.
#![allow(unsafe_code, reason = "adopting inherited descriptors, and removing the variables that announce them")]

use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{MsgFlags, recvmsg};

/// A descriptor and the name it was given (`FileDescriptorName=`, or FDNAME of a stored one).
#[derive(Debug)]
pub struct Inherited {
    pub name: String,
    pub fd: OwnedFd,
}

static TAKEN: AtomicBool = AtomicBool::new(false);

/// Adopts the descriptors of sd_listen_fds(3), close-on-exec from here on, and removes the variables about them from
/// the environment. To be called first of all, before any thread is started or any file opened. Without such
/// descriptors, where the variables are about another process, and at every further call, the list is empty. Errors:
/// variables for this process that say nonsense, or numbers that are not open.
pub fn take_inherited() -> io::Result<Vec<Inherited>> {
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    // A shell around cpd leaves what was meant for the shell.
    let ours = are_for(std::process::id(), |name| std::env::var(name).ok());
    let numbered = if ours { sd_notify::listen_fds_with_names().map(Iterator::collect) } else { Ok(Vec::new()) };
    if is_single_threaded() {
        for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
            // SAFETY: no other thread exists that could read or write the environment.
            unsafe { std::env::remove_var(name) };
        }
    }
    let numbered: Vec<_> = numbered?;
    let adopt = |(number, name)| {
        // SAFETY: sd-notify found the descriptor open, and systemd gave it to this very process (LISTEN_PID) to own.
        // TAKEN makes this the only owner.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        Inherited { name, fd }
    };
    Ok(numbered.into_iter().map(adopt).collect())
}

/// Whether these variables announce descriptors to the process `pid`.
fn are_for(pid: u32, variable: impl Fn(&str) -> Option<String>) -> bool {
    let named = variable("LISTEN_PID").and_then(|text| text.parse::<u32>().ok());
    named == Some(pid) && variable("LISTEN_FDS").is_some()
}

/// What one message held.
#[derive(Debug)]
pub struct Received {
    pub fds: Vec<OwnedFd>,
    /// This process may not have all that lay in it: these are the first ones, the others are closed.
    pub cut: bool,
}

/// Takes the next message out of `queue`, its bytes into `text` (the rest of which becomes 0), with the descriptors that
/// lie in it, at most `max`, and at most as many as this process may have; `None`: no message is left. Errors: the
/// kernel's.
pub fn receive(queue: BorrowedFd<'_>, text: &mut [u8], max: usize) -> io::Result<Option<Received>> {
    text.fill(0);
    let mut into = [IoSliceMut::new(text)];
    let mut space = vec![0; nix::sys::socket::cmsg_space::<RawFd>() + max * size_of::<RawFd>()];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let cut = match recvmsg::<()>(queue.as_raw_fd(), &mut into, Some(&mut space), flags) {
        Ok(message) if message.bytes > 0 => message.flags.contains(MsgFlags::MSG_CTRUNC),
        Ok(_) | Err(Errno::EAGAIN) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // SAFETY: the kernel has just made these descriptors for this process, and nobody else knows them.
    let fds = rights(&space).map(|number| unsafe { OwnedFd::from_raw_fd(number) }).collect();
    Ok(Some(Received { fds, cut }))
}

/// The numbers in a control message of SCM_RIGHTS, cmsg(3), which is the only one that a queue without options has. nix
/// gives none out of a message that was cut off, though the kernel has made those that found room.
fn rights(space: &[u8]) -> impl Iterator<Item = RawFd> {
    const HEAD: usize = size_of::<libc::cmsghdr>();
    let end = space.first_chunk().map_or(0, |length| usize::from_ne_bytes(*length));
    let numbers = space.get(HEAD..end).unwrap_or_default();
    numbers.chunks_exact(size_of::<RawFd>()).filter_map(|number| number.try_into().ok().map(RawFd::from_ne_bytes))
}

/// Only if the kernel says so.
fn is_single_threaded() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_rights_are_found_where_none_are() {
        let none = |space: &[u8]| rights(space).next().is_none();
        assert!(none(&[]) && none(&[0; 7]) && none(&[0; 64]) && none(&[0xff; 64]));
    }

    #[test]
    fn variables_of_another_process_announce_nothing() {
        let ours = |variables: &[(&str, &str)]| {
            are_for(7, |name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
        };
        assert!(ours(&[("LISTEN_PID", "7"), ("LISTEN_FDS", "1")]));
        assert!(ours(&[("LISTEN_PID", "7"), ("LISTEN_FDS", "x")]), "that is nonsense for this process, and is said");
        assert!(!ours(&[("LISTEN_PID", "8"), ("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", "cp")]));
        assert!(!ours(&[("LISTEN_PID", "8"), ("LISTEN_FDS", "x")]));
        assert!(!ours(&[("LISTEN_PID", "x"), ("LISTEN_FDS", "1")]));
        assert!(!ours(&[("LISTEN_FDS", "1")]) && !ours(&[("LISTEN_FDNAMES", "cp:control")]) && !ours(&[]));
        assert!(!ours(&[("LISTEN_PID", "7"), ("LISTEN_FDNAMES", "cp")]));
    }

    #[test]
    fn nothing_is_inherited_by_a_test_and_never_twice() {
        assert!(take_inherited().unwrap().is_empty());
        assert!(TAKEN.load(Ordering::SeqCst));
        assert!(take_inherited().unwrap().is_empty());
    }
}
