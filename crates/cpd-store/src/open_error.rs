//! Why a store could not be opened.

use std::path::Path;
use std::{fmt, io};

use rusqlite::ErrorCode;

use super::row::RowError;
use super::{paths, sqlite};

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
    /// An error of this kind; `message` names the path and the cause.
    pub(super) fn new(kind: OpenErrorKind, message: impl Into<String>) -> OpenError {
        OpenError { kind, message: message.into() }
    }

    /// The error for the store at `path` when SQLite has failed; `doing` says what was attempted.
    pub(super) fn from_sqlite(path: &Path, doing: &str, error: &rusqlite::Error) -> OpenError {
        // SQLite reports damage also when the disk fails to read, so read the files directly to tell the two apart.
        if open_error_kind(error) == OpenErrorKind::Damaged
            && let Err(cause) = paths::read_through(path)
        {
            return OpenError::new(OpenErrorKind::System, format!("{}: {doing}: {cause}", path.display()));
        }
        if sqlite::may_be_read_only(error) && paths::is_read_only(path) {
            let message =
                format!("{}: {doing}: read-only file system (SQLite {})", path.display(), sqlite::code(error));
            return OpenError::new(OpenErrorKind::CannotCreate, message);
        }
        OpenError::new(open_error_kind(error), format!("{}: {doing}: {}", path.display(), sqlite::error_text(error)))
    }

    /// The error for the store at `path` when a row of it could not be read.
    pub(super) fn from_row(path: &Path, error: &RowError) -> OpenError {
        match error {
            RowError::Damaged(what) => OpenError::new(
                OpenErrorKind::Damaged,
                format!("{}: {what}; the file was left as it is", path.display()),
            ),
            RowError::Sql(error) => OpenError::from_sqlite(path, "cannot read the store", error),
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for OpenError {}

/// The error for a store that cannot be opened because a system call failed while `doing` something to `path`.
pub fn system_error(path: &Path, doing: &str, error: &io::Error) -> OpenError {
    let kind = match error.kind() {
        io::ErrorKind::PermissionDenied => OpenErrorKind::Permission,
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::StorageFull => OpenErrorKind::CannotCreate,
        _ => OpenErrorKind::System,
    };
    OpenError::new(kind, format!("{}: {doing}: {error}", path.display()))
}

/// The kind of an error for a store that is being opened.
pub fn open_error_kind(error: &rusqlite::Error) -> OpenErrorKind {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::TooBig | ErrorCode::TypeMismatch) => {
            OpenErrorKind::Damaged
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => OpenErrorKind::Busy,
        Some(ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => OpenErrorKind::Permission,
        Some(ErrorCode::CannotOpen) => OpenErrorKind::CannotCreate,
        Some(_) => OpenErrorKind::System,
        // Not from SQLite itself: a value is of the wrong type or out of range.
        None => OpenErrorKind::Damaged,
    }
}
