//! The thread that owns the connection, and the handle to it. All batches that are waiting share one transaction: a
//! lone message pays for one sync, and a thousand that arrive together share one.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use cpd_core::engine::port::{Batch, FromStore, RequestId};
use rusqlite::Connection;

use super::backup::{self, CopyInProgress, CopyStep};
use super::compact::{self, RowCopy};
use super::copy_target::CopyTarget;
use super::event::StoreEvent;
use super::format::FRAME_BYTES;
use super::guard::FilesChanged;
use super::paths::BACKUP_SUFFIX;
use super::progress::{MarkEndedOnDrop, Progress};
use super::round::{Round, RoundOutcome};
use super::sqlite::FaultPoint;
use super::state::WriterState;
use super::store::Store;
use super::{log_checkpoint, recovery, shrink, sqlite};

/// Batches that may be in flight: submitted and not yet handed back.
pub const BATCHES_MAX: usize = 64;
/// Operations after which a round takes no further batch.
const ROUND_MAX_OPS: usize = 8192;
/// Frames not yet in the store's file above which the log is moved there even under load.
const LOG_MAX_FRAMES: u64 = 4096;
/// Idle time after which the log is moved into the file, so that the next start has little to read.
const CHECKPOINT_IDLE: Duration = Duration::from_millis(500);
/// Interval at which the files are inspected for changes by others while nothing happens.
const FILE_CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Time between attempts to write deletes that have failed.
const DELETE_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The handle to the store's thread.
#[derive(Debug)]
pub struct Writer {
    batches: Option<SyncSender<Batch>>,
    results: Receiver<FromStore>,
    thread: Option<JoinHandle<()>>,
    progress: Arc<Progress>,
    /// Batches submitted and not yet handed back by [`Writer::try_recv`].
    in_flight: usize,
    broken: bool,
}

impl Writer {
    /// Submits a batch; never waits.
    ///
    /// # Errors
    /// Returns the batch if [`BATCHES_MAX`] batches are in flight already or the thread has ended.
    pub fn submit(&mut self, batch: Batch) -> Result<(), Batch> {
        let Some(batches) = self.batches.as_ref().filter(|_| self.in_flight < BATCHES_MAX) else { return Err(batch) };
        self.progress.note_batch_submitted();
        match batches.try_send(batch) {
            Ok(()) => {
                self.in_flight += 1;
                Ok(())
            }
            Err(mpsc::TrySendError::Full(batch) | mpsc::TrySendError::Disconnected(batch)) => {
                self.progress.note_batch_not_sent();
                Err(batch)
            }
        }
    }

    /// Returns the next result, or `None` if none is ready; never waits. The end of the thread is reported once.
    pub fn try_recv(&mut self) -> Option<FromStore> {
        match self.results.try_recv() {
            Ok(result) => {
                match result {
                    FromStore::Done(..) => self.in_flight = self.in_flight.saturating_sub(1),
                    FromStore::Broken(_) | FromStore::Changed { .. } => self.broken = true,
                    FromStore::Answers(_) => {}
                }
                Some(result)
            }
            Err(TryRecvError::Disconnected) if !self.broken => {
                self.broken = true;
                Some(FromStore::Broken("the store's thread has ended".to_owned()))
            }
            Err(_) => None,
        }
    }

    /// Batches in flight: submitted and not yet handed back.
    pub fn outstanding(&self) -> usize {
        self.in_flight
    }

    /// The thread's progress, for a watchdog.
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Finishes what was submitted, checkpoints and closes. Returns the results that were not taken yet.
    pub fn close(mut self) -> Vec<FromStore> {
        self.join();
        self.results.try_iter().collect()
    }

    fn join(&mut self) {
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.join();
    }
}

