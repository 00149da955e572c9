//! `cpctl store backup`: downloads a copy of the store into a file that is either complete or does not exist. Also
//! `cpctl store shrink`.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use clap::ArgMatches;
use cp_proto::printable::escape;
use cpd_control::answer::{Backup, BackupChunk, Done, Shrunk};
use cpd_control::{ErrorCode, Request};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, RenameFlags, openat, renameat, renameat2};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, geteuid, linkat, unlinkat};
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};

use super::client::DaemonClient;
use super::context::{CommandOutput, Context, json_or_text};
use super::exit::{ExitStatus, Failure};
use super::render::format_count;
use super::signals::DeferredSignals;

/// The file name that means standard output.
const STDOUT: &str = "-";
/// The beginning and the end of the name of an unfinished copy, where the file system has no unnamed files.
const PART_AFFIXES: (&str, &str) = (".cpctl-backup.", ".part");
/// The mode of a copy, which contains password hashes and messages.
const PRIVATE_MODE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);

pub(super) fn backup(context: &Context, arguments: &ArgMatches) -> Result<CommandOutput, Failure> {
    #[derive(Serialize)]
    struct Document {
        file: String,
        bytes: u64,
    }
    let path =
        arguments.get_one::<PathBuf>("FILE").ok_or_else(|| Failure::new(ExitStatus::Usage, "FILE is missing"))?;
    if path == Path::new(STDOUT) {
        return to_stdout(context);
    }
    if fs::symlink_metadata(path).is_ok() {
        return Err(Failure::new(
            ExitStatus::Refused,
            format!("{}: is there already; nothing was written", path.display()),
        ));
    }
    let mut client = DaemonClient::connect(&context.target)?;
    // With this signal deferred, reaching the file size limit is a failed write, like a full disk.
    let _limit = DeferredSignals::new(&[SIGXFSZ]);
    // First check that a file can be created, so that the daemon does not copy its store in vain.
    drop(PartialCopy::create(path).map_err(|e| file_failure(path, &e))?);
    let copy: Backup = client.ask(&Request::StoreBackup)?;
    let deferred = DeferredSignals::new(&[SIGINT, SIGTERM, SIGHUP]);
    let partial = PartialCopy::create(path).map_err(|e| file_failure(path, &e))?;
    let downloaded = download(&mut client, &copy, &mut &partial.file, path, &deferred);
    if !deferred.is_pending() {
        // If this fails, the daemon discards the copy when the connection is closed.
        let _ = client.ask::<Done>(&Request::StoreBackupEnd { backup: copy.backup });
    }
    let published = downloaded.and_then(|()| partial.publish(copy.bytes).map_err(|e| file_failure(path, &e)));
    drop(partial);
    deferred.raise();
    published?;
    let document = Document { file: path.display().to_string(), bytes: copy.bytes };
    Ok(json_or_text(context, &document, || {
        format!("{}: {}\n", escape(&path.display().to_string()), format_count(copy.bytes, "byte"))
    }))
}

/// Writes the copy to standard output, and nothing else; the output must not be a terminal.
fn to_stdout(context: &Context) -> Result<CommandOutput, Failure> {
    let mut stdout = io::stdout().lock();
    if stdout.is_terminal() {
        let said = "a backup is not for a terminal; send standard output to a file or a program";
        return Err(Failure::new(ExitStatus::Usage, said));
    }
    if context.json {
        let said = "--json cannot be used when the backup goes to standard output";
        return Err(Failure::new(ExitStatus::Usage, said));
    }
    let mut client = DaemonClient::connect(&context.target)?;
    let _limit = DeferredSignals::new(&[SIGXFSZ]);
    let copy: Backup = client.ask(&Request::StoreBackup)?;
    let name = Path::new("standard output");
    download(&mut client, &copy, &mut stdout, name, &DeferredSignals::new(&[]))?;
    stdout.flush().map_err(|e| file_failure(name, &e))?;
    let _ = client.ask::<Done>(&Request::StoreBackupEnd { backup: copy.backup });
    Ok(String::new().into())
}

