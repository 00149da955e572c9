//! The seam between the event loop and a store: what the loop needs, and nothing of SQLite.

use super::config::Arguments;
use super::exit::{ExitCode, Fatal};
use super::store_tools::restoring;
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
    /// Finishes what was submitted and closes. Returns what was not received yet.
    fn close(self: Box<Self>) -> Vec<FromStore>;
}

/// With what the daemon ends after this `result`, if it has to; `queued` messages wait in the store.
pub fn last_word(result: &FromStore, queued: u64, arguments: &Arguments) -> Option<Fatal> {
    match result {
        FromStore::Answers(_) | FromStore::Done(..) => None,
        FromStore::Broken(cause) => Some(Fatal::new(ExitCode::System, format!("the store cannot go on: {cause}"))),
        FromStore::Changed { what, saved } => {
            let kept = match saved {
                true => "what was acknowledged before is in the file that cpd had open",
                false => "what was acknowledged before is at risk",
            };
            let help = match saved {
                true => "put that in its place, if it is not there, and start cpd; or to restore a backup",
                false => "to restore a backup",
            };
            let restore = restoring(arguments);
            let said = format!("{what} while cpd ran; {kept} ({queued} messages queued): {help}: {restore}");
            Some(Fatal::new(ExitCode::DamagedStore, said))
        }
    }
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

    fn close(self: Box<Self>) -> Vec<FromStore> {
        Writer::close(*self)
    }
}
