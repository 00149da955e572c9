//! The thread that owns the connection, and the handle to it. Everything that waits is taken into one transaction: a
//! lone message pays for one sync, a thousand at once share it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rusqlite::Connection;

use super::backup::{self, Copying, Step};
use super::cycle::{Core, Cycle, Verdict};
use super::guard::Changed;
use super::room::FRAME_BYTES;
use super::sqlite::Point;
use super::{Store, StoreEvent, recovery, settle, shrink, sqlite};
use crate::engine::port::{Batch, FromStore};

/// Batches that may be on their way: submitted and not handed back.
pub const BATCHES_MAX: usize = 64;
/// Operations after which a round takes no further batch.
const CYCLE_MAX_OPS: usize = 8192;
/// Frames of the log after which it is moved into the store's file even under load.
const LOG_MAX_FRAMES: u64 = 4096;
/// Silence after which the log is moved into the file, so that a start has little to read.
const QUIET: Duration = Duration::from_millis(500);
/// Time after which the files are looked at while nothing happens.
const LOOK: Duration = Duration::from_secs(2);
/// Time between attempts to write deletes that have failed.
const RETRY: Duration = Duration::from_secs(1);

/// How the writer's thread is doing; for a watchdog.
#[derive(Debug, Default)]
pub struct Progress {
    outstanding: AtomicU64,
    steps: AtomicU64,
    ended: AtomicBool,
}

impl Progress {
    /// Batches that were submitted and are not decided.
    pub fn outstanding(&self) -> u64 {
        self.outstanding.load(Ordering::Relaxed)
    }

    /// Moves while the thread gets on with its work. Work that is outstanding while this stands still is stuck.
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    /// The thread has ended.
    pub fn ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    pub(super) fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn done(&self) {
        self.outstanding.fetch_sub(1, Ordering::Relaxed);
        self.step();
    }
}

/// The handle to the store's thread.
#[derive(Debug)]
pub struct Writer {
    batches: Option<SyncSender<Batch>>,
    results: Receiver<FromStore>,
    thread: Option<JoinHandle<()>>,
    progress: Arc<Progress>,
    /// Batches submitted and not handed back by [`Writer::try_recv`].
    out: usize,
    broken: bool,
}

impl Writer {
    /// Hands over a batch; never waits. `Err` returns it: more than [`BATCHES_MAX`] are out, or the store is broken.
    pub fn submit(&mut self, batch: Batch) -> Result<(), Batch> {
        let Some(batches) = self.batches.as_ref().filter(|_| self.out < BATCHES_MAX) else { return Err(batch) };
        self.progress.outstanding.fetch_add(1, Ordering::Relaxed);
        match batches.try_send(batch) {
            Ok(()) => {
                self.out += 1;
                Ok(())
            }
            Err(mpsc::TrySendError::Full(batch) | mpsc::TrySendError::Disconnected(batch)) => {
                self.progress.outstanding.fetch_sub(1, Ordering::Relaxed);
                Err(batch)
            }
        }
    }

