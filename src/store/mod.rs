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
mod cycle;
mod files;
mod guard;
mod reads;
mod recovery;
mod room;
mod row;
mod schema;
mod sqlite;
mod users;
mod watch;
mod writer;

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;

use rusqlite::Connection;

use crate::engine::port::StoredMessage;
use crate::proto::types::Username;

pub use writer::{BATCHES_MAX, Progress, Writer};

/// Why a store could not be opened. Each kind has its exit code in cpd(8).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenErrorKind {
    /// Not a store, or altered behind cpd's back; left untouched.
    Damaged,
    /// Written by a later cpd.
    Newer,
    /// Another program holds it.
    Busy,
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
        OpenError::new(sqlite::kind(error), format!("{}: {doing}: {}", path.display(), sqlite::text(error)))
    }

    fn row(path: &Path, error: &row::RowError) -> OpenError {
        match error {
            row::RowError::Damaged(what) => OpenError::new(
                OpenErrorKind::Damaged,
                format!("{}: {what}; the file was left as it is: restore a backup", path.display()),
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
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loaded {
    /// The first message id that was never stored, nor any after it.
    pub next_id: u64,
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

/// An open store that nothing was written to yet.
pub struct Store {
    // Closed before its place is left.
    connection: Connection,
    watch: watch::Watch,
    place: files::Place,
    /// Ids below this may have been used; kept in the file.
    reserved: u64,
    loaded: bool,
    warnings: Vec<String>,
    faults: sqlite::Faults,
}

impl Store {
    /// Locks the store at `path` against every other cpd, makes it if it is missing, checks its form and brings an
    /// older one up to date.
    pub fn open(path: &Path) -> Result<Store, OpenError> {
        let mut warnings = Vec::new();
        let place = files::Place::take(path, &mut warnings)?;
        if !place.examine()? {
            schema::create(&place)?;
        }
        let file = place.file();
        let watch = place.watch()?;
        let connection = sqlite::connect(file).map_err(|e| OpenError::sql(file, "cannot open the store", &e))?;
        schema::bring_up_to_date(&connection, file, schema::MIGRATIONS)?;
        Ok(Store { place, watch, connection, reserved: 0, loaded: false, warnings, faults: sqlite::Faults::default() })
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
        users::check_seen(&self.connection, |what| Err(row::RowError::Damaged(what))).map_err(as_open)?;
        self.reserved = row::reserved(&self.connection).map_err(as_open)?;
        let mut last = 0;
        row::each_message(&self.connection, |message| {
            last = message.id.0;
            on_message(message);
        })
        .map_err(as_open)?;
        self.settle()?;
        let next_id = self.reserved.max(last.saturating_add(1));
        self.loaded = true;
        Ok(Loaded { next_id })
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
    fn settle(&self) -> Result<(), OpenError> {
        let file = self.place.file();
        sqlite::settle(&self.connection).map_err(|e| OpenError::sql(file, "cannot sync the store", &e))?;
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
