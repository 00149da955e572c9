//! The connection to the daemon. Each request is answered before the next one is sent.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use cp_proto::printable::escape;
use cp_proto::values::Username;
use cpd_control::answer::{Envelope, ErrorBody, IdPage, NamePage};
use cpd_control::{ANSWER_MAX_BYTES, ErrorCode, Request, request};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use serde::de::DeserializeOwned;

use crate::ctl::defaults::GROUP_DEFAULT;
use crate::ctl::exit::{ExitStatus, Failure};
use crate::ctl::peer;
use crate::ctl::service::ServiceState;
use crate::ctl::target::{SocketOrigin, Target};

/// The longest wait for the answer to a slow request, as long as the daemon answers pings meanwhile.
const SLOW_REQUEST_MAX_WAIT: Duration = Duration::from_secs(120);
/// The same for a request that copies the whole store.
const STORE_COPY_MAX_WAIT: Duration = Duration::from_secs(2 * 3600);

/// A connection to the daemon.
pub(crate) struct DaemonClient {
    target: Target,
    reader: BufReader<UnixStream>,
}

impl DaemonClient {
    /// Connects to the daemon. A command that may not start a stopped service does not connect if that would start it.
    ///
    /// # Errors
    /// [`ExitStatus::Unreachable`], or [`ExitStatus::NotPermitted`] if the socket is not for this user or not trusted.
    pub fn connect(target: &Target) -> Result<DaemonClient, Failure> {
        if !target.may_start_service && target.is_service_socket() && target.manager.service_has_no_process() {
            let state = target.manager.state();
            if state.would_activate() {
                return Err(service_not_running(target, &state));
            }
        }
        let stream = connect_trusted(&target.socket, target.timeout).map_err(|closed| match closed {
            ConnectError::System(errno) => cannot_connect(target, errno),
            ConnectError::Untrusted(why) => untrusted_peer(target, &why),
        })?;
        Ok(DaemonClient { target: target.clone(), reader: BufReader::new(stream) })
    }

    /// Sends a request and waits for the answer.
    ///
    /// # Errors
    /// [`ExitStatus::Refused`] or [`ExitStatus::NotPermitted`] with the daemon's message if it refuses,
    /// [`ExitStatus::Unreachable`] if it cannot run, if there is no answer, or if the answer cannot be understood.
    pub fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, Failure> {
        // A daemon that refuses the connection sends the reason before it closes. That answer counts, even if this
        // write fails.
        let written = self.reader.get_mut().write_all(request::encode(request).as_bytes());
        let mut line = Vec::new();
        let read = self.read_answer(&mut line, max_wait(request));
        match read {
            _ if line.last() == Some(&b'\n') => self.decode_answer(&line),
            Err(error) if would_block(&error) => Err(self.timed_out(request)),
            Err(error) => Err(self.daemon_failure(&error.to_string())),
            Ok(()) if line.len() == ANSWER_MAX_BYTES => {
                Err(self.daemon_failure(&format!("the answer is longer than {ANSWER_MAX_BYTES} bytes")))
            }
            Ok(()) => match written {
                Err(error) if !would_block(&error) => Err(self.daemon_failure(&error.to_string())),
                _ => Err(self.daemon_failure("the daemon closed the connection without an answer")),
            },
        }
    }

