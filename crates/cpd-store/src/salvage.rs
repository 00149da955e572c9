//! Copies the sound rows of a damaged store into a new store. The damaged store is not changed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::carve::{self, CarvedRow, Losses};
use super::history::{ID_GAP, read_history};
use super::hot_statements::{HotStatements, NewMessage};
use super::open_error::{OpenError, OpenErrorKind, system_error};
use super::pages::Pages;
use super::paths::{NEW_SUFFIX, remove_if_exists, with_suffix};
use super::{file_checks, files, lock, row, schema, sqlite, users};

/// Rows that are written per transaction.
const ROWS_PER_TRANSACTION: u64 = 20_000;

/// How much was saved and how much was lost.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Salvaged {
    pub users: u64,
    pub messages: u64,
    pub lost: Losses,
    /// The log next to the damaged store, if it belongs to another store and was left out.
    pub foreign_log: Option<PathBuf>,
}

/// A damaged store that no cpd serves, open for reading, and locked until this value is dropped. Opening it is a step
/// of its own because a cpd that root runs then continues as the user who owns the new store's folder, and that user
/// might not be able to read the old store.
pub struct DamagedStore {
    pages: Pages,
    /// Ids below this may have been used.
    reserved: u64,
    foreign_log: Option<PathBuf>,
    _lock: lock::ToolLock,
}

impl DamagedStore {
    /// Locks the store at `path` and opens it for reading.
    pub fn open(path: &Path) -> Result<DamagedStore, OpenError> {
        let file = file_checks::resolve(path)?;
        let folder = file.parent().map(Path::to_path_buf).unwrap_or_default();
        let lock = lock::for_tool(&with_suffix(&file, "-lock"), &folder, &file, false)?;
        let log = with_suffix(&file, "-wal");
        let history = read_history(&file)?;
        let foreign = matches!(files::origin(&file, &history), Err(error) if error.kind == OpenErrorKind::ForeignLog);
        let pages = Pages::open(&file, (!foreign).then_some(log.as_path())).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => {
                OpenError::new(OpenErrorKind::Gone, format!("{}: there is no store", file.display()))
            }
            _ => system_error(&file, "cannot read", &e),
        })?;
        let reserved = history.record().map_or(0, |record| record.reserved);
        Ok(DamagedStore { pages, reserved, foreign_log: foreign.then_some(log), _lock: lock })
    }

    /// Creates a store at `new`, which must not exist yet, from every row whose checksum matches. The new store belongs
    /// to this process's user.
    pub fn salvage(self, new: &Path) -> Result<Salvaged, OpenError> {
        let target = file_checks::resolve(new)?;
        if fs::symlink_metadata(&target).is_ok() {
            let message = format!("{}: already exists; nothing was written", new.display());
            return Err(OpenError::new(OpenErrorKind::CannotCreate, message));
        }
        let folder = target.parent().unwrap_or(Path::new("."));
        file_checks::check_folder(folder, Some(nix::unistd::geteuid().as_raw()))?;
        let partial_path = with_suffix(&target, NEW_SUFFIX);
        let salvaged = fill_store(&self.pages, self.reserved, &partial_path).and_then(|(mut salvaged, file)| {
            publish(&file, &partial_path, &target)?;
            salvaged.foreign_log = self.foreign_log;
            Ok(salvaged)
        });
        if salvaged.is_err() {
            for tail in ["", "-wal", "-journal"] {
                // If this fails, the next run deletes the file.
                let _ = remove_if_exists(&with_suffix(&partial_path, tail));
            }
        }
        salvaged
    }
}

