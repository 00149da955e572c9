//! What must hold of a store's file and of its folder before anything is done to them. Files are looked at by their
//! descriptors, which belong to one file whatever becomes of its name, and nothing is followed but links that an
//! administrator or the daemon itself has made, in folders where nobody else can make one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Uid, User, getegid, geteuid};

use super::files::{BACKUP_SUFFIX, read_history, system, with_suffix};
use super::history::History;
use super::schema::{self, APPLICATION_ID};
use super::{OpenError, OpenErrorKind};

/// Bytes of a SQLite file's header.
const HEADER_BYTES: usize = 100;
/// Links that lead from the store as it is named to its file.
const LINKS_MAX: usize = 8;

/// How to open what may be anything: a link is not followed, and a pipe not waited for.
pub fn carefully() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits());
    options
}

/// The one real path of the store, so that two names of one file meet the same lock.
pub fn resolve(path: &Path) -> Result<PathBuf, OpenError> {
    let file = in_its_folder(path)?;
    match fs::symlink_metadata(&file) {
        Ok(found) if found.is_symlink() => fs::canonicalize(&file).map_err(|e| cannot_follow(&file, &e)),
        _ => Ok(file),
    }
}

/// As [`resolve`], for whoever is to write there: the folder of the store, and that of each link on the way to it, must be
/// such that nobody else can put something there, and the links must be root's or one's own. `me`: the user who is to
/// have the store; `None`: whom the folder belongs to.
pub fn claim(path: &Path, me: Option<u32>) -> Result<PathBuf, OpenError> {
    let mut file = in_its_folder(path)?;
    let mut link: Option<PathBuf> = None;
    for _ in 0..LINKS_MAX {
        let folder = file.parent().map(Path::to_path_buf).unwrap_or_default();
        check_folder(&folder, me)?;
        let found = match fs::symlink_metadata(&file) {
            Ok(found) if found.is_symlink() => found,
            Err(e) if link.is_some() => return Err(cannot_follow(link.as_deref().unwrap_or(path), &e)),
            _ => return Ok(file),
        };
        let user = me.unwrap_or_else(|| fs::metadata(&folder).map_or(0, |folder| folder.uid()));
        if found.uid() != 0 && found.uid() != user {
            let said = format!("is a symbolic link of uid {}, but cpd runs as uid {user}", found.uid());
            return Err(OpenError::new(OpenErrorKind::Exposed, format!("{}: {said}", file.display())));
        }
        let to = fs::read_link(&file).map_err(|e| cannot_follow(&file, &e))?;
        link = Some(file);
        file = in_its_folder(&folder.join(to))?;
    }
    Err(cannot_follow(path, &io::Error::from(Errno::ELOOP)))
}

fn cannot_follow(link: &Path, error: &io::Error) -> OpenError {
    system(link, "cannot follow the symbolic link", error)
}

/// The path with its folder's links followed, and nothing but these.
fn in_its_folder(path: &Path) -> Result<PathBuf, OpenError> {
    let name = path
        .file_name()
        .ok_or_else(|| OpenError::new(OpenErrorKind::CannotCreate, format!("{}: names no file", path.display())))?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let real = fs::canonicalize(folder).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => OpenError::new(
            OpenErrorKind::CannotCreate,
            format!("{}: the store's folder does not exist", folder.display()),
        ),
        _ => system(folder, "cannot use the store's folder", &e),
    })?;
    Ok(real.join(name))
}

