//! Copies what is sound of a damaged store into a new one. Of the old one nothing is changed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::carve::{self, Found, Lost};
use super::files::{self, NEW_SUFFIX, system, with_suffix};
use super::history::IDS_APART;
use super::pages::Pages;
use super::sqlite::{self, Hot, NewMessage};
use super::{OpenError, OpenErrorKind, entry, lock, row, schema, users};

/// Rows of one transaction.
const COMMIT_ROWS: u64 = 20_000;

/// What was kept, and what was not.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Salvaged {
    pub users: u64,
    pub messages: u64,
    pub lost: Lost,
    /// A log that belongs to another store, and was left out.
    pub foreign_log: Option<PathBuf>,
}

/// A damaged store that no cpd serves, open to be read by whoever may; held until this value goes.
pub struct Damaged {
    pages: Pages,
    /// Ids below this may have been used.
    known: u64,
    foreign_log: Option<PathBuf>,
    _lock: lock::ToolLock,
}

impl Damaged {
    pub fn open(path: &Path) -> Result<Damaged, OpenError> {
        let file = entry::resolve(path)?;
        let folder = file.parent().map(Path::to_path_buf).unwrap_or_default();
        let lock = lock::for_tool(&with_suffix(&file, "-lock"), &folder, &file, false)?;
        let log = with_suffix(&file, "-wal");
        let history = files::read_history(&file)?;
        let foreign = matches!(files::origin(&file, &history), Err(error) if error.kind == OpenErrorKind::Foreign);
        let pages = Pages::open(&file, (!foreign).then_some(log.as_path())).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => {
                OpenError::new(OpenErrorKind::Gone, format!("{}: there is no store", file.display()))
            }
            _ => system(&file, "cannot read", &e),
        })?;
        let known = history.record().map_or(0, |record| record.reserved);
        Ok(Damaged { pages, known, foreign_log: foreign.then_some(log), _lock: lock })
    }

    /// Makes a store at `new`, which must not exist, from every row that has its checksum. It is this process's.
    pub fn salvage(self, new: &Path) -> Result<Salvaged, OpenError> {
        let target = entry::resolve(new)?;
        if fs::symlink_metadata(&target).is_ok() {
            let said = format!("{}: already exists; nothing was written", new.display());
            return Err(OpenError::new(OpenErrorKind::CannotCreate, said));
        }
        let folder = target.parent().unwrap_or(Path::new("."));
        entry::check_folder(folder, Some(nix::unistd::geteuid().as_raw()))?;
        let made = with_suffix(&target, NEW_SUFFIX);
        let salvaged = fill(&self.pages, self.known, &made).and_then(|(mut salvaged, file)| {
            place(&file, &made, &target)?;
            salvaged.foreign_log = self.foreign_log;
            Ok(salvaged)
        });
        if salvaged.is_err() {
            for tail in ["", "-wal", "-journal"] {
                // What stays the next run takes away.
                let _ = files::remove(&with_suffix(&made, tail));
            }
        }
        salvaged
    }
}

fn fill(pages: &Pages, known: u64, made: &Path) -> Result<(Salvaged, File), OpenError> {
    for tail in ["", "-wal", "-journal"] {
        let left = with_suffix(made, tail);
        files::remove(&left).map_err(|e| system(&left, "cannot delete", &e))?;
    }
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(made)
        .map_err(|e| OpenError { kind: OpenErrorKind::CannotCreate, ..system(made, "cannot create", &e) })?;
    let cannot = |e: rusqlite::Error| {
        let said = format!("{}: cannot write: {}", made.display(), sqlite::text(&e));
        OpenError::new(OpenErrorKind::CannotCreate, said)
    };
    schema::fill(made).map_err(cannot)?;
    let connection = sqlite::connect(made).map_err(cannot)?;
    let mut copy = Copy { connection: &connection, rows: 0, first: known, salvaged: Salvaged::default(), failed: None };
    copy.begin().map_err(cannot)?;
    let lost = carve::rows(pages, |found| copy.add(found));
    let Copy { first, mut salvaged, failed, .. } = copy;
    failed.map_or(Ok(()), Err).map_err(cannot)?;
    salvaged.lost = lost;
    row::set_reserved(&connection, first.saturating_add(IDS_APART))
        .and_then(|()| connection.execute_batch("COMMIT"))
        .and_then(|()| sqlite::settle(&connection))
        .and_then(|()| connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false))
        .map_err(cannot)?;
    connection.close().map_err(|(_, e)| cannot(e))?;
    Ok((salvaged, file))
}

/// The new store while it is filled.
struct Copy<'c> {
    connection: &'c Connection,
    rows: u64,
    /// The first id that no message had.
    first: u64,
    salvaged: Salvaged,
    failed: Option<rusqlite::Error>,
}

impl Copy<'_> {
    fn begin(&self) -> rusqlite::Result<()> {
        self.connection.execute_batch("BEGIN IMMEDIATE")
    }

    fn add(&mut self, found: Found) {
        if self.failed.is_none() {
            self.failed = self.put(found).err();
        }
    }

    fn put(&mut self, found: Found) -> rusqlite::Result<()> {
        self.rows += 1;
        if self.rows.is_multiple_of(COMMIT_ROWS) {
            self.connection.execute_batch("COMMIT")?;
            sqlite::checkpoint(self.connection)?;
            self.begin()?;
        }
        match found {
            Found::Message(letter) => {
                self.first = self.first.max(letter.id.saturating_add(1));
                let mut statement = self.connection.prepare_cached("SELECT 1 FROM message WHERE id = ?1")?;
                // Found twice, it is the same: the checksum is over all of it.
                if statement.exists([sqlite::rowid(letter.id)?])? {
                    return Ok(());
                }
                self.salvaged.messages += 1;
                Hot::prepare(self.connection)?.insert(&NewMessage {
                    id: letter.id,
                    recipient: letter.recipient.as_str(),
                    sender: letter.sender.as_str(),
                    queued_at: letter.queued_at,
                    body: &letter.body,
                })
            }
            Found::User(user) => {
                if matches!(users::find(self.connection, user.name), Ok(Some(_))) {
                    return Ok(());
                }
                self.salvaged.users += 1;
                users::write(self.connection, &user)
            }
            Found::Seen { user, address, at } => users::write_seen(self.connection, &user, &address, at),
            Found::Mark => Ok(()),
            Found::Reserved(reserved) => {
                self.first = self.first.max(reserved);
                Ok(())
            }
        }
    }
}

/// Gives the new store its name, on stable storage. Never replaces anything.
fn place(file: &File, made: &Path, target: &Path) -> Result<(), OpenError> {
    let done = || -> io::Result<()> {
        file.sync_all()?;
        fs::hard_link(made, target)?;
        fs::remove_file(made)?;
        let (own, named) = (file.metadata()?, fs::symlink_metadata(target)?);
        match (own.dev(), own.ino()) == (named.dev(), named.ino()) {
            true => Ok(()),
            false => Err(io::Error::other("somebody has put another file in its place")),
        }
    };
    done().map_err(|e| OpenError { kind: OpenErrorKind::CannotCreate, ..system(target, "cannot create", &e) })?;
    files::sync_folder(target.parent().unwrap_or(Path::new(".")))
}
