//! The control socket that cpd makes itself where systemd does not: for its owner, and for one group.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Group, fchownat};

use super::{path_of, wrong_kind};
use crate::daemon::exit::{ExitCode, Fatal};
use crate::daemon::logging::{Level, Line};
use crate::daemon::notify;

/// Where an administrator gives the control socket another path.
const DROP_IN: &str = "/etc/systemd/system/cpd-control.socket.d/path.conf";
/// Administrators that the kernel keeps until they are accepted.
const BACKLOG: u16 = 128;

/// A socket that accepts administrators; non-blocking, close-on-exec. One that was made here removes its file when it
/// is dropped, if the file is still its own.
#[derive(Debug)]
pub struct ControlListener {
    pub socket: mio::net::UnixListener,
    pub file: ControlFile,
}

/// The control socket in the file system.
#[derive(Debug)]
pub struct ControlFile {
    path: Option<PathBuf>,
    /// Where it was made here.
    made: Option<Made>,
}

/// A control socket that was made here.
#[derive(Clone, Debug)]
pub struct Made {
    path: PathBuf,
    group: String,
    /// Whose it is: once everything is open, the list of groups cannot be read any more.
    gid: Option<Gid>,
    /// Device and inode. No other file has them while the socket is open.
    file: (u64, u64),
}

impl ControlListener {
    /// A listening stream socket that was handed over. Error: [`ExitCode::Config`], not a Unix socket.
    pub(super) fn adopt(fd: OwnedFd) -> Result<ControlListener, Fatal> {
        let socket = UnixListener::from(fd);
        let address = socket.local_addr().map_err(|_| wrong_kind("control", "a Unix socket"))?;
        socket
            .set_nonblocking(true)
            .map_err(|e| Fatal::new(ExitCode::System, format!("inherited control socket: {e}")))?;
        let socket = mio::net::UnixListener::from_std(socket);
        Ok(ControlListener { socket, file: ControlFile { path: path_of(&address), made: None } })
    }

    /// Where it is bound, if it has a name in the file system.
    pub fn path(&self) -> Option<&Path> {
        self.file.path.as_deref()
    }

    /// For people.
    pub fn name(&self) -> String {
        self.path().map_or_else(|| String::from("(no path)"), |path| path.display().to_string())
    }

    /// Whether systemd handed it over.
    pub fn inherited(&self) -> bool {
        self.file.made.is_none()
    }
}

impl ControlFile {
    /// What there is to look after; nothing where systemd does.
    pub fn made(&self) -> Option<&Made> {
        self.made.as_ref()
    }

    fn is_of(&mut self, gid: Option<Gid>) {
        self.made.iter_mut().for_each(|made| made.gid = gid);
    }
}

impl Made {
    fn is_there(&self) -> bool {
        std::fs::symlink_metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == self.file)
    }

    /// The socket once more where its file is gone or another one's: nobody comes to it any more. `None`: it is there.
    /// Errors: as those of a start.
    pub fn renewed(&self) -> Option<Result<(ControlListener, Note), Fatal>> {
        (!self.is_there()).then(|| make_for(&self.path, &self.group, self.gid))
    }
}

impl Drop for ControlFile {
    fn drop(&mut self) {
        if let Some(made) = self.made.as_ref().filter(|made| made.is_there()) {
            // At the end there is nobody left to tell; the next start replaces what stays.
            let _ = std::fs::remove_file(&made.path);
        }
    }
}

pub type Note = Option<(Level, Line)>;

/// Makes the socket at `path`, for its owner and for `group` (empty: none). A group that cannot be given is a note, and
/// the socket is the owner's alone. Errors: [`ExitCode::Unavailable`] when somebody answers there,
/// [`ExitCode::CannotCreate`] when something else is there or the directory is missing, [`ExitCode::NotPermitted`].
pub(super) fn make(path: &Path, group: &str) -> Result<(ControlListener, Note), Fatal> {
    make_for(path, group, None)
}

/// As [`make`] where the group's number may be known.
fn make_for(path: &Path, group: &str, gid: Option<Gid>) -> Result<(ControlListener, Note), Fatal> {
    make_way(path)?;
    let socket = bind_private(path).map_err(|error| refused(path, error, notify::started_by_manager()))?;
    let file = std::fs::symlink_metadata(path).map_err(|e| cannot(path, &e.to_string()))?;
    let mut listener = ControlListener {
        socket: mio::net::UnixListener::from_std(UnixListener::from(socket)),
        file: ControlFile {
            path: Some(path.to_owned()),
            made: Some(Made {
                path: path.to_owned(),
                group: group.to_owned(),
                gid: None,
                file: (file.dev(), file.ino()),
            }),
        },
    };
    if file.mode() & 0o177 != 0 {
        return Err(cannot(path, &format!("it came out with mode {:o}", file.mode() & 0o777)));
    }
    let note = match give_to(path, &file, group, gid) {
        Ok(gid) => {
            listener.file.is_of(gid);
            None
        }
        Err(cause) => {
            let line = Line::new("control socket for its owner alone").field("path", path.display());
            Some((Level::Warn, line.field("group", group).field("cause", cause)))
        }
    };
    Ok((listener, note))
}

