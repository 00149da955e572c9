//! `cpctl store backup`: the store's copy, piece by piece, into a file that is either whole or not there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::ArgMatches;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::unistd::linkat;
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
/// a file system has no files without a name, the next backup in the folder takes away what is left.
struct Partial {
    file: File,
    /// Its name, where it has one.
    path: Option<PathBuf>,
    wanted: PathBuf,
}

impl Partial {
    fn create(wanted: &Path) -> io::Result<Partial> {
        wanted.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::IsADirectory))?;
        let folder = folder(wanted);
        let unnamed = || {
            let flags = OFlag::O_TMPFILE.bits();
            OpenOptions::new().write(true).mode(0o600).custom_flags(flags).open(folder)
        };
        // Its place is given to it by way of /proc.
        match unnamed() {
            Ok(file) if Partial::handle(&file).exists() => {
                return Ok(Partial { file, path: None, wanted: wanted.to_owned() });
            }
            Err(e) if [io::ErrorKind::PermissionDenied, io::ErrorKind::NotFound].contains(&e.kind()) => return Err(e),
            _ => {}
        }
        remove_parts(folder);
        let path = folder.join(format!("{}{}{}", PART.0, std::process::id(), PART.1));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        // Held for as long as this is at work: what is not is left over.
        let _ = file.try_lock();
        Ok(Partial { file, path: Some(path), wanted: wanted.to_owned() })
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
        // Unlike a rename, a link never replaces a file that somebody made meanwhile.
        match &self.path {
            None => {
                let follow = AtFlags::AT_SYMLINK_FOLLOW;
                linkat(AT_FDCWD, &Partial::handle(&self.file), AT_FDCWD, &self.wanted, follow)?;
            }
            Some(path) => match fs::hard_link(path, &self.wanted) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
                // A file system without links.
                Err(_) if fs::symlink_metadata(&self.wanted).is_err() => fs::rename(path, &self.wanted)?,
                Err(error) => return Err(error),
            },
        }
        File::open(folder(&self.wanted))?.sync_all()
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // Gone already where it was renamed.
            let _ = fs::remove_file(path);
        }
    }
}

fn folder(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Takes away what killed backups have left in a folder. What cannot be removed stays.
fn remove_parts(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_part = name.to_str().is_some_and(|name| name.starts_with(PART.0) && name.ends_with(PART.1));
        if is_part && File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    Failure::new(Exit::Refused, format!("{}: {error}", path.display()))
}
