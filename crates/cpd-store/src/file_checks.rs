//! Checks of a store's file and of its folder that come before anything is done to them. A file is examined through its
//! descriptor, which stays with the same file whatever happens to its name. The only symbolic links that are followed
//! are those of an administrator or of the daemon's own user, in folders where nobody else can create one.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Uid, User, getegid, geteuid};

use super::history::{History, read_history};
use super::open_error::{OpenError, OpenErrorKind, system_error};
use super::paths::{BACKUP_SUFFIX, careful_options, with_suffix};
use super::schema::{self, APPLICATION_ID};

/// Bytes of a SQLite file's header.
const HEADER_BYTES: usize = 100;
/// Most paths that are tried while following symbolic links from the store's path to its file.
const LINKS_MAX: usize = 8;

/// The store's path with all symbolic links resolved, so that two names of one file lead to the same lock.
pub fn resolve(path: &Path) -> Result<PathBuf, OpenError> {
    let file = resolve_folder(path)?;
    match fs::symlink_metadata(&file) {
        Ok(found) if found.is_symlink() => fs::canonicalize(&file).map_err(|e| cannot_follow(&file, &e)),
        _ => Ok(file),
    }
}

/// As [`resolve`], for a process that is going to write there: the store's folder, and the folder of each link on the
/// way to it, must not let others create anything in them, and each link must belong to root or to the store's owner.
/// `owner` is the user who is to have the store; `None` stands for the owner of the folder.
pub fn resolve_for_writing(path: &Path, owner: Option<u32>) -> Result<PathBuf, OpenError> {
    let mut file = resolve_folder(path)?;
    let mut link: Option<PathBuf> = None;
    for _ in 0..LINKS_MAX {
        let folder = file.parent().map(Path::to_path_buf).unwrap_or_default();
        check_folder(&folder, owner)?;
        let found = match fs::symlink_metadata(&file) {
            Ok(found) if found.is_symlink() => found,
            Err(e) if link.is_some() => return Err(cannot_follow(link.as_deref().unwrap_or(path), &e)),
            _ => return Ok(file),
        };
        let user = owner.unwrap_or_else(|| fs::metadata(&folder).map_or(0, |folder| folder.uid()));
        if found.uid() != 0 && found.uid() != user {
            let message = format!("is a symbolic link of uid {}, but cpd runs as uid {user}", found.uid());
            return Err(OpenError::new(OpenErrorKind::Exposed, format!("{}: {message}", file.display())));
        }
        let to = fs::read_link(&file).map_err(|e| cannot_follow(&file, &e))?;
        link = Some(file);
        file = resolve_folder(&folder.join(to))?;
    }
    Err(cannot_follow(path, &io::Error::from(Errno::ELOOP)))
}

fn cannot_follow(link: &Path, error: &io::Error) -> OpenError {
    system_error(link, "cannot follow the symbolic link", error)
}

/// `path` with the links in its folder resolved, but not a link at `path` itself.
fn resolve_folder(path: &Path) -> Result<PathBuf, OpenError> {
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
        _ => system_error(folder, "cannot use the store's folder", &e),
    })?;
    Ok(real.join(name))
}

/// Refuses a folder in which others could replace the store, or create something under a name that cpd uses there. Also
/// refuses a folder that belongs neither to `owner` nor to root, because the folder's owner could not use the files
/// that this process would create. The sticky bit is not enough: with it nobody can remove another user's file, but
/// everybody can still be the first to create one. `owner`: as for [`resolve_for_writing`].
pub fn check_folder(folder: &Path, owner: Option<u32>) -> Result<(), OpenError> {
    let refuse = |kind, message: String| Err(OpenError::new(kind, format!("{}: {message}", folder.display())));
    let found = fs::metadata(folder).map_err(|e| system_error(folder, "cannot use the store's folder", &e))?;
    if !found.is_dir() {
        let message = format!("{}: the store's folder is not a folder", folder.display());
        return Err(OpenError::new(OpenErrorKind::CannotCreate, message));
    }
    let (mode, owner) = (found.mode(), owner.unwrap_or(found.uid()));
    if found.uid() != owner && found.uid() != 0 {
        let message = format!("the store's folder belongs to uid {}, but cpd runs as uid {owner}", found.uid());
        return refuse(OpenErrorKind::Permission, message);
    }
    if mode & 0o002 != 0 {
        let message = format!("the store's folder may be written by everyone (mode {:04o})", mode & 0o7777);
        return refuse(OpenErrorKind::Exposed, message);
    }
    // Many systems give each user a primary group of its own, without other members.
    if mode & 0o020 != 0 && found.gid() != primary_group(owner) {
        let message =
            format!("the store's folder may be written by group {} (mode {:04o})", found.gid(), mode & 0o7777);
        return refuse(OpenErrorKind::Exposed, message);
    }
    Ok(())
}

/// The user's primary group, or this process's group if there is no such user.
fn primary_group(uid: u32) -> u32 {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    user.map_or_else(getegid, |user| user.gid).as_raw()
}

