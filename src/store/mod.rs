//! The store: users and undelivered messages in one SQLite file that one thread owns.
//!
//! A [`Store`] is opened, checked and read once, then becomes a [`Writer`]: batches go in, and come back in order once
//! their writes are on stable storage or are known not to be. What the store said is kept is kept over a crash of the
//! process, of the system and of its power. A file that is damaged is refused and left as it was found.
//!
//! The room must never: answer for a write before its commit is synced, use a message id twice, hold an index of
//! messages on disk (the engine has one in memory), or let a second program at its file.

mod admin;
mod backup;
mod before;
mod carve;
mod cycle;
mod entry;
mod files;
mod guard;
mod history;
mod lock;
mod pages;
mod pending;
mod reads;
mod recovery;
mod restore;
mod room;
mod row;
mod salvage;
mod schema;
mod settle;
mod shrink;
mod sqlite;
mod squeeze;
mod users;
mod verify;
mod watch;
mod writer;

#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::Path;

use rusqlite::Connection;

use crate::engine::port::{AddressKey, StoredMessage};
use crate::proto::types::Username;

pub use entry::probe;
pub use restore::{Restored, Source, restore};
pub use salvage::{Damaged, Salvaged};
pub use verify::{Report, check};
pub use writer::{BATCHES_MAX, Progress, Writer};

/// Why a store could not be opened. Each kind has its exit code in cpd(8).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenErrorKind {
    /// Not a store, or altered behind cpd's back; left untouched.
    Damaged,
    /// Others could put something in its place.
    Exposed,
    /// Written by a later cpd.
    Newer,
    /// The file is missing where there was one.
    Gone,
    /// The log beside the file belongs to another file; both are left untouched.
    Foreign,
    /// There is no such file to restore.
    NoInput,
    /// Another program holds it.
    Busy,
    /// A tool of cpd works on it.
    InWork,
    CannotCreate,
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

    /// What an error of SQLite means for a store that is being opened.
    fn sql(path: &Path, doing: &str, error: &rusqlite::Error) -> OpenError {
        // SQLite calls a file damaged that the disk fails to read, too.
        if sqlite::kind(error) == OpenErrorKind::Damaged
            && let Err(cause) = files::read_through(path)
        {
            return OpenError::new(OpenErrorKind::System, format!("{}: {doing}: {cause}", path.display()));
        }
        if sqlite::may_be_read_only(error) && files::is_read_only(path) {
            let said = format!("{}: {doing}: read-only file system (SQLite {})", path.display(), sqlite::code(error));
            return OpenError::new(OpenErrorKind::CannotCreate, said);
        }
        OpenError::new(sqlite::kind(error), format!("{}: {doing}: {}", path.display(), sqlite::text(error)))
    }

    fn row(path: &Path, error: &row::RowError) -> OpenError {
        match error {
            row::RowError::Damaged(what) => OpenError::new(
                OpenErrorKind::Damaged,
                format!("{}: {what}; the file was left as it is", path.display()),
            ),
            row::RowError::Sql(error) => OpenError::sql(path, "cannot read the store", error),
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for OpenError {}

/// What [`Store::load`] learned beside the rows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Loaded {
    /// The first message id that was never stored, nor any after it.
    pub next_id: u64,
    /// Addresses from which users have logged in, the latest ones, in the order of their last logins.
    pub known_addresses: Vec<AddressKey>,
}

/// What the store has to say to the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StoreEvent {
    /// A transaction failed with this cause; its inserts are refused.
    CommitFailed(String),
    /// The store was closed and opened again after a failed commit, and nothing of that commit's inserts is there.
    Recovered,
    /// Inserts are refused until the disk has this much room again.
    DiskLow { available: u64, needed: u64 },
    /// Inserts are taken again.
    DiskOk,
    /// Deletes wait for a disk that takes them.
    DeletesPending { count: usize },
    /// A row does not match its checksum, or is missing.
    DamagedRow(String),
    /// The write-ahead log could not be moved into the store's file; it grows until that succeeds.
    CheckpointFailed(String),
    /// Deletes have no room of their own on a full disk.
    NoReserve(String),
    /// A read failed.
    ReadFailed(String),
    /// Whether the store's files are still the own ones could not be looked at.
    Unseen(String),
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
            StoreEvent::NoReserve(cause) => write!(f, "no room was set apart for deletes on a full disk: {cause}"),
            StoreEvent::ReadFailed(cause) => write!(f, "cannot read: {cause}"),
            StoreEvent::Unseen(cause) => write!(f, "cannot look at the store's files: {cause}"),
        }
    }
}

