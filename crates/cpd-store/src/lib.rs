//! The store: users and undelivered messages in one SQLite file that one thread owns.
//!
//! A [`Store`] is opened, checked and loaded once, then becomes a [`Writer`]: batches go in, and come back in order
//! once their writes are on stable storage or have failed. What the store has acknowledged survives a crash of the
//! process or of the system and a power failure. A file that is damaged is refused and left as it was found.
//!
//! The store must never: answer a write before its commit is synced, use a message id twice, keep an index of messages
//! on disk (the engine has one in memory), or let a second program open its file.

#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::unwrap_used)]

mod admin_ops;
mod backup;
mod carve;
mod compact;
mod disk_space;
mod file_checks;
mod files;
mod guard;
mod history;
mod lock;
mod log_checkpoint;
mod migration_copy;
mod pages;
mod pending_deletes;
mod reads;
mod recovery;
mod restore;
mod round;
mod row;
mod salvage;
mod schema;
mod shrink;
mod sqlite;
mod users;
mod verify;
mod watch;
mod writer;

#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::Path;

use cp_proto::values::Username;
use cpd_core::engine::port::{AddressKey, StoredMessage};
use rusqlite::Connection;

pub use file_checks::preflight;
pub use restore::{RestoreSource, Restored, restore};
pub use salvage::{DamagedStore, Salvaged};
pub use verify::{CheckReport, check};
pub use writer::{BATCHES_MAX, Progress, Writer};

/// Why a store could not be opened. cpd(8) lists the exit code of each kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenErrorKind {
    /// The file is not a store, or its contents are not what cpd wrote; it was left untouched.
    Damaged,
    /// Other users could put another file in the store's place.
    Exposed,
    /// The store was written by a later version of cpd.
    Newer,
    /// There was a store, but its file is missing.
    Gone,
    /// The write-ahead log next to the file belongs to another file; both were left untouched.
    ForeignLog,
    /// The file to restore does not exist, is not a regular file, or is the store itself.
    NoInput,
    /// Another program has the store open.
    Busy,
    /// A tool of cpd, such as a check or a restore, is working on the store.
    ToolAtWork,
    /// The store cannot be created or written at its path; for instance, the disk is full or mounted read-only.
    CannotCreate,
    /// The files belong to another user, or this process may not access them.
    Permission,
    /// The system failed to read or write.
    System,
}

/// Why a store could not be opened; `message` names the path and the cause.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenError {
    pub kind: OpenErrorKind,
    pub message: String,
}

impl OpenError {
    fn new(kind: OpenErrorKind, message: impl Into<String>) -> OpenError {
        OpenError { kind, message: message.into() }
    }

    /// Makes an error of opening from one of SQLite; `doing` is what was attempted.
    fn from_sqlite(path: &Path, doing: &str, error: &rusqlite::Error) -> OpenError {
        // SQLite reports damage also when the disk fails to read, so read the files directly to tell the two apart.
        if sqlite::open_error_kind(error) == OpenErrorKind::Damaged
            && let Err(cause) = files::read_through(path)
        {
            return OpenError::new(OpenErrorKind::System, format!("{}: {doing}: {cause}", path.display()));
        }
        if sqlite::may_be_read_only(error) && files::is_read_only(path) {
            let message =
                format!("{}: {doing}: read-only file system (SQLite {})", path.display(), sqlite::code(error));
            return OpenError::new(OpenErrorKind::CannotCreate, message);
        }
        OpenError::new(
            sqlite::open_error_kind(error),
            format!("{}: {doing}: {}", path.display(), sqlite::error_text(error)),
        )
    }

