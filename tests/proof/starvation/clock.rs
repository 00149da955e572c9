//! The realtime clock leaps, by libfaketime: the monotonic one stays what it is.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::findings::{Findings, Verdict, Wrong, found};
use crate::running::{Client, Daemon, Setup, wait_for};
use crate::wire::connect_from;

/// Ten years.
pub const LEAP_DAYS: u32 = 3652;
/// Which way, and the years that the log has then.
pub const WAYS: [(char, &str); 2] = [('+', "2036-"), ('-', "2016-")];
/// As old as messages may become; looked for in a tenth of that.
const AGE: Duration = Duration::from_secs(100);
const SWEEP: Duration = Duration::from_secs(10);
/// The timers; the clock leaps while all of them run. `idle` is further from the others than anything may be late: it
/// ends clients as well.
const PDU: Duration = Duration::from_secs(6);
const ACK: Duration = Duration::from_secs(6);
const WAIT: Duration = Duration::from_secs(6);
const LOGIN: Duration = Duration::from_secs(7);
const RECOVER: Duration = Duration::from_secs(7);
const WRITE: Duration = Duration::from_secs(7);
const IDLE: Duration = Duration::from_secs(12);
/// How much earlier than its time an end may be seen: cpd's clock begins with the round in which it reads.
const EARLY_MAX: Duration = Duration::from_millis(250);
/// How much later, on a busy machine.
const LATE_MAX: Duration = Duration::from_secs(4);
const SECOND: Duration = Duration::from_secs(1);
/// Between two looks.
const STEP: Duration = Duration::from_millis(20);
const _: () = assert!(WRITE.as_secs() + LATE_MAX.as_secs() < IDLE.as_secs());

/// A daemon whose clock a file moves; `monotonic`: the other clock as well, which no clock of a system does.
pub fn start(monotonic: bool) -> Daemon {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("clock");
    std::fs::write(&file, "+0d").expect("written");
    let mut settings = format!("limits.message_age = \"{}s\"\n", AGE.as_secs());
    for (timer, time) in
        [("pdu", PDU), ("ack", ACK), ("login", LOGIN), ("recover", RECOVER), ("write", WRITE), ("idle", IDLE)]
    {
        settings.push_str(&format!("timeouts.{timer} = \"{}s\"\n", time.as_secs()));
    }
    let preload = format!("LD_PRELOAD={}", library().display());
    let file = format!("FAKETIME_TIMESTAMP_FILE={}", file.display());
    let keep = format!("FAKETIME_DONT_FAKE_MONOTONIC={}", u8::from(!monotonic));
    let wrapper = ["env", &preload, &file, &keep, "FAKETIME_NO_CACHE=1"];
    Setup::new(&settings).in_folder(folder).wrapped(&wrapper).start()
}

fn library() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").expect("there is one").flatten();
    let found = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1")).find(|path| path.is_file());
    found.expect("this test needs libfaketime: install the package libfaketime")
}

/// Moves the clock by ten years these ways, while clients wait for each kind of timer.
pub fn leaps(daemon: &Daemon, ways: &[(char, &str)]) -> Verdict {
    for name in ["bob", "alice", "carol", "dave"] {
        daemon.add_user(name, name);
    }
    let mut bob = user(daemon, "bob");
    bob.asks("SMSGbob:old enough to be kept", "240 ");
    bob.asks("SMSGalice:held", "240 ");
    let mut seen = Vec::new();
    for (way, year) in ways {
        let mut all = clients(daemon);
        leap(daemon, *way, year);
        let first = all.iter().map(|client| client.since.0).min().expect("some");
        // Had a timer run out by then, nothing would be shown.
        let prepared = first.elapsed();
        assert!(prepared < PDU, "the machine is too busy for this: {prepared:?}");
        // Until all are ended, and the ages were looked at; who says something now and then goes on.
        let (begun, mut last) = (Instant::now(), Instant::now());
        let wait = |all: &[Waiting], waited| {
            waited < SWEEP + SECOND || waited < IDLE + LATE_MAX && all.iter().any(|client| client.ended.is_none())
        };
        while wait(&all, begun.elapsed()) {
            all.iter_mut().for_each(Waiting::look);
            if answers(&mut bob, "USER", "500 ").is_err() {
                return found(
                    Wrong::Early,
                    format!("{way}: a client was ended {:?} after its last PDU", last.elapsed()),
                );
            }
            last = Instant::now();
            std::thread::sleep(STEP);
        }
        let mut findings = Findings::default();
        let ended: Vec<String> = all.iter().filter_map(|client| client.judge(&mut findings)).collect();
        // A new login, and the message that is a few seconds old whatever the clock says.
        let mut reader = user(daemon, "bob");
        let answer = answers(&mut reader, "RMSG", "RMSGbob:old enough");
        findings.unless(answer.is_ok(), Wrong::Answer, || format!("{way}: the message: {answer:?}"));
        reader.send("TERM");
        reader.is_closed();
        seen.push(findings.or(|| format!("{way}{LEAP_DAYS} days after {prepared:.1?}: {}", ended.join(", ")))?);
    }
    Ok(format!("{}; the message is kept", seen.join("; ")))
}