pub(super) fn shrink(context: &Context, _: &ArgMatches) -> Result<CommandOutput, Failure> {
    let shrunk: Shrunk = DaemonClient::connect(&context.target)?.ask(&Request::StoreShrink).map_err(|failure| {
        let is_old = failure.daemon_code == Some(ErrorCode::UnknownCommand);
        let said = "this daemon is of a version that cannot shrink its store";
        if is_old { Failure { message: said.to_owned(), ..failure } } else { failure }
    })?;
    let Shrunk { before_bytes, after_bytes } = shrunk;
    Ok(json_or_text(context, &shrunk, || {
        let gained = before_bytes.saturating_sub(after_bytes);
        format!("{} gained: {before_bytes} before, {after_bytes} now\n", format_count(gained, "byte"))
    }))
}

/// Downloads the whole copy into `target`; `name` stands for it in errors.
fn download(
    client: &mut DaemonClient,
    copy: &Backup,
    target: &mut dyn Write,
    name: &Path,
    deferred: &DeferredSignals,
) -> Result<(), Failure> {
    let mut offset = 0u64;
    while offset < copy.bytes {
        if deferred.is_pending() {
            return Err(Failure::new(ExitStatus::Refused, "interrupted; nothing was written"));
        }
        let chunk: BackupChunk = client.ask(&Request::StoreBackupRead { backup: copy.backup, offset })?;
        let bytes = chunk.bytes().ok_or_else(|| client.daemon_failure("a piece of the backup is not base64"))?;
        let end = u64::try_from(bytes.len()).ok().and_then(|length| offset.checked_add(length));
        match end {
            Some(end) if !bytes.is_empty() && end <= copy.bytes => offset = end,
            _ => {
                return Err(client.daemon_failure(&format!(
                    "the backup does not have the {} bytes that the daemon announced",
                    copy.bytes
                )));
            }
        }
        target.write_all(&bytes).map_err(|e| file_failure(name, &e))?;
    }
    Ok(())
}

/// A copy that is being written. Until it is published, nothing is left of it however this process ends; where the file
/// system has no unnamed files, the next backup in the same folder removes what is left. Other users who can write in
/// the folder may move, link and delete files meanwhile. Therefore everything here uses the open descriptors of the
/// file and the folder, and success is reported only if that same file has the wanted name in the end.
struct PartialCopy {
    file: File,
    folder: File,
    /// The temporary name in the folder; `None` for an unnamed file.
    name: Option<OsString>,
    wanted: PathBuf,
}

impl PartialCopy {
    /// Creates an empty file, unnamed if possible, in the folder of `wanted`.
    fn create(wanted: &Path) -> io::Result<PartialCopy> {
        // An unnamed file is useless without /proc, through which it is linked into the folder.
        match PartialCopy::create_unnamed(wanted) {
            Ok(partial) if PartialCopy::proc_path(&partial.file).exists() => Ok(partial),
            Err(e) if [io::ErrorKind::PermissionDenied, io::ErrorKind::NotFound].contains(&e.kind()) => Err(e),
            _ => PartialCopy::create_named(wanted),
        }
    }

    /// Creates a file without a name (`O_TMPFILE`).
    fn create_unnamed(wanted: &Path) -> io::Result<PartialCopy> {
        let (folder, wanted) = open_folder_of(wanted)?;
        let flags = OFlag::O_TMPFILE | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        let file = File::from(openat(&folder, ".", flags, PRIVATE_MODE)?);
        Ok(PartialCopy { file, folder, name: None, wanted })
    }