impl Store {
    /// Starts the thread that owns the store, after loading the store if that was not done. `wake` is called when
    /// results are ready for [`Writer::try_recv`], `on_event` with each event for the log. Both are called on that
    /// thread, `on_event` also on the caller's thread before it starts.
    ///
    /// # Errors
    /// The store could not be loaded, its files could not be inspected, or the thread could not be started.
    pub fn spawn(
        mut self,
        wake: impl Fn() + Send + 'static,
        on_event: impl Fn(StoreEvent) + Send + 'static,
    ) -> io::Result<Writer> {
        if !self.loaded {
            self.load(|_| (), |_| ()).map_err(io::Error::other)?;
        }
        let (batches, inbox) = mpsc::sync_channel(BATCHES_MAX);
        // Not bounded here, but in effect: each batch in flight leads to a few results at most.
        let (results, outbox) = mpsc::channel();
        let progress = Arc::new(Progress::default());
        let Store { files, mut watch, connection, reserved, faults, .. } = self;
        watch.start(&connection)?;
        let core = WriterState {
            files,
            watch,
            change: None,
            file_check_failing: false,
            reserved,
            epoch: 0,
            pending_deletes: Default::default(),
            disk_low: false,
            file_reserved_to: 0,
            file_filled_to: 0,
            quota_is_used_up: false,
            // Not 0 when the start found the disk full and left the log as it was.
            unmoved_log_bytes: sqlite::log_frames(&connection).map_or(0, |(_, left)| left * FRAME_BYTES),
            checkpoint_fails: false,
            held_backup: None,
            last_backup: 0,
            backup_active: false,
            backup_requested: None,
            shrink_requested: None,
            results,
            progress: Arc::clone(&progress),
            wake: Box::new(wake),
            on_event: Box::new(on_event),
            faults,
        };
        log_checkpoint::reserve_log(&core);
        let ended = MarkEndedOnDrop(Arc::clone(&progress));
        let thread = thread::Builder::new().name("store".to_owned()).spawn(move || {
            let _ended = ended;
            run(core, connection, Inbox { batches: inbox, round: Round::default() });
        })?;
        Ok(Writer {
            batches: Some(batches),
            results: outbox,
            thread: Some(thread),
            progress,
            in_flight: 0,
            broken: false,
        })
    }
}

/// The receiver of the batches, and the round that they are collected in.
struct Inbox {
    batches: Receiver<Batch>,
    round: Round,
}

/// Why [`serve`] returned.
enum ServeExit {
    /// Keep serving, after the backup or the shrink that may have been requested.
    Continue,
    /// No more batches will come.
    Closed,
    /// The outcome of a commit is unknown; the round is not finished.
    Unknown(String),
    /// The store cannot continue, for this reason.
    Broken(String),
    /// Others changed the store's files; [`WriterState::report_change`] sends the last result.
    Changed(FilesChanged),
    /// The copy being made is complete, or has failed for this reason.
    CopyEnded(Result<(), String>),
}

fn run(mut core: WriterState, mut connection: Connection, mut inbox: Inbox) {
    loop {
        let exit = match core.shrink_requested.take() {
            Some(request) => {
                shrink::run(&mut core, &connection, request).map_or_else(ServeExit::Unknown, |()| ServeExit::Continue)
            }
            None => match core.backup_requested.take() {
                Some(request) => serve_and_copy(&mut core, &connection, &mut inbox, request),
                None => serve(&mut core, &connection, &mut inbox, None),
            },
        };
        let broken = match exit {
            ServeExit::Continue | ServeExit::CopyEnded(_) => continue,
            ServeExit::Closed => break,
            ServeExit::Broken(cause) => cause,
            ServeExit::Changed(FilesChanged) => return core.report_change(Some(&connection)),
            ServeExit::Unknown(cause) => {
                match recovery::recover(connection, &mut core, &mut inbox.round, &cause) {
                    Ok(new) => connection = new,
                    Err(_) if core.ensure_unchanged().is_err() => return core.report_change(None),
                    Err(cause) => {
                        core.send(FromStore::Broken(cause));
                        (core.wake)();
                        return;
                    }
                }
                inbox.round.hand_back(&mut core, &connection);
                continue;
            }
        };
        // The file is in doubt, so closing must not write to it, and does not: see `sqlite::connect`.
        core.send(FromStore::Broken(broken));
        (core.wake)();
        return;
    }
    // A last attempt at pending deletes: messages whose deletes are not written are delivered again.
    inbox.round.answer_reads(&mut core, &connection);
    let verdict = inbox.round.execute_writes(&mut core, &connection);
    if core.check_files(&connection).is_err() {
        return core.report_change(Some(&connection));
    }
    if let RoundOutcome::Unknown(cause) | RoundOutcome::Broken(cause) = verdict {
        core.event(StoreEvent::CommitFailed(cause));
        return;
    }
    close(&mut core, connection);
}