    fn from_row(path: &Path, error: &row::RowError) -> OpenError {
        match error {
            row::RowError::Damaged(what) => OpenError::new(
                OpenErrorKind::Damaged,
                format!("{}: {what}; the file was left as it is", path.display()),
            ),
            row::RowError::Sql(error) => OpenError::from_sqlite(path, "cannot read the store", error),
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for OpenError {}

/// What [`Store::load`] returns in addition to the rows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Loaded {
    /// The first message id to give out: neither it nor any higher one was ever stored.
    pub next_id: u64,
    /// The addresses from which users have logged in most recently, ordered by last login, oldest first.
    pub known_addresses: Vec<AddressKey>,
}

/// What the store reports for the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StoreEvent {
    /// A transaction failed with this cause; its inserts are refused.
    CommitFailed(String),
    /// The store was reopened after a failed commit; none of that commit's inserts is stored.
    Recovered,
    /// Inserts are refused until the disk has room again. Both numbers are in bytes.
    DiskLow { available: u64, needed: u64 },
    /// Inserts are accepted again.
    DiskOk,
    /// This many deletes could not be written; they are kept in memory and tried again.
    DeletesPending { count: usize },
    /// A row does not match its checksum, or is missing.
    DamagedRow(String),
    /// The write-ahead log could not be moved into the store's file; it grows until that succeeds.
    CheckpointFailed(String),
    /// No disk space could be reserved for deletes on a full disk.
    LogReserveFailed(String),
    /// A read failed.
    ReadFailed(String),
    /// The store's files could not be inspected, so it is unknown whether others have changed them.
    FileCheckFailed(String),
}

impl fmt::Display for StoreEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreEvent::CommitFailed(cause) => write!(f, "a commit failed: {cause}"),
            StoreEvent::Recovered => f.write_str("the store was reopened after a failed commit"),
            StoreEvent::DiskLow { available, needed } => {
                write!(f, "the disk is full: {available} bytes available, {needed} needed; messages are refused")
            }
            StoreEvent::DiskOk => f.write_str("the disk has room again; messages are taken"),
            StoreEvent::DeletesPending { count } => write!(f, "{count} deletes wait for room on the disk"),
            StoreEvent::DamagedRow(what) => write!(f, "damaged: {what}"),
            StoreEvent::CheckpointFailed(cause) => write!(f, "cannot checkpoint: {cause}"),
            StoreEvent::LogReserveFailed(cause) => {
                write!(f, "no room was set apart for deletes on a full disk: {cause}")
            }
            StoreEvent::ReadFailed(cause) => write!(f, "cannot read: {cause}"),
            StoreEvent::FileCheckFailed(cause) => write!(f, "cannot look at the store's files: {cause}"),
        }
    }
}

/// How to open a store.
pub struct StoreOptions<'a> {
    /// Create a store if it is missing, even where there was one before.
    pub recreate_missing: bool,
    /// Called repeatedly while a tool holds the store; returns whether to keep waiting for it.
    pub keep_waiting: &'a mut dyn FnMut() -> bool,
}

/// An open store whose writer thread is not running yet.
pub struct Store {
    // Declared first so that it is closed before the lock in the store's files is released.
    connection: Connection,
    watch: watch::Watch,
    files: files::StoreFiles,
    origin: files::FileOrigin,
    created: bool,
    /// Message ids below this may have been used; recorded in the file.
    reserved: u64,
    loaded: bool,
    warnings: Vec<String>,
    faults: sqlite::Faults,
}

impl Store {
    /// As [`Store::open_with_options`]: creates a store only where there never was one, and waits for tools.
    ///
    /// # Errors
    /// See [`OpenErrorKind`].
    pub fn open(path: &Path) -> Result<Store, OpenError> {
        Store::open_with_options(path, StoreOptions { recreate_missing: false, keep_waiting: &mut || true })
    }

    /// Locks the store at `path` against every other cpd, creates it if it is missing, checks its header and its
    /// tables, and migrates an older store after keeping a copy of it.
    ///
    /// # Errors
    /// See [`OpenErrorKind`].
    pub fn open_with_options(path: &Path, options: StoreOptions<'_>) -> Result<Store, OpenError> {
        Store::open_with_migrations(path, options, schema::MIGRATIONS, sqlite::Faults::default())
    }

