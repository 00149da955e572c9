//! What the store reports for the log of the daemon.

use std::fmt;

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