/// Refuses a folder in which others could put another store in this one's place, or something under a name that is made
/// there, or in which this process would leave files that the folder's owner cannot use. Where nobody can take away what
/// another has made (the sticky bit), everybody can still be the first to make it.
pub fn check_folder(folder: &Path, me: Option<u32>) -> Result<(), OpenError> {
    let refuse = |kind, said: String| Err(OpenError::new(kind, format!("{}: {said}", folder.display())));
    let found = fs::metadata(folder).map_err(|e| system(folder, "cannot use the store's folder", &e))?;
    if !found.is_dir() {
        let said = format!("{}: the store's folder is not a folder", folder.display());
        return Err(OpenError::new(OpenErrorKind::CannotCreate, said));
    }
    let (mode, me) = (found.mode(), me.unwrap_or(found.uid()));
    if found.uid() != me && found.uid() != 0 {
        let said = format!("the store's folder belongs to uid {}, but cpd runs as uid {me}", found.uid());
        return refuse(OpenErrorKind::Permission, said);
    }
    if mode & 0o002 != 0 {
        let said = format!("the store's folder may be written by everyone (mode {:04o})", mode & 0o7777);
        return refuse(OpenErrorKind::Exposed, said);
    }
    // A group of one's own, as many systems give to each user, holds nobody else.
    if mode & 0o020 != 0 && found.gid() != group_of(me) {
        let said = format!("the store's folder may be written by group {} (mode {:04o})", found.gid(), mode & 0o7777);
        return refuse(OpenErrorKind::Exposed, said);
    }
    Ok(())
}

/// The group that the user has by itself.
fn group_of(uid: u32) -> u32 {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    user.map_or_else(getegid, |user| user.gid).as_raw()
}

/// Whether a start would refuse what is at `path`, as far as that can be seen without touching anything. `anew`: it would
/// make a store where one is gone. Root looks for whomever the store is: the start is another user's, most likely.
pub fn probe(path: &Path, anew: bool) -> Result<(), OpenError> {
    let me = Some(geteuid()).filter(|me| !me.is_root()).map(Uid::as_raw);
    look(&resolve(path)?, me, schema::MIGRATIONS.len())?;
    let file = claim(path, me)?;
    // The longest of the names that are made beside it.
    let beside = with_suffix(&file, &format!("{BACKUP_SUFFIX}-journal"));
    match fs::symlink_metadata(&beside) {
        Err(e) if e.raw_os_error() == Some(Errno::ENAMETOOLONG as i32) => {
            return Err(OpenError { kind: OpenErrorKind::CannotCreate, ..system(&beside, "cannot create", &e) });
        }
        _ => {}
    }
    let history = read_history(&file)?;
    let is_gone = fs::symlink_metadata(&file).is_err_and(|e| e.kind() == io::ErrorKind::NotFound);
    if is_gone && history.exists() && !anew { Err(gone(&file, &history)) } else { Ok(()) }
}

/// The folder had a store, and it is not there.
pub fn gone(file: &Path, history: &History) -> OpenError {
    let (file, known) = (file.display(), history.path().display());
    let said = format!("{file}: the store is gone; to begin with an empty one delete {known}");
    OpenError::new(OpenErrorKind::Gone, said)
}

/// Refuses what is no store of `me` up to the version `newest` before anything is done to it or beside it. Where the folder knows a
/// store, the file is one, however damaged: what follows says better what is wrong with it.
pub fn look(path: &Path, me: Option<u32>, newest: usize) -> Result<(), OpenError> {
    // Opening a device may do something to it.
    let file = match fs::symlink_metadata(path) {
        Ok(found) => {
            check_file(path, &found, me)?;
            carefully().read(true).open(path)
        }
        // What cannot be looked at the next steps say.
        Err(_) => return Ok(()),
    };
    let file = match file {
        Ok(file) => file,
        Err(e) if matches!(e.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound) => return Ok(()),
        Err(e) => return Err(system(path, "cannot open", &e)),
    };
    let found = file.metadata().map_err(|e| system(path, "cannot read", &e))?;
    check_file(path, &found, me)?;
    if read_history(path)?.exists() {
        return Ok(());
    }
    check_head(path, file, found.len(), newest)
}

/// As [`look`], for a file beside the store, which has a form of its own.
pub fn look_beside(path: &Path, me: Option<u32>) -> Result<(), OpenError> {
    fs::symlink_metadata(path).map_or(Ok(()), |found| check_file(path, &found, me))
}

