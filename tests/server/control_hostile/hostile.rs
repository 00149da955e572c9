//! Hostile users of the control socket, and what they may cost.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use cpd_testing::wire::descriptors;
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use serde_json::Value;

use super::running::{PATIENCE, wait_for};

/// What all of a daemon's control connections together may add to its memory: 64 of them, each with a request of 64 KiB
/// that is not whole and an answer of at most 1 MiB of which not a byte is taken.
pub const GROWTH_MAX_KIB: u64 = 80 * 1024;
/// What one may.
pub const GROWTH_OF_ONE_MAX_KIB: u64 = 8 * 1024;

/// A group that nobody is in, and that has a name everywhere.
pub const GROUP: (u32, &str) = (65534, "nogroup");

/// Whether this test can be other users.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Runs `what` as another user, of one group and no other, with no privilege left.
pub fn as_user<T: Send>(uid: u32, gid: u32, what: impl FnOnce() -> T + Send) -> T {
    let become_and_run = || {
        let (uid, gid) = (rustix::process::Uid::from_raw(uid), rustix::process::Gid::from_raw(gid));
        // Of this thread alone: rustix asks the kernel, not the C library.
        set_thread_groups(&[]).expect("no groups");
        set_thread_res_gid(gid, gid, gid).expect("a group");
        set_thread_res_uid(uid, uid, uid).expect("a user");
        what()
    };
    std::thread::scope(|scope| scope.spawn(become_and_run).join().expect("no panic"))
}

/// The most memory that the process ever had, in KiB.
#[track_caller]
pub fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// What came of a line that does not end.
#[derive(Debug)]
pub struct Flooded {
    pub sent: u64,
    /// What was said while the line went on, and how many bytes of it were sent by then.
    pub answer: Option<(Value, u64)>,
    pub grown_kib: u64,
}

/// Sends `bytes` bytes without a newline to a server whose process is `pid`.
#[track_caller]
pub fn flood(socket: &Path, bytes: u64, pid: u32) -> Flooded {
    let before = peak_kib(pid);
    let mut stream = UnixStream::connect(socket).expect("permitted");
    stream.set_write_timeout(Some(PATIENCE)).expect("set");
    let mut answers = BufReader::new(stream.try_clone().expect("a descriptor"));
    let chunk = vec![b'x'; 1 << 16];
    let (mut sent, mut answer) = (0, None);
    while sent < bytes {
        match stream.write(&chunk) {
            Ok(count) => sent += count as u64,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Closed: that is an answer too, when one came before it.
            Err(_) => {
                answer = answer.or_else(|| next_answer(&mut answers, &stream).map(|answer| (answer, sent)));
                break;
            }
        }
        if answer.is_none() {
            answer = next_answer(&mut answers, &stream).map(|answer| (answer, sent));
        }
    }
    Flooded { sent, answer, grown_kib: peak_kib(pid).saturating_sub(before) }
}

/// An answer, if one is there.
fn next_answer(answers: &mut BufReader<UnixStream>, stream: &UnixStream) -> Option<Value> {
    stream.set_nonblocking(true).expect("set");
    let there = answers.fill_buf().is_ok_and(|bytes| !bytes.is_empty());
    stream.set_nonblocking(false).expect("set");
    let mut line = String::new();
    there.then(|| answers.read_line(&mut line).expect("an answer"));
    serde_json::from_str(&line).ok()
}

/// The rules for a line that does not end: it is refused with `code` before much of it was sent, and costs no more than
/// one request.
pub fn faults_of_a_flood(flooded: &Flooded, code: &str) -> Vec<String> {
    /// What the sockets' buffers hold, and what the peer sends while the answer is on its way.
    const EARLY: u64 = 64 << 20;
    let mut faults = Vec::new();
    match &flooded.answer {
        Some((answer, at)) if answer["error"]["code"] == code && *at <= EARLY => {}
        other => faults.push(format!("not refused in time: {other:?}")),
    }
    if flooded.grown_kib > GROWTH_OF_ONE_MAX_KIB {
        faults.push(format!("{} KiB for one line", flooded.grown_kib));
    }
    faults
}

/// Whether the status is answered in time.
pub fn is_served(socket: &Path, patience: Duration) -> bool {
    let answer = UnixStream::connect(socket).and_then(|mut stream| {
        stream.set_read_timeout(Some(patience))?;
        stream.write_all(b"{\"v\":1,\"cmd\":\"status\"}\n")?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok(line)
    });
    answer.is_ok_and(|line| line.starts_with("{\"ok\":true"))
}

/// As many connections as `count`, held open, each with `request` written to it; how many were refused with which code.
pub struct Crowd {
    pub held: Vec<UnixStream>,
    pub refused: Vec<(String, usize)>,
}

#[track_caller]
pub fn crowd(socket: &Path, count: usize, request: &[u8]) -> Crowd {
    let mut crowd = Crowd { held: Vec::new(), refused: Vec::new() };
    for _ in 0..count {
        let mut stream = UnixStream::connect(socket).expect("permitted");
        // One that was refused may be closed already.
        let _ = stream.write_all(request);
        // What is refused is closed; what is not stays silent, since the request is not whole.
        match refusal(&mut stream) {
            None => crowd.held.push(stream),
            Some(code) => match crowd.refused.iter_mut().find(|(known, _)| *known == code) {
                Some((_, times)) => *times += 1,
                None => crowd.refused.push((code, 1)),
            },
        }
    }
    crowd
}

/// The code with which a connection was refused; `None`: it was not.
fn refusal(stream: &mut UnixStream) -> Option<String> {
    /// After which a connection counts as taken. A refusal that comes later only makes the crowd of those that are held
    /// seem larger; the tests do not count on that.
    const TAKEN_AFTER: Duration = Duration::from_millis(100);
    stream.set_read_timeout(Some(TAKEN_AFTER)).expect("set");
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        match stream.read(&mut byte) {
            Ok(1) if byte == *b"\n" => break,
            Ok(1) => line.extend(byte),
            Ok(_) => break,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(_) if line.is_empty() => return None,
            Err(error) => panic!("half an answer: {error}"),
        }
    }
    let answer: Value = serde_json::from_slice(&line).unwrap_or_default();
    Some(answer["error"]["code"].as_str().unwrap_or("closed").to_owned())
}

/// Waits until the process is back at no more than `most` descriptors.
#[track_caller]
pub fn waits_for_descriptors(pid: u32, most: usize) {
    wait_for("its descriptors to go", || (descriptors(pid) <= most).then_some(()));
}
