//! The control socket that cpd makes itself if systemd does not: for its owner, and for one group.

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

use super::handed_over::{path_of, wrong_kind};
use crate::daemon::exit::{ExitCode, Fatal};
use crate::daemon::logging::{Level, LogLine};
use crate::daemon::notify;

/// The drop-in with which an administrator gives the control socket of systemd another path.
const DROP_IN: &str = "/etc/systemd/system/cpd-control.socket.d/path.conf";
/// Connections that the kernel keeps until they are accepted.
const BACKLOG: u16 = 128;

/// A socket that accepts operators; non-blocking and close-on-exec. If it was made here, its file is removed when this
/// is dropped, unless another file has taken its place.
#[derive(Debug)]
pub struct ControlListener {
    pub socket: mio::net::UnixListener,
    pub file: ControlFile,
}

/// The control socket's file.
#[derive(Debug)]
pub struct ControlFile {
    /// `None` if the socket has no name in the file system.
    path: Option<PathBuf>,
    /// `None` if systemd handed the socket over.
    made: Option<OwnControlFile>,
}

/// The file of a control socket that was made here.
#[derive(Clone, Debug)]
pub struct OwnControlFile {
    path: PathBuf,
    /// The group of the configuration; empty for none.
    group: String,
    /// The group's number, if the socket belongs to it. It is kept because cpd's sandbox hides the list of groups.
    gid: Option<Gid>,
    /// Device and inode. No other file has them while the socket is open.
    file: (u64, u64),
}

impl ControlListener {
    /// Adopts a listening stream socket that was handed over.
    ///
    /// # Errors
    /// [`ExitCode::Config`]: it is not a Unix socket. [`ExitCode::System`]: it cannot be made non-blocking.
    pub(super) fn adopt(fd: OwnedFd) -> Result<ControlListener, Fatal> {
        let socket = UnixListener::from(fd);
        let address = socket.local_addr().map_err(|_| wrong_kind("control", "a Unix socket"))?;
        socket
            .set_nonblocking(true)
            .map_err(|e| Fatal::new(ExitCode::System, format!("inherited control socket: {e}")))?;
        let socket = mio::net::UnixListener::from_std(socket);
        Ok(ControlListener { socket, file: ControlFile { path: path_of(&address), made: None } })
    }

    /// The path to which it is bound, if it has a name in the file system.
    pub fn path(&self) -> Option<&Path> {
        self.file.path.as_deref()
    }

    /// Its path, or a text that says that it has none.
    pub fn name(&self) -> String {
        self.path().map_or_else(|| String::from("(no path)"), |path| path.display().to_string())
    }

    /// Whether systemd handed it over.
    pub fn inherited(&self) -> bool {
        self.file.made.is_none()
    }
}

impl ControlFile {
    /// The file if it was made here; `None` if systemd made it.
    pub fn made(&self) -> Option<&OwnControlFile> {
        self.made.as_ref()
    }

    fn set_gid(&mut self, gid: Option<Gid>) {
        self.made.iter_mut().for_each(|made| made.gid = gid);
    }
}

impl OwnControlFile {
    fn is_in_place(&self) -> bool {
        std::fs::symlink_metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == self.file)
    }

    /// Makes the socket again if its file is gone or has been replaced, so that nobody can connect to it. `None`: the
    /// file is there.
    ///
    /// # Errors
    /// As when the daemon starts.
    pub fn make_again_if_gone(&self) -> Option<Result<(ControlListener, Note), Fatal>> {
        (!self.is_in_place()).then(|| make_with_gid(&self.path, &self.group, self.gid))
    }
}

impl Drop for ControlFile {
    fn drop(&mut self) {
        if let Some(made) = self.made.as_ref().filter(|made| made.is_in_place()) {
            // Nobody is left to report an error to; the next start replaces a file that remains.
            let _ = std::fs::remove_file(&made.path);
        }
    }
}

/// A line for the log, if there is something to report.
pub type Note = Option<(Level, LogLine)>;

/// Makes the socket at `path`, for its owner and for `group` (empty: for no group). If it cannot be given to the group,
/// that is noted, and the socket is the owner's alone.
///
/// # Errors
/// [`ExitCode::Unavailable`]: somebody answers there. [`ExitCode::CannotCreate`]: something else is there, or the
/// directory is missing. [`ExitCode::NotPermitted`].
pub(super) fn make(path: &Path, group: &str) -> Result<(ControlListener, Note), Fatal> {
    make_with_gid(path, group, None)
}

/// Like [`make`]; `gid` is the group's number if it is known.
fn make_with_gid(path: &Path, group: &str, gid: Option<Gid>) -> Result<(ControlListener, Note), Fatal> {
    remove_stale_socket(path)?;
    let socket = bind_private(path).map_err(|error| bind_error(path, error, notify::started_by_manager()))?;
    let file = std::fs::symlink_metadata(path).map_err(|e| cannot_create(path, &e.to_string()))?;
    let mut listener = ControlListener {
        socket: mio::net::UnixListener::from_std(UnixListener::from(socket)),
        file: ControlFile {
            path: Some(path.to_owned()),
            made: Some(OwnControlFile {
                path: path.to_owned(),
                group: group.to_owned(),
                gid: None,
                file: (file.dev(), file.ino()),
            }),
        },
    };
    if file.mode() & 0o177 != 0 {
        return Err(cannot_create(path, &format!("it was created with mode {:o}", file.mode() & 0o777)));
    }
    let note = match open_to_group(path, &file, group, gid) {
        Ok(gid) => {
            listener.file.set_gid(gid);
            None
        }
        Err(cause) => {
            let line = LogLine::new("control socket not opened to the group").field("path", path.display());
            Some((Level::Warn, line.field("group", group).field("cause", cause)))
        }
    };
    Ok((listener, note))
}

