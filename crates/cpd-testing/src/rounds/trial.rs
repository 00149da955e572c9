//! A daemon that lives many lives, its ledger, and chance.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::client::{Client, Manner, Site};
use super::load::{self, USERS};
use super::random::{self, Random};
use crate::environment::number;
use crate::ledger::{Kind, Ledger, Parting};
use crate::running::{CHEAP, Daemon, PATIENCE, Setup};

/// Every queue is downloaded to its end after so many rounds.
const DRAIN_EVERY: u64 = 5;
/// How long a round's load may last, in milliseconds.
pub const LOAD_MS: (u64, u64) = (30, 300);
/// Room for as much as the clients send.
const ROOM: &str = "limits = { queue_messages = 1000000, queue_messages_per_sender = 1000000, \
                    messages_per_sender = 1000000, messages_per_sender_minute = 10000000 }\n";
/// Violations that are shown.
const SHOWN_MAX: usize = 10;

/// How a cpd is started that keeps all that the clients send, and that may be killed before it serves.
pub fn setup() -> Setup {
    Setup::with_configuration(format!("{CHEAP}{ROOM}log.target = \"stderr\"\n")).hup_ends()
}

pub struct Trial {
    pub cpd: Daemon,
    pub ledger: Mutex<Ledger>,
    pub random: Random,
    pub seed: u64,
    begun: Instant,
    slowest_stop: Duration,
}

/// What the ledger found, and in which round.
#[derive(Debug)]
pub struct Caught {
    pub round: u64,
    /// The rules that were broken.
    pub kinds: Vec<Kind>,
    text: String,
}

impl fmt::Display for Caught {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Trial {
    /// A running daemon with an empty store, but for [`USERS`]; the password of each is its name.
    pub fn new(setup: Setup) -> Trial {
        let seed = number("SEED").unwrap_or_else(random::entropy);
        println!("SEED={seed}");
        let (ledger, random) = (Mutex::new(Ledger::default()), Random::new(seed, u64::MAX));
        let cpd = setup.start();
        USERS.iter().for_each(|user| cpd.add_user(user, user));
        Trial { cpd, ledger, random, seed, begun: Instant::now(), slowest_stop: Duration::ZERO }
    }

    pub fn book(&mut self) -> &mut Ledger {
        self.ledger.get_mut().expect("no client has failed")
    }

    /// Keeps the daemon busy for a while, then ends it.
    pub fn play(&mut self, signal: Signal) {
        let time = self.random.between(LOAD_MS.0, LOAD_MS.1);
        let orderly = signal == Signal::TERM;
        let mut signalled = Instant::now();
        self.busy(orderly, false, |site, cpd| {
            sleep(Duration::from_millis(time));
            site.book().ending();
            cpd.signal(signal);
            signalled = Instant::now();
        });
        // An orderly stop takes at most 2 s of cpd's own (cpd(8)); how long a machine lets it wait beside is not cpd's
        // to say. What was measured is among the figures.
        let status = self.cpd.ends_within(PATIENCE);
        let time = signalled.elapsed();
        let status = status.unwrap_or_else(|| panic!("it runs {time:?} after its signal: {}", self.cpd.log_tail()));
        if orderly {
            assert!(status.success(), "an orderly stop: {status}; {}", self.cpd.log_tail());
            self.slowest_stop = self.slowest_stop.max(time);
        }
        self.book().next_life(if orderly { Parting::Orderly } else { Parting::Torn });
    }

    /// Keeps the daemon busy with clients as long as `meanwhile` takes. See [`Site`] for the rest.
    pub fn busy(&mut self, orderly: bool, failing: bool, meanwhile: impl FnOnce(&Site<'_>, &mut Daemon)) {
        let seed = self.random.number();
        let site = Site { orderly, failing, ..Site::new(self.cpd.address(), &self.ledger) };
        let cpd = &mut self.cpd;
        load::run(&site, seed, &AtomicBool::new(false), || meanwhile(&site, cpd));
    }

    /// Starts the daemon again, sometimes after it was killed while it started.
    pub fn restart(&mut self) {
        while self.random.one_in(4) {
            self.cpd.relaunch();
            sleep(Duration::from_micros(self.random.between(0, 20_000)));
            self.cpd.kill();
        }
        self.start();
    }

    /// Starts the daemon and looks at what it has.
    pub fn start(&mut self) {
        self.cpd.restart().unwrap_or_else(|status| panic!("no start, {status}; {}", self.cpd.log_tail()));
        self.count();
    }

    /// Compares what cpctl says with what there can be.
    pub fn count(&mut self) {
        let queues = self.cpd.queues();
        for user in USERS {
            let queued = queues.iter().find(|(name, _)| name == user).map_or(0, |(_, queued)| *queued);
            self.book().counted(user, queued);
        }
    }

    /// Downloads everything that is there.
    pub fn drain(&mut self) {
        let site = Site::new(self.cpd.address(), &self.ledger);
        for user in USERS {
            let mut client = Client::login(&site, user).expect("the daemon is there");
            while client.download(&Manner::WHOLE, &mut self.random).expect("the daemon is there") {}
            client.close(Parting::Torn);
        }
        self.book().drained();
    }

    /// Whether anything was wrong so far.
    pub fn check(&mut self, round: u64) -> Result<(), Caught> {
        let seed = self.seed;
        let violations = self.book().violations();
        if violations.is_empty() {
            return Ok(());
        }
        let texts: Vec<&str> = violations.iter().take(SHOWN_MAX).map(|v| v.text.as_str()).collect();
        let text = format!("SEED={seed}, round {round}: {} violations:\n{}", violations.len(), texts.join("\n"));
        let mut kinds: Vec<Kind> = violations.iter().map(|violation| violation.kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        Err(Caught { round, kinds, text })
    }

    /// Plays rounds, which end the daemon each in its way, until one is found in which a promise was broken.
    pub fn rounds(&mut self, rounds: u64, mut one: impl FnMut(&mut Trial)) -> Result<(), Caught> {
        for round in 1..=rounds {
            one(self);
            self.restart();
            // When the counts are wrong already, the messages tell what is.
            if round % DRAIN_EVERY == 0 || round == rounds || self.check(round).is_err() {
                self.drain();
                self.check(round)?;
            }
        }
        Ok(())
    }

    /// What has happened, in figures. There must have been something to keep in each of `rounds`.
    pub fn figures(&mut self, rounds: u64) -> String {
        let (seconds, counts) = (self.begun.elapsed().as_secs_f64(), self.book().counts());
        assert!(counts.kept >= rounds && counts.delivered >= counts.kept, "there was no load: {counts:?}");
        let stop = match self.slowest_stop {
            Duration::ZERO => String::new(),
            time => format!("slowest stop {time:?}; "),
        };
        format!(
            "{} messages sent, {} acknowledged (240), {} delivered, of them {} without a 240; \
             again: {} without a 250, {} duplicates (allowed); {stop}{} violations; {seconds:.1} s",
            counts.sent,
            counts.kept,
            counts.delivered,
            counts.unconfirmed,
            counts.given_back,
            counts.duplicates,
            self.book().violations().len()
        )
    }
}