    /// Reads until the end of the line, the limit of an answer or the end of the connection. `longest` is how long the
    /// answer may take, in spite of the time-out, as long as the daemon answers pings; `None`: the time-out applies.
    fn read_answer(&mut self, line: &mut Vec<u8>, longest: Option<Duration>) -> std::io::Result<()> {
        let begun = Instant::now();
        // Half of the time-out is for the answer, the other half for a ping.
        let step = if longest.is_some() { self.target.timeout / 2 } else { self.target.timeout };
        self.reader.get_mut().set_read_timeout(Some(step.max(Duration::from_millis(1))))?;
        loop {
            let room = u64::try_from(ANSWER_MAX_BYTES - line.len().min(ANSWER_MAX_BYTES)).unwrap_or(0);
            let before = line.len();
            match self.reader.by_ref().take(room).read_until(b'\n', line) {
                Ok(_) => return Ok(()),
                // A part of the answer came, so the daemon is not silent.
                Err(error) if would_block(&error) && line.len() > before => {}
                Err(error) if would_block(&error) => {
                    let keep_waiting =
                        longest.is_some_and(|longest| begun.elapsed() < longest) && self.answers_ping(step);
                    if !keep_waiting {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether the daemon answers a ping on another connection within `patience`. Any answer counts.
    fn answers_ping(&self, patience: Duration) -> bool {
        let Ok(mut stream) = connect_trusted(&self.target.socket, patience) else { return false };
        let asked = stream
            .set_read_timeout(Some(patience.max(Duration::from_millis(1))))
            .and_then(|()| stream.write_all(request::encode(&Request::Ping).as_bytes()));
        asked.is_ok() && stream.read(&mut [0u8; 1]).is_ok_and(|count| count > 0)
    }

    /// All rows of a list in the order of names, fetched page by page. They are all kept in memory.
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
            after = Some(next.ok_or_else(|| self.daemon_failure("the daemon sent the same part of the list again"))?);
        }
    }

    /// The same as [`DaemonClient::rows_by_name`] for a list in the order of ids.
    pub fn rows_by_id<T: DeserializeOwned>(&mut self, request: impl Fn(u64) -> Request) -> Result<Vec<T>, Failure> {
        let (mut rows, mut after) = (Vec::new(), 0);
        loop {
            let page: IdPage<T> = self.ask(&request(after))?;
            rows.extend(page.rows);
            let Some(next) = page.next else { return Ok(rows) };
            after = self.checked_next(after, next)?;
        }
    }

    /// Returns `next` after checking that it is greater than `after`, because otherwise the list might never end.
    ///
    /// # Errors
    /// [`ExitStatus::Unreachable`].
    pub fn checked_next(&self, after: u64, next: u64) -> Result<u64, Failure> {
        if next > after {
            Ok(next)
        } else {
            Err(self.daemon_failure("the daemon sent the same part of the list again"))
        }
    }

    /// The error for a daemon that does not answer properly. If systemd knows that its service has failed, the message
    /// says so.
    pub fn daemon_failure(&self, what: &str) -> Failure {
        let mut message = format!("{}: {what}", self.target.socket.display());
        if self.target.is_service_socket() {
            let state = self.target.manager.state();
            if state.has_failed() {
                message = format!("{message}; {}", state.describe());
            }
        }
        Failure::new(ExitStatus::Unreachable, message).with_json_code("unreachable")
    }

    /// The error for an answer that did not come in time.
    fn timed_out(&self, request: &Request) -> Failure {
        let seconds = self.target.timeout.as_secs_f64();
        let unknown = if request::changes(request.command()) { "; whether it was done is not known" } else { "" };
        Failure {
            json_code: Some("timeout"),
            ..self.daemon_failure(&format!("no answer within {seconds} s (--timeout){unknown}"))
        }
    }

    /// Decodes an answer, or turns a refusal into an error.
    fn decode_answer<T: DeserializeOwned>(&self, line: &[u8]) -> Result<T, Failure> {
        let not_understood = |e: serde_json::Error| {
            let daemon = "the daemon's answer cannot be understood; is it of the same version as cpctl?";
            self.daemon_failure(&format!("{daemon} ({})", escape(&e.to_string())))
        };
        let envelope: Envelope = serde_json::from_slice(line).map_err(not_understood)?;
        if envelope.ok {
            return serde_json::from_slice(line).map_err(not_understood);
        }
        let refusal = envelope.error.unwrap_or_else(|| ErrorBody { code: String::new(), message: String::new() });
        let message = if refusal.message.is_empty() {
            ErrorCode::parse(&refusal.code).map_or_else(|| "refused".to_owned(), |code| code.meaning().to_owned())
        } else {
            refusal.message
        };
        let code = ErrorCode::parse(&refusal.code);
        let exit = match code {
            Some(ErrorCode::NotPermitted) => ExitStatus::NotPermitted,
            Some(ErrorCode::Unavailable) => ExitStatus::Unreachable,
            _ => ExitStatus::Refused,
        };
        Err(Failure { daemon_code: code, ..Failure::new(exit, message) })
    }
}

fn would_block(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::WouldBlock
}

/// How long the answer to a slow request may take; `None` if the time-out applies.
fn max_wait(request: &Request) -> Option<Duration> {
    match request {
        Request::StoreBackup | Request::StoreShrink => Some(STORE_COPY_MAX_WAIT),
        // A password is hashed only after the jobs that came before it, and a large queue takes time to delete.
        Request::UserAdd { .. }
        | Request::UserPasswd { .. }
        | Request::UserRemove { .. }
        | Request::QueuePurge { .. } => Some(SLOW_REQUEST_MAX_WAIT),
        _ => None,
    }
}

/// The reason why there is no connection.
enum ConnectError {
    System(Errno),
    /// The program that listens cannot be trusted, and the reason.
    Untrusted(String),
}

impl From<Errno> for ConnectError {
    fn from(errno: Errno) -> ConnectError {
        ConnectError::System(errno)
    }
}

/// Connects to a socket and checks that its other end can be trusted. It uses system calls, because a send time-out
/// must be set before connecting: otherwise `connect` waits without limit for a daemon that has stopped accepting.
fn connect_trusted(path: &Path, patience: Duration) -> Result<UnixStream, ConnectError> {
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
    peer::check_trusted(&fd, path).map_err(ConnectError::Untrusted)?;
    Ok(UnixStream::from(fd))
}

/// The error for a program that listens and cannot be trusted.
fn untrusted_peer(target: &Target, why: &str) -> Failure {
    let message = format!("{}: {why}; nothing was sent", target.socket.display());
    Failure::new(ExitStatus::NotPermitted, message).with_json_code(ErrorCode::NotPermitted.as_str())
}

/// The error for a service that does not run, if this command may not start it.
fn service_not_running(target: &Target, state: &ServiceState) -> Failure {
    let code = if state.has_failed() { "service_failed" } else { "service_stopped" };
    let message = format!("{}: {}", target.socket.display(), state.describe());
    Failure::new(ExitStatus::Unreachable, message).with_json_code(code)
}

fn cannot_connect(target: &Target, errno: Errno) -> Failure {
    let shown = target.socket.display();
    let (exit, message) = match errno {
        Errno::EACCES | Errno::EPERM => {
            return Failure::new(
                ExitStatus::NotPermitted,
                format!(
                    "{shown}: not permitted; be root or a member of the group {GROUP_DEFAULT} \
                     (or of the one that [control] group in cpd.toml names)"
                ),
            );
        }
        Errno::EAGAIN => {
            let see = if target.origin == SocketOrigin::Data { "its log" } else { "systemctl status cpd and its log" };
            (ExitStatus::Unreachable, format!("{shown}: the daemon accepts no connection; see {see}"))
        }
        errno => (
            ExitStatus::Unreachable,
            format!("{shown}: no daemon answers there ({}); {}", errno.desc(), how_to_start(target)),
        ),
    };
    Failure::new(exit, message).with_json_code("unreachable")
}

fn how_to_start(target: &Target) -> String {
    if target.origin == SocketOrigin::Data {
        let folder = target.socket.parent().unwrap_or(Path::new("."));
        return format!("start it with 'cpd --data {}'", folder.display());
    }
    let state = if target.is_service_socket() { target.manager.state() } else { ServiceState::default() };
    if state.has_failed() {
        return state.describe();
    }
    "start it with 'systemctl start cpd', or name its socket with --socket".to_owned()
}