/// Removes a socket that nobody answers on; everything else there stays.
fn make_way(path: &Path) -> Result<(), Fatal> {
    let there = match std::fs::symlink_metadata(path) {
        Ok(there) => there,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(cannot(path, &error.to_string())),
    };
    if !there.file_type().is_socket() {
        return Err(cannot(path, "something that is not a socket is there"));
    }
    match probe(path) {
        Err(Errno::ECONNREFUSED | Errno::ENOENT) => {}
        Ok(()) | Err(Errno::EAGAIN | Errno::EPROTOTYPE) => {
            return Err(Fatal::new(ExitCode::Unavailable, format!("{}: somebody answers on it", path.display())));
        }
        Err(error) => return Err(refused(path, error, notify::started_by_manager())),
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(cannot(path, &format!("the old socket stays: {error}")))
        }
        _ => Ok(()),
    }
}

/// Whether somebody listens at `path`. Does not wait for a listener whose queue is full (`EAGAIN`).
fn probe(path: &Path) -> Result<(), Errno> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)
}

/// A listening socket whose file belongs to its owner alone from its first moment: Linux makes the file with the mode
/// of the socket itself, so that neither the process's umask nor a moment of a wider mode comes into it.
fn bind_private(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&socket, Backlog::new(BACKLOG)?)?;
    Ok(socket)
}

/// Opens the socket, which was `made` at `path`, to `group`, whose it becomes first, and gives that group's number.
/// Whatever becomes of the name meanwhile, nothing but that socket is opened to anybody.
fn give_to(path: &Path, made: &Metadata, group: &str, known: Option<Gid>) -> Result<Option<Gid>, String> {
    if group.is_empty() {
        return Ok(None);
    }
    let gid = match known {
        Some(gid) => gid,
        None => {
            let found = Group::from_name(group).map_err(|error| error.desc().to_string())?;
            found.ok_or("no such group")?.gid
        }
    };
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
    let socket = File::options().read(true).custom_flags(flags.bits()).open(path).map_err(|error| error.to_string())?;
    let there = socket.metadata().map_err(|error| error.to_string())?;
    if (there.dev(), there.ino()) != (made.dev(), made.ino()) || !there.file_type().is_socket() {
        return Err(String::from("something else is in its place"));
    }
    fchownat(&socket, "", None, Some(gid), AtFlags::AT_EMPTY_PATH).map_err(|error| error.desc().to_string())?;
    // A descriptor of this kind has its mode changed in no other way.
    let socket = format!("/proc/self/fd/{}", socket.as_raw_fd());
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o660)).map_err(|error| error.to_string())?;
    Ok(Some(gid))
}

/// `sandbox`: systemd runs cpd, with what the unit forbids.
fn refused(path: &Path, error: Errno, sandbox: bool) -> Fatal {
    let code = match error {
        Errno::EADDRINUSE => ExitCode::Unavailable,
        Errno::EACCES | Errno::EPERM | Errno::EROFS => ExitCode::NotPermitted,
        _ => ExitCode::CannotCreate,
    };
    let hint = match error {
        Errno::ENOENT if path.parent().is_some_and(|folder| !folder.exists()) => {
            let folder = path.parent().unwrap_or(path).display();
            return cannot(path, &format!("the folder {folder} does not exist"));
        }
        // EROFS is what ProtectSystem=strict makes of every other folder.
        Errno::EACCES | Errno::EPERM | Errno::EROFS if sandbox => drop_in_hint(path),
        _ => String::new(),
    };
    Fatal::new(code, format!("control socket {}: {}{hint}", path.display(), error.desc()))
}

fn drop_in_hint(path: &Path) -> String {
    format!(
        "; inside the sandbox of cpd.service only cpd-control.socket can make it: name it there, in {DROP_IN} with \
         [Socket] ListenStream= and ListenStream={}",
        path.display()
    )
}