    /// Creates the file with an unpredictable name, for file systems that have no unnamed files.
    fn create_named(wanted: &Path) -> io::Result<PartialCopy> {
        let (folder, wanted) = open_folder_of(wanted)?;
        remove_leftovers(&folder, parent_folder(&wanted));
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|e| io::Error::other(e.to_string()))?;
        let name = OsString::from(format!("{}{:016x}{}", PART_AFFIXES.0, u64::from_ne_bytes(random), PART_AFFIXES.1));
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        let file = File::from(openat(&folder, name.as_os_str(), flags, PRIVATE_MODE)?);
        // The lock shows other backups that this file is in use; an unlocked one is left over.
        let _ = file.try_lock();
        Ok(PartialCopy { file, folder, name: Some(name), wanted })
    }

    /// A path that leads to an open file, even if it has no name.
    fn proc_path(file: &File) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
    }

    /// Gives the file its final name, on stable storage.
    ///
    /// # Errors
    /// The file does not have `bytes` bytes, the name is taken, or the system fails.
    fn publish(&self, bytes: u64) -> io::Result<()> {
        self.file.sync_all()?;
        if self.file.metadata()?.len() != bytes {
            return Err(io::Error::other("the file has another length than what was written to it"));
        }
        self.link_into_place()?;
        self.folder.sync_all()?;
        self.verify_in_place()
    }

    /// Gives the file its final name. A file that was created under that name meanwhile is not replaced.
    fn link_into_place(&self) -> io::Result<()> {
        let wanted = self.wanted.file_name().unwrap_or_default();
        let Some(name) = self.name.as_deref() else {
            let handle = PartialCopy::proc_path(&self.file);
            return Ok(linkat(AT_FDCWD, &handle, &self.folder, wanted, AtFlags::AT_SYMLINK_FOLLOW)?);
        };
        match linkat(&self.folder, name, &self.folder, wanted, AtFlags::empty()) {
            Ok(()) => Ok(()),
            Err(Errno::EEXIST) => Err(Errno::EEXIST.into()),
            // The file system has no hard links.
            Err(error) => match renameat2(&self.folder, name, &self.folder, wanted, RenameFlags::RENAME_NOREPLACE) {
                // It does not support a rename that never replaces a file either. Between this check and the rename
                // another file could still appear.
                Err(Errno::EINVAL) if fs::symlink_metadata(&self.wanted).is_err() => {
                    Ok(renameat(&self.folder, name, &self.folder, wanted)?)
                }
                Err(Errno::EINVAL) => Err(error.into()),
                renamed => Ok(renamed?),
            },
        }
    }

    /// Checks that the final name leads to the file that was written.
    ///
    /// # Errors
    /// Another file or none has that name.
    fn verify_in_place(&self) -> io::Result<()> {
        let own = self.file.metadata()?;
        match fs::symlink_metadata(&self.wanted) {
            Ok(found) if (found.dev(), found.ino()) == (own.dev(), own.ino()) => Ok(()),
            Ok(_) => Err(io::Error::other("somebody has put another file in the place of the backup")),
            Err(e) => Err(io::Error::new(e.kind(), format!("the backup was taken away: {e}"))),
        }
    }
}

impl Drop for PartialCopy {
    fn drop(&mut self) {
        if let Some(name) = self.name.as_deref() {
            // This fails if the file was renamed, because the temporary name no longer exists.
            let _ = unlinkat(&self.folder, name, UnlinkatFlags::NoRemoveDir);
        }
    }
}

/// Opens the folder of `wanted` and returns it with the normalised path of the file.
///
/// # Errors
/// The path has no file name or ends with a slash, or the folder cannot be opened.
fn open_folder_of(wanted: &Path) -> io::Result<(File, PathBuf)> {
    let is_folder = || io::Error::from(io::ErrorKind::IsADirectory);
    let name = wanted.file_name().filter(|_| !wanted.as_os_str().as_bytes().ends_with(b"/")).ok_or_else(is_folder)?;
    let path = parent_folder(wanted);
    let folder = OpenOptions::new().read(true).custom_flags(OFlag::O_DIRECTORY.bits()).open(path)?;
    Ok((folder, path.join(name)))
}