/// Checks whether a start would refuse the store at `path`, as far as that can be seen without changing anything.
/// `create_missing`: the start may create a store where there was one. When root checks, another user will most likely
/// start cpd, so the store may then be any user's.
pub fn preflight(path: &Path, create_missing: bool) -> Result<(), OpenError> {
    let owner = Some(geteuid()).filter(|owner| !owner.is_root()).map(Uid::as_raw);
    check_store_file(&resolve(path)?, owner, schema::MIGRATIONS.len())?;
    let file = resolve_for_writing(path, owner)?;
    // The longest of the names that cpd creates next to the store.
    let longest_name = with_suffix(&file, &format!("{BACKUP_SUFFIX}-journal"));
    match fs::symlink_metadata(&longest_name) {
        Err(e) if e.raw_os_error() == Some(Errno::ENAMETOOLONG as i32) => {
            return Err(OpenError {
                kind: OpenErrorKind::CannotCreate,
                ..system_error(&longest_name, "cannot create", &e)
            });
        }
        _ => {}
    }
    let history = read_history(&file)?;
    let is_gone = fs::symlink_metadata(&file).is_err_and(|e| e.kind() == io::ErrorKind::NotFound);
    if is_gone && history.exists() && !create_missing { Err(gone_error(&file, &history)) } else { Ok(()) }
}

/// The error for a store that is missing although its folder had one.
pub fn gone_error(file: &Path, history: &History) -> OpenError {
    let (file, known) = (file.display(), history.path().display());
    let message = format!("{file}: the store is gone; to begin with an empty one delete {known}");
    OpenError::new(OpenErrorKind::Gone, message)
}

/// Refuses a file that is not a store of `owner` of a version up to `newest`, before anything is done to it or next to
/// it. If its folder has a history, any file is taken for a store, however damaged: later checks describe the damage
/// better. `owner`: `None` accepts every user's file.
pub fn check_store_file(path: &Path, owner: Option<u32>, newest: usize) -> Result<(), OpenError> {
    // The type is checked before opening, because opening a device may have effects.
    let file = match fs::symlink_metadata(path) {
        Ok(found) => {
            check_type_and_owner(path, &found, owner)?;
            careful_options().read(true).open(path)
        }
        // Later steps report a file that cannot be examined.
        Err(_) => return Ok(()),
    };
    let file = match file {
        Ok(file) => file,
        Err(e) if matches!(e.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound) => return Ok(()),
        Err(e) => return Err(system_error(path, "cannot open", &e)),
    };
    let found = file.metadata().map_err(|e| system_error(path, "cannot read", &e))?;
    check_type_and_owner(path, &found, owner)?;
    if read_history(path)?.exists() {
        return Ok(());
    }
    check_file_header(path, file, found.len(), newest)
}

/// Refuses anything but a regular file of `owner`, as [`check_store_file`] does, but does not check the content.
/// Accepts a file that is missing.
pub fn check_if_present(path: &Path, owner: Option<u32>) -> Result<(), OpenError> {
    fs::symlink_metadata(path).map_or(Ok(()), |found| check_type_and_owner(path, &found, owner))
}

/// Refuses anything but a regular file, and a file of another user than `owner`.
fn check_type_and_owner(path: &Path, found: &fs::Metadata, owner: Option<u32>) -> Result<(), OpenError> {
    if !found.is_file() {
        return Err(OpenError::new(OpenErrorKind::CannotCreate, format!("{}: is not a file", path.display())));
    }
    match owner {
        Some(owner) if found.uid() != owner => {
            let message = format!("{}: belongs to uid {}, but cpd runs as uid {owner}", path.display(), found.uid());
            Err(OpenError::new(OpenErrorKind::Permission, message))
        }
        _ => Ok(()),
    }
}

/// Refuses a file of `length` bytes that does not have the header of a store of a version up to `newest`.
pub fn check_file_header(path: &Path, file: File, length: u64, newest: usize) -> Result<(), OpenError> {
    let mut header = Vec::with_capacity(HEADER_BYTES);
    let head = u64::try_from(HEADER_BYTES).unwrap_or(u64::MAX);
    file.take(head).read_to_end(&mut header).map_err(|e| system_error(path, "cannot read", &e))?;
    check_header_bytes(&header, length, newest).map_err(|(kind, message)| {
        OpenError::new(kind, format!("{}: {message}; the file was left as it is", path.display()))
    })
}

/// Refuses an existing file that this process may not read and write: SQLite would open it for reading only, and fail
/// at the first write without mentioning permissions.
pub fn check_access(path: &Path, owner: u32) -> Result<(), OpenError> {
    match careful_options().read(true).write(true).open(path) {
        Ok(file) => {
            let found = file.metadata().map_err(|e| system_error(path, "cannot read", &e))?;
            check_type_and_owner(path, &found, Some(owner))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(system_error(path, "cannot read and write", &e)),
    }
}

/// Removes the permissions of group and others: the file holds password hashes and messages. Returns a text for the log
/// if the mode was changed.
pub fn restrict_mode(path: &Path, file: &File) -> Result<Option<String>, OpenError> {
    let mode = file.metadata().map_err(|e| system_error(path, "cannot read", &e))?.mode() & 0o7777;
    if mode & 0o077 == 0 {
        return Ok(None);
    }
    let own = Mode::S_IRUSR | Mode::S_IWUSR;
    fchmod(file, own).map_err(|e| system_error(path, "cannot set the mode 0600", &e.into()))?;
    Ok(Some(format!("{}: mode was {mode:04o}, is now 0600", path.display())))
}

/// Checks that `header`, from a file of `length` bytes, is that of a store of a version up to `newest`. The offsets are
/// from the SQLite file format, section 1.3.
fn check_header_bytes(header: &[u8], length: u64, newest: usize) -> Result<(), (OpenErrorKind, String)> {
    let no = |message: &str| Err((OpenErrorKind::Damaged, message.to_owned()));
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
        let message = format!("is of version {version}, this cpd knows up to {newest}");
        return Err((OpenErrorKind::Newer, message));
    }
    if !page.is_power_of_two() || page < 512 || kept != 0 || encoding > 1 || write > 2 || read > 2 {
        return no("has a damaged header");
    }
    if length < page {
        return no("is cut off");
    }
    Ok(())
}
