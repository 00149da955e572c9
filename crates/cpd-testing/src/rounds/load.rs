//! What the clients do while the daemon lives: senders, downloaders, and both in one, with every bad habit.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use super::client::{Client, Manner, Over, Site};
use super::random::Random;
use crate::ledger::Parting;

/// Who is there. Names that begin alike, of one byte and of ten.
pub const USERS: [&str; 8] = ["a", "ann", "anna", "Ann", "bob", "0", "x.y_z-9", "ten_bytes1"];
/// Connections at once.
pub const CLIENTS: u64 = 36;
const MESSAGE_MAX_BYTES: usize = 1009;
/// SMSGs written ahead of their answers, at most.
const BURST_MAX: u64 = 24;

/// Number of the next message: what makes bodies differ.
static NEXT_BODY: AtomicU64 = AtomicU64::new(0);

/// Runs all clients until the daemon ends or `over` is set, and calls `meanwhile` on this thread.
pub fn run(site: &Site<'_>, seed: u64, over: &AtomicBool, meanwhile: impl FnOnce()) {
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            scope.spawn(move || {
                let mut random = Random::new(seed, number);
                while !over.load(Ordering::Relaxed) {
                    let user = USERS[number as usize % USERS.len()];
                    // `Over` only says that the connection is: the next one is made, or the round has ended.
                    let _ = one_connection(site, user, number % 3, over, &mut random);
                    thread::sleep(Duration::from_millis(1));
                }
            });
        }
        meanwhile();
        over.store(true, Ordering::Relaxed);
    });
}

/// `habit`: 0 sends, 1 downloads, 2 does both by turns.
fn one_connection(site: &Site<'_>, user: &str, habit: u64, over: &AtomicBool, random: &mut Random) -> Result<(), Over> {
    let mut client = Client::login(site, user)?;
    while !over.load(Ordering::Relaxed) {
        let sends = habit == 0 || (habit == 2 && random.one_in(3));
        if !sends {
            if !client.download(&manner(random), random)? {
                thread::sleep(Duration::from_millis(random.between(0, 3)));
            }
            continue;
        }
        let messages = messages(random);
        if random.one_in(100) {
            return Err(client.send_and_go(&messages, random));
        }
        client.send(&messages)?;
        thread::sleep(Duration::from_millis(random.between(0, 4)));
    }
    // Not all at once at the end of a round: some are in the middle of things when the daemon dies.
    client.download(&manner(random), random)?;
    client.close(Parting::Torn);
    Ok(())
}

fn messages(random: &mut Random) -> Vec<(&'static str, String)> {
    let count = if random.one_in(2) { 1 } else { random.between(2, BURST_MAX) };
    let mut recipients: Vec<&str> = USERS.to_vec();
    if random.one_in(50) {
        recipients.push("nobody");
    }
    // A burst to one user shows the order, one to all spreads over batches.
    let one = *random.pick(&recipients);
    let to_one = random.one_in(2);
    (0..count).map(|_| (if to_one { one } else { *random.pick(&recipients) }, body(random))).collect()
}

fn manner(random: &mut Random) -> Manner {
    let mut manner = Manner { lazily: random.one_in(2), reject_one_in: 60, drop_one_in: 60, ..Manner::WHOLE };
    match random.between(0, 5) {
        0 => manner.window = None,
        1 => manner.wait = Some(1),
        2 => (manner.reject_one_in, manner.drop_one_in) = (0, 0),
        _ => manner.window = Some(random.between(1, 64) as usize),
    }
    manner
}

/// A body that no other message has, of one byte and more, often of the full length.
pub fn body(random: &mut Random) -> String {
    const PIECES: [&str; 8] = ["a", " ", "7", "\t", "~", "\u{e9}", "\u{65e5}", "\u{1f426}"];
    let mut body = format!("{:x}", NEXT_BODY.fetch_add(1, Ordering::Relaxed));
    let length = match random.between(0, 9) {
        0 => 0,
        1 => MESSAGE_MAX_BYTES,
        _ => random.between(1, 200) as usize,
    };
    // What follows the number must not make it another one.
    body.push_str(if length > body.len() { "." } else { "" });
    while body.len() < length {
        let piece = random.pick(&PIECES);
        body.push_str(if body.len() + piece.len() <= length { piece } else { "." });
    }
    body
}
