//! An open store: it is locked, checked, migrated and loaded before its first write.

use std::path::Path;
use std::{fs, io};

use cp_proto::values::Username;
use cpd_core::engine::port::{AddressKey, StoredMessage};
use rusqlite::Connection;

use super::files::{FileOrigin, StoreFiles};
use super::open_error::{OpenError, OpenErrorKind, system_error};
use super::paths::NEW_SUFFIX;
use super::row::{self, RowError};
use super::schema::{self, Migration};
use super::sqlite::{self, FaultPoint, Faults};
use super::watch::Watch;
use super::{file_checks, history, log_checkpoint, migration_copy, restore, users};

/// What [`Store::load`] returns in addition to the rows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Loaded {
    /// The first message id to give out: neither it nor any higher one was ever stored.
    pub next_id: u64,
    /// The addresses from which users have logged in most recently, ordered by last login, oldest first.
    pub known_addresses: Vec<AddressKey>,
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
    pub(super) connection: Connection,
    pub(super) watch: Watch,
    pub(super) files: StoreFiles,
    origin: FileOrigin,
    created: bool,
    /// Message ids below this may have been used; recorded in the file.
    pub(super) reserved: u64,
    pub(super) loaded: bool,
    warnings: Vec<String>,
    pub(super) faults: Faults,
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
        Store::open_with_migrations(path, options, schema::MIGRATIONS, Faults::default())
    }

    pub(super) fn open_with_migrations(
        path: &Path,
        options: StoreOptions<'_>,
        steps: &[Migration],
        mut faults: Faults,
    ) -> Result<Store, OpenError> {
        let mut warnings = Vec::new();
        let mut files = StoreFiles::acquire(path, steps.len(), options.keep_waiting)?;
        let file = files.file().to_owned();
        warnings.extend(restore::finish_restore(&file, &mut files.history)?);
        let created = !files.examine(steps.len())?;
        if created && files.history.exists() && !options.recreate_missing {
            return Err(file_checks::gone_error(&file, &files.history));
        }
        if created {
            create(&files)?;
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
        let to_open_error = |e: RowError| OpenError::from_row(file, &e);
        users::each(&self.connection, None, u32::MAX, |user| on_user(user.name)).map_err(to_open_error)?;
        let mut known = users::KnownAddresses::default();
        let damaged = |what| Err(RowError::Damaged(what));
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
        let read = |e| system_error(&file, "cannot read", &e);
        let number = self.watch.number().map_err(read)?;
        let known = self.files.history.record().map_or(0, |record| record.reserved);
        let mut first = after.max(self.reserved).max(known);
        if self.files.history.exists() && self.files.history.record().is_none() {
            let message = "cannot be made sense of; that a log belongs to another store would not have been noticed";
            self.warnings.push(format!("{}: {message}", self.files.history.path().display()));
        }
        if self.origin == FileOrigin::Copy {
            first = first.saturating_add(history::ID_GAP);
            let message =
                if self.created { "is a new store in the place of another" } else { "is a copy that was put here" };
            self.warnings.push(format!("{}: {message}; message ids go on at {first}", file.display()));
        }
        let next = history::new_number(number).map_err(read)?;
        let record = history::HistoryRecord { number, next_number: next, reserved: first, ..Default::default() };
        let path = self.files.history.path().to_owned();
        let cannot = |e: io::Error| system_error(&path, "cannot write", &e);
        self.files.history.write(record).map_err(cannot)?;
        let crash = |e: rusqlite::Error| OpenError::from_sqlite(&file, "cannot start", &e);
        self.faults.check(FaultPoint::StartStep).map_err(crash)?;
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
        self.faults.check(FaultPoint::StartStep)?;
        log_checkpoint::checkpoint_all(&self.connection, &self.files)?;
        self.faults.check(FaultPoint::StartStep)?;
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
}

/// Creates an empty store. The file gets its name only when it is complete, so that a crash leaves no store or a sound
/// one.
fn create(place: &StoreFiles) -> Result<(), OpenError> {
    let cannot = |e: &io::Error| {
        let kind = match system_error(place.file(), "", e).kind {
            OpenErrorKind::Permission => OpenErrorKind::Permission,
            _ => OpenErrorKind::CannotCreate,
        };
        OpenError::new(kind, format!("{}: cannot create the store: {e}", place.file().display()))
    };
    let (path, file) = place.create_file(NEW_SUFFIX).map_err(|e| cannot(&e))?;
    schema::create_schema(&path).map_err(|e| {
        let message = format!("{}: cannot create the store: {}", place.file().display(), sqlite::error_text(&e));
        OpenError::new(OpenErrorKind::CannotCreate, message)
    })?;
    file.sync_all().map_err(|e| cannot(&e))?;
    fs::rename(&path, place.file()).map_err(|e| cannot(&e))?;
    place.sync_folder()
}