/// Creates a store in the file `partial_path` and copies the sound rows of `pages` into it. Ids below `reserved` may
/// have been used. Returns what was saved, and the file.
fn fill_store(pages: &Pages, reserved: u64, partial_path: &Path) -> Result<(Salvaged, File), OpenError> {
    for tail in ["", "-wal", "-journal"] {
        let left = with_suffix(partial_path, tail);
        remove_if_exists(&left).map_err(|e| system_error(&left, "cannot delete", &e))?;
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(partial_path).map_err(|e| {
        OpenError { kind: OpenErrorKind::CannotCreate, ..system_error(partial_path, "cannot create", &e) }
    })?;
    let cannot = |e: rusqlite::Error| {
        let message = format!("{}: cannot write: {}", partial_path.display(), sqlite::error_text(&e));
        OpenError::new(OpenErrorKind::CannotCreate, message)
    };
    schema::create_schema(partial_path).map_err(cannot)?;
    let connection = sqlite::connect(partial_path).map_err(cannot)?;
    let mut copy = SalvageTarget {
        connection: &connection,
        rows: 0,
        first_free_id: reserved,
        salvaged: Salvaged::default(),
        failed: None,
    };
    copy.begin().map_err(cannot)?;
    let lost = carve::each_row(pages, |found| copy.add(found));
    let SalvageTarget { first_free_id, mut salvaged, failed, .. } = copy;
    failed.map_or(Ok(()), Err).map_err(cannot)?;
    salvaged.lost = lost;
    row::set_reserved(&connection, first_free_id.saturating_add(ID_GAP))
        .and_then(|()| connection.execute_batch("COMMIT"))
        .and_then(|()| sqlite::truncate_log(&connection))
        .and_then(|()| connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false))
        .map_err(cannot)?;
    connection.close().map_err(|(_, e)| cannot(e))?;
    Ok((salvaged, file))
}

/// The new store while it is being filled.
struct SalvageTarget<'c> {
    connection: &'c Connection,
    /// Rows handed to [`SalvageTarget::insert_row`] so far.
    rows: u64,
    /// The first id of which it is certain that no message has had it.
    first_free_id: u64,
    salvaged: Salvaged,
    /// The first error; no more rows are written after it.
    failed: Option<rusqlite::Error>,
}

impl SalvageTarget<'_> {
    fn begin(&self) -> rusqlite::Result<()> {
        self.connection.execute_batch("BEGIN IMMEDIATE")
    }

    fn add(&mut self, found: CarvedRow) {
        if self.failed.is_none() {
            self.failed = self.insert_row(found).err();
        }
    }

    fn insert_row(&mut self, found: CarvedRow) -> rusqlite::Result<()> {
        self.rows += 1;
        if self.rows.is_multiple_of(ROWS_PER_TRANSACTION) {
            self.connection.execute_batch("COMMIT")?;
            sqlite::checkpoint(self.connection)?;
            self.begin()?;
        }
        match found {
            CarvedRow::Message(message) => {
                self.first_free_id = self.first_free_id.max(message.id.saturating_add(1));
                let mut statement = self.connection.prepare_cached("SELECT 1 FROM message WHERE id = ?1")?;
                // A message that is found twice is the same one, because its checksum covers all of it.
                if statement.exists([sqlite::sqlite_integer(message.id)?])? {
                    return Ok(());
                }
                self.salvaged.messages += 1;
                HotStatements::prepare(self.connection)?.insert(&NewMessage {
                    id: message.id,
                    recipient: message.recipient.as_str(),
                    sender: message.sender.as_str(),
                    queued_at: message.queued_at,
                    body: &message.body,
                })
            }
            CarvedRow::User(user) => {
                if matches!(users::find(self.connection, user.name), Ok(Some(_))) {
                    return Ok(());
                }
                self.salvaged.users += 1;
                users::write(self.connection, &user)
            }
            CarvedRow::Seen { user, address, at } => users::write_seen(self.connection, &user, &address, at),
            CarvedRow::Mark => Ok(()),
            CarvedRow::Reserved(reserved) => {
                self.first_free_id = self.first_free_id.max(reserved);
                Ok(())
            }
        }
    }
}

/// Publishes the new store under its name, on stable storage. Never replaces anything.
fn publish(file: &File, partial_path: &Path, target: &Path) -> Result<(), OpenError> {
    let done = || -> io::Result<()> {
        file.sync_all()?;
        fs::hard_link(partial_path, target)?;
        fs::remove_file(partial_path)?;
        let (own, named) = (file.metadata()?, fs::symlink_metadata(target)?);
        match (own.dev(), own.ino()) == (named.dev(), named.ino()) {
            true => Ok(()),
            false => Err(io::Error::other("somebody has put another file in its place")),
        }
    };
    done().map_err(|e| OpenError { kind: OpenErrorKind::CannotCreate, ..system_error(target, "cannot create", &e) })?;
    files::sync_folder(target.parent().unwrap_or(Path::new(".")))
}
