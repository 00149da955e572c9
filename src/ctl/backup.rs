//! `cpctl store backup`: the store's copy, piece by piece, into a file that is either whole or not there.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use clap::ArgMatches;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, RenameFlags, openat, renameat, renameat2};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, geteuid, linkat, unlinkat};
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};

use super::client::Client;
use super::exit::{Exit, Failure};
use super::render::{count, safe};
use super::run::show;
use super::signals::Caught;
use super::{Context, Output};
use crate::control::answer::{Backup, BackupChunk, Done, Shrunk};
use crate::control::{ErrorCode, Request};

/// The name that stands for standard output.
const STDOUT: &str = "-";
/// How the names of copies begin and end that are being written where every file has a name.
const PART: (&str, &str) = (".cpctl-backup.", ".part");
/// Of copies: they hold password hashes and letters.
const PRIVATE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);

pub(super) fn backup(context: &Context, arguments: &ArgMatches) -> Result<Output, Failure> {
    #[derive(Serialize)]
    struct Document {
        file: String,
        bytes: u64,
    }
    let path = arguments.get_one::<PathBuf>("FILE").ok_or_else(|| Failure::new(Exit::Usage, "FILE is missing"))?;
    if path == Path::new(STDOUT) {
        return to_stdout(context);
    }
    if fs::symlink_metadata(path).is_ok() {
        return Err(Failure::new(Exit::Refused, format!("{}: is there already; nothing was written", path.display())));
    }
    let mut client = Client::connect(&context.socket)?;
    // A file at the limit of sizes is a failed write, as one on a full disk.
    let _limit = Caught::new(&[SIGXFSZ]);
    // Where nothing can be written, the daemon need not copy its store.
    drop(Partial::create(path).map_err(|e| failed(path, &e))?);
    let copy: Backup = client.ask(&Request::StoreBackup)?;
    let caught = Caught::new(&[SIGINT, SIGTERM, SIGHUP]);
    let partial = Partial::create(path).map_err(|e| failed(path, &e))?;
    let taken = take(&mut client, &copy, &mut &partial.file, path, &caught);
    if !caught.any() {
        // A daemon that cannot be told any more drops the copy with the connection.
        let _ = client.ask::<Done>(&Request::StoreBackupEnd { backup: copy.backup });
    }
    let placed = taken.and_then(|()| partial.place(copy.bytes).map_err(|e| failed(path, &e)));
    drop(partial);
    caught.obey();
    placed?;
    let document = Document { file: path.display().to_string(), bytes: copy.bytes };
    Ok(show(context, &document, || format!("{}: {}\n", safe(&path.display().to_string()), count(copy.bytes, "byte"))))
}

/// Writes the copy where a pipe or a file takes it, and nothing else.
fn to_stdout(context: &Context) -> Result<Output, Failure> {
    let mut stdout = io::stdout().lock();
    if stdout.is_terminal() {
        let said = "a backup is not for a terminal; send standard output to a file or a program";
        return Err(Failure::new(Exit::Usage, said));
    }
    if context.json {
        let said = "with - standard output is the backup; there is no document beside it";
        return Err(Failure::new(Exit::Usage, said));
    }
    let mut client = Client::connect(&context.socket)?;
    let _limit = Caught::new(&[SIGXFSZ]);
    let copy: Backup = client.ask(&Request::StoreBackup)?;
    let name = Path::new("standard output");
    take(&mut client, &copy, &mut stdout, name, &Caught::new(&[]))?;
    stdout.flush().map_err(|e| failed(name, &e))?;
    let _ = client.ask::<Done>(&Request::StoreBackupEnd { backup: copy.backup });
    Ok(String::new().into())
}

