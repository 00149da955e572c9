//! cpd's own sandbox: once everything is open, the kernel takes from it what it does not need any more (landlock(7)),
//! whether a service manager confines it or not. Left are its folders: the store's, the configuration's to be read, and
//! the control socket's where cpd makes that one itself. No program can be run, no TCP address bound or connected to, and
//! no other process sent a signal. Unix sockets can be connected to: the log and the manager are such, and may come later.
//!
//! Landlock lets a program pass that is only in memory (memfd_create(2)), so a filter of system calls, seccomp(2), refuses
//! to execute anything at all.
//!
//! What is confined is a thread, and those that it starts from then on. A kernel that knows less does less.

use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, PathFdError, RestrictionStatus, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, make_bitflags,
};

use nix::errno::Errno;
use nix::libc;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use super::config::{Arguments, Config, DEFAULT_FILE};

/// What is handled: a right of this age or older that no place below has is taken away. To be raised with a look at what
/// a newer one forbids.
const FILES: ABI = ABI::V5;
const NETWORK: ABI = ABI::V4;

/// A folder or a file that stays, and what may be done with it and with everything in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    path: PathBuf,
    may: BitFlags<AccessFs>,
}

/// What cpd needs once everything is open; `control`: the control socket that it made itself.
pub fn places(arguments: &Arguments, config: &Config, control: Option<&Path>) -> Vec<Place> {
    let store = make_bitflags!(AccessFs::{ReadFile | ReadDir | WriteFile | MakeReg | RemoveFile | Truncate});
    let mut places: Vec<Place> = folders_of(&config.store_path).map(|path| Place { path, may: store }).collect();
    // Read once more at HUP. Where there is none yet, one may be made.
    let named = arguments.config.as_deref().or(config.file.as_deref());
    let file = named.or(config.data.is_none().then_some(Path::new(DEFAULT_FILE)));
    let read = BitFlags::from_flag(AccessFs::ReadFile);
    places.extend(file.into_iter().flat_map(folders_of).map(|path| Place { path, may: read }));
    // Made anew at HUP where it is gone, and removed at the end.
    let made = make_bitflags!(AccessFs::{MakeSock | RemoveFile});
    places.extend(control.into_iter().flat_map(folders_of).map(|path| Place { path, may: made }));
    // The descriptor that is kept in reserve.
    places.push(Place { path: PathBuf::from("/dev/null"), may: read });
    places
}

/// Where `file` is looked for, and where it lies if that is a link.
fn folders_of(file: &Path) -> impl Iterator<Item = PathBuf> {
    let folder = |file: &Path| match file.parent() {
        Some(folder) if folder != Path::new("") => folder.to_owned(),
        Some(_) | None => PathBuf::from("."),
    };
    let real = file.canonicalize().ok().map(|real| folder(&real));
    std::iter::once(folder(file)).chain(real)
}

/// Confines the calling thread to `places`, and with it those that it starts from now on. Errors: what the kernel does not
/// do of it; the rest is done.
pub fn confine(places: &[Place]) -> Result<(), String> {
    let programs = || forbid_programs().map_err(|error| format!("no filter of system calls: {error}"));
    let causes: Vec<String> = [keep_to(places), programs()].into_iter().filter_map(Result::err).collect();
    if causes.is_empty() { Ok(()) } else { Err(causes.join("; ")) }
}

