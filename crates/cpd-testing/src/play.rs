//! Clients send without a pause while somebody changes the store's files under the running cpd. What each of them was told
//! is compared with what the next start has.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::running::{Client, Daemon, PATIENCE, wait_for};

/// Clients that send, and messages that are acknowledged before the change.
const SENDERS: usize = 3;
const BEFORE: usize = 60;
/// Room in the queue for as much as is sent meanwhile.
pub const SETTINGS: &str = "limits.queue_messages = 1000000\nlimits.queue_messages_per_sender = 1000000\nlimits.messages_per_sender = 1000000\nlimits.messages_per_sender_minute = 10000000\n";

/// What the senders were told.
#[derive(Default)]
pub struct Told {
    /// Messages that had their 240.
    pub kept: BTreeSet<String>,
    /// Those of them that were sent when the change was complete.
    pub late: BTreeSet<String>,
}

/// A cpd whose store somebody is about to change.
pub fn prepare() -> Daemon {
    let daemon = Daemon::start(SETTINGS);
    for name in ["ann", "bob"] {
        daemon.add_user(name, name);
    }
    daemon
}

/// Changes the files in the daemon's folder while clients send, for as long as they are answered, and in any case until
/// `enough` were sent after it.
pub fn play(daemon: &Daemon, enough: usize, change: impl FnOnce(&Path)) -> Told {
    let (told, changed, acknowledged) = (Mutex::new(Told::default()), AtomicBool::new(false), AtomicUsize::new(0));
    let data = daemon.store().parent().expect("a folder").to_owned();
    std::thread::scope(|scope| {
        for sender in 0..SENDERS {
            let (told, changed, acknowledged) = (&told, &changed, &acknowledged);
            let mut client = daemon.connect();
            client.logs_in("ann", "ann");
            scope.spawn(move || send(&mut client, sender, enough, told, changed, acknowledged));
        }
        wait_for("messages before the change", || (acknowledged.load(Ordering::SeqCst) > BEFORE).then_some(()));
        change(&data);
        changed.store(true, Ordering::SeqCst);
    });
    told.into_inner().expect("no panic")
}

fn send(
    client: &mut Client,
    sender: usize,
    enough: usize,
    told: &Mutex<Told>,
    changed: &AtomicBool,
    acknowledged: &AtomicUsize,
) {
    let mut after = 0;
    for number in 0.. {
        let body = format!("{sender} {number}");
        let late = changed.load(Ordering::SeqCst);
        after += usize::from(late);
        if !client.says(&format!("SMSGbob:{body}")) {
            return;
        }
        let reply = client.line_within(PATIENCE).expect("an answer or the end");
        if reply.is_empty() || after > enough {
            return;
        }
        if reply.starts_with("240 ") {
            let mut told = told.lock().expect("no panic");
            if late {
                told.late.insert(body.clone());
            }
            told.kept.insert(body);
            acknowledged.fetch_add(1, Ordering::SeqCst);
        } else {
            client.asks("201", "201 ");
        }
    }
}

/// Everything in bob's queue, after a start in this folder.
pub fn next_start(folder: tempfile::TempDir) -> BTreeSet<String> {
    let daemon = Daemon::start_in(folder, SETTINGS);
    let list = daemon.cpctl(&["--json", "queue", "show", "bob", "--body"], "");
    let rows: serde_json::Value = serde_json::from_str(&list).expect("JSON");
    let rows = rows.as_array().or_else(|| rows.get("messages")?.as_array()).expect("a list");
    rows.iter().map(|row| row["body"].as_str().expect("a body").to_owned()).collect()
}
