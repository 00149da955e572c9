//! What systemd is told: readiness, status, that the daemon is alive, that it reloads or stops. Each message opens a
//! socket and may block, so a thread of its own sends them; the event loop only puts them into a bounded channel.
//! Without systemd everything here does nothing.

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
use super::logging::{Line, Logger};

/// Messages that may wait for the thread.
pub const QUEUE_MAX_MESSAGES: usize = 32;
/// How often the status is looked at where systemd's watchdog does not ask more often.
const STATUS_INTERVAL: Duration = Duration::from_secs(15);
/// Longest status text, in bytes.
pub const STATUS_MAX_BYTES: usize = 256;

/// One thing to tell systemd.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// Start-up, or a reload, is finished.
    Ready,
    /// A line for `systemctl status`.
    Status(String),
    /// The event loop went round, and what it waits for makes progress.
    Watchdog,
    /// A reload begins; [`Notice::Ready`] ends it.
    Reloading,
    Stopping,
}

/// Sends one message; the whole daemon's is [`tell`].
type Transmit = Box<dyn FnMut(&[NotifyState<'_>]) -> io::Result<()> + Send>;

/// Names where the manager listens, sd_notify(3).
const SOCKET_VARIABLE: &str = "NOTIFY_SOCKET";

/// Tells the service manager, with descriptors. Without one nothing happens. Made by hand, since sd-notify 0.5 takes an
/// abstract address, `@name`, for a path.
///
/// # Errors
/// The address is none, nobody listens there, or it takes nothing.
pub fn tell(states: &[NotifyState<'_>], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    match std::env::var_os(SOCKET_VARIABLE) {
        None => Ok(()),
        Some(address) => tell_at(&address, states, fds),
    }
}

/// How long a notification may wait for whoever is to read it: the stop sends a few, and has 2 s.
const SEND_MAX: TimeVal = TimeVal::new(0, 300_000);

fn tell_at(address: &OsStr, states: &[NotifyState<'_>], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
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
        // A manager that does not read must not keep the daemon from its end.
        setsockopt(&socket, sockopt::SendTimeout, &SEND_MAX)?;
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

/// Whether the service manager started this very process as a service: what it cannot do may be for its sandbox.
pub fn started_by_manager() -> bool {
    let told = std::env::var("SYSTEMD_EXEC_PID").ok().and_then(|text| text.parse::<u32>().ok());
    told == Some(std::process::id())
}

/// Handle for the event loop.
pub struct Notifier {
    /// `None`: nobody listens.
    thread: Option<Thread>,
    watchdog: Option<Duration>,
}

struct Thread {
    notices: SyncSender<Notice>,
    done: Receiver<()>,
}

impl fmt::Debug for Notifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notifier").field("active", &self.thread.is_some()).field("watchdog", &self.watchdog).finish()
    }
}

impl Notifier {
    /// Starts the thread if `NOTIFY_SOCKET` is set. Errors: [`ExitCode::System`] when no thread can be started.
    pub fn start(logger: &Logger) -> Result<Notifier, Fatal> {
        if std::env::var_os(SOCKET_VARIABLE).is_none() {
            return Ok(Notifier { thread: None, watchdog: None });
        }
        let logger = logger.clone();
        let mut said = false;
        let send = move |states: &[NotifyState<'_>]| {
            let sent = tell(states, &[]);
            if let (Err(cause), false) = (&sent, said) {
                said = true;
                logger.warn(Line::new("service manager not told").field("cause", cause));
            }
            sent
        };
        Notifier::start_with(Box::new(send), sd_notify::watchdog_enabled())
    }

    fn start_with(send: Transmit, watchdog: Option<Duration>) -> Result<Notifier, Fatal> {
        let (notices, from) = sync_channel(QUEUE_MAX_MESSAGES);
        let (done_sender, done) = sync_channel(1);
        std::thread::Builder::new()
            .name("notify".into())
            .spawn(move || {
                send_all(send, &from);
                drop(done_sender);
            })
            .map_err(|e| Fatal::new(ExitCode::System, format!("cannot start the thread for systemd: {e}")))?;
        Ok(Notifier { thread: Some(Thread { notices, done }), watchdog: watchdog.filter(|time| !time.is_zero()) })
    }

    /// Whether somebody listens; a status line need not be built else.
    pub fn is_active(&self) -> bool {
        self.thread.is_some()
    }

    /// How often the manager hears of the daemon: half of what `WATCHDOG_USEC` allows, as sd_watchdog_enabled(3) advises,
    /// or, for the status alone, [`STATUS_INTERVAL`]. `None`: nobody listens.
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.thread.as_ref().map(|_| self.watchdog.map_or(STATUS_INTERVAL, |time| time / 2))
    }

    /// Hands a notice to the thread. Never blocks. `false`: the channel is full and the notice is dropped; the next
    /// status or watchdog notice makes up for it, and anything else is to be tried again.
    pub fn send(&self, notice: Notice) -> bool {
        let Some(thread) = &self.thread else { return true };
        if notice == Notice::Watchdog && self.watchdog.is_none() {
            return true;
        }
        !matches!(thread.notices.try_send(notice), Err(TrySendError::Full(_)))
    }

    /// Lets the thread send what waits, for at most `patience`. `true`: everything is sent.
    pub fn finish(self, patience: Duration) -> bool {
        let Some(Thread { notices, done }) = self.thread else { return true };
        drop(notices);
        matches!(done.recv_timeout(patience), Err(RecvTimeoutError::Disconnected))
    }
}

fn send_all(mut send: Transmit, from: &Receiver<Notice>) {
    while let Ok(notice) = from.recv() {
        // Nobody to tell: the log of a daemon is not the place for its manager's faults, and a watchdog that hears
        // nothing acts by itself.
        let _ = send_one(&mut send, notice);
    }
}

fn send_one(send: &mut Transmit, notice: Notice) -> io::Result<()> {
    match notice {
        Notice::Ready => send(&[NotifyState::Ready]),
        Notice::Status(text) => {
            // A line break would begin another assignment.
            let mut line: String = text.chars().filter(|c| !c.is_control()).collect();
            line.truncate(line.floor_char_boundary(STATUS_MAX_BYTES));
            send(&[NotifyState::Status(&line)])
        }
        Notice::Watchdog => send(&[NotifyState::Watchdog]),
        // Both in one message, as Type=notify-reload wants them.
        Notice::Reloading => send(&[NotifyState::Reloading, NotifyState::monotonic_usec_now()?]),
        Notice::Stopping => send(&[NotifyState::Stopping]),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::sync::{Arc, Mutex};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn recorder() -> (Transmit, Arc<Mutex<Vec<String>>>) {
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
        assert_eq!(notifier.watchdog_interval(), Some(Duration::from_secs(5)));
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
        assert!(notifier.finish(PATIENCE));
        let sent = sent.lock().unwrap();
        let plain: Vec<&str> = sent.iter().map(String::as_str).filter(|m| !m.starts_with("RELOADING")).collect();
        assert_eq!(plain, ["READY=1\n", "STATUS=3 sessionsREADY=0\n", "WATCHDOG=1\n", "READY=1\n", "STOPPING=1\n"]);
        assert!(sent[3].starts_with("RELOADING=1\nMONOTONIC_USEC="), "{}", sent[3]);
    }

    #[test]
    fn a_manager_that_hangs_stops_nobody() {
        let (open, gate) = mpsc::channel::<()>();
        let send: Transmit = Box::new(move |_| {
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
    fn without_a_watchdog_the_status_is_told_and_nothing_else() {
        let (send, sent) = recorder();
        let notifier = Notifier::start_with(send, None).unwrap();
        assert_eq!(notifier.watchdog_interval(), Some(STATUS_INTERVAL));
        assert!(notifier.send(Notice::Watchdog) && notifier.send(Notice::Status("well".into())));
        assert!(notifier.finish(PATIENCE));
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
            tell_at(OsStr::new(&address), &[NotifyState::FdStore, NotifyState::Ready], &[writer.as_fd()]).unwrap();
            let mut bytes = [0; 100];
            let length = manager.recv(&mut bytes).unwrap();
            assert_eq!(&bytes[..length], b"FDSTORE=1\nREADY=1\n", "{address}");
            drop((reader, writer));
            drop(manager);
            let error = tell_at(OsStr::new(&address), &[NotifyState::Ready], &[]).unwrap_err();
            assert!(error.to_string().contains(&format!("NOTIFY_SOCKET={address}: ")), "{error}");
        }
        assert!(tell_at(OsStr::new("vsock:2:1"), &[NotifyState::Ready], &[]).is_err());
    }

    #[test]
    fn without_systemd_nothing_happens() {
        let notifier = Notifier { thread: None, watchdog: None };
        assert_eq!(notifier.watchdog_interval(), None);
        assert!(!notifier.is_active() && notifier.send(Notice::Ready) && notifier.finish(Duration::ZERO));
    }
}