pub(super) fn shrink(context: &Context, _: &ArgMatches) -> Result<Output, Failure> {
    let shrunk: Shrunk = Client::connect(&context.socket)?.ask(&Request::StoreShrink).map_err(|failure| {
        let is_old = failure.refusal == Some(ErrorCode::UnknownCommand);
        let said = "this daemon is of a version that cannot shrink its store";
        if is_old { Failure { message: said.to_owned(), ..failure } } else { failure }
    })?;
    let Shrunk { before_bytes, after_bytes } = shrunk;
    Ok(show(context, &shrunk, || {
        let gained = before_bytes.saturating_sub(after_bytes);
        format!("{} gained: {before_bytes} before, {after_bytes} now\n", count(gained, "byte"))
    }))
}

/// Fetches the whole copy.
fn take(
    client: &mut Client,
    copy: &Backup,
    target: &mut dyn Write,
    name: &Path,
    caught: &Caught,
) -> Result<(), Failure> {
    let mut offset = 0u64;
    while offset < copy.bytes {
        if caught.any() {
            return Err(Failure::new(Exit::Refused, "interrupted; nothing was written"));
        }
        let chunk: BackupChunk = client.ask(&Request::StoreBackupRead { backup: copy.backup, offset })?;
        let bytes = chunk.bytes().ok_or_else(|| client.broken("a piece of the backup is not base64"))?;
        let end = u64::try_from(bytes.len()).ok().and_then(|length| offset.checked_add(length));
        match end {
            Some(end) if !bytes.is_empty() && end <= copy.bytes => offset = end,
            _ => return Err(client.broken(&format!("the backup is not the {} bytes it was said to be", copy.bytes))),
        }
        target.write_all(&bytes).map_err(|e| failed(name, &e))?;
    }
    Ok(())
}

/// A copy that is being written. However this process ends, nothing is left of it until it is put in its place; where
/// a file system has no files without a name, the next backup in the folder takes away what is left. Whoever can write in
/// the folder may move, link and delete in it meanwhile: what is done here is done to the file and in the folder that are
/// open, and success is said of that file alone.
struct Partial {
    file: File,
    folder: File,
    /// Its name in the folder, where it has one.
    name: Option<OsString>,
    wanted: PathBuf,
}

impl Partial {
    fn create(wanted: &Path) -> io::Result<Partial> {
        // Its place is given to it by way of /proc.
        match Partial::nameless(wanted) {
            Ok(partial) if Partial::handle(&partial.file).exists() => Ok(partial),
            Err(e) if [io::ErrorKind::PermissionDenied, io::ErrorKind::NotFound].contains(&e.kind()) => Err(e),
            _ => Partial::named(wanted),
        }
    }

    fn nameless(wanted: &Path) -> io::Result<Partial> {
        let (folder, wanted) = place_of(wanted)?;
        let flags = OFlag::O_TMPFILE | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        let file = File::from(openat(&folder, ".", flags, PRIVATE)?);
        Ok(Partial { file, folder, name: None, wanted })
    }

