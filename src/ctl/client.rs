//! The connection to the daemon: one request, one answer, in turn.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use serde::de::DeserializeOwned;

use crate::control::answer::{IdPage, NamePage, Refusal, Verdict};
use crate::control::{ANSWER_MAX_BYTES, ErrorCode, Request};
use crate::ctl::GROUP_DEFAULT;
use crate::ctl::exit::{Exit, Failure};
use crate::ctl::render::safe;
use crate::proto::types::Username;

/// How long the daemon may take to accept a connection or a request, in seconds.
const CONNECT_SECONDS: i64 = 10;
/// How long it may take to answer. It answers between batches of messages, and hashes passwords in turn.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a copy of the whole store may take.
const BACKUP_TIMEOUT: Duration = Duration::from_secs(2 * 3600);

pub(crate) struct Client {
    socket: PathBuf,
    reader: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the daemon at `path`.
    pub fn connect(path: &Path) -> Result<Client, Failure> {
        let stream = open(path).map_err(|errno| cannot_connect(path, errno))?;
        Ok(Client { socket: path.to_owned(), reader: BufReader::new(stream) })
    }

    /// Asks and waits for the answer.
    ///
    /// Errors: [`Exit::Refused`] or [`Exit::NotPermitted`] with the daemon's words when it says no,
    /// [`Exit::Unreachable`] when there is no answer or none that can be understood.
    pub fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, Failure> {
        let timeout = if matches!(request, Request::StoreBackup) { BACKUP_TIMEOUT } else { ANSWER_TIMEOUT };
        let stream = self.reader.get_mut();
        stream.set_read_timeout(Some(timeout)).map_err(|e| self.broken(&e.to_string()))?;
        // A daemon that refuses the connection says why before it closes: its answer counts, not our failed write.
        let written = self.reader.get_mut().write_all(request.encode().as_bytes());
        let mut line = Vec::new();
        let bound = u64::try_from(ANSWER_MAX_BYTES).unwrap_or(u64::MAX);
        let read = self.reader.by_ref().take(bound).read_until(b'\n', &mut line);
        match read {
            _ if line.last() == Some(&b'\n') => self.understand(&line),
            Err(error) if would_block(&error) => Err(self.broken(&format!("no answer within {} s", timeout.as_secs()))),
            Err(error) => Err(self.broken(&error.to_string())),
            Ok(_) if line.len() == ANSWER_MAX_BYTES => {
                Err(self.broken(&format!("the answer is longer than {ANSWER_MAX_BYTES} bytes")))
            }
            Ok(_) => match written {
                Err(error) if !would_block(&error) => Err(self.broken(&error.to_string())),
                _ => Err(self.broken("the daemon closed the connection without an answer")),
            },
        }
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

    /// What went wrong with the daemon, whichever way.
    pub fn broken(&self, what: &str) -> Failure {
        Failure::new(Exit::Unreachable, format!("{}: {what}", self.socket.display()))
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
        let exit = if code == Some(ErrorCode::NotPermitted) { Exit::NotPermitted } else { Exit::Refused };
        Err(Failure { refusal: code, ..Failure::new(exit, message) })
    }
}

fn would_block(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::WouldBlock
}

/// A connected socket. Made by hand, because only a socket with a send time-out gives up on a daemon that has stopped
/// accepting.
fn open(path: &Path) -> Result<UnixStream, Errno> {
    let address = UnixAddr::new(path)?;
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::SendTimeout, &TimeVal::seconds(CONNECT_SECONDS))?;
    loop {
        match connect(std::os::fd::AsRawFd::as_raw_fd(&fd), &address) {
            Ok(()) => return Ok(UnixStream::from(fd)),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

fn cannot_connect(path: &Path, errno: Errno) -> Failure {
    let shown = path.display();
    match errno {
        Errno::EACCES | Errno::EPERM => Failure::new(
            Exit::NotPermitted,
            format!(
                "{shown}: not permitted; be root or a member of the group {GROUP_DEFAULT} \
                 (or of the one that [control] group in cpd.toml names)"
            ),
        ),
        Errno::EAGAIN => Failure::new(
            Exit::Unreachable,
            format!("{shown}: the daemon accepts no connection; see systemctl status cpd and its log"),
        ),
        errno => Failure::new(
            Exit::Unreachable,
            format!(
                "{shown}: no daemon answers there ({}); start it with 'systemctl start cpd', \
                 or name its socket with --socket",
                errno.desc()
            ),
        ),
    }
}