fn cannot(path: &Path, cause: &str) -> Fatal {
    Fatal::new(ExitCode::CannotCreate, format!("control socket {}: {cause}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn a_socket_is_made_for_its_owner_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let (listener, note) = make(&path, "").unwrap();
        assert!(note.is_none() && !listener.inherited() && listener.path() == Some(&path));
        assert_eq!(mode(&path), 0o600);
        let _client = UnixStream::connect(&path).unwrap();
        listener.socket.accept().unwrap();
        assert_eq!(listener.socket.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn the_file_is_private_from_its_first_moment() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let _socket = bind_private(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
    }

    #[test]
    fn the_group_gets_it_and_a_missing_group_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let own = nix::unistd::getgid();
        let name = Group::from_gid(own).unwrap().unwrap().name;
        let (listener, note) = make(&path, &name).unwrap();
        assert!(note.is_none());
        assert_eq!(mode(&path), 0o660);
        assert_eq!(std::fs::symlink_metadata(&path).unwrap().gid(), own.as_raw());
        drop(listener);
        let (_listener, note) = make(&path, "no-such-grp-x").unwrap();
        let text = note.unwrap().1.into_text();
        assert!(text.contains("group=no-such-grp-x") && text.contains("no such group"), "{text}");
        assert_eq!(mode(&path), 0o600);
    }

    #[test]
    fn only_a_socket_that_nobody_answers_on_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let old = UnixListener::bind(&path).unwrap();
        let fatal = make(&path, "").unwrap_err();
        assert_eq!(fatal.code, ExitCode::Unavailable);
        assert!(fatal.message.contains(path.to_str().unwrap()) && UnixStream::connect(&path).is_ok());
        drop(old);
        let (listener, _) = make(&path, "").unwrap();
        assert!(UnixStream::connect(&path).is_ok());
        drop(listener);
        let _datagram = UnixDatagram::bind(&path).unwrap();
        assert_eq!(make(&path, "").unwrap_err().code, ExitCode::Unavailable);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(make(&path, "").unwrap_err().code, ExitCode::CannotCreate);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, target) = (dir.path().join("control.sock"), dir.path().join("target"));
        std::os::unix::fs::symlink(&target, &path).unwrap();
        assert_eq!(make(&path, "").unwrap_err().code, ExitCode::CannotCreate);
        assert!(!target.exists());
    }

    #[test]
    fn a_full_listener_is_somebody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let flags = SockFlag::SOCK_CLOEXEC;
        let busy = socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap();
        bind(busy.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        listen(&busy, Backlog::new(0).unwrap()).unwrap();
        let _first = UnixStream::connect(&path).unwrap();
        assert_eq!(make(&path, "").unwrap_err().code, ExitCode::Unavailable);
    }

    #[test]
    fn anothers_socket_at_the_same_path_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let (listener, _) = make(&path, "").unwrap();
        std::fs::rename(&path, dir.path().join("moved")).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(listener);
        assert!(UnixStream::connect(&path).is_ok());
    }

    #[test]
    fn it_is_made_anew_only_where_nobody_comes_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let (first, _) = make(&path, "").unwrap();
        let made = first.file.made().unwrap().clone();
        assert!(made.renewed().is_none(), "it is there");
        std::fs::remove_file(&path).unwrap();
        let (second, note) = made.renewed().unwrap().unwrap();
        assert!(note.is_none() && UnixStream::connect(&path).is_ok() && mode(&path) == 0o600);
        drop(first);
        assert!(path.exists(), "the first has no say any more");
        // Somebody else's, as long as somebody answers.
        std::fs::remove_file(&path).unwrap();
        let other = UnixListener::bind(&path).unwrap();
        let made = second.file.made().unwrap().clone();
        assert_eq!(made.renewed().unwrap().unwrap_err().code, ExitCode::Unavailable);
        drop(other);
        assert!(made.renewed().unwrap().is_ok());
    }

    #[test]
    fn a_missing_directory_is_named() {
        let fatal = make(Path::new("/nonexistent/control.sock"), "").unwrap_err();
        assert_eq!(fatal.code, ExitCode::CannotCreate);
        assert!(fatal.message.contains("/nonexistent/control.sock"));
    }

    #[test]
    fn what_a_sandbox_forbids_comes_with_the_way_out() {
        let path = Path::new("/run/cpd/control.sock");
        for error in [Errno::EROFS, Errno::EACCES, Errno::EPERM] {
            let fatal = refused(path, error, true);
            assert_eq!(fatal.code, ExitCode::NotPermitted);
            let says = |text: &str| assert!(fatal.message.contains(text), "{text}: {fatal}");
            [DROP_IN, "ListenStream=/run/cpd/control.sock"].into_iter().for_each(says);
        }
        assert!(!refused(path, Errno::EADDRINUSE, true).message.contains(DROP_IN));
        for error in [Errno::EROFS, Errno::EACCES, Errno::EPERM] {
            let fatal = refused(path, error, false);
            assert_eq!(fatal.code, ExitCode::NotPermitted);
            assert!(fatal.message.ends_with(error.desc()), "no sandbox, no word of one: {fatal}");
        }
    }

    #[test]
    fn nothing_but_the_socket_is_opened_to_a_group() {
        let dir = tempfile::tempdir().unwrap();
        let (path, file) = (dir.path().join("control.sock"), dir.path().join("precious"));
        let group = Group::from_gid(nix::unistd::getegid()).unwrap().unwrap().name;
        let _socket = bind_private(&path).unwrap();
        let made = std::fs::symlink_metadata(&path).unwrap();
        std::fs::rename(&path, dir.path().join("moved")).unwrap();
        std::fs::write(&file, "precious").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink(&file, &path).unwrap();
        assert!(give_to(&path, &made, &group, None).unwrap_err().contains("something else"));
        std::fs::remove_file(&path).unwrap();
        std::fs::hard_link(&file, &path).unwrap();
        assert!(give_to(&path, &made, &group, None).unwrap_err().contains("something else"));
        assert_eq!(mode(&file), 0o600);
        std::fs::remove_file(&path).unwrap();
        std::fs::rename(dir.path().join("moved"), &path).unwrap();
        assert_eq!((give_to(&path, &made, &group, None), mode(&path)), (Ok(Some(nix::unistd::getgid())), 0o660));
    }
}