fn parent_folder(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Removes the unfinished copies that killed backups of this user have left in a folder. Errors are ignored.
fn remove_leftovers(folder: &File, path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_part =
            name.to_str().is_some_and(|name| name.starts_with(PART_AFFIXES.0) && name.ends_with(PART_AFFIXES.1));
        // Another user may have given such a name to a pipe, which would block when it is opened, or to a link.
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

fn file_failure(path: &Path, error: &io::Error) -> Failure {
    Failure::new(ExitStatus::Refused, format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    type Make = fn(&Path) -> io::Result<PartialCopy>;
    const WAYS: [(&str, Make); 2] = [("nameless", PartialCopy::create_unnamed), ("named", PartialCopy::create_named)];

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn written(make: Make, wanted: &Path) -> PartialCopy {
        let partial = make(wanted).unwrap();
        (&partial.file).write_all(b"the copy").unwrap();
        partial
    }

    #[test]
    fn a_published_copy_is_complete_private_and_alone() {
        for (way, make) in WAYS {
            let folder = tempfile::tempdir().unwrap();
            let wanted = folder.path().join("copy");
            let partial = written(make, &wanted);
            assert_eq!(names(folder.path()).len(), usize::from(partial.name.is_some()), "{way}");
            assert!(partial.publish(7).unwrap_err().to_string().contains("another length"), "{way}");
            partial.publish(8).unwrap();
            assert!(partial.publish(8).is_err(), "{way}: a name that is taken");
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
    fn files_and_links_made_meanwhile_are_neither_replaced_nor_followed() {
        for (way, make) in WAYS {
            let folder = tempfile::tempdir().unwrap();
            let (wanted, other) = (folder.path().join("copy"), folder.path().join("other"));
            let partial = written(make, &wanted);
            symlink(&other, &wanted).unwrap();
            assert_eq!(partial.publish(8).unwrap_err().kind(), io::ErrorKind::AlreadyExists, "{way}");
            drop(partial);
            assert_eq!(names(folder.path()), ["copy"], "{way}");
        }
    }

    #[test]
    fn another_file_under_the_final_name_is_an_error() {
        for (way, make) in WAYS {
            let folder = tempfile::tempdir().unwrap();
            let (wanted, other) = (folder.path().join("copy"), folder.path().join("other"));
            let partial = written(make, &wanted);
            partial.link_into_place().unwrap();
            partial.verify_in_place().unwrap();
            fs::write(&other, "the copy").unwrap();
            fs::rename(&other, &wanted).unwrap();
            assert!(partial.verify_in_place().unwrap_err().to_string().contains("another file"), "{way}");
            fs::remove_file(&wanted).unwrap();
            symlink(PartialCopy::proc_path(&partial.file), &wanted).unwrap();
            assert!(partial.verify_in_place().unwrap_err().to_string().contains("another file"), "{way}: a link to it");
            fs::remove_file(&wanted).unwrap();
            assert!(partial.verify_in_place().unwrap_err().to_string().contains("taken away"), "{way}");
        }
        // A named file can be exchanged before it gets its final name.
        let folder = tempfile::tempdir().unwrap();
        let (wanted, other) = (folder.path().join("copy"), folder.path().join("other"));
        let partial = written(PartialCopy::create_named, &wanted);
        fs::write(&other, "the copy").unwrap();
        fs::rename(&other, folder.path().join(partial.name.as_ref().unwrap())).unwrap();
        assert!(partial.publish(8).unwrap_err().to_string().contains("another file"));
    }

    #[test]
    fn a_copy_stays_in_its_folder_when_the_folder_is_renamed() {
        for (way, make) in WAYS {
            let root = tempfile::tempdir().unwrap();
            let (folder, moved) = (root.path().join("folder"), root.path().join("moved"));
            fs::create_dir(&folder).unwrap();
            let partial = written(make, &folder.join("copy"));
            fs::rename(&folder, &moved).unwrap();
            fs::create_dir(&folder).unwrap();
            assert!(partial.publish(8).unwrap_err().to_string().contains("taken away"), "{way}");
            drop(partial);
            assert_eq!((names(&folder), names(&moved)), (Vec::new(), vec!["copy".to_owned()]), "{way}");
        }
    }

    #[test]
    fn only_leftover_copies_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let part = |name: &str| folder.path().join(format!("{}{name}{}", PART_AFFIXES.0, PART_AFFIXES.1));
        fs::write(part("left"), "half").unwrap();
        nix::unistd::mkfifo(&part("pipe"), Mode::S_IRWXU).unwrap();
        fs::write(folder.path().join("mine"), "mine").unwrap();
        symlink(folder.path().join("mine"), part("link")).unwrap();
        let at_work = PartialCopy::create_named(&folder.path().join("one")).unwrap();
        drop(PartialCopy::create_named(&folder.path().join("two")).unwrap());
        let mut expected: Vec<String> =
            ["link", "pipe"].iter().map(|name| format!("{}{name}{}", PART_AFFIXES.0, PART_AFFIXES.1)).collect();
        expected.push(at_work.name.as_ref().unwrap().clone().into_string().unwrap());
        expected.push("mine".to_owned());
        expected.sort();
        assert_eq!(names(folder.path()), expected);
    }
}
