//! Names of files next to a store's file, and the calls on them that need to know nothing of what they contain.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::statvfs::{FsFlags, statvfs};

/// Suffix, after the store's name, of a copy that is being made or served. A start deletes leftovers with this suffix
/// or the next: nobody gives a file of their own such a name.
pub const BACKUP_SUFFIX: &str = ".incomplete-backup";
/// Suffix of a store that is being created.
pub const NEW_SUFFIX: &str = ".incomplete-new";

/// `path` with `suffix` appended to its name.
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(suffix);
    PathBuf::from(name)
}

/// Options to open a path where there may be anything: a symbolic link is not followed, and opening a pipe does not
/// wait for its other end.
pub fn careful_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits());
    options
}

/// Deletes the file `path`; it is no error if there is none.
pub fn remove_if_exists(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Reads every byte of the store at `path` and of its log by the same call as SQLite does, to find out whether the disk
/// can deliver them.
pub fn read_through(path: &Path) -> io::Result<()> {
    let mut bytes = vec![0; 64 * 1024];
    for suffix in ["", "-wal"] {
        match File::open(with_suffix(path, suffix)) {
            Ok(file) => {
                let mut at = 0;
                loop {
                    match file.read_at(&mut bytes, at)? {
                        0 => break,
                        count => at += count as u64,
                    }
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Whether the file system of the store at `file` is read-only, be it mounted so or because of a fault.
pub fn is_read_only(file: &Path) -> bool {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let marked = |path: &Path| statvfs(path).is_ok_and(|found| found.flags().contains(FsFlags::ST_RDONLY));
    // The lock's file shows what the mount's flags do not: closing a descriptor of the store itself would drop SQLite's
    // lock on it.
    let lock = careful_options().write(true).open(with_suffix(file, "-lock"));
    marked(file) || marked(folder) || lock.is_err_and(|e| e.kind() == io::ErrorKind::ReadOnlyFilesystem)
}
