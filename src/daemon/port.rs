//! The interface between the event loop and a store: what the loop needs, and nothing of SQLite.

use cpd_core::engine::port::{Batch, FromStore};
use cpd_store::Writer;

use super::config::Arguments;
use super::exit::{ExitCode, Fatal};
use super::store_tools::restore_command;

/// A store as the event loop sees it: it submits work, and results come later, each of which wakes the loop. Only
/// [`StorePort::close`] blocks.
pub trait StorePort: Send {
    /// Submits a batch. `false`: the store does not take work any more.
    fn submit(&mut self, batch: Batch) -> bool;
    /// The next result, if there is one.
    fn try_recv(&mut self) -> Option<FromStore>;
    /// The number of batches under way, and a number that changes while they make progress; for the watchdog.
    fn progress(&self) -> (u64, u64);
    /// Finishes what was submitted and closes the store. Returns the results that had not been received.
    fn close(self: Box<Self>) -> Vec<FromStore>;
}

/// The error with which the daemon has to end after this `result`; `None` if it does not. `queued` is the number of
/// messages in the store, for the error's text.
pub fn fatal_outcome(result: &FromStore, queued: u64, arguments: &Arguments) -> Option<Fatal> {
    match result {
        FromStore::Answers(_) | FromStore::Done(..) => None,
        FromStore::Broken(cause) => Some(Fatal::new(ExitCode::System, format!("the store failed: {cause}"))),
        FromStore::Changed { what, saved } => {
            let kept = match saved {
                true => "what was acknowledged before is in the file that cpd had open",
                false => "what was acknowledged before is at risk",
            };
            let help = match saved {
                true => "start cpd once that file is back in its place; or restore a backup",
                false => "restore a backup",
            };
            let restore = restore_command(arguments);
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
