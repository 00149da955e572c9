//! The seam between the event loop and a store: what the loop needs, and nothing of SQLite.

use crate::engine::port::{Batch, FromStore};
use crate::store::Writer;

/// A store as the event loop sees it: work goes in, results come out later, and the loop's waker is woken for them.
/// Nothing here waits.
pub trait StorePort: Send {
    /// Takes a batch. `false`: it is not possible any more.
    fn submit(&mut self, batch: Batch) -> bool;
    /// The next result, if there is one.
    fn try_recv(&mut self) -> Option<FromStore>;
    /// Batches under way, and a number that moves while they make progress; for the watchdog.
    fn progress(&self) -> (u64, u64);
    /// Finishes what was submitted and closes.
    fn close(self: Box<Self>);
}

impl StorePort for Writer {
    fn submit(&mut self, batch: Batch) -> bool {
        Writer::submit(self, batch).is_ok()
    }

    fn try_recv(&mut self) -> Option<FromStore> {
        Writer::try_recv(self)
    }

    fn progress(&self) -> (u64, u64) {
        let progress = Writer::progress(self);
        (progress.outstanding(), progress.steps())
    }

    fn close(self: Box<Self>) {
        Writer::close(*self);
    }
}
