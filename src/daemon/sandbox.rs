//! cpd's own sandbox: once everything is open, cpd gives up the rights that it no longer needs (landlock(7)), whether
//! or not a service manager confines it. It keeps access to three directories: that of the store, that of the
//! configuration for reading, and that of the control socket if cpd creates the socket itself. It can no longer run
//! programs, bind or connect TCP sockets, or send signals to other processes. It can still connect to Unix sockets with
//! a path, because the log service and the service manager may appear later.
//!
//! Landlock does not prevent running a program that exists only in memory (memfd_create(2)), so a system call filter
//! (seccomp(2)) refuses to execute anything at all.
//!
//! The sandbox applies to a thread and to those that it starts afterwards. An older kernel enforces only what it knows.

pub mod paths;

use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, PathFdError, RestrictionStatus, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use nix::errno::Errno;
use nix::libc;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

/// The versions of Landlock's interface whose rights are restricted: every right known to them is denied unless it is
/// granted below. Before raising a version, check what it additionally denies.
const FILE_ABI: ABI = ABI::V5;
const NETWORK_ABI: ABI = ABI::V4;

/// A directory or file that stays accessible, with the rights for it and for everything in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AllowedPath {
    path: PathBuf,
    access: BitFlags<AccessFs>,
}

/// Confines the calling thread, and those that it starts from now on, to `allowed_paths`.
///
/// # Errors
/// The restrictions that could not be put in force, and why. The others are in force nevertheless.
pub fn confine(allowed_paths: &[AllowedPath]) -> Result<(), String> {
    let programs = || forbid_execution().map_err(|error| format!("no filter of system calls: {error}"));
    let causes: Vec<String> = [apply_landlock(allowed_paths), programs()].into_iter().filter_map(Result::err).collect();
    if causes.is_empty() { Ok(()) } else { Err(causes.join("; ")) }
}