fn check_file(path: &Path, found: &fs::Metadata, me: Option<u32>) -> Result<(), OpenError> {
    if !found.is_file() {
        return Err(OpenError::new(OpenErrorKind::CannotCreate, format!("{}: is not a file", path.display())));
    }
    match me {
        Some(me) if found.uid() != me => {
            let said = format!("{}: belongs to uid {}, but cpd runs as uid {me}", path.display(), found.uid());
            Err(OpenError::new(OpenErrorKind::Permission, said))
        }
        _ => Ok(()),
    }
}

/// Refuses a file of `length` bytes that does not begin as a store up to the version `newest` does.
pub fn check_head(path: &Path, file: File, length: u64, newest: usize) -> Result<(), OpenError> {
    let mut header = Vec::with_capacity(HEADER_BYTES);
    let head = u64::try_from(HEADER_BYTES).unwrap_or(u64::MAX);
    file.take(head).read_to_end(&mut header).map_err(|e| system(path, "cannot read", &e))?;
    check_header(&header, length, newest)
        .map_err(|(kind, said)| OpenError::new(kind, format!("{}: {said}; the file was left as it is", path.display())))
}

/// Refuses a file that is there and that this process may not read and write: SQLite would open what it may only read, and
/// fail at the first write without a word of permissions.
pub fn check_access(path: &Path, me: u32) -> Result<(), OpenError> {
    match carefully().read(true).write(true).open(path) {
        Ok(file) => {
            let found = file.metadata().map_err(|e| system(path, "cannot read", &e))?;
            check_file(path, &found, Some(me))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(system(path, "cannot read and write", &e)),
    }
}

/// Takes from others what they must not have: the file holds password hashes and letters. Returns what is to be said.
pub fn tighten(path: &Path, file: &File) -> Result<Option<String>, OpenError> {
    let mode = file.metadata().map_err(|e| system(path, "cannot read", &e))?.mode() & 0o7777;
    if mode & 0o077 == 0 {
        return Ok(None);
    }
    let own = Mode::S_IRUSR | Mode::S_IWUSR;
    fchmod(file, own).map_err(|e| system(path, "cannot set the mode 0600", &e.into()))?;
    Ok(Some(format!("{}: mode was {mode:04o}, is now 0600", path.display())))
}

/// Whether `header`, of a file of `length` bytes, is that of a store up to the version `newest`.
fn check_header(header: &[u8], length: u64, newest: usize) -> Result<(), (OpenErrorKind, String)> {
    let no = |said: &str| Err((OpenErrorKind::Damaged, said.to_owned()));
    let word = |at: usize| -> Option<u32> { Some(u32::from_be_bytes(header.get(at..at + 4)?.try_into().ok()?)) };
    if header.is_empty() {
        return no("is empty, not a store; delete it to begin a new one");
    }
    if !header.starts_with(b"SQLite format 3\0") {
        return no("is not a cpd store");
    }
    let (Some(&[high, low]), Some(&[write, read, kept, 64, 32, 32])) = (header.get(16..18), header.get(18..24)) else {
        return no("has a damaged header");
    };
    let (Some(version), Some(application), Some(encoding)) = (word(60), word(68), word(56)) else {
        return no("is cut off");
    };
    let page = match u16::from_be_bytes([high, low]) {
        1 => 65_536,
        size => u64::from(size),
    };
    if application != APPLICATION_ID {
        return no("is not a cpd store");
    }
    if usize::try_from(version).is_ok_and(|version| version > newest) {
        let said = format!("is of version {version}, this cpd knows up to {newest}");
        return Err((OpenErrorKind::Newer, said));
    }
    if !page.is_power_of_two() || page < 512 || kept != 0 || encoding > 1 || write > 2 || read > 2 {
        return no("has a damaged header");
    }
    if length < page {
        return no("is cut off");
    }
    Ok(())
}
