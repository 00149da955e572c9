//! The verifiers: threads that compute password hashes, which takes tens of milliseconds each and must not stop the
//! event loop. Jobs wait in a bounded queue; results come back in a bounded channel, and `wake` wakes the event loop
//! for them.
//!
//! The threads run at a lower priority than the event loop and the store, so that a storm of logins slows logins only.
//! This calls setpriority(2): a system call filter without it must answer with an error, not with a signal.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use cp_proto::values::Password;
use cpd_core::engine::port::{RequestId, SessionId};
use cpd_core::sabotage::{self, Fault};

use super::exit::{ExitCode, Fatal};
use crate::auth::{AuthError, Costs, HashParams, Hasher, VerifyOutcome};

/// Jobs that may wait for a verifier.
pub const QUEUE_MAX_JOBS: usize = 256;
/// Further jobs of operators that may wait, so that a storm of logins does not keep them out.
pub const QUEUE_MAX_ADMIN_JOBS: usize = 16;
/// Results that may wait for the event loop; when there are more, the verifiers wait.
pub const RESULTS_MAX: usize = 256;
/// After this long without a job, a verifier frees the memory in which it computes hashes.
pub const IDLE_RELEASE_AFTER: Duration = Duration::from_secs(30);
/// The verifiers' nice value (nice(2)), unless they inherit a higher one.
pub const NICENESS: i32 = 5;

/// The hash that a password is checked against.
pub enum VerifyAgainst {
    /// The user's stored PHC string.
    Stored(String),
    /// No hash: the user is unknown, locked or throttled. The work is the same, and the password is always wrong.
    Dummy,
}

/// One piece of work.
pub enum Job {
    /// Check a password; the session `token` waits for the result.
    Verify { token: SessionId, password: Password, against: VerifyAgainst },
    /// Hash a new password for an operator's request.
    HashNew { request: RequestId, password: Password },
}

impl fmt::Debug for Job {
    /// Omits the stored hash and the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Job::Verify { token, .. } => f.debug_struct("Verify").field("token", token).finish_non_exhaustive(),
            Job::HashNew { request, .. } => f.debug_struct("HashNew").field("request", request).finish_non_exhaustive(),
        }
    }
}

/// The result of a job: one for each that was accepted and not dropped by [`AuthPool::close`] or [`AuthPool::abandon`].
#[derive(PartialEq, Eq)]
pub enum JobResult {
    /// The result of [`Job::Verify`].
    Verified {
        token: SessionId,
        ok: bool,
        /// The stored hash and its replacement, if `ok` and the stored one was computed with another cost than the
        /// current one.
        rehash: Option<Box<(String, String)>>,
        /// Why the password could not be verified, to be logged; `ok` is then false.
        problem: Option<AuthError>,
    },
    /// The result of [`Job::HashNew`].
    Hashed { request: RequestId, phc: Result<String, AuthError> },
}

impl fmt::Debug for JobResult {
    /// Omits all hashes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JobResult::Verified { token, ok, rehash, problem } => f
                .debug_struct("Verified")
                .field("token", token)
                .field("ok", ok)
                .field("rehash", &rehash.is_some())
                .field("problem", problem)
                .finish(),
            JobResult::Hashed { request, phc } => {
                f.debug_struct("Hashed").field("request", request).field("error", &phc.as_ref().err()).finish()
            }
        }
    }
}

/// Counters since the start, for the watchdog: if jobs are under way and `finished` does not change, the pool hangs.
#[derive(Debug, Default)]
pub struct PoolProgress {
    /// Jobs that were accepted.
    pub submitted: AtomicU64,
    /// Jobs that were finished, their results delivered to the channel.
    pub finished: AtomicU64,
}

struct Queue {
    jobs: VecDeque<Job>,
    /// The costs with which further jobs are computed; a reload changes them.
    costs: Arc<Costs>,
    closing: bool,
}

struct PoolShared {
    queue: Mutex<Queue>,
    filled: Condvar,
    progress: Arc<PoolProgress>,
}

impl PoolShared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // A poisoned lock is used all the same: nothing that holds it can panic half way through a change.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pool, held by the event loop.
pub struct AuthPool {
    shared: Arc<PoolShared>,
    results: Receiver<JobResult>,
    threads: Vec<JoinHandle<()>>,
}

impl fmt::Debug for AuthPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthPool").field("threads", &self.threads.len()).finish_non_exhaustive()
    }
}