fn apply_landlock(allowed_paths: &[AllowedPath]) -> Result<(), String> {
    let allowed_paths = open_paths(allowed_paths).map_err(|error| error.to_string())?;
    match restrict_thread(allowed_paths) {
        Ok(status) if status.ruleset == RulesetStatus::NotEnforced => {
            Err("the kernel has no Landlock, or does not allow it".to_owned())
        }
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Opens the paths that exist. Fails if one exists but cannot be opened, since the sandbox would take it away from cpd.
fn open_paths(allowed_paths: &[AllowedPath]) -> Result<Vec<PathBeneath<PathFd>>, PathFdError> {
    let mut opened = Vec::new();
    for allowed in allowed_paths {
        match PathFd::new(&allowed.path) {
            Ok(found) => opened.push(PathBeneath::new(found, allowed.access)),
            Err(PathFdError::OpenCall { source, .. }) if source.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(opened)
}

fn restrict_thread(allowed_paths: Vec<PathBeneath<PathFd>>) -> Result<RestrictionStatus, RulesetError> {
    let mut scopes = BitFlags::from_flag(Scope::Signal);
    if !manager_is_abstract() {
        scopes |= Scope::AbstractUnixSocket;
    }
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(FILE_ABI))?
        .handle_access(AccessNet::from_all(NETWORK_ABI))?
        .scope(scopes)?
        .create()?;
    for allowed in allowed_paths {
        rules = rules.add_rule(allowed)?;
    }
    rules.restrict_self()
}

/// Makes execve(2) and execveat(2) fail with EACCES. All other system calls stay allowed.
fn forbid_execution() -> Result<(), seccompiler::Error> {
    let refused = [libc::SYS_execve, libc::SYS_execveat].into_iter().map(|call| (call, Vec::new())).collect();
    let refusal = SeccompAction::Errno(Errno::EACCES as u32);
    let machine = std::env::consts::ARCH.try_into()?;
    let program: BpfProgram = SeccompFilter::new(refused, SeccompAction::Allow, refusal, machine)?.try_into()?;
    seccompiler::apply_filter(&program)
}

/// Whether the service manager listens on an abstract Unix socket, which has no file (sd_notify(3)).
fn manager_is_abstract() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some_and(|address| address.as_bytes().starts_with(b"@"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{ErrorKind, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::Path;
    use std::process::Command;

    use nix::sys::memfd::{MFdFlags, memfd_create};

    use super::paths::allowed_paths;
    use super::*;
    use crate::daemon::config::{Arguments, Config};

    /// Runs `work` in a confined thread, so that the others stay free. `None` if this kernel cannot confine it.
    fn confined<T: Send>(allowed_paths: &[AllowedPath], work: impl FnOnce() -> T + Send) -> Option<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| match confine(allowed_paths) {
                Ok(()) => Some(work()),
                Err(cause) => {
                    let listed = fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
                    assert!(!listed.contains("landlock"), "Landlock is there: {cause}");
                    println!("not tried: {cause}");
                    None
                }
            });
            thread.join().unwrap()
        })
    }

    fn denied<T>(done: std::io::Result<T>) -> bool {
        done.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
    }

    fn paths_for(store: &Path, config: &Path, control: &Path) -> Vec<AllowedPath> {
        let arguments = Arguments { config: Some(config.to_owned()), ..Arguments::default() };
        let config = Config { store_path: store.to_owned(), ..Config::default() };
        allowed_paths(&arguments, &config, Some(control))
    }

    #[test]
    fn what_is_needed_can_be_done_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let folder = |name: &str| {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let (store, config, control, other) = (folder("store"), folder("config"), folder("control"), folder("other"));
        fs::write(config.join("cpd.toml"), "before").unwrap();
        fs::write(other.join("file"), "precious").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _log = UnixListener::bind(other.join("log")).unwrap();
        let _other_socket = UnixListener::bind(control.join("old")).unwrap();
        let allowed_paths = paths_for(&store.join("cpd.db"), &config.join("cpd.toml"), &control.join("socket"));
        let program = fs::read("/bin/true").unwrap();
        let tried = confined(&allowed_paths, || {
            // The store, and a copy next to it.
            fs::write(store.join("cpd.db-new"), "text").unwrap();
            fs::rename(store.join("cpd.db-new"), store.join("cpd.db")).unwrap();
            fs::File::options().write(true).open(store.join("cpd.db")).unwrap().set_len(1).unwrap();
            fs::File::open(&store).unwrap().sync_all().unwrap();
            assert_eq!(fs::read_to_string(store.join("cpd.db")).unwrap(), "t");
            fs::remove_file(store.join("cpd.db")).unwrap();
            // The configuration can be read, but not changed.
            assert_eq!(fs::read_to_string(config.join("cpd.toml")).unwrap(), "before");
            assert!(
                denied(fs::write(config.join("cpd.toml"), "after")) && denied(fs::remove_file(config.join("cpd.toml")))
            );
            // The control socket.
            let again = UnixListener::bind(control.join("socket")).unwrap();
            drop(again);
            fs::remove_file(control.join("socket")).unwrap();
            fs::remove_file(control.join("old")).unwrap();
            assert!(denied(fs::write(control.join("file"), "")));
            // Another service's socket; the reserve descriptor; information about the process itself.
            UnixStream::connect(other.join("log")).unwrap();
            assert_eq!(fs::File::open("/dev/null").unwrap().read(&mut [0; 1]).unwrap(), 0);
            fs::read_link("/proc/self/exe").unwrap();
            // Everything else.
            assert!(denied(fs::read(other.join("file"))) && denied(fs::write(other.join("new"), "")));
            assert!(denied(fs::read("/etc/passwd")) && denied(fs::read_dir("/")));
            assert!(denied(fs::create_dir(store.join("folder"))) && denied(fs::remove_file(other.join("file"))));
            assert!(denied(UnixListener::bind(store.join("socket"))));
            for program in ["/bin/true", "/bin/sh", "/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"] {
                assert!(!Path::new(program).exists() || denied(Command::new(program).spawn()), "{program}");
            }
            // A program that exists only in memory, outside every directory.
            let name = memfd_create(c"program", MFdFlags::empty()).unwrap();
            fs::File::from(name.try_clone().unwrap()).write_all(&program).unwrap();
            assert!(denied(Command::new(format!("/proc/self/fd/{}", name.as_raw_fd())).spawn()));
            // Landlock restricts TCP since Linux 6.7.
            (denied(TcpStream::connect(listener.local_addr().unwrap())), denied(TcpListener::bind("127.0.0.1:0")))
        });
        println!("TCP is closed for connecting and binding: {tried:?}");
        // This thread is free: otherwise the attempts above would prove nothing.
        assert!(fs::read("/etc/passwd").is_ok() && Command::new("/bin/true").status().unwrap().success());
    }

    #[test]
    fn a_confined_thread_confines_the_threads_that_it_starts() {
        let inherited = confined(&[], || {
            let thread = std::thread::spawn(|| denied(fs::read("/etc/passwd")) && denied(fs::File::open("/dev/null")));
            thread.join().unwrap()
        });
        assert_ne!(inherited, Some(false));
    }

    #[test]
    fn a_data_directory_needs_access_to_no_default_configuration() {
        let config = Config { data: Some(PathBuf::from("/srv/cpd")), ..Config::default() };
        let without = |arguments: &Arguments| {
            let allowed_paths = allowed_paths(arguments, &config, None);
            allowed_paths.into_iter().map(|allowed| allowed.path).collect::<Vec<_>>()
        };
        assert!(!without(&Arguments::default()).contains(&PathBuf::from("/etc/cpd")));
        let named = Arguments { config: Some(PathBuf::from("/etc/other/cpd.toml")), ..Arguments::default() };
        assert!(without(&named).contains(&PathBuf::from("/etc/other")));
    }
}
