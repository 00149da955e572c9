//! The realtime clock leaps, by libfaketime: the monotonic one stays what it is.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::running::{Client, Daemon};

/// Ten years.
pub const LEAP_DAYS: u32 = 3652;
const IDLE: Duration = Duration::from_secs(8);
/// As old as messages may become; looked for in a tenth of that.
const AGE: Duration = Duration::from_secs(100);
const SWEEP: Duration = Duration::from_secs(10);

/// A daemon whose clock a file moves; `monotonic`: the other clock as well, which no clock of a system does.
pub fn start(monotonic: bool) -> Daemon {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("clock");
    std::fs::write(&file, "+0d").expect("written");
    let settings = format!("limits.message_age = \"{}s\"\ntimeouts.idle = \"{}s\"\n", AGE.as_secs(), IDLE.as_secs());
    Daemon::start_in(folder, &settings, |command: &mut Command| {
        let preload = format!("LD_PRELOAD={}", library().display());
        let file = format!("FAKETIME_TIMESTAMP_FILE={}", file.display());
        let keep = format!("FAKETIME_DONT_FAKE_MONOTONIC={}", u8::from(!monotonic));
        Daemon::under(command, &["env", &preload, &file, &keep, "FAKETIME_NO_CACHE=1"]);
    })
}

fn library() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").expect("there is one").flatten();
    let found = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1")).find(|path| path.is_file());
    found.expect("this test needs libfaketime: install the package libfaketime")
}

/// Moves the clock by ten years one way and the other. `Err`: what was wrong.
pub fn leaps(daemon: &Daemon) -> Result<String, String> {
    daemon.add_user("bob", "bob");
    let mut bob = daemon.connect();
    bob.logs_in("bob", "bob");
    bob.asks("SMSGbob:old enough to be kept", "240 ");
    let mut last = Instant::now();
    let mut idled = Vec::new();
    for (way, year) in [('+', "2036-"), ('-', "2016-")] {
        let mut idle = daemon.connect();
        idle.logs_in("bob", "bob");
        let silent_since = Instant::now();
        let mut waits = daemon.connect();
        daemon.add_user(if way == '+' { "carol" } else { "dave" }, "x");
        waits.logs_in(if way == '+' { "carol" } else { "dave" }, "x");
        waits.send("WMSG5");
        leap(daemon, way, year)?;
        // Between the leap and the next look at the ages, nobody is ended.
        let ends = Instant::now() + SWEEP + Duration::from_secs(1);
        let mut idle_ended = None;
        while Instant::now() < ends {
            idle_ended = idle_ended.or_else(|| idle.line_within(Duration::from_millis(100)).map(|_| Instant::now()));
            if answers(&mut bob, "USER", "500 ").is_err() {
                return Err(format!("{way}: a client was ended {:?} after its last PDU", last.elapsed()));
            }
            last = Instant::now();
        }
        let Some(at) = idle_ended else { return Err(format!("{way}: an idle client is not ended")) };
        let after = at - silent_since;
        idled.push(format!("{:.1}", after.as_secs_f64()));
        if after < IDLE * 3 / 4 {
            return Err(format!("{way}: an idle client is ended after {after:?}"));
        }
        answers(&mut waits, "", "256 ").map_err(|said| format!("{way}: a wait ends with {said:?}"))?;
        // A new login, and the message that is a few seconds old whatever the clock says.
        let mut reader = daemon.connect();
        reader.logs_in("bob", "bob");
        answers(&mut reader, "RMSG", "RMSGbob:old enough").map_err(|said| format!("{way}: the message: {said:?}"))?;
        reader.send("TERM");
        reader.is_closed();
    }
    let idled = idled.join(" and ");
    Ok(format!("{LEAP_DAYS} days on and back: idle clients ended after {idled} s of {IDLE:?}, the message is kept"))
}

/// Says a line, if it is one, and compares what comes.
fn answers(client: &mut Client, line: &str, expected: &str) -> Result<(), String> {
    if !line.is_empty() && !client.says(line) {
        return Err("the end".into());
    }
    let said = client.line_within(crate::running::PATIENCE).unwrap_or_default();
    if said.starts_with(expected) { Ok(()) } else { Err(said) }
}

fn leap(daemon: &Daemon, way: char, year: &str) -> Result<(), String> {
    let file = daemon.folder.path().join("clock");
    let beside = file.with_extension("new");
    std::fs::write(&beside, format!("{way}{LEAP_DAYS}d")).expect("written");
    std::fs::rename(&beside, &file).expect("renamed");
    // Its log shows that it lives in that year.
    let mut client = daemon.connect();
    client.logs_in("bob", "bob");
    daemon.waits_for_log(year);
    Ok(())
}