impl AuthPool {
    /// Starts `threads` threads, at least one. They call `wake` after each result.
    ///
    /// # Errors
    /// [`ExitCode::System`]: a thread cannot be started.
    pub fn start(threads: usize, costs: Costs, wake: Arc<dyn Fn() + Send + Sync>) -> Result<AuthPool, Fatal> {
        let (sender, results) = sync_channel(RESULTS_MAX);
        let costs = Arc::new(costs);
        let shared = Arc::new(PoolShared {
            queue: Mutex::new(Queue { jobs: VecDeque::new(), costs: Arc::clone(&costs), closing: false }),
            filled: Condvar::new(),
            progress: Arc::default(),
        });
        let mut pool = AuthPool { shared, results, threads: Vec::new() };
        for number in 0..threads.max(1) {
            let worker = Worker {
                shared: Arc::clone(&pool.shared),
                results: sender.clone(),
                wake: Arc::clone(&wake),
                hasher: Hasher::new(Costs::clone(&costs)),
                costs: Arc::clone(&costs),
            };
            let started = std::thread::Builder::new().name(format!("auth-{number}")).spawn(move || worker.run());
            match started {
                Ok(thread) => pool.threads.push(thread),
                Err(error) => {
                    pool.close();
                    return Err(Fatal::new(ExitCode::System, format!("cannot start a password thread: {error}")));
                }
            }
        }
        Ok(pool)
    }

    /// Queues a job; an operator's goes ahead of the logins that wait. Never blocks.
    ///
    /// # Errors
    /// The queue is full, or the pool is closing: the job is returned.
    pub fn try_submit(&self, job: Job) -> Result<(), Job> {
        let mut queue = self.shared.queue();
        let waiting = queue.jobs.len();
        match &job {
            _ if queue.closing => return Err(job),
            Job::Verify { .. } if waiting < QUEUE_MAX_JOBS => queue.jobs.push_back(job),
            Job::HashNew { .. } if waiting < QUEUE_MAX_JOBS + QUEUE_MAX_ADMIN_JOBS => queue.jobs.push_front(job),
            Job::Verify { .. } | Job::HashNew { .. } => return Err(job),
        }
        self.shared.progress.submitted.fetch_add(1, Ordering::Relaxed);
        drop(queue);
        self.shared.filled.notify_one();
        Ok(())
    }

    /// The next result, if there is one.
    pub fn try_next(&self) -> Option<JobResult> {
        self.results.try_recv().ok()
    }

    /// Changes the cost of new hashes. Hashes with another cost are replaced when their users log in.
    pub fn set_params(&self, params: HashParams) {
        let mut queue = self.shared.queue();
        if queue.costs.current() != params {
            let mut costs = Costs::clone(&queue.costs);
            costs.set_current(params);
            queue.costs = Arc::new(costs);
        }
    }

    /// The counters.
    pub fn progress(&self) -> Arc<PoolProgress> {
        Arc::clone(&self.shared.progress)
    }

    /// Ends the threads without waiting for them, when the process ends and nobody needs their results. Waiting jobs
    /// are dropped.
    pub fn abandon(self) {
        let mut queue = self.shared.queue();
        queue.closing = true;
        queue.jobs.clear();
        drop(queue);
        self.shared.filled.notify_all();
    }

    /// Ends the threads, and waits for the jobs that are being computed. Waiting jobs and all results are dropped.
    pub fn close(self) {
        let AuthPool { shared, results, threads } = self;
        let mut queue = shared.queue();
        queue.closing = true;
        let waiting = std::mem::take(&mut queue.jobs);
        drop(queue);
        drop(waiting);
        // A thread that waits for room in the channel of results must not wait forever.
        drop(results);
        shared.filled.notify_all();
        for thread in threads {
            // A thread that panicked has ended the process already (panics::exit_on_panic).
            let _ = thread.join();
        }
    }
}

struct Worker {
    shared: Arc<PoolShared>,
    results: SyncSender<JobResult>,
    wake: Arc<dyn Fn() + Send + Sync>,
    hasher: Hasher,
    costs: Arc<Costs>,
}

impl Worker {
    fn run(mut self) {
        // On Linux "the calling process" of setpriority(2) is the calling thread. If it fails, logins compete with the
        // event loop at equal priority, which is slower but not wrong.
        if rustix::process::getpriority_process(None).is_ok_and(|nice| nice < NICENESS) {
            let _ = rustix::process::setpriority_process(None, NICENESS);
        }
        while let Some((job, costs)) = self.next_job() {
            if !Arc::ptr_eq(&costs, &self.costs) {
                self.hasher.set_costs(Costs::clone(&costs));
                self.costs = costs;
            }
            let done = self.compute(job);
            if self.results.send(done).is_err() {
                return;
            }
            self.shared.progress.finished.fetch_add(1, Ordering::Relaxed);
            (self.wake)();
        }
    }