    /// Where every file has a name: one that nobody can have foreseen.
    fn named(wanted: &Path) -> io::Result<Partial> {
        let (folder, wanted) = place_of(wanted)?;
        remove_parts(&folder, folder_of(&wanted));
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|e| io::Error::other(e.to_string()))?;
        let name = OsString::from(format!("{}{:016x}{}", PART.0, u64::from_ne_bytes(random), PART.1));
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        let file = File::from(openat(&folder, name.as_os_str(), flags, PRIVATE)?);
        // Held for as long as this is at work: what is not is left over.
        let _ = file.try_lock();
        Ok(Partial { file, folder, name: Some(name), wanted })
    }

    fn handle(file: &File) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
    }

    /// Puts the file in its place, on stable storage, if it has `bytes` bytes and nothing else has taken the place.
    fn place(&self, bytes: u64) -> io::Result<()> {
        self.file.sync_all()?;
        if self.file.metadata()?.len() != bytes {
            return Err(io::Error::other("the file has another length than what was written to it"));
        }
        self.give_name()?;
        self.folder.sync_all()?;
        self.is_in_place()
    }

    /// Never replaces a file that somebody made meanwhile.
    fn give_name(&self) -> io::Result<()> {
        let wanted = self.wanted.file_name().unwrap_or_default();
        let Some(name) = self.name.as_deref() else {
            let handle = Partial::handle(&self.file);
            return Ok(linkat(AT_FDCWD, &handle, &self.folder, wanted, AtFlags::AT_SYMLINK_FOLLOW)?);
        };
        match linkat(&self.folder, name, &self.folder, wanted, AtFlags::empty()) {
            Ok(()) => Ok(()),
            Err(Errno::EEXIST) => Err(Errno::EEXIST.into()),
            // A file system without links.
            Err(error) => match renameat2(&self.folder, name, &self.folder, wanted, RenameFlags::RENAME_NOREPLACE) {
                // Nor does it know such a rename.
                Err(Errno::EINVAL) if fs::symlink_metadata(&self.wanted).is_err() => {
                    Ok(renameat(&self.folder, name, &self.folder, wanted)?)
                }
                Err(Errno::EINVAL) => Err(error.into()),
                renamed => Ok(renamed?),
            },
        }
    }

    /// Errors: under the name that was asked for there is something else than what was written.
    fn is_in_place(&self) -> io::Result<()> {
        let own = self.file.metadata()?;
        match fs::symlink_metadata(&self.wanted) {
            Ok(found) if (found.dev(), found.ino()) == (own.dev(), own.ino()) => Ok(()),
            Ok(_) => Err(io::Error::other("somebody has put another file in the place of the backup")),
            Err(e) => Err(io::Error::new(e.kind(), format!("the backup was taken away: {e}"))),
        }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if let Some(name) = self.name.as_deref() {
            // Gone already where it was renamed.
            let _ = unlinkat(&self.folder, name, UnlinkatFlags::NoRemoveDir);
        }
    }
}

/// The folder in which `wanted` is to be, open, and `wanted` without what means nothing in it.
fn place_of(wanted: &Path) -> io::Result<(File, PathBuf)> {
    let is_folder = || io::Error::from(io::ErrorKind::IsADirectory);
    let name = wanted.file_name().filter(|_| !wanted.as_os_str().as_bytes().ends_with(b"/")).ok_or_else(is_folder)?;
    let path = folder_of(wanted);
    let folder = OpenOptions::new().read(true).custom_flags(OFlag::O_DIRECTORY.bits()).open(path)?;
    Ok((folder, path.join(name)))
}

fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Takes away what killed backups of this user have left in a folder. What cannot be removed stays.
fn remove_parts(folder: &File, path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_part = name.to_str().is_some_and(|name| name.starts_with(PART.0) && name.ends_with(PART.1));
        // Somebody may have given such a name to a pipe, whose opening would wait, or to a link.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let open = || openat(folder, name.as_os_str(), flags, Mode::empty()).map(File::from);
        let is_left = |file: File| {
            let is_own = file.metadata().is_ok_and(|found| found.is_file() && found.uid() == geteuid().as_raw());
            is_own && file.try_lock().is_ok()
        };
        if is_part && open().is_ok_and(is_left) {
            let _ = unlinkat(folder, name.as_os_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    Failure::new(Exit::Refused, format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    type Make = fn(&Path) -> io::Result<Partial>;
    const WAYS: [(&str, Make); 2] = [("nameless", Partial::nameless), ("named", Partial::named)];

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn written(make: Make, wanted: &Path) -> Partial {
        let partial = make(wanted).unwrap();
        (&partial.file).write_all(b"the copy").unwrap();
        partial
    }

    #[test]
    fn either_way_it_is_whole_private_and_alone() {
        for (way, make) in WAYS {
            let folder = tempfile::tempdir().unwrap();
            let wanted = folder.path().join("copy");
            let partial = written(make, &wanted);
            assert_eq!(names(folder.path()).len(), usize::from(partial.name.is_some()), "{way}");
            assert!(partial.place(7).unwrap_err().to_string().contains("another length"), "{way}");
            partial.place(8).unwrap();
            assert!(partial.place(8).is_err(), "{way}: a name that is taken");
            drop(partial);
            assert_eq!(names(folder.path()), ["copy"], "{way}");
            assert_eq!(fs::read(&wanted).unwrap(), b"the copy", "{way}");
            assert_eq!(fs::metadata(&wanted).unwrap().mode() & 0o7777, 0o600, "{way}");
            for wrong in ["copy/..", "other/"] {
                assert!(make(&folder.path().join(wrong)).is_err(), "{way}: {wrong}");
            }
        }
    }

    #[test]
    fn no_file_and_no_link_that_somebody_makes_meanwhile_is_replaced_or_followed() {
        for (way, make) in WAYS {
            let folder = tempfile::tempdir().unwrap();
            let (wanted, other) = (folder.path().join("copy"), folder.path().join("other"));
            let partial = written(make, &wanted);
            symlink(&other, &wanted).unwrap();
            assert_eq!(partial.place(8).unwrap_err().kind(), io::ErrorKind::AlreadyExists, "{way}");
            drop(partial);
            assert_eq!(names(folder.path()), ["copy"], "{way}");
        }
    }

    #[test]
    fn another_file_in_its_place_is_no_success() {
        for (way, make) in WAYS {
            let folder = tempfile::tempdir().unwrap();
            let (wanted, other) = (folder.path().join("copy"), folder.path().join("other"));
            let partial = written(make, &wanted);
            partial.give_name().unwrap();
            partial.is_in_place().unwrap();
            fs::write(&other, "the copy").unwrap();
            fs::rename(&other, &wanted).unwrap();
            assert!(partial.is_in_place().unwrap_err().to_string().contains("another file"), "{way}");
            fs::remove_file(&wanted).unwrap();
            symlink(Partial::handle(&partial.file), &wanted).unwrap();
            assert!(partial.is_in_place().unwrap_err().to_string().contains("another file"), "{way}: a link to it");
            fs::remove_file(&wanted).unwrap();
            assert!(partial.is_in_place().unwrap_err().to_string().contains("taken away"), "{way}");
        }
        // What has a name can be exchanged before it gets its last one.
        let folder = tempfile::tempdir().unwrap();
        let (wanted, other) = (folder.path().join("copy"), folder.path().join("other"));
        let partial = written(Partial::named, &wanted);
        fs::write(&other, "the copy").unwrap();
        fs::rename(&other, folder.path().join(partial.name.as_ref().unwrap())).unwrap();
        assert!(partial.place(8).unwrap_err().to_string().contains("another file"));
    }

    #[test]
    fn a_folder_whose_name_goes_to_another_one_is_not_left_for_that() {
        for (way, make) in WAYS {
            let root = tempfile::tempdir().unwrap();
            let (folder, moved) = (root.path().join("folder"), root.path().join("moved"));
            fs::create_dir(&folder).unwrap();
            let partial = written(make, &folder.join("copy"));
            fs::rename(&folder, &moved).unwrap();
            fs::create_dir(&folder).unwrap();
            assert!(partial.place(8).unwrap_err().to_string().contains("taken away"), "{way}");
            drop(partial);
            assert_eq!((names(&folder), names(&moved)), (Vec::new(), vec!["copy".to_owned()]), "{way}");
        }
    }

    #[test]
    fn what_is_left_over_goes_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let part = |name: &str| folder.path().join(format!("{}{name}{}", PART.0, PART.1));
        fs::write(part("left"), "half").unwrap();
        nix::unistd::mkfifo(&part("pipe"), Mode::S_IRWXU).unwrap();
        fs::write(folder.path().join("mine"), "mine").unwrap();
        symlink(folder.path().join("mine"), part("link")).unwrap();
        let at_work = Partial::named(&folder.path().join("one")).unwrap();
        drop(Partial::named(&folder.path().join("two")).unwrap());
        let mut expected: Vec<String> =
            ["link", "pipe"].iter().map(|name| format!("{}{name}{}", PART.0, PART.1)).collect();
        expected.push(at_work.name.as_ref().unwrap().clone().into_string().unwrap());
        expected.push("mine".to_owned());
        expected.sort();
        assert_eq!(names(folder.path()), expected);
    }
}