fn keep_to(places: &[Place]) -> Result<(), String> {
    let places = open(places).map_err(|error| error.to_string())?;
    match restrict(places) {
        Ok(status) if status.ruleset == RulesetStatus::NotEnforced => {
            Err("the kernel has no Landlock, or does not allow it".to_owned())
        }
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// The places that are there. Errors: one cannot be opened, and cpd would be without it.
fn open(places: &[Place]) -> Result<Vec<PathBeneath<PathFd>>, PathFdError> {
    let mut opened = Vec::new();
    for place in places {
        match PathFd::new(&place.path) {
            Ok(found) => opened.push(PathBeneath::new(found, place.may)),
            Err(PathFdError::OpenCall { source, .. }) if source.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(opened)
}

fn restrict(places: Vec<PathBeneath<PathFd>>) -> Result<RestrictionStatus, RulesetError> {
    let mut scopes = BitFlags::from_flag(Scope::Signal);
    if !manager_is_abstract() {
        scopes |= Scope::AbstractUnixSocket;
    }
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(FILES))?
        .handle_access(AccessNet::from_all(NETWORK))?
        .scope(scopes)?
        .create()?;
    for place in places {
        rules = rules.add_rule(place)?;
    }
    rules.restrict_self()
}

/// Neither a file nor what is in memory is executed from now on: these calls fail, all others are as they were.
fn forbid_programs() -> Result<(), seccompiler::Error> {
    let refused = [libc::SYS_execve, libc::SYS_execveat].into_iter().map(|call| (call, Vec::new())).collect();
    let refusal = SeccompAction::Errno(Errno::EACCES as u32);
    let machine = std::env::consts::ARCH.try_into()?;
    let program: BpfProgram = SeccompFilter::new(refused, SeccompAction::Allow, refusal, machine)?.try_into()?;
    seccompiler::apply_filter(&program)
}

/// Whether the manager listens at an address without a file, sd_notify(3).
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
    use std::process::Command;

    use nix::sys::memfd::{MFdFlags, memfd_create};

    use super::*;

    /// In a thread of its own, so that the others stay as they are. `None`: this kernel cannot.
    fn confined<T: Send>(places: &[Place], work: impl FnOnce() -> T + Send) -> Option<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| match confine(places) {
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

    fn of(store: &Path, config: &Path, control: &Path) -> Vec<Place> {
        let arguments = Arguments { config: Some(config.to_owned()), ..Arguments::default() };
        let config = Config { store_path: store.to_owned(), ..Config::default() };
        places(&arguments, &config, Some(control))
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
        let places = of(&store.join("cpd.db"), &config.join("cpd.toml"), &control.join("socket"));
        let program = fs::read("/bin/true").unwrap();
        let tried = confined(&places, || {
            // The store, with a copy beside it.
            fs::write(store.join("cpd.db-new"), "text").unwrap();
            fs::rename(store.join("cpd.db-new"), store.join("cpd.db")).unwrap();
            fs::File::options().write(true).open(store.join("cpd.db")).unwrap().set_len(1).unwrap();
            fs::File::open(&store).unwrap().sync_all().unwrap();
            assert_eq!(fs::read_to_string(store.join("cpd.db")).unwrap(), "t");
            fs::remove_file(store.join("cpd.db")).unwrap();
            // The configuration, also one that was put in its place.
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
            // A socket of others, by its file; the reserve; what the process itself is.
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
            // A program in memory, which is no file of any folder.
            let name = memfd_create(c"program", MFdFlags::empty()).unwrap();
            fs::File::from(name.try_clone().unwrap()).write_all(&program).unwrap();
            assert!(denied(Command::new(format!("/proc/self/fd/{}", name.as_raw_fd())).spawn()));
            // Connections came with Linux 6.7.
            (denied(TcpStream::connect(listener.local_addr().unwrap())), denied(TcpListener::bind("127.0.0.1:0")))
        });
        println!("TCP is closed for connecting and binding: {tried:?}");
        // The thread beside it is free: that is what makes the tries above tell something.
        assert!(fs::read("/etc/passwd").is_ok() && Command::new("/bin/true").status().unwrap().success());
    }

    #[test]
    fn a_thread_without_a_place_passes_it_on_to_those_it_starts() {
        let inherited = confined(&[], || {
            let thread = std::thread::spawn(|| denied(fs::read("/etc/passwd")) && denied(fs::File::open("/dev/null")));
            thread.join().unwrap()
        });
        assert_ne!(inherited, Some(false));
    }

    #[test]
    fn a_link_leads_to_the_folder_it_names() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        fs::create_dir(dir.join("real")).unwrap();
        fs::write(dir.join("real/cpd.toml"), "").unwrap();
        std::os::unix::fs::symlink("real/cpd.toml", dir.join("cpd.toml")).unwrap();
        let found: Vec<PathBuf> = folders_of(&dir.join("cpd.toml")).collect();
        assert_eq!(found, [dir.clone(), dir.join("real")]);
        assert_eq!(folders_of(Path::new("no-such-file")).collect::<Vec<_>>(), [PathBuf::from(".")]);
    }

    #[test]
    fn a_store_by_itself_needs_no_configuration() {
        let config = Config { data: Some(PathBuf::from("/srv/cpd")), ..Config::default() };
        let without = |arguments: &Arguments| {
            let places = places(arguments, &config, None);
            places.into_iter().map(|place| place.path).collect::<Vec<_>>()
        };
        assert!(!without(&Arguments::default()).contains(&PathBuf::from("/etc/cpd")));
        let named = Arguments { config: Some(PathBuf::from("/etc/other/cpd.toml")), ..Arguments::default() };
        assert!(without(&named).contains(&PathBuf::from("/etc/other")));
    }
}
