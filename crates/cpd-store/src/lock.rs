//! The lock that decides who works on a store: one cpd that serves it, or tools that do not. A cpd takes the lock
//! exclusively and a tool shares it, so that whoever finds it taken sees which of the two holds it. The lock of a
//! killed process is gone with it. To exclude each other, tools lock the folder. Deleting the lock's file does not end
//! the lock of SQLite, which a running cpd holds on the store itself. A tool checks that as well, because it must not
//! open the store with SQLite before it replaces it.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use super::open_error::{OpenError, OpenErrorKind, system_error};
use super::paths::careful_options;

/// How long a starting cpd waits for a tool at most.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Offset and length of the bytes that SQLite locks (<https://www.sqlite.org/fileformat2.html#the_lock_byte_page>):
/// PENDING_BYTE, RESERVED_BYTE and the 510 shared ones.
const SQLITE_LOCK_RANGE: (i64, i64) = (0x4000_0000, 512);
/// Pause between two attempts to take the lock.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// Locks the store for a cpd that is going to serve it. While a tool holds the lock, `keep_waiting` decides whether to
/// continue waiting.
///
/// # Errors
/// [`OpenErrorKind::Busy`]: another cpd holds the lock. [`OpenErrorKind::ToolAtWork`]: a tool still holds it.
pub fn for_daemon(path: &Path, store: &Path, keep_waiting: &mut dyn FnMut() -> bool) -> Result<File, OpenError> {
    let file = open(path, true)?;
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(e)) => return Err(system_error(path, "cannot lock", &e)),
            Err(TryLockError::WouldBlock) => {}
        }
        // The lock can be shared with a tool, but not with a cpd.
        match file.try_lock_shared() {
            Ok(()) => file.unlock().map_err(|e| system_error(path, "cannot unlock", &e))?,
            Err(TryLockError::Error(e)) => return Err(system_error(path, "cannot lock", &e)),
            Err(TryLockError::WouldBlock) => {
                // This is also right if a tool released the lock between the two attempts and another cpd took it.
                return Err(held_by_cpd_error(store, "the store is held by another cpd"));
            }
        }
        if !keep_waiting() || begun.elapsed() >= WAIT_MAX {
            return Err(held_by_tool_error(store));
        }
        thread::sleep(RETRY_INTERVAL);
    }
}

/// Keeps other programs from a store while a tool works on it.
#[derive(Debug)]
pub struct ToolLock {
    _lock: Option<File>,
    _folder: File,
}

/// Locks the store for a tool. `changes`: the tool is going to change something. One that is not does not create the
/// lock's file either: where it is missing, there is no cpd to wait for, unless the lock of SQLite shows one.
pub fn for_tool(path: &Path, folder: &Path, store: &Path, changes: bool) -> Result<ToolLock, OpenError> {
    let folder_lock = File::open(folder).map_err(|e| system_error(folder, "cannot use the store's folder", &e))?;
    let locked = if changes { folder_lock.try_lock() } else { folder_lock.try_lock_shared() };
    match locked {
        Ok(()) => {}
        Err(TryLockError::Error(e)) => return Err(system_error(folder, "cannot lock", &e)),
        Err(TryLockError::WouldBlock) => {
            return Err(held_by_tool_error(store));
        }
    }
    let lock = match open(path, changes) {
        Ok(lock) => Some(lock),
        Err(_) if !changes && !path.exists() => None,
        Err(error) => return Err(error),
    };
    match lock.as_ref().map_or(Ok(()), File::try_lock_shared) {
        Ok(()) if is_open_elsewhere(store) => Err(held_by_cpd_error(store, "the store is held by a cpd that runs")),
        Ok(()) => Ok(ToolLock { _lock: lock, _folder: folder_lock }),
        Err(TryLockError::Error(e)) => Err(system_error(path, "cannot lock", &e)),
        Err(TryLockError::WouldBlock) => Err(held_by_cpd_error(store, "the store is held by a cpd that runs")),
    }
}

/// Whether SQLite in another process holds a lock on the file, as it does while the store is open. `false` if the file
/// cannot be examined: whoever opens it next will report that.
fn is_open_elsewhere(store: &Path) -> bool {
    let Ok(file) = careful_options().read(true).open(store) else { return false };
    let mut lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: SQLITE_LOCK_RANGE.0,
        l_len: SQLITE_LOCK_RANGE.1,
        l_pid: 0,
    };
    let asked: Result<_, Errno> = fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock));
    asked.is_ok() && lock.l_type != libc::F_UNLCK as libc::c_short
}

fn open(path: &Path, changes: bool) -> Result<File, OpenError> {
    let mut options = careful_options();
    match changes {
        true => options.write(true).create(true).truncate(false).mode(0o600),
        false => options.read(true),
    };
    options.open(path).map_err(|e| match e.kind() {
        io::ErrorKind::PermissionDenied => system_error(path, "cannot write in the store's folder", &e),
        _ => OpenError { kind: OpenErrorKind::CannotCreate, ..system_error(path, "cannot create", &e) },
    })
}

fn held_by_tool_error(store: &Path) -> OpenError {
    let message = "cpd --restore, --salvage or --check-store works on this store; wait until it has ended";
    OpenError::new(OpenErrorKind::ToolAtWork, format!("{}: {message}", store.display()))
}

fn held_by_cpd_error(store: &Path, message: &str) -> OpenError {
    OpenError::new(OpenErrorKind::Busy, format!("{}: {message}", store.display()))
}