/// How a store is to be opened.
pub struct Opening<'a> {
    /// A store that is missing is made also where there was one.
    pub anew: bool,
    /// Asked again and again while a tool holds the store: whether to go on waiting for it.
    pub waits: &'a mut dyn FnMut() -> bool,
}

/// An open store that nothing was written to yet.
pub struct Store {
    // Closed before its place is left.
    connection: Connection,
    watch: watch::Watch,
    place: files::Place,
    origin: files::Origin,
    made: bool,
    /// Ids below this may have been used; kept in the file.
    reserved: u64,
    loaded: bool,
    warnings: Vec<String>,
    faults: sqlite::Faults,
}

impl Store {
    /// As [`Store::open_as`]: makes a store only where there never was one, and waits for tools.
    pub fn open(path: &Path) -> Result<Store, OpenError> {
        Store::open_as(path, Opening { anew: false, waits: &mut || true })
    }

    /// Locks the store at `path` against every other cpd, makes it if it is missing, checks its form and brings an
    /// older one up to date, of which a copy is kept.
    pub fn open_as(path: &Path, opening: Opening<'_>) -> Result<Store, OpenError> {
        Store::open_with(path, opening, schema::MIGRATIONS, sqlite::Faults::default())
    }

    fn open_with(
        path: &Path,
        opening: Opening<'_>,
        steps: &[schema::Migration],
        mut faults: sqlite::Faults,
    ) -> Result<Store, OpenError> {
        let mut warnings = Vec::new();
        let mut place = files::Place::take(path, steps.len(), opening.waits)?;
        let file = place.file().to_owned();
        warnings.extend(restore::finish(&file, &mut place.history)?);
        let made = !place.examine(steps.len())?;
        if made && place.history.exists() && !opening.anew {
            return Err(entry::gone(&file, &place.history));
        }
        if made {
            schema::create(&place)?;
        }
        let origin = place.origin()?;
        let file = place.file();
        let watch = place.watch()?;
        let connection = sqlite::connect(file).map_err(|e| OpenError::sql(file, "cannot open the store", &e))?;
        if let Some(from) = schema::earlier(&connection, file, steps)? {
            warnings.push(before::keep(&place, &watch, &connection, (from, steps.len()), &mut faults)?);
        }
        schema::bring_up_to_date(&connection, file, steps)?;
        // Now that it is known to be a store.
        warnings.extend(place.tighten(&watch)?);
        Ok(Store { connection, watch, place, origin, made, reserved: 0, loaded: false, warnings, faults })
    }

    /// Whether there was no store, and an empty one was made.
    pub fn was_made(&self) -> bool {
        self.made
    }

    /// What was found and put right while opening; for the log.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Reads the whole store, messages in the order of their ids, and verifies every row. Until this has succeeded
    /// nothing is written to a store of the current version.
    pub fn load(
        &mut self,
        mut on_user: impl FnMut(Username),
        mut on_message: impl FnMut(StoredMessage),
    ) -> Result<Loaded, OpenError> {
        let file = self.place.file();
        let as_open = |e: row::RowError| OpenError::row(file, &e);
        users::each(&self.connection, None, u32::MAX, |user| on_user(user.name)).map_err(as_open)?;
        let mut known = users::KnownAddresses::default();
        let damaged = |what| Err(row::RowError::Damaged(what));
        users::each_seen(&self.connection, |address, at| known.insert(address, at), damaged).map_err(as_open)?;
        self.reserved = row::reserved(&self.connection).map_err(as_open)?;
        let mut last = 0;
        row::each_message(&self.connection, |message| {
            last = message.id.0;
            on_message(message);
        })
        .map_err(as_open)?;
        self.settle()?;
        let next_id = self.begin_anew(last.saturating_add(1))?;
        self.loaded = true;
        Ok(Loaded { next_id, known_addresses: known.into_latest().collect() })
    }

