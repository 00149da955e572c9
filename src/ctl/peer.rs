//! Decides whether the program that listens on a socket can be trusted. This is checked before anything is sent,
//! because a request may contain a password, and another user may have put a socket of their own in place of the
//! daemon's.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{Uid, User, geteuid};

/// Checks that the program at the other end of `socket`, which was connected through `path`, can be trusted.
///
/// Root is trusted, because systemd listens as root, and so is the user who runs cpctl. Any other user may be the one
/// of the daemon and is trusted if only root, that user and the user who runs cpctl can have put the socket there.
///
/// # Errors
/// The reason why the program is not trusted.
pub(super) fn check_trusted(socket: &impl AsFd, path: &Path) -> Result<(), String> {
    let uid = match getsockopt(socket, PeerCredentials) {
        Ok(peer) => peer.uid(),
        Err(errno) => return Err(format!("cannot find out who listens there ({})", errno.desc())),
    };
    if uid == 0 || uid == geteuid().as_raw() {
        return Ok(());
    }
    let place = check_placement(path, uid);
    place.map_err(|why| format!("{} listens there, who is neither root nor you, and {why}", describe_user(uid)))
}

/// Checks that only root, `uid` and the user who runs cpctl can have put a socket at `path`, or at the place to which
/// its links lead.
///
/// # Errors
/// The folder whose owner or mode allows others to do that.
fn check_placement(path: &Path, uid: u32) -> Result<(), String> {
    let cannot = |path: &Path, e: &io::Error| format!("{} cannot be looked at ({e})", path.display());
    let real = fs::canonicalize(path).map_err(|e| cannot(path, &e))?;
    for file in [path, &real] {
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let found = fs::metadata(folder).map_err(|e| cannot(folder, &e))?;
        if ![0, uid, geteuid().as_raw()].contains(&found.uid()) {
            return Err(format!("{} belongs to {}", folder.display(), describe_user(found.uid())));
        }
        if found.mode() & 0o022 != 0 {
            let mode = found.mode() & 0o7777;
            return Err(format!("others can write in {} (mode {mode:04o})", folder.display()));
        }
        if ![0, geteuid().as_raw()].contains(&found.uid()) {
            check_ancestors(&real, uid)?;
        }
    }
    Ok(())
}

/// Checks that only root and `uid` can have made the folder of `real`, by looking at all folders above it.
///
/// # Errors
/// The folder in which others can create folders.
fn check_ancestors(real: &Path, uid: u32) -> Result<(), String> {
    for folder in real.ancestors().skip(2) {
        let found = fs::metadata(folder).map_err(|e| format!("{} cannot be looked at ({e})", folder.display()))?;
        if ![0, uid].contains(&found.uid()) || found.mode() & 0o022 != 0 {
            let (made, mode) = (real.parent().unwrap_or(real).display(), found.mode() & 0o7777);
            return Err(format!("others can have made {made}, in {} (mode {mode:04o})", folder.display()));
        }
    }
    Ok(())
}

fn describe_user(uid: u32) -> String {
    let found = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    found.map_or_else(|| format!("uid {uid}"), |user| format!("{} (uid {uid})", user.name))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    /// A user other than the one who runs the test.
    const NOBODY: u32 = 65_534;

    fn as_nobody<T: Send>(what: impl FnOnce() -> T + Send) -> T {
        let become_and_run = || {
            let uid = rustix::process::Uid::from_raw(NOBODY);
            // This changes the user of this thread only, because rustix calls the kernel and not the C library.
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            what()
        };
        std::thread::scope(|scope| scope.spawn(become_and_run).join().unwrap())
    }

    fn found(path: &Path) -> Result<(), String> {
        check_trusted(&UnixStream::connect(path).unwrap(), path)
    }

    #[test]
    fn the_own_user_is_trusted_in_any_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let _listener = UnixListener::bind(&path).unwrap();
        for mode in [0o700, 0o755, 0o777, 0o1777] {
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(found(&path), Ok(()), "{mode:o}");
        }
    }

    #[test]
    fn other_users_are_trusted_only_where_nobody_else_can_put_a_socket() {
        if !geteuid().is_root() {
            // Only root can listen as another user.
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let _listener = as_nobody(|| UnixListener::bind(&path).unwrap());
        let other = tempfile::tempdir().unwrap();
        let link = other.path().join("link");
        symlink(&path, &link).unwrap();
        let shown = folder.path().display().to_string();
        for (owner, mode, why) in [
            (0, 0o755, None),
            (0, 0o700, None),
            // Any user could have made this folder, because it is in one where everybody can create folders.
            (NOBODY, 0o755, Some("others can have made")),
            (0, 0o777, Some("others can write in")),
            (0, 0o1777, Some("others can write in")),
            (0, 0o775, Some("others can write in")),
            (NOBODY, 0o1777, Some("others can write in")),
            (1, 0o755, Some("belongs to")),
        ] {
            chown(folder.path(), Some(owner), None).unwrap();
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
            for path in [&path, &link] {
                match (found(path), why) {
                    (Ok(()), None) => {}
                    (Err(said), Some(why)) => {
                        assert!(said.contains(why) && said.contains(&shown) && said.contains("uid 65534"), "{said}");
                    }
                    (found, _) => panic!("{owner} {mode:o}: {found:?}"),
                }
            }
        }
        // Only root can have made that user's folder here.
        let service = tempfile::tempdir_in("/run").unwrap();
        let own = service.path().join("s");
        chown(service.path(), Some(NOBODY), None).unwrap();
        fs::set_permissions(service.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let _served = as_nobody(|| UnixListener::bind(&own).unwrap());
        assert_eq!(found(&own), Ok(()));
        // First a link in a trusted folder; then the same link in a folder where anybody can have made it.
        chown(folder.path(), Some(0), None).unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(found(&link), Ok(()));
        fs::set_permissions(other.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        assert!(found(&link).unwrap_err().contains(&other.path().display().to_string()));
        assert_eq!(found(&path), Ok(()));
    }
}
