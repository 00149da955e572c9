//! What a watchdog can see of the writer's thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What a watchdog can see of the writer's thread.
#[derive(Debug, Default)]
pub struct Progress {
    outstanding: AtomicU64,
    steps: AtomicU64,
    ended: AtomicBool,
}

impl Progress {
    /// Batches that were submitted and whose outcome is not decided yet.
    pub fn outstanding(&self) -> u64 {
        self.outstanding.load(Ordering::Relaxed)
    }

    /// A counter that advances while the thread works. If it stands still while batches are outstanding, the thread is
    /// stuck.
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    /// Whether the thread has ended.
    pub fn ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// A batch is about to be sent to the thread.
    pub(super) fn note_batch_submitted(&self) {
        self.outstanding.fetch_add(1, Ordering::Relaxed);
    }

    /// That batch could not be sent.
    pub(super) fn note_batch_not_sent(&self) {
        self.outstanding.fetch_sub(1, Ordering::Relaxed);
    }

    /// The thread has got further with its work.
    pub(super) fn note_step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// The outcome of a batch is decided.
    pub(super) fn note_batch_done(&self) {
        self.outstanding.fetch_sub(1, Ordering::Relaxed);
        self.note_step();
    }
}

/// Marks the thread as ended when dropped, even by a panic.
pub struct MarkEndedOnDrop(pub Arc<Progress>);

impl Drop for MarkEndedOnDrop {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Relaxed);
    }
}