    fn open_with_migrations(
        path: &Path,
        options: StoreOptions<'_>,
        steps: &[schema::Migration],
        mut faults: sqlite::Faults,
    ) -> Result<Store, OpenError> {
        let mut warnings = Vec::new();
        let mut files = files::StoreFiles::acquire(path, steps.len(), options.keep_waiting)?;
        let file = files.file().to_owned();
        warnings.extend(restore::finish_restore(&file, &mut files.history)?);
        let created = !files.examine(steps.len())?;
        if created && files.history.exists() && !options.recreate_missing {
            return Err(file_checks::gone_error(&file, &files.history));
        }
        if created {
            schema::create(&files)?;
        }
        let origin = files.origin()?;
        let file = files.file();
        let watch = files.watch()?;
        let connection =
            sqlite::connect(file).map_err(|e| OpenError::from_sqlite(file, "cannot open the store", &e))?;
        if let Some(from) = schema::older_version(&connection, file, steps)? {
            warnings.push(migration_copy::keep_copy(&files, &watch, &connection, (from, steps.len()), &mut faults)?);
        }
        schema::migrate(&connection, file, steps)?;
        // Only now is the file known to be a store, so only now may its mode be changed.
        warnings.extend(files.restrict_mode(&watch)?);
        Ok(Store { connection, watch, files, origin, created, reserved: 0, loaded: false, warnings, faults })
    }

    /// Whether there was no store and an empty one was created.
    pub fn was_created(&self) -> bool {
        self.created
    }

    /// What was found and repaired when the store was opened, for the log.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Reads the whole store, messages in the order of their ids, and verifies every row. Nothing is written to a store
    /// of the current version before all rows are verified.
    ///
    /// # Errors
    /// A row is damaged, or the store could not be read or written.
    pub fn load(
        &mut self,
        mut on_user: impl FnMut(Username),
        mut on_message: impl FnMut(StoredMessage),
    ) -> Result<Loaded, OpenError> {
        let file = self.files.file();
        let to_open_error = |e: row::RowError| OpenError::from_row(file, &e);
        users::each(&self.connection, None, u32::MAX, |user| on_user(user.name)).map_err(to_open_error)?;
        let mut known = users::KnownAddresses::default();
        let damaged = |what| Err(row::RowError::Damaged(what));
        users::each_seen(&self.connection, |address, at| known.insert(address, at), damaged).map_err(to_open_error)?;
        self.reserved = row::reserved(&self.connection).map_err(to_open_error)?;
        let mut last = 0;
        row::each_message(&self.connection, |message| {
            last = message.id.0;
            on_message(message);
        })
        .map_err(to_open_error)?;
        self.sync_leftovers()?;
        let next_id = self.renumber(last.saturating_add(1))?;
        self.loaded = true;
        Ok(Loaded { next_id, known_addresses: known.into_latest().collect() })
    }

