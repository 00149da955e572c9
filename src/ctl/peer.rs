//! Who listens at a socket. Asked before a byte is sent to it, for what is sent may be a password: whoever has put a
//! socket of their own in the daemon's place is told nothing.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{Uid, User, geteuid};

/// Errors: who listens at the other end of `socket`, which was connected by `path`, cannot be trusted with anything; why,
/// for people.
///
/// Root may listen, for whom systemd is, and whoever asks. Another user may where nobody but these, root and that user
/// can have put the socket there: the daemon that makes its own.
pub(super) fn check(socket: &impl AsFd, path: &Path) -> Result<(), String> {
    let uid = match getsockopt(socket, PeerCredentials) {
        Ok(peer) => peer.uid(),
        Err(errno) => return Err(format!("it cannot be told who listens there ({})", errno.desc())),
    };
    if uid == 0 || uid == geteuid().as_raw() {
        return Ok(());
    }
    let place = whose(path, uid);
    place.map_err(|why| format!("{} listens there, who is neither root nor you, and {why}", name_of(uid)))
}

/// Errors: somebody else than root, `uid` and whoever asks can have put something at `path`, or at what it leads to.
fn whose(path: &Path, uid: u32) -> Result<(), String> {
    let cannot = |path: &Path, e: &io::Error| format!("{} cannot be looked at ({e})", path.display());
    let real = fs::canonicalize(path).map_err(|e| cannot(path, &e))?;
    for file in [path, &real] {
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let found = fs::metadata(folder).map_err(|e| cannot(folder, &e))?;
        if ![0, uid, geteuid().as_raw()].contains(&found.uid()) {
            return Err(format!("{} belongs to {}", folder.display(), name_of(found.uid())));
        }
        if found.mode() & 0o022 != 0 {
            let mode = found.mode() & 0o7777;
            return Err(format!("others can write in {} (mode {mode:04o})", folder.display()));
        }
        if ![0, geteuid().as_raw()].contains(&found.uid()) {
            above(&real, uid)?;
        }
    }
    Ok(())
}

/// Errors: somebody else than root and `uid` can have made the folder, as in one where everybody may.
fn above(real: &Path, uid: u32) -> Result<(), String> {
    for folder in real.ancestors().skip(2) {
        let found = fs::metadata(folder).map_err(|e| format!("{} cannot be looked at ({e})", folder.display()))?;
        if ![0, uid].contains(&found.uid()) || found.mode() & 0o022 != 0 {
            let (made, mode) = (real.parent().unwrap_or(real).display(), found.mode() & 0o7777);
            return Err(format!("others can have made {made}, in {} (mode {mode:04o})", folder.display()));
        }
    }
    Ok(())
}

fn name_of(uid: u32) -> String {
    let found = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    found.map_or_else(|| format!("uid {uid}"), |user| format!("{} (uid {uid})", user.name))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    /// Some user that is not this process's.
    const NOBODY: u32 = 65_534;

    fn as_nobody<T: Send>(what: impl FnOnce() -> T + Send) -> T {
        let become_and_run = || {
            let uid = rustix::process::Uid::from_raw(NOBODY);
            // Of this thread alone: rustix asks the kernel, not the C library.
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            what()
        };
        std::thread::scope(|scope| scope.spawn(become_and_run).join().unwrap())
    }

    fn found(path: &Path) -> Result<(), String> {
        check(&UnixStream::connect(path).unwrap(), path)
    }

    #[test]
    fn whoever_asks_may_listen_anywhere() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let _listener = UnixListener::bind(&path).unwrap();
        for mode in [0o700, 0o755, 0o777, 0o1777] {
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(found(&path), Ok(()), "{mode:o}");
        }
    }

    #[test]
    fn others_may_where_nobody_else_can_have_put_the_socket() {
        if !geteuid().is_root() {
            // Only root can listen as somebody else.
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
            // In a folder where everybody may be the first to make one.
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
        // Where nobody else can have made that user's folder.
        let service = tempfile::tempdir_in("/run").unwrap();
        let own = service.path().join("s");
        chown(service.path(), Some(NOBODY), None).unwrap();
        fs::set_permissions(service.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let _served = as_nobody(|| UnixListener::bind(&own).unwrap());
        assert_eq!(found(&own), Ok(()));
        // A link that anybody can have made, to where only that user can.
        chown(folder.path(), Some(0), None).unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(found(&link), Ok(()));
        fs::set_permissions(other.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        assert!(found(&link).unwrap_err().contains(&other.path().display().to_string()));
        assert_eq!(found(&path), Ok(()));
    }
}
