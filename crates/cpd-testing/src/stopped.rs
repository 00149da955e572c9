//! cpd is stopped for longer than every timeout, and goes on.

use std::sync::Mutex;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::findings::{Findings, Verdict, Wrong};
use crate::ledger::{Answer, End, Ledger, Parting};
use crate::rounds::client::{Client, Manner, Site};
use crate::rounds::random::Random;
use crate::running::{Client as Plain, Daemon, PATIENCE};
use crate::wire::{raise_file_limit, waits_for_nobody};

/// All timeouts of the daemon that is stopped.
pub const TIMEOUT: Duration = Duration::from_secs(10);
pub const STOPPED: Duration = Duration::from_secs(12);
/// Clients beside those in particular states, who have sent a PDU meanwhile: more than one look at the sockets shows.
pub const CROWD: usize = 1500;

/// Settings of the daemon, with this timeout.
pub fn settings(timeout: Duration) -> String {
    let timeout = format!("{}s", timeout.as_secs());
    let timeouts = ["pdu", "login", "ack", "recover", "idle", "write"].map(|key| format!("{key} = \"{timeout}\""));
    format!("limits.connections_per_address = 5000\ntimeouts = {{ {} }}\n", timeouts.join(", "))
}

/// Stops the daemon for a while when clients are in every state; what had arrived before its time was over counts, and who said
/// nothing is timed out, within `patience`.
#[allow(clippy::too_many_lines, reason = "one scene, told from its beginning to its end")]
pub fn longer_than_every_timeout(daemon: &mut Daemon, crowd: usize, stopped: Duration, patience: Duration) -> Verdict {
    assert!(raise_file_limit() as usize > crowd + 100, "ulimit -n is too low for {crowd} connections");
    for name in ["bob", "alice", "carol", "dave"] {
        daemon.add_user(name, name);
    }
    let ledger = Mutex::new(Ledger::default());
    let mut found = Findings::default();
    let site = Site::new(daemon.address(), &ledger);
    let mut sender = Client::login(&site, "alice").expect("served");
    let letters: Vec<_> = (0..9).map(|n| (["bob", "bob", "dave"][n % 3], format!("letter {n}"))).collect();
    sender.send(&letters).expect("served");
    sender.close(Parting::Torn);

    let user = |name: &str| {
        let mut client = daemon.connect();
        client.logs_in(name, name);
        client
    };
    let begun = Instant::now();
    let mut many: Vec<Plain> = (0..crowd).map(|_| daemon.connect()).collect();
    let mut silent = daemon.connect();
    let mut idle = user("alice");
    let mut awake = user("alice");
    let mut recovers = user("alice");
    recovers.asks("SMSGnobody:x", "545 ");
    let mut half_login = daemon.connect();
    half_login.asks("USERbob", "220 ");
    let mut waits = user("carol");
    waits.send("WMSG300");
    let mut halts = user("dave");
    halts.asks("RMSG", "RMSGalice:letter 2");
    let mut book = ledger.lock().expect("no panic");
    let [acknowledges_no, halts_no, awake_no, waits_no] =
        ["bob", "dave", "alice", "carol"].map(|name| book.session(name));
    book.downloading(halts_no, 1);
    book.received(halts_no, "alice", b"letter 2");
    book.downloading(waits_no, 1);
    let mut acknowledges = user("bob");
    book.downloading(acknowledges_no, 4);
    acknowledges.send("RMSG4");
    for number in [0, 1, 3, 4] {
        hears(&mut found, &mut acknowledges, &format!("RMSGalice:letter {number}"));
        book.received(acknowledges_no, "alice", format!("letter {number}").as_bytes());
    }
    let prepared = begun.elapsed();
    // Had this taken as long as a timeout, nothing would be shown.
    assert!(prepared < TIMEOUT, "the machine is too busy for this: {prepared:?}");

    daemon.signal(Signal::STOP);
    many.iter_mut().for_each(|client| client.send("USERbob"));
    book.sending(awake_no, "carol", b"while it stood still");
    awake.send("SMSGcarol:while it stood still");
    recovers.send("201");
    half_login.send("PASSbob");
    (0..2).for_each(|_| book.acknowledging(acknowledges_no));
    acknowledges.send("250\r\n250");
    sleep(stopped);
    daemon.signal(Signal::CONT);

    // What had arrived counts.
    if hears(&mut found, &mut awake, "240 ") {
        book.answered(awake_no, Answer::Kept);
    }
    hears(&mut found, &mut recovers, "201 ");
    let answered = many.iter_mut().filter_map(|client| client.line().starts_with("220 ").then_some(())).count();
    found.unless(answered == crowd, Wrong::Answer, || format!("{answered} of {crowd} in time are answered"));
    for number in [6, 7] {
        if hears(&mut found, &mut acknowledges, &format!("RMSGalice:letter {number}")) {
            book.received(acknowledges_no, "alice", format!("letter {number}").as_bytes());
        }
    }
    (0..4).for_each(|_| book.acknowledging(acknowledges_no));
    acknowledges.send("250\r\n250\r\n250\r\n250");
    if hears(&mut found, &mut acknowledges, "255 ") {
        book.ended(acknowledges_no, End::All);
    }
    if hears(&mut found, &mut waits, "RMSGalice:while it stood still") {
        book.received(waits_no, "alice", b"while it stood still");
    }
    // The time for a login was over, so both are right.
    let login = half_login.line();
    found
        .unless(login.is_empty() || login.starts_with("230 "), Wrong::Answer, || format!("a late password: {login:?}"));
    // Who has said nothing is timed out. The one that holds a message is idle as well: its 550 may be followed by the end.
    for (name, client) in [("silent", &mut silent), ("idle", &mut idle), ("halts", &mut halts)] {
        let mut line = client.line_within(patience);
        if name == "halts" && line.as_deref().is_some_and(|line| line.starts_with("550 ")) {
            line = client.line_within(patience);
        }
        found.unless(line.is_some(), Wrong::NotEnded, || name.to_owned());
        found
            .unless(line.as_deref().unwrap_or_default().is_empty(), Wrong::Answer, || format!("{name} hears {line:?}"));
    }
    // A wait goes on behind the client's end.
    waits.send("TERM");
    for session in [acknowledges_no, halts_no, awake_no, waits_no] {
        book.closed(session, Parting::Torn);
    }
    drop((book, many, awake, recovers, half_login, waits, acknowledges, idle, silent, halts));
    found.unless(daemon.runs() && !daemon.log().contains("panic"), Wrong::Ended, || daemon.log());
    waits_for_nobody(daemon);
    for name in ["bob", "alice", "carol", "dave"] {
        let mut client = Client::login(&site, name).expect("it serves");
        while client.download(&Manner::WHOLE, &mut Random::new(0, 0)).expect("it serves") {}
        client.close(Parting::Torn);
    }
    let mut book = ledger.into_inner().expect("no panic");
    book.drained();
    found.look_at(&book);
    let counts = book.counts();
    let login = if login.is_empty() { "ended" } else { "taken" };
    let figures = format!(
        "prepared in {prepared:.1?}, stood still for {stopped:?} with timeouts of {TIMEOUT:?}, {answered} of {crowd} and \
         4 others in time answered, a login whose time was over {login}; {} messages acknowledged, {} given back",
        counts.kept, counts.given_back
    );
    found.or(|| figures)
}

/// Whether the next line begins with `expected`.
fn hears(found: &mut Findings, client: &mut Plain, expected: &str) -> bool {
    let line = client.line_within(PATIENCE);
    let right = line.as_deref().is_some_and(|line| line.starts_with(expected));
    found.unless(right, Wrong::Answer, || format!("{line:?} instead of {expected:?}"));
    right
}
