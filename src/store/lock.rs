//! Who works on a store: one cpd that serves it, or tools that do not serve. A cpd locks for itself alone, a tool together
//! with others, so that whoever meets the lock sees which of both it is, and a process that was killed leaves no trace.
//! Among themselves tools lock the folder. Whoever deletes the lock's file deletes no lock of SQLite's, which a cpd that
//! runs holds on the store itself: a tool looks at that as well, as it may not open the store by SQLite before it replaces it.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use super::files::system;
use super::{OpenError, OpenErrorKind, entry};

/// How long a cpd that is started waits for a tool.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// First byte and number of the bytes that SQLite locks (<https://www.sqlite.org/fileformat2.html#the_lock_byte_page>):
/// PENDING_BYTE, RESERVED_BYTE and the 510 shared ones.
const SQLITE_LOCKS: (i64, i64) = (0x4000_0000, 512);
/// Pause between two looks at the lock.
const PAUSE: Duration = Duration::from_millis(50);

/// Locks the store for a cpd that is to serve it. While a tool holds it, `waits` is asked whether to go on waiting.
pub fn for_daemon(path: &Path, store: &Path, waits: &mut dyn FnMut() -> bool) -> Result<File, OpenError> {
    let file = open(path, true)?;
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(e)) => return Err(system(path, "cannot lock", &e)),
            Err(TryLockError::WouldBlock) => {}
        }
        // Only beside a tool can anybody lock in this way.
        match file.try_lock_shared() {
            Ok(()) => file.unlock().map_err(|e| system(path, "cannot unlock", &e))?,
            Err(TryLockError::Error(e)) => return Err(system(path, "cannot lock", &e)),
            Err(TryLockError::WouldBlock) => {
                // A tool may have ended and another cpd have come between the two looks.
                return Err(busy(store, "the store is held by another cpd"));
            }
        }
        if !waits() || begun.elapsed() >= WAIT_MAX {
            return Err(in_work(store));
        }
        thread::sleep(PAUSE);
    }
}

/// What keeps other programs from a store while a tool works on it.
#[derive(Debug)]
pub struct ToolLock {
    _lock: Option<File>,
    _folder: File,
}

/// Locks the store for a tool. A tool that is to change nothing does not make the lock's file either: where it is missing
/// no cpd has ever been.
pub fn for_tool(path: &Path, folder: &Path, store: &Path, changes: bool) -> Result<ToolLock, OpenError> {
    let own = File::open(folder).map_err(|e| system(folder, "cannot use the store's folder", &e))?;
    let locked = if changes { own.try_lock() } else { own.try_lock_shared() };
    match locked {
        Ok(()) => {}
        Err(TryLockError::Error(e)) => return Err(system(folder, "cannot lock", &e)),
        Err(TryLockError::WouldBlock) => {
            return Err(in_work(store));
        }
    }
    let lock = match open(path, changes) {
        Ok(lock) => Some(lock),
        Err(_) if !changes && !path.exists() => None,
        Err(error) => return Err(error),
    };
    match lock.as_ref().map_or(Ok(()), File::try_lock_shared) {
        Ok(()) if is_open_elsewhere(store) => Err(busy(store, "the store is held by a cpd that runs")),
        Ok(()) => Ok(ToolLock { _lock: lock, _folder: own }),
        Err(TryLockError::Error(e)) => Err(system(path, "cannot lock", &e)),
        Err(TryLockError::WouldBlock) => Err(busy(store, "the store is held by a cpd that runs")),
    }
}

/// Whether SQLite holds a lock on the file: it does as long as a store is open. What cannot be looked at is said by
/// whoever opens it.
fn is_open_elsewhere(store: &Path) -> bool {
    let Ok(file) = entry::carefully().read(true).open(store) else { return false };
    let mut lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: SQLITE_LOCKS.0,
        l_len: SQLITE_LOCKS.1,
        l_pid: 0,
    };
    let asked: Result<_, Errno> = fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock));
    asked.is_ok() && lock.l_type != libc::F_UNLCK as libc::c_short
}

fn open(path: &Path, changes: bool) -> Result<File, OpenError> {
    let mut options = entry::carefully();
    match changes {
        true => options.write(true).create(true).truncate(false).mode(0o600),
        false => options.read(true),
    };
    options.open(path).map_err(|e| match e.kind() {
        io::ErrorKind::PermissionDenied => system(path, "cannot write in the store's folder", &e),
        _ => OpenError { kind: OpenErrorKind::CannotCreate, ..system(path, "cannot create", &e) },
    })
}

fn in_work(store: &Path) -> OpenError {
    let said = "cpd --restore, --salvage or --check-store works on this store; wait until it has ended";
    OpenError::new(OpenErrorKind::InWork, format!("{}: {said}", store.display()))
}

fn busy(store: &Path, said: &str) -> OpenError {
    OpenError::new(OpenErrorKind::Busy, format!("{}: {said}", store.display()))
}
