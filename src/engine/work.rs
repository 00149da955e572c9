//! What is on its way to the store: the batch being filled, those ready to go, and how much may be under way at once.

use std::collections::VecDeque;

use super::port::{Batch, Op, Outcome};

/// Batches given out and not handed back, at most.
pub const BATCHES_UNDER_WAY_MAX: usize = 32;
/// Messages given out or waiting to be, at most.
const INSERTS_MAX: usize = 16_384;
/// Their bodies, in bytes, at most.
const INSERT_BYTES_MAX: usize = 8 << 20;
/// Emptied batches kept for their memory.
const SPARES_MAX: usize = 8;
/// A batch that grew beyond this is not kept.
const SPARE_BYTES_MAX: usize = 1 << 20;

/// The engine's side of the group commit. While the store is busy with one batch the next one fills.
#[derive(Debug, Default)]
pub struct Work {
    filling: Batch,
    /// Filled before a failure became known, in order.
    ready: VecDeque<Batch>,
    spares: Vec<Batch>,
    under_way: usize,
    inserts: usize,
    insert_bytes: usize,
    epoch: u32,
    /// Batches not handed back that were filled before the last failure became known.
    stale: usize,
}

impl Work {
    /// Whether another message of `bytes` can be taken now. While the store has yet to refuse what was filled before a
    /// failure, none is: it could be stored behind one of the same session that is refused.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.stale == 0 && self.inserts < INSERTS_MAX && self.insert_bytes + bytes <= INSERT_BYTES_MAX
    }

    /// Adds a message; `op` gets the place of the body.
    pub fn insert(&mut self, body: &[u8], op: impl FnOnce(std::ops::Range<u32>) -> Op) {
        let start = place(self.filling.bytes.len());
        self.filling.bytes.extend_from_slice(body);
        self.inserts += 1;
        self.insert_bytes += body.len();
        self.filling.ops.push(op(start..place(self.filling.bytes.len())));
    }

    pub fn push(&mut self, op: Op) {
        self.filling.ops.push(op);
    }

    /// Adds a read of the ids that `fill` appends, unless it appends none; returns what `fill` does.
    pub fn fetch<T>(
        &mut self,
        fill: impl FnOnce(&mut Vec<u64>) -> T,
        op: impl FnOnce(std::ops::Range<u32>) -> Op,
    ) -> T {
        let start = place(self.filling.ids.len());
        let result = fill(&mut self.filling.ids);
        let end = place(self.filling.ids.len());
        if end > start {
            self.filling.ops.push(op(start..end));
        }
        result
    }

    /// The next batch for the store, if there is one and the store may get it.
    pub fn take(&mut self) -> Option<Batch> {
        if self.under_way >= BATCHES_UNDER_WAY_MAX {
            return None;
        }
        let batch = match self.ready.pop_front() {
            Some(batch) => batch,
            None if self.filling.ops.is_empty() => return None,
            None => self.cut(),
        };
        self.under_way += 1;
        Some(batch)
    }

    /// A batch came back. After a failure what was filled until now is refused by the store too.
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
                let batch = self.cut();
                self.ready.push_back(batch);
            }
            self.epoch = outcome.epoch;
            self.filling.epoch = outcome.epoch;
            self.stale = self.under_way + self.ready.len();
        } else if batch.epoch != self.epoch {
            self.stale = self.stale.saturating_sub(1);
        }
    }

    /// Takes an emptied batch back for its memory.
    pub fn recycle(&mut self, mut batch: Batch) {
        if self.spares.len() < SPARES_MAX && batch.bytes.capacity() + batch.ops.capacity() * 64 <= SPARE_BYTES_MAX {
            batch.clear();
            self.spares.push(batch);
        }
    }

    /// Whether nothing is under way and nothing waits.
    pub fn is_idle(&self) -> bool {
        self.under_way == 0 && self.ready.is_empty() && self.filling.ops.is_empty()
    }

    fn cut(&mut self) -> Batch {
        let mut next = self.spares.pop().unwrap_or_default();
        next.epoch = self.epoch;
        std::mem::replace(&mut self.filling, next)
    }
}

/// Sizes of a batch stay far below 2^32: `INSERT_BYTES_MAX`.
fn place(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
