//! Takes ownership of the descriptors that systemd or a predecessor handed over.
//!
//! This is the only file in which unsafe code is allowed: a descriptor known by its number can be adopted in no other
//! way, and the variables that announce descriptors must be removed before another thread could read them. Nothing else
//! belongs here.
#![allow(unsafe_code, reason = "adopting inherited descriptors, and removing the variables that announce them")]

use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{MsgFlags, recvmsg};

/// A descriptor with its name: `FileDescriptorName=` of its socket unit, or `FDNAME=` of a stored descriptor.
#[derive(Debug)]
pub struct Inherited {
    pub name: String,
    pub fd: OwnedFd,
}

/// Whether [`take_inherited`] was called.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Adopts the descriptors of sd_listen_fds(3), sets close-on-exec on them, and removes the variables that announce them
/// from the environment. Call this first, before any thread is started or any file is opened. The list is empty without
/// such descriptors, if the variables are meant for another process, and at every further call.
///
/// # Errors
/// The variables are meant for this process and invalid, or a descriptor that they name is not open.
pub fn take_inherited() -> io::Result<Vec<Inherited>> {
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    // A shell that started cpd leaves variables in the environment that were meant for the shell itself.
    let ours = are_meant_for(std::process::id(), |name| std::env::var(name).ok());
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

/// Whether the environment announces descriptors to the process `pid`.
fn are_meant_for(pid: u32, variable: impl Fn(&str) -> Option<String>) -> bool {
    let named = variable("LISTEN_PID").and_then(|text| text.parse::<u32>().ok());
    named == Some(pid) && variable("LISTEN_FDS").is_some()
}

/// The descriptors of one message.
#[derive(Debug)]
pub struct ReceivedFds {
    pub fds: Vec<OwnedFd>,
    /// The message held more descriptors than this process may have: `fds` are the first ones, the others are closed.
    pub truncated: bool,
}

/// Receives the next message of `queue`: its bytes into `text`, whose rest becomes 0, and its descriptors, at most
/// `max` and at most as many as this process may have. `None`: no message is left.
///
/// # Errors
/// The kernel's.
pub fn receive(queue: BorrowedFd<'_>, text: &mut [u8], max: usize) -> io::Result<Option<ReceivedFds>> {
    text.fill(0);
    let mut into = [IoSliceMut::new(text)];
    let mut space = vec![0; nix::sys::socket::cmsg_space::<RawFd>() + max * size_of::<RawFd>()];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let truncated = match recvmsg::<()>(queue.as_raw_fd(), &mut into, Some(&mut space), flags) {
        Ok(message) if message.bytes > 0 => message.flags.contains(MsgFlags::MSG_CTRUNC),
        Ok(_) | Err(Errno::EAGAIN) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // SAFETY: the kernel has just made these descriptors for this process, and nobody else knows them.
    let fds = descriptors_in(&space).map(|number| unsafe { OwnedFd::from_raw_fd(number) }).collect();
    Ok(Some(ReceivedFds { fds, truncated }))
}

/// The descriptors in a control message of type SCM_RIGHTS (cmsg(3)), the only type that a socket without options
/// receives. nix returns none from a message that was truncated, although the kernel has made those for which there was
/// room.
fn descriptors_in(space: &[u8]) -> impl Iterator<Item = RawFd> {
    const HEAD: usize = size_of::<libc::cmsghdr>();
    let end = space.first_chunk().map_or(0, |length| usize::from_ne_bytes(*length));
    let numbers = space.get(HEAD..end).unwrap_or_default();
    numbers.chunks_exact(size_of::<RawFd>()).filter_map(|number| number.try_into().ok().map(RawFd::from_ne_bytes))
}

/// Whether the kernel reports that this process has a single thread. `false` if that cannot be read.
fn is_single_threaded() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_rights_are_found_where_none_are() {
        let none = |space: &[u8]| descriptors_in(space).next().is_none();
        assert!(none(&[]) && none(&[0; 7]) && none(&[0; 64]) && none(&[0xff; 64]));
    }

    #[test]
    fn variables_of_another_process_announce_nothing() {
        let ours = |variables: &[(&str, &str)]| {
            are_meant_for(7, |name| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            })
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
