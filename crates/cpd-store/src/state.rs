//! What the writer's thread keeps from one round to the next.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use cpd_core::engine::port::{AdminAnswer, Answer, FromStore, RequestId};

use super::event::StoreEvent;
use super::files::StoreFiles;
use super::held_backup::HeldBackup;
use super::progress::Progress;
use super::sqlite::Faults;
use super::watch::{FileChange, Watch};

/// The state of the writer's thread, apart from the connection. It outlives each round and each reopening.
pub struct WriterState {
    pub files: StoreFiles,
    pub watch: Watch,
    /// What others did to the store's files; `None` as long as nothing was noticed.
    pub change: Option<FileChange>,
    /// The files could not be inspected the last time, and that was reported.
    pub file_check_failing: bool,
    /// Message ids below this are recorded as used.
    pub reserved: u64,
    /// Failed commits so far. Batches made before the latest failure have their inserts refused.
    pub epoch: u32,
    /// Ids of messages whose delete has failed and is to be tried again.
    pub pending_deletes: BTreeSet<u64>,
    /// Inserts are refused for lack of disk space.
    pub disk_low: bool,
    /// Up to this byte, disk blocks are reserved for the store's file.
    pub file_reserved_to: u64,
    /// Upper bound of the length of the store's file, in bytes, once the log is moved into it.
    pub file_filled_to: u64,
    /// A write failed for lack of space although the disk has some: a quota, for instance, is used up.
    pub quota_is_used_up: bool,
    /// Bytes of the log that are not in the store's file yet.
    pub unmoved_log_bytes: u64,
    /// The last checkpoint failed, and that was reported.
    pub checkpoint_fails: bool,
    /// The finished copy that an operator may read.
    pub held_backup: Option<HeldBackup>,
    /// Copies finished so far, which is the number of the latest.
    pub last_backup: u64,
    /// A copy was requested or is being made.
    pub backup_active: bool,
    /// The request for a copy that is not begun yet.
    pub backup_requested: Option<RequestId>,
    /// The request for a shrink that is not begun yet.
    pub shrink_requested: Option<RequestId>,
    pub results: Sender<FromStore>,
    pub progress: Arc<Progress>,
    pub wake: Box<dyn Fn() + Send>,
    pub on_event: Box<dyn Fn(StoreEvent) + Send>,
    pub faults: Faults,
}

impl WriterState {
    pub fn event(&self, event: StoreEvent) {
        (self.on_event)(event);
    }

    /// Answers one operator's request at once, apart from any round.
    pub fn answer(&self, request: RequestId, answer: AdminAnswer) {
        self.send(FromStore::Answers(vec![Answer::Admin { request, answer }]));
        (self.wake)();
    }

    /// Sends a result. Failure is ignored: nobody receives results any more while the daemon shuts down.
    pub fn send(&self, result: FromStore) {
        let _ = self.results.send(result);
    }
}