/// Removes a socket at `path` if nobody answers on it.
///
/// # Errors
/// Somebody answers, or there is something that is not a socket: it stays.
fn remove_stale_socket(path: &Path) -> Result<(), Fatal> {
    let there = match std::fs::symlink_metadata(path) {
        Ok(there) => there,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(cannot_create(path, &error.to_string())),
    };
    if !there.file_type().is_socket() {
        return Err(cannot_create(path, "something that is not a socket is there"));
    }
    match try_connect(path) {
        Err(Errno::ECONNREFUSED | Errno::ENOENT) => {}
        Ok(()) | Err(Errno::EAGAIN | Errno::EPROTOTYPE) => {
            return Err(Fatal::new(
                ExitCode::Unavailable,
                format!("{}: another process listens there (another cpd?)", path.display()),
            ));
        }
        Err(error) => return Err(bind_error(path, error, notify::started_by_manager())),
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(cannot_create(path, &format!("the old socket cannot be removed: {error}")))
        }
        _ => Ok(()),
    }
}

/// Connects to the socket at `path`, to find out whether somebody listens. Does not wait for a listener whose queue is
/// full (`EAGAIN`).
fn try_connect(path: &Path) -> Result<(), Errno> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)
}

/// A listening socket whose file belongs to its owner alone from its first moment: Linux makes the file with the mode
/// of the socket itself, so neither the process's umask nor a moment of a wider mode matters.
fn bind_private(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&socket, Backlog::new(BACKLOG)?)?;
    Ok(socket)
}

/// Gives the socket `made` at `path` to `group`, then opens it to that group, and returns the group's number. If
/// something else has been put at `path` meanwhile, that is not opened to anybody. `known` is the number if it is
/// known.
fn open_to_group(path: &Path, made: &Metadata, group: &str, known: Option<Gid>) -> Result<Option<Gid>, String> {
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
    // The mode of an O_PATH descriptor cannot be changed in another way.
    let socket = format!("/proc/self/fd/{}", socket.as_raw_fd());
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o660)).map_err(|error| error.to_string())?;
    Ok(Some(gid))
}

/// The error for a socket that could not be made. `sandbox`: systemd runs cpd, with the restrictions of its unit.
fn bind_error(path: &Path, error: Errno, sandbox: bool) -> Fatal {
    let code = match error {
        Errno::EADDRINUSE => ExitCode::Unavailable,
        Errno::EACCES | Errno::EPERM | Errno::EROFS => ExitCode::NotPermitted,
        _ => ExitCode::CannotCreate,
    };
    let hint = match error {
        Errno::ENOENT if path.parent().is_some_and(|folder| !folder.exists()) => {
            let folder = path.parent().unwrap_or(path).display();
            return cannot_create(path, &format!("the folder {folder} does not exist"));
        }
        // With ProtectSystem=strict, every other folder yields EROFS.
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

fn cannot_create(path: &Path, cause: &str) -> Fatal {
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
    fn the_group_gets_it_and_a_missing_group_is_reported() {
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
    fn a_listener_with_a_full_queue_counts_as_answering() {
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
    fn it_is_made_again_only_if_its_file_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let (first, _) = make(&path, "").unwrap();
        let made = first.file.made().unwrap().clone();
        assert!(made.make_again_if_gone().is_none(), "it is there");
        std::fs::remove_file(&path).unwrap();
        let (second, note) = made.make_again_if_gone().unwrap().unwrap();
        assert!(note.is_none() && UnixStream::connect(&path).is_ok() && mode(&path) == 0o600);
        drop(first);
        assert!(path.exists(), "the first has no say any more");
        // Another process's socket stays as long as that process answers.
        std::fs::remove_file(&path).unwrap();
        let other = UnixListener::bind(&path).unwrap();
        let made = second.file.made().unwrap().clone();
        assert_eq!(made.make_again_if_gone().unwrap().unwrap_err().code, ExitCode::Unavailable);
        drop(other);
        assert!(made.make_again_if_gone().unwrap().is_ok());
    }

    #[test]
    fn a_missing_directory_is_named() {
        let fatal = make(Path::new("/nonexistent/control.sock"), "").unwrap_err();
        assert_eq!(fatal.code, ExitCode::CannotCreate);
        assert!(fatal.message.contains("/nonexistent/control.sock"));
    }

    #[test]
    fn an_error_in_a_sandbox_names_the_remedy() {
        let path = Path::new("/run/cpd/control.sock");
        for error in [Errno::EROFS, Errno::EACCES, Errno::EPERM] {
            let fatal = bind_error(path, error, true);
            assert_eq!(fatal.code, ExitCode::NotPermitted);
            let says = |text: &str| assert!(fatal.message.contains(text), "{text}: {fatal}");
            [DROP_IN, "ListenStream=/run/cpd/control.sock"].into_iter().for_each(says);
        }
        assert!(!bind_error(path, Errno::EADDRINUSE, true).message.contains(DROP_IN));
        for error in [Errno::EROFS, Errno::EACCES, Errno::EPERM] {
            let fatal = bind_error(path, error, false);
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
        assert!(open_to_group(&path, &made, &group, None).unwrap_err().contains("something else"));
        std::fs::remove_file(&path).unwrap();
        std::fs::hard_link(&file, &path).unwrap();
        assert!(open_to_group(&path, &made, &group, None).unwrap_err().contains("something else"));
        assert_eq!(mode(&file), 0o600);
        std::fs::remove_file(&path).unwrap();
        std::fs::rename(dir.path().join("moved"), &path).unwrap();
        assert_eq!((open_to_group(&path, &made, &group, None), mode(&path)), (Ok(Some(nix::unistd::getgid())), 0o660));
    }
}
