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
mod copy_target;
mod disk_space;
mod event;
mod file_checks;
mod files;
mod format;
mod guard;
mod held_backup;
mod history;
mod hot_statements;
mod lock;
mod log_checkpoint;
mod migration_copy;
mod open_error;
mod pages;
mod paths;
mod pending_deletes;
mod progress;
mod reads;
mod recovery;
mod restore;
mod round;
mod row;
mod salvage;
mod schema;
mod shrink;
mod sqlite;
mod state;
mod store;
mod transaction;
mod users;
mod verify;
mod watch;
mod writer;

#[cfg(test)]
mod tests;

pub use event::StoreEvent;
pub use file_checks::preflight;
pub use open_error::{OpenError, OpenErrorKind};
pub use progress::Progress;
pub use restore::{RestoreSource, Restored, restore};
pub use salvage::{DamagedStore, Salvaged};
pub use store::{Loaded, Store, StoreOptions};
pub use verify::{CheckReport, check};
pub use writer::{BATCHES_MAX, Writer};
