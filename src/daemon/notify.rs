//! Notifications to systemd: readiness, status, the watchdog, and that the daemon reloads or stops. Sending one opens a
//! socket and may block, so a separate thread does it; the event loop only puts them into a bounded channel. Without
//! systemd everything here does nothing.

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sendmsg, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use sd_notify::NotifyState;

use super::exit::{ExitCode, Fatal};
use super::logging::{LogLine, Logger};

/// Notices that may wait for the thread.
pub const QUEUE_MAX_MESSAGES: usize = 32;
/// The interval of reports to systemd if it has configured no watchdog.
const STATUS_INTERVAL: Duration = Duration::from_secs(15);
/// Longest status text, in bytes.
pub const STATUS_MAX_BYTES: usize = 256;

/// One notification to systemd.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// The start or a reload is finished.
    Ready,
    /// A line for `systemctl status`.
    Status(String),
    /// The event loop and the verifiers make progress.
    Watchdog,
    /// A reload begins; [`Notice::Ready`] ends it.
    Reloading,
    /// The daemon has begun to stop.
    Stopping,
}

/// A function that sends one message. The daemon's is [`notify_manager`]; tests have others.
type SendFn = Box<dyn FnMut(&[NotifyState<'_>]) -> io::Result<()> + Send>;

/// The environment variable that holds the address of the service manager's socket, sd_notify(3).
const SOCKET_VARIABLE: &str = "NOTIFY_SOCKET";

/// Sends `states` and `fds` to the service manager. Without a manager it does nothing. This is not left to sd-notify,
/// whose version 0.5 mistakes an abstract address, `@name`, for a path.
///
/// # Errors
/// The address is invalid, nobody listens there, or the message was not accepted in `SEND_TIMEOUT`.
pub fn notify_manager(states: &[NotifyState<'_>], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    match std::env::var_os(SOCKET_VARIABLE) {
        None => Ok(()),
        Some(address) => notify_manager_at(&address, states, fds),
    }
}

/// How long sending one notification may block: a stop sends a few of them and has 2 s in all.
const SEND_TIMEOUT: TimeVal = TimeVal::new(0, 300_000);

fn notify_manager_at(address: &OsStr, states: &[NotifyState<'_>], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("NOTIFY_SOCKET={}: {error}", address.display()));
    let to = match address.as_bytes() {
        [b'@', name @ ..] => UnixAddr::new_abstract(name),
        [b'/', ..] => UnixAddr::new(address),
        _ => Err(Errno::EAFNOSUPPORT),
    };
    let send = || -> io::Result<()> {
        let to = to?;
        let text: String = states.iter().map(|state| format!("{state}\n")).collect();
        let numbers: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let control = if numbers.is_empty() { &[][..] } else { &rights };
        let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        // A manager that does not read must not keep the daemon from exiting.
        setsockopt(&socket, sockopt::SendTimeout, &SEND_TIMEOUT)?;
        let parts = [IoSlice::new(text.as_bytes())];
        loop {
            match sendmsg(socket.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, Some(&to)) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    };
    send().map_err(named)
}

/// Whether the service manager started this very process (`SYSTEMD_EXEC_PID`, systemd.exec(5)). If so, a refused
/// operation may be due to the sandbox of the unit.
pub fn started_by_manager() -> bool {
    let started_pid = std::env::var("SYSTEMD_EXEC_PID").ok().and_then(|text| text.parse::<u32>().ok());
    started_pid == Some(std::process::id())
}

/// The event loop's handle to the notifying thread.
pub struct Notifier {
    /// `None` if there is no service manager.
    thread: Option<NotifyThread>,
    /// The time after which the manager's watchdog kills the daemon; `None` if it is off.
    watchdog: Option<Duration>,
}

struct NotifyThread {
    notices: SyncSender<Notice>,
    done: Receiver<()>,
}

impl fmt::Debug for Notifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notifier").field("active", &self.thread.is_some()).field("watchdog", &self.watchdog).finish()
    }
}

impl Notifier {
    /// Starts the thread if `NOTIFY_SOCKET` is set. Only the first notification that fails is logged.
    ///
    /// # Errors
    /// [`ExitCode::System`] if the thread cannot be started.
    pub fn start(logger: &Logger) -> Result<Notifier, Fatal> {
        if std::env::var_os(SOCKET_VARIABLE).is_none() {
            return Ok(Notifier { thread: None, watchdog: None });
        }
        let logger = logger.clone();
        let mut failure_logged = false;
        let send = move |states: &[NotifyState<'_>]| {
            let sent = notify_manager(states, &[]);
            if let (Err(cause), false) = (&sent, failure_logged) {
                failure_logged = true;
                logger.warn(LogLine::new("cannot notify the service manager").field("cause", cause));
            }
            sent
        };
        Notifier::start_with(Box::new(send), sd_notify::watchdog_enabled())
    }

    fn start_with(send: SendFn, watchdog: Option<Duration>) -> Result<Notifier, Fatal> {
        let (notices, from) = sync_channel(QUEUE_MAX_MESSAGES);
        let (done_sender, done) = sync_channel(1);
        std::thread::Builder::new()
            .name("notify".into())
            .spawn(move || {
                send_all(send, &from);
                drop(done_sender);
            })
            .map_err(|e| Fatal::new(ExitCode::System, format!("cannot start the thread for systemd: {e}")))?;
        Ok(Notifier { thread: Some(NotifyThread { notices, done }), watchdog: watchdog.filter(|time| !time.is_zero()) })
    }

    /// Whether there is a service manager. If not, no status line needs to be built.
    pub fn is_active(&self) -> bool {
        self.thread.is_some()
    }

    /// The interval of reports to the manager: half of `WATCHDOG_USEC`, as sd_watchdog_enabled(3) advises, or
    /// `STATUS_INTERVAL` without a watchdog, for the status alone. `None` if there is no service manager.
    pub fn report_interval(&self) -> Option<Duration> {
        self.thread.as_ref().map(|_| self.watchdog.map_or(STATUS_INTERVAL, |time| time / 2))
    }

    /// Hands a notice to the thread, without blocking. Returns `false` if the channel is full and the notice was
    /// dropped. A later status or watchdog notice supersedes a dropped one; other notices are not repeated by
    /// themselves.
    pub fn send(&self, notice: Notice) -> bool {
        let Some(thread) = &self.thread else { return true };
        if notice == Notice::Watchdog && self.watchdog.is_none() {
            return true;
        }
        !matches!(thread.notices.try_send(notice), Err(TrySendError::Full(_)))
    }

    /// Waits until the thread has handled all notices, for at most `timeout`. Returns whether it has.
    pub fn finish(self, timeout: Duration) -> bool {
        let Some(NotifyThread { notices, done }) = self.thread else { return true };
        drop(notices);
        matches!(done.recv_timeout(timeout), Err(RecvTimeoutError::Disconnected))
    }
}

fn send_all(mut send: SendFn, from: &Receiver<Notice>) {
    while let Ok(notice) = from.recv() {
        // The error is ignored here: the daemon's `SendFn` logs the first one, and a watchdog that receives nothing
        // acts by itself.
        let _ = send_one(&mut send, notice);
    }
}

fn send_one(send: &mut SendFn, notice: Notice) -> io::Result<()> {
    match notice {
        Notice::Ready => send(&[NotifyState::Ready]),
        Notice::Status(text) => {
            // A line break would start another assignment.
            let mut line: String = text.chars().filter(|c| !c.is_control()).collect();
            line.truncate(line.floor_char_boundary(STATUS_MAX_BYTES));
            send(&[NotifyState::Status(&line)])
        }
        Notice::Watchdog => send(&[NotifyState::Watchdog]),
        // `Type=notify-reload` requires both in one message.
        Notice::Reloading => send(&[NotifyState::Reloading, NotifyState::monotonic_usec_now()?]),
        Notice::Stopping => send(&[NotifyState::Stopping]),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::sync::{Arc, Mutex};

    use super::*;

    const TEST_TIMEOUT: Duration = Duration::from_secs(60);

    fn recorder() -> (SendFn, Arc<Mutex<Vec<String>>>) {
        let sent = Arc::new(Mutex::new(Vec::new()));
        let to = Arc::clone(&sent);
        let send = move |states: &[NotifyState<'_>]| {
            to.lock().unwrap().push(states.iter().map(|state| format!("{state}\n")).collect::<String>());
            Ok(())
        };
        (Box::new(send), sent)
    }

    #[test]
    fn notices_are_sent_in_order_as_systemd_reads_them() {
        let (send, sent) = recorder();
        let notifier = Notifier::start_with(send, Some(Duration::from_secs(10))).unwrap();
        assert_eq!(notifier.report_interval(), Some(Duration::from_secs(5)));
        for notice in [
            Notice::Ready,
            Notice::Status("3 sessions\nREADY=0".into()),
            Notice::Watchdog,
            Notice::Reloading,
            Notice::Ready,
            Notice::Stopping,
        ] {
            assert!(notifier.send(notice));
        }
        assert!(notifier.finish(TEST_TIMEOUT));
        let sent = sent.lock().unwrap();
        let plain: Vec<&str> = sent.iter().map(String::as_str).filter(|m| !m.starts_with("RELOADING")).collect();
        assert_eq!(plain, ["READY=1\n", "STATUS=3 sessionsREADY=0\n", "WATCHDOG=1\n", "READY=1\n", "STOPPING=1\n"]);
        assert!(sent[3].starts_with("RELOADING=1\nMONOTONIC_USEC="), "{}", sent[3]);
    }

    #[test]
    fn a_manager_that_hangs_stops_nobody() {
        let (open, gate) = mpsc::channel::<()>();
        let send: SendFn = Box::new(move |_| {
            let _ = gate.recv();
            Ok(())
        });
        let notifier = Notifier::start_with(send, Some(Duration::from_secs(10))).unwrap();
        let taken = (0..2 * QUEUE_MAX_MESSAGES).filter(|_| notifier.send(Notice::Watchdog)).count();
        assert!((QUEUE_MAX_MESSAGES..2 * QUEUE_MAX_MESSAGES).contains(&taken), "{taken}");
        assert!(!notifier.finish(Duration::from_millis(20)));
        drop(open);
    }

    #[test]
    fn without_a_watchdog_only_the_status_is_sent() {
        let (send, sent) = recorder();
        let notifier = Notifier::start_with(send, None).unwrap();
        assert_eq!(notifier.report_interval(), Some(STATUS_INTERVAL));
        assert!(notifier.send(Notice::Watchdog) && notifier.send(Notice::Status("well".into())));
        assert!(notifier.finish(TEST_TIMEOUT));
        assert_eq!(*sent.lock().unwrap(), ["STATUS=well\n"]);
    }

    #[test]
    fn the_manager_is_found_by_a_path_and_by_an_abstract_name() {
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::net::{SocketAddr, UnixDatagram};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("cpd-test-{}", std::process::id());
        let by_path = UnixDatagram::bind(&path).unwrap();
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        for (manager, address) in [(by_path, path.display().to_string()), (by_name, format!("@{name}"))] {
            let (reader, writer) = io::pipe().unwrap();
            use std::os::fd::AsFd;
            notify_manager_at(OsStr::new(&address), &[NotifyState::FdStore, NotifyState::Ready], &[writer.as_fd()])
                .unwrap();
            let mut bytes = [0; 100];
            let length = manager.recv(&mut bytes).unwrap();
            assert_eq!(&bytes[..length], b"FDSTORE=1\nREADY=1\n", "{address}");
            drop((reader, writer));
            drop(manager);
            let error = notify_manager_at(OsStr::new(&address), &[NotifyState::Ready], &[]).unwrap_err();
            assert!(error.to_string().contains(&format!("NOTIFY_SOCKET={address}: ")), "{error}");
        }
        assert!(notify_manager_at(OsStr::new("vsock:2:1"), &[NotifyState::Ready], &[]).is_err());
    }

    #[test]
    fn without_systemd_nothing_happens() {
        let notifier = Notifier { thread: None, watchdog: None };
        assert_eq!(notifier.report_interval(), None);
        assert!(!notifier.is_active() && notifier.send(Notice::Ready) && notifier.finish(Duration::ZERO));
    }
}
