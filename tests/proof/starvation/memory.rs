//! A control group's memory limit, lowered under load until the kernel kills cpd.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::findings::{Findings, Verdict, Wrong, found, messages};
use crate::ledger::{Ledger, Parting};
use crate::rounds::client::{Client, Manner, Site};
use crate::rounds::load::{self, USERS};
use crate::rounds::random::Random;
use crate::running::{Daemon, Setup};
use crate::wire::resident_kib;

const LIMITS: &str = "limits = { queue_messages = 1000000, queue_messages_per_sender = 1000000, messages_per_sender = 1000000, messages_per_sender_minute = 10000000 }\n";
/// By what the limit is lowered at a time.
const STEP_BYTES: u64 = 512 << 10;
/// How long cpd works under each limit.
const STEP: Duration = Duration::from_millis(20);
/// Connections made in each of them, and in all.
const CROWD_STEP: usize = 20;
const CROWD_MAX: usize = 800;
/// How long one that hardly gets on without memory is let alone.
const SQUEEZED_MAX: Duration = Duration::from_secs(5);

/// A control group of its own, removed in the end.
pub struct Group {
    path: PathBuf,
    limit: &'static str,
}

impl Group {
    pub fn make() -> Group {
        let name = format!("cpd-proof-{}", std::process::id());
        let old = Path::new("/sys/fs/cgroup/memory");
        let (root, limit) = if old.is_dir() { (old, "memory.limit_in_bytes") } else { (unified(), "memory.max") };
        let path = root.join(name);
        fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}; this test needs root", path.display()));
        Group { path, limit }
    }

    /// Whether the kernel has taken the limit: not when it is less than what it can take back.
    fn set_limit(&self, bytes: Option<u64>) -> bool {
        let unlimited = if self.limit == "memory.max" { "max" } else { "-1" };
        let text = bytes.map_or(unlimited.to_owned(), |bytes| bytes.to_string());
        fs::write(self.path.join(self.limit), text).is_ok()
    }

    fn take(&self, child: &Child) {
        fs::write(self.path.join("cgroup.procs"), child.id().to_string()).expect("taken");
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Whoever was in it is gone, though perhaps not at once.
        for _ in 0..100 {
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            sleep(Duration::from_millis(20));
        }
    }
}

fn unified() -> &'static Path {
    let root = Path::new("/sys/fs/cgroup");
    fs::write(root.join("cgroup.subtree_control"), "+memory").expect("a control group that may limit memory");
    root
}

/// Takes memory away under load, `squeezes` times; `change` has the last word on how cpd is started.
pub fn squeeze(squeezes: u64, change: impl Fn(Setup) -> Setup) -> Verdict {
    let group = Group::make();
    let ledger = Mutex::new(Ledger::default());
    let mut daemon = change(Setup::new(LIMITS)).start();
    USERS.iter().for_each(|user| daemon.add_user(user, user));
    let (mut killed, mut least, begun) = (0, u64::MAX, Instant::now());
    for round in 0..squeezes {
        group.set_limit(None);
        group.take(&daemon.child);
        let site = Site::new(daemon.address(), &ledger);
        let over = AtomicBool::new(false);
        let mut by_kernel = false;
        load::run(&site, round, &over, || {
            sleep(Duration::from_millis(100));
            let mut limit = resident_kib(daemon.id()) * 1024 * 2;
            let begun = Instant::now();
            let mut crowd = Vec::new();
            // Tighter as long as the kernel can; from there on connections make cpd ask for more.
            while daemon.runs() && begun.elapsed() < SQUEEZED_MAX {
                if group.set_limit(Some(limit)) {
                    least = least.min(limit);
                    limit = limit.saturating_sub(STEP_BYTES);
                }
                if crowd.len() < CROWD_MAX {
                    // A connection that it is too late for is no fault.
                    crowd.extend((0..CROWD_STEP).filter_map(|_| std::net::TcpStream::connect(daemon.address()).ok()));
                }
                sleep(STEP);
            }
            by_kernel = !daemon.runs();
            site.book().ending();
            // One that goes on is killed as well: what it has said must hold.
            let _ = daemon.child.kill();
        });
        use std::os::unix::process::ExitStatusExt;
        let status = daemon.ends();
        if status.signal() != Some(9) {
            return found(Wrong::Ended, format!("by itself, {status}: {}", daemon.log()));
        }
        killed += u64::from(by_kernel);
        ledger.lock().expect("no client has failed").next_life(Parting::Torn);
        group.set_limit(None);
        daemon = change(Setup::new(LIMITS).in_folder(daemon.into_folder())).start();
        drain(&daemon, &ledger)?;
    }
    let counts = ledger.into_inner().expect("no client has failed").counts();
    let figures = format!(
        "{squeezes} squeezes down to {} KiB in {:.1} s, killed by the kernel {killed} times; {} acknowledged, {} delivered",
        least / 1024,
        begun.elapsed().as_secs_f64(),
        counts.kept,
        counts.delivered
    );
    // A limit that never mattered shows nothing.
    if killed > 0 && counts.kept > 0 { Ok(figures) } else { found(Wrong::NoPressure, figures) }
}

fn drain(daemon: &Daemon, ledger: &Mutex<Ledger>) -> Result<(), Findings> {
    let site = Site::new(daemon.address(), ledger);
    for user in USERS {
        let mut client = Client::login(&site, user).expect("the daemon is there");
        while client.download(&Manner::WHOLE, &mut Random::new(0, 0)).expect("the daemon is there") {}
        client.close(Parting::Torn);
    }
    let mut book = ledger.lock().expect("no client has failed");
    book.drained();
    messages(&book)
}