    /// The next result, if there is one; never waits.
    pub fn try_recv(&mut self) -> Option<FromStore> {
        match self.results.try_recv() {
            Ok(result) => {
                match result {
                    FromStore::Done(..) => self.out = self.out.saturating_sub(1),
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

    /// Batches that are out: submitted and not handed back.
    pub fn outstanding(&self) -> usize {
        self.out
    }

    /// What a watchdog may look at.
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

/// Starts the thread.
pub fn spawn(
    store: Store,
    wake: Box<dyn Fn() + Send>,
    on_event: Box<dyn Fn(StoreEvent) + Send>,
) -> std::io::Result<Writer> {
    let (batches, inbox) = mpsc::sync_channel(BATCHES_MAX);
    // Bounded by what is asked: each batch out brings at most three results.
    let (results, outbox) = mpsc::channel();
    let progress = Arc::new(Progress::default());
    let Store { place, mut watch, connection, reserved, faults, .. } = store;
    watch.begin(&connection)?;
    let core = Core {
        place,
        watch,
        change: None,
        unseen: false,
        reserved,
        epoch: 0,
        pending: Default::default(),
        disk_low: false,
        file_reserved: 0,
        file_filled: 0,
        quota_is_used_up: false,
        // A start on a full disk leaves the log as it is.
        log_bytes: sqlite::log(&connection).map_or(0, |(_, left)| left * FRAME_BYTES),
        checkpoint_fails: false,
        held: None,
        backups: 0,
        copying: false,
        copy_wanted: None,
        shrink_wanted: None,
        results,
        progress: Arc::clone(&progress),
        wake,
        on_event,
        faults,
    };
    reserve(&core);
    let ended = Ended(Arc::clone(&progress));
    let thread = thread::Builder::new().name("store".to_owned()).spawn(move || {
        let _ended = ended;
        run(core, connection, Inbox { batches: inbox, cycle: Cycle::default() });
    })?;
    Ok(Writer { batches: Some(batches), results: outbox, thread: Some(thread), progress, out: 0, broken: false })
}

/// Says that the thread has ended, however it ended.
struct Ended(Arc<Progress>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Relaxed);
    }
}

/// Where batches come from, and the round in which they are.
pub struct Inbox {
    batches: Receiver<Batch>,
    cycle: Cycle,
}

/// Why [`serve`] returned.
pub enum Exit {
    /// To be called again, perhaps with a copy to make.
    Again,
    /// No more batches will come.
    Closed,
    /// A commit's outcome is unknown; the cycle is not finished.
    Unknown(String),
    Broken(String),
    /// The store's files were changed by others: [`Core::end_changed`] has the last word.
    Changed(Changed),
    /// The copy that was being made is whole, or cannot be made.
    CopyOver(Result<(), String>),
}

fn run(mut core: Core, mut connection: Connection, mut inbox: Inbox) {
    loop {
        let exit = match core.shrink_wanted.take() {
            Some(request) => shrink::run(&mut core, &connection, request),
            None => match core.copy_wanted.take() {
                Some(request) => backup::copy_while_serving(&mut core, &connection, request, &mut inbox),
                None => serve(&mut core, &connection, &mut inbox, None),
            },
        };
        let broken = match exit {
            Exit::Again | Exit::CopyOver(_) => continue,
            Exit::Closed => break,
            Exit::Broken(cause) => cause,
            Exit::Changed(Changed) => return core.end_changed(Some(&connection)),
            Exit::Unknown(cause) => {
                match recovery::recover(connection, &mut core, &mut inbox.cycle, &cause) {
                    Ok(new) => connection = new,
                    Err(_) if core.unchanged().is_err() => return core.end_changed(None),
                    Err(cause) => {
                        core.send(FromStore::Broken(cause));
                        (core.wake)();
                        return;
                    }
                }
                inbox.cycle.finish(&mut core, &connection);
                continue;
            }
        };
        // Closing must not write to a file that is in doubt, and does not: see `sqlite::connect`.
        core.send(FromStore::Broken(broken));
        (core.wake)();
        return;
    }
    // Deletes that have failed get a last chance; without it their messages are delivered once more.
    inbox.cycle.begin(&mut core, &connection);
    let verdict = inbox.cycle.write(&mut core, &connection);
    if core.look(&connection).is_err() {
        return core.end_changed(Some(&connection));
    }
    if let Verdict::Unknown(cause) | Verdict::Broken(cause) = verdict {
        core.event(StoreEvent::CommitFailed(cause));
        return;
    }
    close(&mut core, connection);
}

/// Leaves an empty log behind, if that can be; else what is in it stays for the next start.
fn close(core: &mut Core, connection: Connection) {
    let settled = core
        .faults
        .at(Point::Checkpoint)
        .and_then(|()| settle::at_stop(&connection, &mut core.place))
        .and_then(|()| connection.close().map_err(|(_, e)| e));
    if let Err(e) = settled {
        core.event(StoreEvent::CheckpointFailed(sqlite::text(&e)));
    }
}

/// Takes and decides batches until there is a reason to stop. With a `copy`, goes on with that between them.
pub fn serve(core: &mut Core, connection: &Connection, inbox: &mut Inbox, copy: Option<&Copying<'_>>) -> Exit {
    loop {
        match next(core, connection, &inbox.batches, copy) {
            Next::Batch(batch) => take(&mut inbox.cycle, &inbox.batches, batch),
            Next::Retry => {}
            Next::Quiet => continue,
            Next::Stop(exit) => return exit,
        }
        core.progress.step();
        inbox.cycle.begin(core, connection);
        let left = match decide(core, connection, &mut inbox.cycle) {
            Ok(left) => left,
            Err(exit) => return exit,
        };
        // On a full disk a log that is begun anew has room inside, for deletes that found none and for messages.
        let scarce = left > 0 && (core.disk_low || !core.pending.is_empty());
        if left > LOG_MAX_FRAMES || scarce {
            checkpoint(core, connection);
        }
        if let Err(changed) = core.unchanged() {
            return Exit::Changed(changed);
        }
        if core.copy_wanted.is_some() || core.shrink_wanted.is_some() {
            return Exit::Again;
        }
    }
}

/// Executes the round's writes and answers them; returns the frames of the log that are not in the file.
fn decide(core: &mut Core, connection: &Connection, cycle: &mut Cycle) -> Result<u64, Exit> {
    core.look_at_log().map_err(Exit::Changed)?;
    let verdict = cycle.write(core, connection);
    // Behind the sync and before the answers: what is answered is in the files that a next start opens.
    core.look(connection).map_err(Exit::Changed)?;
    match verdict {
        Verdict::Decided => {}
        Verdict::Unknown(cause) => return Err(Exit::Unknown(cause)),
        Verdict::Broken(cause) => return Err(Exit::Broken(cause)),
    }
    let (frames, left) = sqlite::log(connection).unwrap_or_default();
    // One that is in the file as a whole is begun anew by the next commit.
    core.note_commit(if left == 0 { 0 } else { frames });
    cycle.finish(core, connection);
    core.log_bytes = left * FRAME_BYTES;
    Ok(left)
}

/// Puts `first` and what else waits into the round.
fn take(cycle: &mut Cycle, batches: &Receiver<Batch>, first: Batch) {
    let mut operations = cycle.take(first);
    while operations < CYCLE_MAX_OPS {
        match batches.try_recv() {
            Ok(batch) => operations += cycle.take(batch),
            Err(_) => return,
        }
    }
}

enum Next {
    Batch(Batch),
    /// Time to try the deletes again that failed.
    Retry,
    /// Housekeeping was done; look again.
    Quiet,
    Stop(Exit),
}

/// Waits for a batch, and uses the time.
fn next(core: &mut Core, connection: &Connection, batches: &Receiver<Batch>, copy: Option<&Copying<'_>>) -> Next {
    if let Some(copy) = copy {
        core.progress.step();
        match backup::step(copy) {
            Step::Whole => return Next::Stop(Exit::CopyOver(Ok(()))),
            Step::Failed(cause) => return Next::Stop(Exit::CopyOver(Err(cause))),
            Step::More => {}
        }
        return match batches.try_recv() {
            Ok(batch) => Next::Batch(batch),
            Err(TryRecvError::Empty) => Next::Quiet,
            Err(TryRecvError::Disconnected) => Next::Stop(Exit::Closed),
        };
    }
    let wait = match (core.pending.is_empty(), core.log_bytes) {
        (false, _) => RETRY,
        (true, 0) => LOOK,
        (true, _) => QUIET,
    };
    match batches.recv_timeout(wait) {
        Ok(batch) => Next::Batch(batch),
        Err(RecvTimeoutError::Disconnected) => Next::Stop(Exit::Closed),
        Err(RecvTimeoutError::Timeout) if !core.pending.is_empty() => Next::Retry,
        Err(RecvTimeoutError::Timeout) => {
            if core.log_bytes > 0 {
                checkpoint(core, connection);
            }
            core.look(connection).map_or_else(|changed| Next::Stop(Exit::Changed(changed)), |()| Next::Quiet)
        }
    }
}

/// Sets room apart for deletes on a full disk, in a log that was cut to nothing.
pub fn reserve(core: &Core) {
    if let Err(error) = core.place.reserve_log() {
        core.event(StoreEvent::NoReserve(error.to_string()));
    }
}

/// Moves the log into the file. It failing loses nothing: the log has it all, and grows.
pub fn checkpoint(core: &mut Core, connection: &Connection) {
    // Into another's file nothing is moved.
    if core.look(connection).is_err() {
        return;
    }
    core.progress.step();
    match core.faults.at(Point::Checkpoint).and_then(|()| sqlite::checkpoint(connection)) {
        Ok(frames) => {
            core.log_bytes = frames * FRAME_BYTES;
            core.checkpoint_fails = false;
            core.note_move(connection, frames == 0);
        }
        Err(e) if !core.checkpoint_fails => {
            core.checkpoint_fails = true;
            core.event(StoreEvent::CheckpointFailed(sqlite::text(&e)));
        }
        Err(_) => {}
    }
    if core.checkpoint_fails {
        core.note_move(connection, false);
    }
    core.progress.step();
}