/// A client that waits for its timer.
struct Waiting {
    timer: &'static str,
    ear: Ear,
    /// Before and after its last word: its time began between them.
    since: (Instant, Instant),
    time: Duration,
    /// When, and what was heard.
    ended: Option<(Instant, String)>,
}

enum Ear {
    /// This is heard when the time is over; nothing is the end.
    Hears(Client, &'static str),
    /// Reads nothing.
    Deaf(TcpStream),
}

impl Waiting {
    fn look(&mut self) {
        if self.ended.is_some() {
            return;
        }
        let heard = match &mut self.ear {
            Ear::Hears(client, _) => client.line_within(Duration::from_millis(1)),
            Ear::Deaf(stream) => stream.take_error().expect("a socket").map(|_| String::new()),
        };
        self.ended = heard.map(|line| (Instant::now(), line));
    }

    /// When it was ended, behind its last word.
    fn judge(&self, findings: &mut Findings) -> Option<String> {
        let Some((ended, heard)) = &self.ended else {
            findings.unless(false, Wrong::NotEnded, || self.timer.to_owned());
            return None;
        };
        let (after, before) = (*ended - self.since.0, *ended - self.since.1);
        let figures = format!("{} {:.2} s", self.timer, after.as_secs_f64());
        findings.unless(after + EARLY_MAX >= self.time, Wrong::Early, || format!("{figures} of {:?}", self.time));
        findings.unless(before <= self.time + LATE_MAX, Wrong::Late, || format!("{figures} of {:?}", self.time));
        if let Ear::Hears(_, expected) = &self.ear {
            let right = if expected.is_empty() { heard.is_empty() } else { heard.starts_with(expected) };
            findings.unless(right, Wrong::Answer, || format!("{}: {heard:?} instead of {expected:?}", self.timer));
        }
        Some(figures)
    }
}

/// One for each kind of timer.
fn clients(daemon: &Daemon) -> Vec<Waiting> {
    // All log in first: what takes long on a busy machine is over before anybody's time runs.
    let [mut pdu, ack, recover, wait, idle] = ["dave", "alice", "dave", "carol", "dave"].map(|name| user(daemon, name));
    let mut deaf = connect_from(Ipv4Addr::LOCALHOST, daemon.address()).expect("connected");
    deaf.write_all(b"USERdave\r\nPASSdave\r\n").expect("sent");
    let mut answers = [0; 4];
    deaf.read_exact(&mut answers).expect("an answer");
    let mut all = Vec::new();
    let begun = Instant::now();
    let filled = fill(&mut deaf);
    all.push(Waiting { timer: "write", ear: Ear::Deaf(deaf), since: (begun, filled), time: WRITE, ended: None });
    let mut add = |timer, time, mut client: Client, ends, what: &dyn Fn(&mut Client)| {
        let before = Instant::now();
        what(&mut client);
        let since = (before, Instant::now());
        all.push(Waiting { timer, ear: Ear::Hears(client, ends), since, time, ended: None });
    };
    pdu.asks("RMSG", "256 ");
    add("pdu", PDU, pdu, "540 ", &|client| client.begins("SMSGbob:not all of it"));
    add("ack", ACK, ack, "550 ", &|client| client.asks("RMSG", "RMSGbob:held"));
    add("wait", WAIT, wait, "256 ", &|client| client.send(&format!("WMSG{}", WAIT.as_secs())));
    add("recover", RECOVER, recover, "", &|client| client.asks("SMSGnobody:x", "545 "));
    add("idle", IDLE, idle, "", &|client| client.asks("RMSG", "256 "));
    let before = Instant::now();
    let silent = daemon.connect();
    let since = (before, Instant::now());
    all.push(Waiting { timer: "login", ear: Ear::Hears(silent, ""), since, time: LOGIN, ended: None });
    all
}

/// Sends what is answered until nothing is taken any more; when that was.
fn fill(stream: &mut TcpStream) -> Instant {
    /// After which cpd has no room, however busy the machine is: it would read on at once.
    const FULL: Duration = Duration::from_millis(500);
    let lines = b"x\n".repeat(8 * 1024);
    stream.set_write_timeout(Some(FULL)).expect("set");
    let mut last = Instant::now();
    loop {
        match stream.write(&lines) {
            Ok(_) => last = Instant::now(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return last,
            Err(error) => panic!("{error}"),
        }
    }
}

fn user(daemon: &Daemon, name: &str) -> Client {
    let mut client = daemon.connect();
    client.logs_in(name, name);
    client
}

/// Says a line and compares what comes.
fn answers(client: &mut Client, line: &str, expected: &str) -> Result<(), String> {
    if !client.says(line) {
        return Err("the end".into());
    }
    let said = client.line_within(crate::running::PATIENCE).unwrap_or_default();
    if said.starts_with(expected) { Ok(()) } else { Err(said) }
}

fn leap(daemon: &Daemon, way: char, year: &str) {
    let file = daemon.folder.path().join("clock");
    let beside = file.with_extension("new");
    std::fs::write(&beside, format!("{way}{LEAP_DAYS}d")).expect("written");
    std::fs::rename(&beside, &file).expect("renamed");
    // What it stamps shows that it lives in that year.
    wait_for("a stamp of another year", || {
        user(daemon, "bob");
        daemon.cpctl(&["--json", "user", "show", "bob"], "").contains(&format!("\"last_login\":\"{year}")).then_some(())
    });
}
