//! The connection to the daemon: one request, one answer, in turn.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use serde::de::DeserializeOwned;

use crate::control::answer::{IdPage, NamePage, Refusal, Verdict};
use crate::control::{ANSWER_MAX_BYTES, ErrorCode, Request};
use crate::ctl::GROUP_DEFAULT;
use crate::ctl::exit::{Exit, Failure};
use crate::ctl::peer;
use crate::ctl::render::safe;
use crate::ctl::service::State;
use crate::ctl::target::{Origin, Target};
use crate::proto::types::Username;

/// How long what may take its time waits at most for its answer, while the daemon answers to others.
const LONG_WAIT: Duration = Duration::from_secs(120);
/// The same for a copy of the whole store.
const BACKUP_WAIT: Duration = Duration::from_secs(2 * 3600);

pub(crate) struct Client {
    target: Target,
    reader: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the daemon, unless that would start a service for a command that only asks.
    pub fn connect(target: &Target) -> Result<Client, Failure> {
        if !target.may_start && target.is_packaged() && target.manager.lacks_the_service() {
            let state = target.manager.state();
            if state.would_start() {
                return Err(stopped(target, &state));
            }
        }
        let stream = open(&target.socket, target.timeout).map_err(|closed| match closed {
            Closed::System(errno) => cannot_connect(target, errno),
            Closed::Stranger(why) => stranger(target, &why),
        })?;
        Ok(Client { target: target.clone(), reader: BufReader::new(stream) })
    }

    /// Asks and waits for the answer.
    ///
    /// Errors: [`Exit::Refused`] or [`Exit::NotPermitted`] with the daemon's words when it says no,
    /// [`Exit::Unreachable`] when there is no answer or none that can be understood.
    pub fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, Failure> {
        // A daemon that refuses the connection says why before it closes: its answer counts, not our failed write.
        let written = self.reader.get_mut().write_all(request.encode().as_bytes());
        let mut line = Vec::new();
        let read = self.read_answer(&mut line, longest_wait(request));
        match read {
            _ if line.last() == Some(&b'\n') => self.understand(&line),
            Err(error) if would_block(&error) => Err(self.silent(request)),
            Err(error) => Err(self.broken(&error.to_string())),
            Ok(()) if line.len() == ANSWER_MAX_BYTES => {
                Err(self.broken(&format!("the answer is longer than {ANSWER_MAX_BYTES} bytes")))
            }
            Ok(()) => match written {
                Err(error) if !would_block(&error) => Err(self.broken(&error.to_string())),
                _ => Err(self.broken("the daemon closed the connection without an answer")),
            },
        }
    }