/// Leaves an empty log behind if possible; if not, the next start reads what is in it.
fn close(core: &mut WriterState, connection: Connection) {
    let settled = core
        .faults
        .check(FaultPoint::Checkpoint)
        .and_then(|()| log_checkpoint::at_stop(&connection, &mut core.files))
        .and_then(|()| connection.close().map_err(|(_, e)| e));
    if let Err(e) = settled {
        core.event(StoreEvent::CheckpointFailed(sqlite::error_text(&e)));
    }
}

/// Serves batches and makes a copy of the store between them. When the copy has ended, answers `request`.
fn serve_and_copy(core: &mut WriterState, connection: &Connection, inbox: &mut Inbox, request: RequestId) -> ServeExit {
    let (ended, exit) = match copy_between_batches(core, connection, inbox) {
        Ok(()) => (Some(Ok(())), ServeExit::Continue),
        Err(ServeExit::CopyEnded(ended)) => (Some(ended), ServeExit::Continue),
        Err(other) => (None, other),
    };
    backup::answer(core, request, ended);
    exit
}

/// Copies the pages of the store, then the rows of that copy once more if many of its pages are empty, and holds the
/// better of the two copies.
///
/// # Errors
/// The copy has failed, or serving has ended for another reason.
fn copy_between_batches(core: &mut WriterState, connection: &Connection, inbox: &mut Inbox) -> Result<(), ServeExit> {
    let failed = |cause| ServeExit::CopyEnded(Err(cause));
    let mut target = CopyTarget::create(&core.files, core.files.bytes()).map_err(failed)?;
    let mut pages = CopyInProgress::of_pages(connection, &mut target).map_err(failed)?;
    match serve(core, connection, inbox, Some(&mut pages)) {
        ServeExit::CopyEnded(Ok(())) => {}
        other => return Err(other),
    }
    drop(pages);
    let complete = target.close().map_err(failed)?;
    let compacted = copy_rows_between_batches(core, connection, inbox)?;
    let better = compacted.and_then(|compacted| compacted.close().ok()).unwrap_or(complete);
    backup::hold_copy(core, better).map_err(failed)
}

/// Copies the rows of the complete copy once more. `None` if that is not worthwhile or not possible; then the complete
/// copy itself is to be used.
///
/// # Errors
/// Serving has ended, for the reason returned.
fn copy_rows_between_batches(
    core: &mut WriterState,
    connection: &Connection,
    inbox: &mut Inbox,
) -> Result<Option<CopyTarget>, ServeExit> {
    // The copy is opened without a log. Once open, it needs no name, and the second copy can take that name.
    let Ok(source) = sqlite::open_immutable(&core.files.sibling(BACKUP_SUFFIX)) else { return Ok(None) };
    let Some((target, tables)) = compact::begin(&core.files, &source) else { return Ok(None) };
    {
        let prepared = compact::prepare_statements(&source, &target.connection, &tables);
        let Ok((mut selects, inserts)) = prepared else { return Ok(None) };
        let mut rows = CopyInProgress::Rows(RowCopy::new(&mut selects, inserts));
        match serve(core, connection, inbox, Some(&mut rows)) {
            ServeExit::CopyEnded(Ok(())) => {}
            ServeExit::CopyEnded(Err(_)) => return Ok(None),
            other => return Err(other),
        }
    }
    Ok(target.connection.execute_batch("COMMIT").is_ok().then_some(target))
}