    /// Waits for a job, and returns it with the costs to compute it with. `None`: the pool is closing.
    fn next_job(&mut self) -> Option<(Job, Arc<Costs>)> {
        let shared = Arc::clone(&self.shared);
        let mut queue = shared.queue();
        loop {
            if queue.closing {
                return None;
            }
            if let Some(job) = queue.jobs.pop_front() {
                return Some((job, Arc::clone(&queue.costs)));
            }
            if self.hasher.held_bytes() == 0 {
                queue = shared.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let (woken, waited) =
                shared.filled.wait_timeout(queue, IDLE_RELEASE_AFTER).unwrap_or_else(PoisonError::into_inner);
            queue = woken;
            if waited.timed_out() {
                drop(queue);
                self.hasher.release();
                queue = shared.queue();
            }
        }
    }

    fn compute(&mut self, job: Job) -> JobResult {
        match job {
            Job::HashNew { request, password } => JobResult::Hashed { request, phc: self.hasher.hash(&password) },
            Job::Verify { token, password, against: VerifyAgainst::Dummy } => {
                let leaky = sabotage::is_ordered(Fault::LeakyTime);
                let problem = if leaky { None } else { self.hasher.dummy(&password).err() };
                JobResult::Verified { token, ok: false, rehash: None, problem }
            }
            Job::Verify { token, password, against: VerifyAgainst::Stored(stored) } => {
                let (ok, renew, problem) = match self.hasher.verify(&password, &stored) {
                    Ok(VerifyOutcome::Match { rehash }) => (true, rehash, None),
                    Ok(VerifyOutcome::Mismatch) => (false, false, None),
                    Err(error) => (false, false, Some(error)),
                };
                // If no replacement can be computed, the stored hash stays: the login succeeds.
                let new = if renew { self.hasher.hash(&password).ok() } else { None };
                JobResult::Verified { token, ok, rehash: new.map(|new| Box::new((stored, new))), problem }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn cheap() -> HashParams {
        HashParams::new(64, 1).unwrap()
    }

    fn session(serial: u64) -> SessionId {
        SessionId { serial, slot: 0 }
    }

    fn password(text: &str) -> Password {
        Password::parse(text.as_bytes()).unwrap()
    }

    fn verify(serial: u64, text: &str, against: VerifyAgainst) -> Job {
        Job::Verify { token: session(serial), password: password(text), against }
    }

    /// A pool, and a channel that receives a message for each wake.
    fn pool(threads: usize) -> (AuthPool, mpsc::Receiver<()>) {
        let (sender, woken) = mpsc::channel();
        let pool =
            AuthPool::start(threads, cheap().into(), Arc::new(move || sender.send(()).unwrap_or_default())).unwrap();
        (pool, woken)
    }

    fn next(pool: &AuthPool, woken: &mpsc::Receiver<()>) -> JobResult {
        woken.recv_timeout(Duration::from_secs(60)).unwrap();
        pool.try_next().expect("a result before its wake")
    }

    fn verdict(done: JobResult) -> (u64, bool, bool, Option<AuthError>) {
        match done {
            JobResult::Verified { token, ok, rehash, problem } => (token.serial, ok, rehash.is_some(), problem),
            JobResult::Hashed { .. } => panic!("not a verdict"),
        }
    }

    #[test]
    fn passwords_are_hashed_and_verified() {
        let (pool, woken) = pool(2);
        pool.try_submit(Job::HashNew { request: RequestId(7), password: password("secret") }).unwrap();
        let JobResult::Hashed { request: RequestId(7), phc: Ok(phc) } = next(&pool, &woken) else {
            panic!("not hashed")
        };
        pool.try_submit(verify(1, "secret", VerifyAgainst::Stored(phc.clone()))).unwrap();
        assert_eq!(verdict(next(&pool, &woken)), (1, true, false, None));
        pool.try_submit(verify(2, "wrong", VerifyAgainst::Stored(phc))).unwrap();
        assert_eq!(verdict(next(&pool, &woken)), (2, false, false, None));
        pool.try_submit(verify(3, "secret", VerifyAgainst::Dummy)).unwrap();
        assert_eq!(verdict(next(&pool, &woken)), (3, false, false, None));
        pool.try_submit(verify(4, "secret", VerifyAgainst::Stored("junk".into()))).unwrap();
        assert_eq!(verdict(next(&pool, &woken)), (4, false, false, Some(AuthError::Unusable)));
        assert_eq!(pool.progress().submitted.load(Ordering::Relaxed), 5);
        assert!(pool.try_next().is_none());
        pool.close();
    }

    #[test]
    fn another_cost_gives_a_replacement_to_the_right_password_only() {
        let (pool, woken) = pool(1);
        let old = Hasher::new(cheap()).hash(&password("secret")).unwrap();
        pool.set_params(HashParams::new(128, 1).unwrap());
        pool.try_submit(verify(1, "wrong", VerifyAgainst::Stored(old.clone()))).unwrap();
        assert_eq!(verdict(next(&pool, &woken)), (1, false, false, None));
        pool.try_submit(verify(2, "secret", VerifyAgainst::Stored(old.clone()))).unwrap();
        let JobResult::Verified { ok: true, rehash: Some(pair), .. } = next(&pool, &woken) else {
            panic!("no replacement")
        };
        assert_eq!(pair.0, old);
        assert!(pair.1.starts_with("$argon2id$v=19$m=128,t=1,p=1$"));
        pool.try_submit(verify(3, "secret", VerifyAgainst::Stored(pair.1))).unwrap();
        assert_eq!(verdict(next(&pool, &woken)), (3, true, false, None));
        pool.close();
    }

    /// A pool of one thread that blocks in its first wake until the sender is dropped.
    fn held_up() -> (AuthPool, mpsc::Sender<()>, mpsc::Receiver<()>) {
        let (open, gate) = mpsc::channel::<()>();
        let (entered, inside) = mpsc::channel();
        let gate = Mutex::new(gate);
        let wake = move || {
            let _ = entered.send(());
            let _ = gate.lock().unwrap().recv();
        };
        let pool = AuthPool::start(1, cheap().into(), Arc::new(wake)).unwrap();
        pool.try_submit(verify(0, "x", VerifyAgainst::Dummy)).unwrap();
        inside.recv().unwrap();
        (pool, open, inside)
    }

    #[test]
    fn a_full_queue_gives_the_job_back() {
        let (pool, open, inside) = held_up();
        for serial in 0..QUEUE_MAX_JOBS {
            pool.try_submit(verify(u64::try_from(serial).unwrap(), "x", VerifyAgainst::Dummy)).unwrap();
        }
        let back = pool.try_submit(verify(999, "x", VerifyAgainst::Dummy));
        let Err(Job::Verify { token, password, .. }) = back else { panic!("taken") };
        assert_eq!((token, password.as_bytes()), (session(999), &b"x"[..]));
        let admin = |request| Job::HashNew { request: RequestId(request), password: self::password("x") };
        for request in 0..QUEUE_MAX_ADMIN_JOBS {
            pool.try_submit(admin(request as u64)).unwrap();
        }
        assert!(pool.try_submit(admin(999)).is_err(), "the operators' places are bounded as well");
        assert!(
            pool.try_next().is_some_and(|done| matches!(done, JobResult::Verified { .. })),
            "the one that held it up"
        );
        drop(open);
        inside.recv().unwrap();
        assert!(matches!(pool.try_next(), Some(JobResult::Hashed { .. })), "ahead of the logins");
        pool.close();
    }

    #[test]
    fn closing_drops_what_waits_and_joins() {
        let (pool, open, _inside) = held_up();
        for serial in 0..100 {
            pool.try_submit(verify(serial, "x", VerifyAgainst::Dummy)).unwrap();
        }
        let progress = pool.progress();
        let closer = std::thread::spawn(move || pool.close());
        drop(open);
        closer.join().unwrap();
        let finished = progress.finished.load(Ordering::Relaxed);
        assert!(finished <= 101 && progress.submitted.load(Ordering::Relaxed) == 101);
    }

    #[test]
    fn closing_does_not_hang_on_results_that_nobody_took() {
        let pool = AuthPool::start(2, cheap().into(), Arc::new(|| {})).unwrap();
        let progress = pool.progress();
        let mut submitted = 0;
        // More results than the channel holds: the threads block while they send.
        while submitted < RESULTS_MAX + 2 {
            match pool.try_submit(verify(0, "x", VerifyAgainst::Dummy)) {
                Ok(()) => submitted += 1,
                Err(_) => std::thread::yield_now(),
            }
        }
        while progress.finished.load(Ordering::Relaxed) < RESULTS_MAX as u64 {
            std::thread::yield_now();
        }
        pool.close();
    }

    #[test]
    fn the_threads_are_nicer_than_their_starter() {
        let own = rustix::process::getpriority_process(None).unwrap();
        let (sender, told) = mpsc::channel();
        let wake = move || sender.send(rustix::process::getpriority_process(None).unwrap()).unwrap();
        let pool = AuthPool::start(1, cheap().into(), Arc::new(wake)).unwrap();
        pool.try_submit(verify(0, "x", VerifyAgainst::Dummy)).unwrap();
        assert_eq!(told.recv().unwrap(), NICENESS.max(own));
        assert_eq!(rustix::process::getpriority_process(None).unwrap(), own, "the starter stays as it was");
        pool.close();
    }
}
