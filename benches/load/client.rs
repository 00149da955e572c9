//! The driver: one thread and one epoll instance for thousands of connections. It shares the machine with the server
//! that it measures, so PDUs are rendered beforehand, a burst is one write, and reads are large.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use cpd_testing::running::PATIENCE;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::lines::for_lines;
use crate::server;

const READ_MAX_BYTES: usize = 256 * 1024;
const EVENTS_MAX: usize = 1024;
/// Logins under way at once while a fleet is built: stays under any listen backlog.
const LOGINS_MAX: usize = 64;
const POLL_MAX: Duration = Duration::from_millis(5);

/// What a script keeps of one connection.
pub struct Progress {
    /// The number of the user who is logged in.
    pub user: usize,
    /// PDUs without their reply yet.
    pub outstanding: usize,
    /// PDUs or messages still to come; what it counts is the script's own affair.
    pub left: u64,
    /// Lines that came since the script was last asked what to send.
    pub fresh: usize,
    pub sent_at: Instant,
}

/// What connections say. One value drives all of them.
pub trait Script {
    /// A line came, its LF included. An error ends the run.
    fn line(&mut self, progress: &mut Progress, line: &[u8]) -> Result<(), String>;
    /// Everything that had come is handled: what goes out now. Also asked once at the start of a run.
    fn next(&mut self, progress: &mut Progress, now: Instant) -> &[u8];
    /// After each turn of the loop. `false` ends the run.
    fn tick(&mut self, now: Instant) -> Result<bool, String>;
}

struct Conn {
    stream: TcpStream,
    carry: Vec<u8>,
    unsent: Vec<u8>,
    progress: Progress,
}

/// Logged-in connections to one server. Connection `i` is user `i % users`.
pub struct Fleet {
    poll: Poll,
    events: Events,
    scratch: Vec<u8>,
    conns: Vec<Conn>,
}

impl Fleet {
    /// Connects and logs in `count` connections as the first `users` users.
    pub fn log_in(address: SocketAddr, count: usize, users: usize) -> Result<Fleet, String> {
        let poll = Poll::new().map_err(|e| format!("epoll: {e}"))?;
        let events = Events::with_capacity(EVENTS_MAX);
        let mut fleet = Fleet { poll, events, scratch: vec![0; READ_MAX_BYTES], conns: Vec::with_capacity(count) };
        while fleet.conns.len() < count {
            let first = fleet.conns.len();
            let wave = LOGINS_MAX.min(count - first);
            for index in first..first + wave {
                fleet.connect(address, index % users).map_err(|e| format!("connection {index}: {e}"))?;
            }
            fleet.run_from(first, &mut Login { missing: wave, pdus: Vec::new() })?;
        }
        Ok(fleet)
    }

    /// Plays `script` on every connection until it says that it is done.
    pub fn run<S: Script>(&mut self, script: &mut S) -> Result<(), String> {
        self.run_from(0, script)
    }

    /// Tells every connection's script how many of its units are to come, starting at nothing outstanding.
    pub fn set_left(&mut self, left: u64) {
        for conn in &mut self.conns {
            conn.progress.left = left;
            conn.progress.outstanding = 0;
        }
    }

    pub fn len(&self) -> usize {
        self.conns.len()
    }

    fn connect(&mut self, address: SocketAddr, user: usize) -> std::io::Result<()> {
        let stream = std::net::TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        let token = Token(self.conns.len());
        self.poll.registry().register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        let progress = Progress { user, outstanding: 0, left: 0, fresh: 0, sent_at: Instant::now() };
        self.conns.push(Conn { stream, carry: Vec::new(), unsent: Vec::new(), progress });
        Ok(())
    }

    fn run_from<S: Script>(&mut self, first: usize, script: &mut S) -> Result<(), String> {
        for conn in &mut self.conns[first..] {
            conn.progress.fresh = 0;
            conn.go_on(script)?;
        }
        let mut last_reply = Instant::now();
        loop {
            match self.poll.poll(&mut self.events, Some(POLL_MAX)) {
                Err(e) if e.kind() != ErrorKind::Interrupted => return Err(format!("epoll: {e}")),
                _ => {}
            }
            let mut lines = 0;
            for event in &self.events {
                let Some(conn) = self.conns.get_mut(event.token().0) else { continue };
                if !conn.unsent.is_empty() && event.is_writable() {
                    conn.write_rest()?;
                }
                if event.is_readable() {
                    lines += conn.read(&mut self.scratch, script)?;
                }
            }
            let now = Instant::now();
            if lines > 0 {
                last_reply = now;
            }
            if !script.tick(now)? {
                return Ok(());
            }
            if now - last_reply > PATIENCE {
                return Err(format!("no reply for {} s", PATIENCE.as_secs()));
            }
        }
    }
}

impl Conn {
    /// Reads until the socket is empty; a read that does not fill the buffer has emptied it. Returns the lines.
    fn read<S: Script>(&mut self, scratch: &mut [u8], script: &mut S) -> Result<usize, String> {
        let mut lines = 0;
        loop {
            let read = match self.stream.read(scratch) {
                Ok(0) => return Err("the server closed a connection".into()),
                Ok(read) => read,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => return Err(format!("read: {e}")),
            };
            let progress = &mut self.progress;
            for_lines(&mut self.carry, &scratch[..read], |line| {
                progress.fresh += 1;
                script.line(progress, line)
            })?;
            if progress.fresh > 0 {
                lines += progress.fresh;
                self.go_on(script)?;
            }
            if read < scratch.len() {
                break;
            }
        }
        Ok(lines)
    }

    fn go_on<S: Script>(&mut self, script: &mut S) -> Result<(), String> {
        let bytes = script.next(&mut self.progress, Instant::now());
        self.progress.fresh = 0;
        if bytes.is_empty() {
            return Ok(());
        }
        let sent = if self.unsent.is_empty() { sent(self.stream.write(bytes))? } else { 0 };
        self.unsent.extend_from_slice(&bytes[sent..]);
        Ok(())
    }

    fn write_rest(&mut self) -> Result<(), String> {
        let sent = sent(self.stream.write(&self.unsent))?;
        self.unsent.drain(..sent);
        Ok(())
    }
}

fn sent(result: std::io::Result<usize>) -> Result<usize, String> {
    match result {
        Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(0),
        other => other.map_err(|e| format!("write: {e}")),
    }
}

/// Says that `line` is not what a script waited for.
pub fn unexpected(line: &[u8], wanted: &str) -> String {
    let shown = &line[..line.len().min(120)];
    format!("expected {wanted}, got \"{}\"", shown.trim_ascii_end().escape_ascii())
}

struct Login {
    missing: usize,
    pdus: Vec<u8>,
}

impl Script for Login {
    fn line(&mut self, progress: &mut Progress, line: &[u8]) -> Result<(), String> {
        match (progress.outstanding, line.get(..4)) {
            (2, Some(b"220 ")) => progress.outstanding = 1,
            (1, Some(b"230 ")) => {
                progress.outstanding = 0;
                self.missing = self.missing.saturating_sub(1);
            }
            _ => return Err(unexpected(line, "220 and 230 at login")),
        }
        Ok(())
    }

    fn next(&mut self, progress: &mut Progress, _now: Instant) -> &[u8] {
        self.pdus.clear();
        if progress.fresh == 0 {
            progress.outstanding = 2;
            self.pdus.extend_from_slice(server::log_in(progress.user).output());
        }
        &self.pdus
    }

    fn tick(&mut self, _now: Instant) -> Result<bool, String> {
        Ok(self.missing > 0)
    }
}