/// Takes batches and executes them until there is a reason to stop. Advances `copy`, if there is one, between batches.
fn serve(
    core: &mut WriterState,
    connection: &Connection,
    inbox: &mut Inbox,
    mut copy: Option<&mut CopyInProgress<'_>>,
) -> ServeExit {
    loop {
        match next_work(core, connection, &inbox.batches, copy.as_deref_mut()) {
            NextWork::Batch(batch) => fill_round(&mut inbox.round, &inbox.batches, batch),
            NextWork::Retry => {}
            NextWork::Idle => continue,
            NextWork::Stop(exit) => return exit,
        }
        core.progress.note_step();
        inbox.round.answer_reads(core, connection);
        let left = match run_round(core, connection, &mut inbox.round) {
            Ok(left) => left,
            Err(exit) => return exit,
        };
        // On a full disk, a log that restarts at its beginning has room inside for pending deletes and for messages.
        let scarce = left > 0 && (core.disk_low || !core.pending_deletes.is_empty());
        if left > LOG_MAX_FRAMES || scarce {
            log_checkpoint::checkpoint(core, connection);
        }
        if let Err(changed) = core.ensure_unchanged() {
            return ServeExit::Changed(changed);
        }
        if core.backup_requested.is_some() || core.shrink_requested.is_some() {
            return ServeExit::Continue;
        }
    }
}

/// Executes the round's writes and answers them; returns how many frames of the log are not in the file yet.
fn run_round(core: &mut WriterState, connection: &Connection, round: &mut Round) -> Result<u64, ServeExit> {
    core.check_log_length().map_err(ServeExit::Changed)?;
    let verdict = round.execute_writes(core, connection);
    // After the sync and before the answers, so that all that is answered is in the files that the next start opens.
    core.check_files(connection).map_err(ServeExit::Changed)?;
    match verdict {
        RoundOutcome::Decided => {}
        RoundOutcome::Unknown(cause) => return Err(ServeExit::Unknown(cause)),
        RoundOutcome::Broken(cause) => return Err(ServeExit::Broken(cause)),
    }
    let (frames, left) = sqlite::log_frames(connection).unwrap_or_default();
    // A log that is completely in the file restarts at its beginning with the next commit.
    core.note_commit(if left == 0 { 0 } else { frames });
    round.hand_back(core, connection);
    core.unmoved_log_bytes = left * FRAME_BYTES;
    Ok(left)
}

/// Adds `first` to the round, then waiting batches until the round has [`ROUND_MAX_OPS`] operations.
fn fill_round(round: &mut Round, batches: &Receiver<Batch>, first: Batch) {
    let mut operations = round.add(first);
    while operations < ROUND_MAX_OPS {
        match batches.try_recv() {
            Ok(batch) => operations += round.add(batch),
            Err(_) => return,
        }
    }
}

enum NextWork {
    Batch(Batch),
    /// It is time to retry pending deletes.
    Retry,
    /// There was no batch, and housekeeping was done instead.
    Idle,
    Stop(ServeExit),
}

/// Waits for a batch, and does housekeeping if none comes. With a `copy`, copies a little instead of waiting.
fn next_work(
    core: &mut WriterState,
    connection: &Connection,
    batches: &Receiver<Batch>,
    copy: Option<&mut CopyInProgress<'_>>,
) -> NextWork {
    if let Some(copy) = copy {
        core.progress.note_step();
        match copy.step() {
            CopyStep::Complete => return NextWork::Stop(ServeExit::CopyEnded(Ok(()))),
            CopyStep::Failed(cause) => return NextWork::Stop(ServeExit::CopyEnded(Err(cause))),
            CopyStep::More => {}
        }
        return match batches.try_recv() {
            Ok(batch) => NextWork::Batch(batch),
            Err(TryRecvError::Empty) => NextWork::Idle,
            Err(TryRecvError::Disconnected) => NextWork::Stop(ServeExit::Closed),
        };
    }
    let wait = match (core.pending_deletes.is_empty(), core.unmoved_log_bytes) {
        (false, _) => DELETE_RETRY_INTERVAL,
        (true, 0) => FILE_CHECK_INTERVAL,
        (true, _) => CHECKPOINT_IDLE,
    };
    match batches.recv_timeout(wait) {
        Ok(batch) => NextWork::Batch(batch),
        Err(RecvTimeoutError::Disconnected) => NextWork::Stop(ServeExit::Closed),
        Err(RecvTimeoutError::Timeout) if !core.pending_deletes.is_empty() => NextWork::Retry,
        Err(RecvTimeoutError::Timeout) => {
            if core.unmoved_log_bytes > 0 {
                log_checkpoint::checkpoint(core, connection);
            }
            core.check_files(connection)
                .map_or_else(|changed| NextWork::Stop(ServeExit::Changed(changed)), |()| NextWork::Idle)
        }
    }
}
