//! `cpctl store backup`: the store's copy, piece by piece, into a file that is either whole or not there.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::ArgMatches;
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};

use super::client::Client;
use super::exit::{Exit, Failure};
use super::render::{count, safe};
use super::run::show;
use super::signals::Caught;
use super::{Context, Output};
use crate::control::Request;
use crate::control::answer::{Backup, BackupChunk, Done};

pub(super) fn backup(context: &Context, arguments: &ArgMatches) -> Result<Output, Failure> {
    #[derive(Serialize)]
    struct Document {
        file: String,
        bytes: u64,
    }
    let path = arguments.get_one::<PathBuf>("FILE").ok_or_else(|| Failure::new(Exit::Usage, "FILE is missing"))?;
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
    let mut partial = Partial::create(path).map_err(|e| failed(path, &e))?;
    let taken = take(&mut client, &copy, &mut partial, &caught);
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

/// Fetches the whole copy.
fn take(client: &mut Client, copy: &Backup, partial: &mut Partial, caught: &Caught) -> Result<(), Failure> {
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
        partial.file.write_all(&bytes).map_err(|e| failed(&partial.path, &e))?;
    }
    Ok(())
}

/// A file beside the one that is wanted, gone again unless it was put in its place.
struct Partial {
    file: File,
    path: PathBuf,
    wanted: PathBuf,
}

impl Partial {
    fn create(wanted: &Path) -> io::Result<Partial> {
        let name = wanted.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::IsADirectory))?;
        let mut partial = OsString::from(".");
        partial.push(name);
        partial.push(format!(".{}.part", std::process::id()));
        let path = wanted.with_file_name(partial);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Partial { file, path, wanted: wanted.to_owned() })
    }

    /// Puts the file in its place, on stable storage, if it has `bytes` bytes and nothing else has taken the place.
    fn place(&mut self, bytes: u64) -> io::Result<()> {
        self.file.sync_all()?;
        if self.file.metadata()?.len() != bytes {
            return Err(io::Error::other("the file has another length than what was written to it"));
        }
        // Unlike a rename, a link never replaces a file that somebody made meanwhile.
        match fs::hard_link(&self.path, &self.wanted) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
            // A file system without links.
            Err(_) if fs::symlink_metadata(&self.wanted).is_err() => fs::rename(&self.path, &self.wanted)?,
            Err(error) => return Err(error),
        }
        let folder = self.wanted.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Gone already where it was renamed.
        let _ = fs::remove_file(&self.path);
    }
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    Failure::new(Exit::Refused, format!("{}: {error}", path.display()))
}