    /// Gives the store a new number, and returns the first id to give out when those of the messages are below `after`.
    /// The log is empty before, and after: of which file what is written from now on is the log is known. Each step is on
    /// stable storage before the next, and wherever a crash ends this, the next start has a file that the folder knows.
    fn begin_anew(&mut self, after: u64) -> Result<u64, OpenError> {
        let file = self.place.file().to_owned();
        let read = |e| files::system(&file, "cannot read", &e);
        let number = self.watch.number().map_err(read)?;
        let known = self.place.history.record().map_or(0, |record| record.reserved);
        let mut first = after.max(self.reserved).max(known);
        if self.place.history.exists() && self.place.history.record().is_none() {
            let said = "cannot be made sense of; that a log belongs to another store would not have been noticed";
            self.warnings.push(format!("{}: {said}", self.place.history.path().display()));
        }
        if self.origin == files::Origin::Copy {
            first = first.saturating_add(history::IDS_APART);
            let said = if self.made { "is a new store in the place of another" } else { "is a copy that was put here" };
            self.warnings.push(format!("{}: {said}; message ids go on at {first}", file.display()));
        }
        let next = history::new_number(number).map_err(read)?;
        let record = history::Record { number, next, reserved: first, ..Default::default() };
        let path = self.place.history.path().to_owned();
        let cannot = |e: io::Error| files::system(&path, "cannot write", &e);
        self.place.history.write(record).map_err(cannot)?;
        let crash = |e: rusqlite::Error| OpenError::sql(&file, "cannot start", &e);
        self.faults.at(sqlite::Point::Started).map_err(crash)?;
        match self.give_number(next, first).map_err(|error| settle::full_or(&self.place, error)) {
            Ok(()) => {}
            // The old number goes on, or the new one is in the log alone: both stay on record.
            Err(e) if sqlite::is_full(&e) => {
                self.warnings.push(format!(
                    "{}: it begins with the number it had: {}",
                    file.display(),
                    sqlite::text(&e)
                ));
                return Ok(first);
            }
            Err(e) => return Err(OpenError::sql(&file, "cannot write to the store", &e)),
        };
        self.place.history.write(history::Record { number: next, next: 0, ..record }).map_err(cannot)?;
        Ok(first)
    }

    fn give_number(&mut self, number: u32, reserved: u64) -> rusqlite::Result<()> {
        let transaction = self.connection.unchecked_transaction()?;
        sqlite::set_number(&transaction, number)?;
        if reserved > self.reserved {
            row::set_reserved(&transaction, reserved)?;
        }
        transaction.commit()?;
        self.faults.at(sqlite::Point::Started)?;
        settle::moved(&self.connection, &self.place)?;
        self.faults.at(sqlite::Point::Started)?;
        self.reserved = self.reserved.max(reserved);
        Ok(())
    }

    /// The password hash of each user.
    pub fn hashes(&self) -> Result<Vec<String>, OpenError> {
        let mut hashes = Vec::new();
        users::each(&self.connection, None, u32::MAX, |user| hashes.push(user.hash))
            .map_err(|e| OpenError::row(self.place.file(), &e))?;
        Ok(hashes)
    }

    /// Puts everything that an earlier process may have left unsynced on stable storage: a hole in the log below the
    /// first commit of this process would take that commit with it.
    fn settle(&mut self) -> Result<(), OpenError> {
        let file = self.place.file();
        let kept = settle::at_start(&self.connection, &self.place, &self.watch)
            .map_err(|e| OpenError::sql(file, "cannot sync the store", &e))?;
        self.warnings.extend(kept.map(|why| format!("{}: {why}", file.display())));
        self.place.sync_folder()
    }

    /// Starts the thread that owns the store. `wake` is called when results wait in [`Writer::try_recv`], `on_event`
    /// with what belongs into the log; both on that thread, and `on_event` before it starts as well.
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