    /// Gives the store's file a new number (see [`history`]) and returns the first message id to give out; `after` is
    /// one above the highest stored id. Unless the disk is full, the log is empty before and after this, so it is known
    /// to which file all later log contents belong. Each step is on stable storage before the next one begins: wherever
    /// a crash interrupts it, the next start finds a file whose number is on record.
    fn renumber(&mut self, after: u64) -> Result<u64, OpenError> {
        let file = self.files.file().to_owned();
        let read = |e| files::system_error(&file, "cannot read", &e);
        let number = self.watch.number().map_err(read)?;
        let known = self.files.history.record().map_or(0, |record| record.reserved);
        let mut first = after.max(self.reserved).max(known);
        if self.files.history.exists() && self.files.history.record().is_none() {
            let message = "cannot be made sense of; that a log belongs to another store would not have been noticed";
            self.warnings.push(format!("{}: {message}", self.files.history.path().display()));
        }
        if self.origin == files::FileOrigin::Copy {
            first = first.saturating_add(history::ID_GAP);
            let message =
                if self.created { "is a new store in the place of another" } else { "is a copy that was put here" };
            self.warnings.push(format!("{}: {message}; message ids go on at {first}", file.display()));
        }
        let next = history::new_number(number).map_err(read)?;
        let record = history::HistoryRecord { number, next_number: next, reserved: first, ..Default::default() };
        let path = self.files.history.path().to_owned();
        let cannot = |e: io::Error| files::system_error(&path, "cannot write", &e);
        self.files.history.write(record).map_err(cannot)?;
        let crash = |e: rusqlite::Error| OpenError::from_sqlite(&file, "cannot start", &e);
        self.faults.check(sqlite::FaultPoint::StartStep).map_err(crash)?;
        match self.commit_number(next, first).map_err(|error| log_checkpoint::explain_write_error(&self.files, error)) {
            Ok(()) => {}
            // The old number stays in use, or the new one is only in the log: both remain on record.
            Err(e) if sqlite::is_full(&e) => {
                self.warnings.push(format!(
                    "{}: it begins with the number it had: {}",
                    file.display(),
                    sqlite::error_text(&e)
                ));
                return Ok(first);
            }
            Err(e) => return Err(OpenError::from_sqlite(&file, "cannot write to the store", &e)),
        };
        self.files.history.write(history::HistoryRecord { number: next, next_number: 0, ..record }).map_err(cannot)?;
        Ok(first)
    }

    fn commit_number(&mut self, number: u32, reserved: u64) -> rusqlite::Result<()> {
        let transaction = self.connection.unchecked_transaction()?;
        sqlite::set_number(&transaction, number)?;
        if reserved > self.reserved {
            row::set_reserved(&transaction, reserved)?;
        }
        transaction.commit()?;
        self.faults.check(sqlite::FaultPoint::StartStep)?;
        log_checkpoint::checkpoint_all(&self.connection, &self.files)?;
        self.faults.check(sqlite::FaultPoint::StartStep)?;
        self.reserved = self.reserved.max(reserved);
        Ok(())
    }

    /// The password hashes of all users.
    ///
    /// # Errors
    /// A row is damaged or cannot be read.
    pub fn password_hashes(&self) -> Result<Vec<String>, OpenError> {
        let mut hashes = Vec::new();
        users::each(&self.connection, None, u32::MAX, |user| hashes.push(user.hash))
            .map_err(|e| OpenError::from_row(self.files.file(), &e))?;
        Ok(hashes)
    }

    /// Puts everything that an earlier process may have left unsynced on stable storage. If a power failure lost a part
    /// of the log before the first commit of this process, SQLite would ignore that commit too.
    fn sync_leftovers(&mut self) -> Result<(), OpenError> {
        let file = self.files.file();
        let kept = log_checkpoint::at_start(&self.connection, &self.files, &self.watch)
            .map_err(|e| OpenError::from_sqlite(file, "cannot sync the store", &e))?;
        self.warnings.extend(kept.map(|why| format!("{}: {why}", file.display())));
        self.files.sync_folder()
    }

    /// Starts the thread that owns the store, after loading the store if that was not done. `wake` is called when
    /// results are ready for [`Writer::try_recv`], `on_event` with each event for the log. Both are called on that
    /// thread, `on_event` also on the caller's thread before it starts.
    ///
    /// # Errors
    /// The store could not be loaded, its files could not be inspected, or the thread could not be started.
    pub fn spawn(
        mut self,
        wake: impl Fn() + Send + 'static,
        on_event: impl Fn(StoreEvent) + Send + 'static,
    ) -> std::io::Result<Writer> {
        if !self.loaded {
            self.load(|_| (), |_| ()).map_err(std::io::Error::other)?;
        }
        writer::spawn(self, Box::new(wake), Box::new(on_event))
    }
}
