//! Batches on their way to the store: the one being filled, those ready to be submitted, and how much may be under way at
//! once.

use std::collections::VecDeque;

use crate::engine::port::{Batch, Op, Outcome};
use crate::time::Millis;

/// Batches submitted and not yet handed back, at most.
pub const BATCHES_UNDER_WAY_MAX: usize = 32;
/// Messages submitted and not yet handed back, or waiting to be submitted, at most.
const INSERTS_MAX: usize = 16_384;
/// Bytes of the bodies of these messages, at most.
const INSERT_BYTES_MAX: usize = 8 << 20;
/// How long the delete of an acknowledged or expired message may wait for another commit that it can join. Each commit
/// keeps the next pages of downloads waiting for a sync, and rewrites pages of the store's file that the deletes after it
/// rewrite again.
pub const DELETE_DELAY_MS: Millis = 30;
/// How long the record of a login may wait for one. Where thousands log in at once, a longer time would only make batches
/// that take more memory.
pub const LOGIN_DELAY_MS: Millis = 10;
/// The number of lazy writes at which they wait no longer.
const LAZY_OPS_MAX: usize = 8192;
/// Emptied batches whose memory is kept, at most.
const SPARES_MAX: usize = 8;
/// A batch whose buffers have grown beyond this is not kept.
const SPARE_BYTES_MAX: usize = 1 << 20;

/// The engine's side of the group commit: while the store is busy with one batch, the next one fills.
#[derive(Debug, Default)]
pub struct Batcher {
    filling: Batch,
    /// `filling` holds a write, so that a commit takes place anyway.
    has_writes: bool,
    /// Lazy writes: nobody waits for them.
    lazy: Vec<Op>,
    lazy_due: Millis,
    /// The lazy writes go with the next batch: somebody waits for them after all, or there are enough of them.
    flush_due: bool,
    /// Batches filled before a failed commit became known, in order.
    ready: VecDeque<Batch>,
    spares: Vec<Batch>,
    under_way: usize,
    inserts: usize,
    insert_bytes: usize,
    /// The number of failed commits that are known; see [`Batch`].
    epoch: u32,
    /// Batches not yet handed back that were filled before the last failed commit became known.
    stale_batches: usize,
}

impl Batcher {
    /// Whether another message of this many bytes can be taken now. None can until the store has refused everything
    /// that was filled before a failed commit: otherwise a message could be stored although an earlier one of the same
    /// session is refused.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.stale_batches == 0 && self.inserts < INSERTS_MAX && self.insert_bytes + bytes <= INSERT_BYTES_MAX
    }

    /// Adds a message; `op` gets the range of its body in the batch's bytes.
    pub fn insert(&mut self, body: &[u8], op: impl FnOnce(std::ops::Range<u32>) -> Op) {
        let start = offset(self.filling.bytes.len());
        self.filling.bytes.extend_from_slice(body);
        self.inserts += 1;
        self.insert_bytes += body.len();
        self.filling.ops.push(op(start..offset(self.filling.bytes.len())));
        self.has_writes = true;
    }

    /// Adds a read.
    pub fn read(&mut self, op: Op) {
        self.filling.ops.push(op);
    }

    /// Adds a write that somebody waits for.
    pub fn write(&mut self, op: Op) {
        self.filling.ops.push(op);
        self.has_writes = true;
    }

    /// Adds a lazy write, which goes at `due` together with all others: nobody waits for it unless
    /// [`Batcher::flush_lazy`] is called.
    pub fn write_lazily(&mut self, op: Op, due: Millis) {
        self.lazy_due = if self.lazy.is_empty() { due } else { self.lazy_due.min(due) };
        self.lazy.push(op);
        self.flush_due |= self.lazy.len() >= LAZY_OPS_MAX;
    }

    /// Sends the lazy writes with the next batch, because somebody waits for them.
    pub fn flush_lazy(&mut self) {
        self.flush_due = true;
    }

    /// When [`Batcher::next_batch`] has to be called for the sake of lazy writes. `None`: there are none, or too
    /// many batches are under way.
    pub fn due(&self) -> Option<Millis> {
        let possible = self.under_way < BATCHES_UNDER_WAY_MAX;
        (possible && !self.lazy.is_empty()).then_some(self.lazy_due)
    }

    /// Adds a read of the ids that `fill` appends, unless it appends none. Returns the result of `fill`.
    pub fn fetch<T>(
        &mut self,
        fill: impl FnOnce(&mut Vec<u64>) -> T,
        op: impl FnOnce(std::ops::Range<u32>) -> Op,
    ) -> T {
        let start = offset(self.filling.ids.len());
        let result = fill(&mut self.filling.ids);
        let end = offset(self.filling.ids.len());
        if end > start {
            self.filling.ops.push(op(start..end));
        }
        result
    }

    /// The next batch for the store. `None`: there is none, or too many are under way.
    pub fn next_batch(&mut self, now: Millis) -> Option<Batch> {
        if self.under_way >= BATCHES_UNDER_WAY_MAX {
            return None;
        }
        if self.has_writes || self.flush_due || now >= self.lazy_due {
            self.filling.ops.append(&mut self.lazy);
            self.flush_due = false;
        }
        let batch = match self.ready.pop_front() {
            Some(batch) => batch,
            None if self.filling.ops.is_empty() => return None,
            None => self.close_filling(),
        };
        self.under_way += 1;
        Some(batch)
    }

    /// Notes that a batch came back. After a failed commit, the store also refuses the messages that were filled until
    /// now; they keep the epoch from before the failure.
    pub fn done(&mut self, batch: &Batch, outcome: Outcome) {
        self.under_way = self.under_way.saturating_sub(1);
        for op in &batch.ops {
            if let Op::Insert { body, .. } = op {
                self.inserts = self.inserts.saturating_sub(1);
                self.insert_bytes = self.insert_bytes.saturating_sub(body.len());
            }
        }
        if outcome.epoch != self.epoch {
            if !self.filling.ops.is_empty() {
                let batch = self.close_filling();
                self.ready.push_back(batch);
            }
            self.epoch = outcome.epoch;
            self.filling.epoch = outcome.epoch;
            self.stale_batches = self.under_way + self.ready.len();
        } else if batch.epoch != self.epoch {
            self.stale_batches = self.stale_batches.saturating_sub(1);
        }
    }

    /// Keeps the memory of a batch for a later one.
    pub fn recycle(&mut self, mut batch: Batch) {
        if self.spares.len() < SPARES_MAX && batch.bytes.capacity() + batch.ops.capacity() * 64 <= SPARE_BYTES_MAX {
            batch.clear();
            self.spares.push(batch);
        }
    }

    /// Whether nothing is under way and nothing waits.
    pub fn is_idle(&self) -> bool {
        self.under_way == 0 && self.ready.is_empty() && self.filling.ops.is_empty() && self.lazy.is_empty()
    }

    fn close_filling(&mut self) -> Batch {
        let mut next = self.spares.pop().unwrap_or_default();
        next.epoch = self.epoch;
        self.has_writes = false;
        std::mem::replace(&mut self.filling, next)
    }
}

/// An offset in a batch; `INSERT_BYTES_MAX` keeps batches far below 2^32 bytes.
fn offset(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
