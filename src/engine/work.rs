//! What is on its way to the store: the batch being filled, those ready to go, and how much may be under way at once.

use std::collections::VecDeque;

use super::port::{Batch, Op, Outcome};
use crate::proto::types::Millis;

/// Batches given out and not handed back, at most.
pub const BATCHES_UNDER_WAY_MAX: usize = 32;
/// Messages given out or waiting to be, at most.
const INSERTS_MAX: usize = 16_384;
/// Their bodies, in bytes, at most.
const INSERT_BYTES_MAX: usize = 8 << 20;
/// How long a write that nobody waits for may wait for company: most deletes cost a commit of their own otherwise.
const LAZY_MS: Millis = 10;
/// So many of them are company enough.
const LAZY_MAX: usize = 4096;
/// Emptied batches kept for their memory.
const SPARES_MAX: usize = 8;
/// A batch that grew beyond this is not kept.
const SPARE_BYTES_MAX: usize = 1 << 20;

/// The engine's side of the group commit. While the store is busy with one batch the next one fills.
#[derive(Debug, Default)]
pub struct Work {
    filling: Batch,
    /// `filling` holds a write, so that a commit is due anyway.
    writes: bool,
    /// Writes that nobody waits for.
    lazy: Vec<Op>,
    lazy_due: Millis,
    /// Somebody waits for them now.
    hurry: bool,
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
        self.writes = true;
    }

    /// Adds a read.
    pub fn read(&mut self, op: Op) {
        self.filling.ops.push(op);
    }

    /// Adds a write that somebody waits for.
    pub fn write(&mut self, op: Op) {
        self.filling.ops.push(op);
        self.writes = true;
    }

    /// Adds a write for which nobody waits, unless [`Work::hurry`] is called.
    pub fn write_lazily(&mut self, op: Op, now: Millis) {
        if self.lazy.is_empty() {
            self.lazy_due = now + LAZY_MS;
        }
        self.lazy.push(op);
        self.hurry |= self.lazy.len() >= LAZY_MAX;
    }

    /// Somebody waits for what was written lazily.
    pub fn hurry(&mut self) {
        self.hurry = true;
    }

    /// When [`Work::take`] has something to give although nobody adds to it.
    pub fn due(&self) -> Option<Millis> {
        let possible = self.under_way < BATCHES_UNDER_WAY_MAX;
        (possible && !self.lazy.is_empty()).then_some(self.lazy_due)
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
    pub fn take(&mut self, now: Millis) -> Option<Batch> {
        if self.under_way >= BATCHES_UNDER_WAY_MAX {
            return None;
        }
        if self.writes || self.hurry || now >= self.lazy_due {
            self.filling.ops.append(&mut self.lazy);
            self.hurry = false;
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
        self.under_way == 0 && self.ready.is_empty() && self.filling.ops.is_empty() && self.lazy.is_empty()
    }

    fn cut(&mut self) -> Batch {
        let mut next = self.spares.pop().unwrap_or_default();
        next.epoch = self.epoch;
        self.writes = false;
        std::mem::replace(&mut self.filling, next)
    }
}

/// Sizes of a batch stay far below 2^32: `INSERT_BYTES_MAX`.
fn place(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