    /// Reads up to the end of a line, of the bytes allowed or of the connection. `longest`: the answer may take longer
    /// than the silence that is borne, up to this, as long as the daemon answers somebody else.
    fn read_answer(&mut self, line: &mut Vec<u8>, longest: Option<Duration>) -> std::io::Result<()> {
        let begun = Instant::now();
        // Half of the time for the answer, half to ask whether there is anybody.
        let step = if longest.is_some() { self.target.timeout / 2 } else { self.target.timeout };
        self.reader.get_mut().set_read_timeout(Some(step.max(Duration::from_millis(1))))?;
        loop {
            let room = u64::try_from(ANSWER_MAX_BYTES - line.len().min(ANSWER_MAX_BYTES)).unwrap_or(0);
            let before = line.len();
            match self.reader.by_ref().take(room).read_until(b'\n', line) {
                Ok(_) => return Ok(()),
                // A part of the answer is no silence.
                Err(error) if would_block(&error) && line.len() > before => {}
                Err(error) if would_block(&error) => {
                    let goes_on =
                        longest.is_some_and(|longest| begun.elapsed() < longest) && self.somebody_answers(step);
                    if !goes_on {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether the daemon answers to another connection in this time, whatever it says.
    fn somebody_answers(&self, patience: Duration) -> bool {
        let Ok(mut stream) = open(&self.target.socket, patience) else { return false };
        let asked = stream
            .set_read_timeout(Some(patience.max(Duration::from_millis(1))))
            .and_then(|()| stream.write_all(Request::Ping.encode().as_bytes()));
        asked.is_ok() && stream.read(&mut [0u8; 1]).is_ok_and(|count| count > 0)
    }

    /// Every row of a list in the order of names, page by page; all of them are kept, so memory grows with the list.
    pub fn rows_by_name<T: DeserializeOwned>(
        &mut self,
        request: impl Fn(Option<Username>) -> Request,
    ) -> Result<Vec<T>, Failure> {
        let (mut rows, mut after) = (Vec::new(), None);
        loop {
            let page: NamePage<T> = self.ask(&request(after))?;
            rows.extend(page.rows);
            let Some(next) = page.next else { return Ok(rows) };
            let next = Username::parse(next.as_bytes()).filter(|next| Some(*next) > after);
            after = Some(next.ok_or_else(|| self.broken("the daemon's pages do not go on"))?);
        }
    }

    /// As [`Client::rows_by_name`], for a list in the order of ids.
    pub fn rows_by_id<T: DeserializeOwned>(&mut self, request: impl Fn(u64) -> Request) -> Result<Vec<T>, Failure> {
        let (mut rows, mut after) = (Vec::new(), 0);
        loop {
            let page: IdPage<T> = self.ask(&request(after))?;
            rows.extend(page.rows);
            let Some(next) = page.next else { return Ok(rows) };
            after = self.further(after, next)?;
        }
    }

    /// `next`, which must be beyond `after`: a list that turns back would never end.
    pub fn further(&self, after: u64, next: u64) -> Result<u64, Failure> {
        if next > after { Ok(next) } else { Err(self.broken("the daemon's pages do not go on")) }
    }

    /// What went wrong with the daemon, whichever way; with what systemd says about it, where that is known.
    pub fn broken(&self, what: &str) -> Failure {
        let mut message = format!("{}: {what}", self.target.socket.display());
        if self.target.is_packaged() {
            let state = self.target.manager.state();
            if state.has_failed() {
                message = format!("{message}; {}", state.sentence());
            }
        }
        Failure::new(Exit::Unreachable, message).with_code("unreachable")
    }

    /// There was no answer in time.
    fn silent(&self, request: &Request) -> Failure {
        let seconds = self.target.timeout.as_secs_f64();
        let unknown = if request.changes() { "; whether it was done is not known" } else { "" };
        Failure { code: Some("timeout"), ..self.broken(&format!("no answer within {seconds} s (--timeout){unknown}")) }
    }

    fn understand<T: DeserializeOwned>(&self, line: &[u8]) -> Result<T, Failure> {
        let strange = |e: serde_json::Error| {
            let daemon = "the daemon's answer cannot be understood; is it of the same version as cpctl?";
            self.broken(&format!("{daemon} ({})", safe(&e.to_string())))
        };
        let verdict: Verdict = serde_json::from_slice(line).map_err(strange)?;
        if verdict.ok {
            return serde_json::from_slice(line).map_err(strange);
        }
        let refusal = verdict.error.unwrap_or_else(|| Refusal { code: String::new(), message: String::new() });
        let message = if refusal.message.is_empty() {
            ErrorCode::parse(&refusal.code).map_or_else(|| "refused".to_owned(), |code| code.meaning().to_owned())
        } else {
            refusal.message
        };
        let code = ErrorCode::parse(&refusal.code);
        let exit = match code {
            Some(ErrorCode::NotPermitted) => Exit::NotPermitted,
            Some(ErrorCode::Unavailable) => Exit::Unreachable,
            _ => Exit::Refused,
        };
        Err(Failure { refusal: code, ..Failure::new(exit, message) })
    }
}

fn would_block(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::WouldBlock
}

/// How long the answer may take although the daemon is well; `None`: it is quick.
fn longest_wait(request: &Request) -> Option<Duration> {
    match request {
        Request::StoreBackup | Request::StoreShrink => Some(BACKUP_WAIT),
        // A password is hashed in its turn, and a queue emptied page by page.
        Request::UserAdd { .. }
        | Request::UserPasswd { .. }
        | Request::UserRemove { .. }
        | Request::QueuePurge { .. } => Some(LONG_WAIT),
        _ => None,
    }
}

/// Why there is no connection.
enum Closed {
    System(Errno),
    /// Who listens is not the daemon, as far as can be told, and why.
    Stranger(String),
}

impl From<Errno> for Closed {
    fn from(errno: Errno) -> Closed {
        Closed::System(errno)
    }
}

/// A connected socket, whose other end may be told everything. Made by hand, because only a socket with a send time-out
/// gives up on a daemon that has stopped accepting.
fn open(path: &Path, patience: Duration) -> Result<UnixStream, Closed> {
    let address = UnixAddr::new(path)?;
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let millis = i64::try_from(patience.as_millis()).unwrap_or(i64::MAX).max(1);
    setsockopt(&fd, sockopt::SendTimeout, &TimeVal::milliseconds(millis))?;
    loop {
        match connect(std::os::fd::AsRawFd::as_raw_fd(&fd), &address) {
            Ok(()) => break,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    peer::check(&fd, path).map_err(Closed::Stranger)?;
    Ok(UnixStream::from(fd))
}

/// Somebody listens who is to be told nothing.
fn stranger(target: &Target, why: &str) -> Failure {
    let message = format!("{}: {why}; nothing was sent", target.socket.display());
    Failure::new(Exit::NotPermitted, message).with_code(ErrorCode::NotPermitted.as_str())
}

/// The service does not run, and this command does not start it.
fn stopped(target: &Target, state: &State) -> Failure {
    let code = if state.has_failed() { "service_failed" } else { "service_stopped" };
    let message = format!("{}: {}", target.socket.display(), state.sentence());
    Failure::new(Exit::Unreachable, message).with_code(code)
}

fn cannot_connect(target: &Target, errno: Errno) -> Failure {
    let shown = target.socket.display();
    let (exit, message) = match errno {
        Errno::EACCES | Errno::EPERM => {
            return Failure::new(
                Exit::NotPermitted,
                format!(
                    "{shown}: not permitted; be root or a member of the group {GROUP_DEFAULT} \
                     (or of the one that [control] group in cpd.toml names)"
                ),
            );
        }
        Errno::EAGAIN => {
            let see = if target.origin == Origin::Data { "its log" } else { "systemctl status cpd and its log" };
            (Exit::Unreachable, format!("{shown}: the daemon accepts no connection; see {see}"))
        }
        errno => (
            Exit::Unreachable,
            format!("{shown}: no daemon answers there ({}); {}", errno.desc(), how_to_start(target)),
        ),
    };
    Failure::new(exit, message).with_code("unreachable")
}

fn how_to_start(target: &Target) -> String {
    if target.origin == Origin::Data {
        let folder = target.socket.parent().unwrap_or(Path::new("."));
        return format!("start it with 'cpd --data {}'", folder.display());
    }
    let state = if target.is_packaged() { target.manager.state() } else { State::default() };
    if state.has_failed() {
        return state.sentence();
    }
    "start it with 'systemctl start cpd', or name its socket with --socket".to_owned()
}
