//! Where log lines go: systemd's journal, the classic syslog socket, or stderr. Only the log thread writes to them, so
//! a send to a log service may block for up to [`SEND_TIMEOUT`].

use std::io::{self, Write};
use std::os::linux::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use syslog::{Facility, LogFormat, LoggerBackend, Severity};

use super::levels::{Level, LogTarget};

/// Where systemd's journal listens for its native protocol.
pub const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";
/// The classic syslog socket.
pub const SYSLOG_SOCKET: &str = "/dev/log";
/// The directory of the journal's sockets. [`SYSLOG_SOCKET`] may be a symbolic link to one of them.
const JOURNAL_FOLDER: &str = "/run/systemd/journal";
/// How long one send to a log service may take before its line counts as lost.
pub const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// A destination of log lines.
pub enum Sink {
    /// The journal's native protocol.
    Journal { socket: UnixDatagram, path: PathBuf },
    /// The protocol of RFC 3164.
    Syslog { logger: syslog::Logger<LoggerBackend, Rfc3164WithoutTime>, path: PathBuf },
    /// Plain lines. They begin with time and level, or, if `prefixed`, with the `<N>` that the journal reads as the
    /// level.
    Stream { out: Box<dyn Write + Send>, prefixed: bool },
    /// Stderr, for as long as the configured log service cannot be reached.
    Fallback { stream: Box<Sink>, wanted: WantedService },
}

/// A log service that could not be reached, and the paths at which it is tried.
pub struct WantedService {
    target: LogTarget,
    journal: PathBuf,
    syslog: PathBuf,
    /// When it was last tried.
    last_tried: Instant,
}

/// Least time between two attempts to reach the configured log service.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

impl WantedService {
    fn open(&self) -> Result<Sink, String> {
        let (journal, syslog) = (&self.journal, &self.syslog);
        let by_journal = || Sink::journal(journal).map_err(|e| format!("{}: {e}", journal.display()));
        let by_syslog = || Sink::syslog(syslog).map_err(|e| format!("{}: {e}", syslog.display()));
        match self.target {
            LogTarget::Auto => by_journal().or_else(|_| by_syslog()),
            LogTarget::Journal => by_journal(),
            LogTarget::Syslog => by_syslog(),
            LogTarget::Stderr => Ok(Sink::stderr()),
        }
    }
}

impl Sink {
    /// Opens the sink for `target`. If a target that was named cannot be reached, the sink writes to stderr for the
    /// time being, and the cause is returned as well.
    pub fn open(target: LogTarget) -> (Sink, Option<String>) {
        Sink::open_at(target, Path::new(JOURNAL_SOCKET), Path::new(SYSLOG_SOCKET))
    }

    /// As [`Sink::open`], with other paths of the two sockets.
    pub fn open_at(target: LogTarget, journal: &Path, syslog: &Path) -> (Sink, Option<String>) {
        let wanted = WantedService {
            target,
            journal: journal.to_owned(),
            syslog: syslog.to_owned(),
            last_tried: Instant::now(),
        };
        match wanted.open() {
            Ok(sink) => (sink, None),
            Err(cause) => {
                // With `auto` stderr is a normal choice, and nothing needs to be reported.
                let reported = (target != LogTarget::Auto).then_some(cause);
                (Sink::Fallback { stream: Box::new(Sink::stderr()), wanted }, reported)
            }
        }
    }

    fn journal(path: &Path) -> io::Result<Sink> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        socket.set_write_timeout(Some(SEND_TIMEOUT))?;
        Ok(Sink::Journal { socket, path: path.to_owned() })
    }

    fn syslog(path: &Path) -> io::Result<Sink> {
        let logger = syslog::unix_custom(Rfc3164WithoutTime, path).map_err(io::Error::other)?;
        match &logger.backend {
            LoggerBackend::Unix(socket) => socket.set_write_timeout(Some(SEND_TIMEOUT))?,
            LoggerBackend::UnixStream(stream) => stream.get_ref().set_write_timeout(Some(SEND_TIMEOUT))?,
            LoggerBackend::Udp(..) | LoggerBackend::Tcp(_) => {}
        }
        Ok(Sink::Syslog { logger, path: path.to_owned() })
    }

    fn stderr() -> Sink {
        Sink::Stream { out: Box::new(io::stderr()), prefixed: stderr_is_a_journal() }
    }

    /// The name of the target that is in use, as in the configuration.
    pub fn name(&self) -> &'static str {
        match self {
            Sink::Journal { .. } => "journal",
            Sink::Syslog { .. } => "syslog",
            Sink::Stream { .. } | Sink::Fallback { .. } => "stderr",
        }
    }

    /// Whether the lines written here and those written to stderr have the same reader.
    pub fn has_same_reader_as_stderr(&self) -> bool {
        self.shares_reader(stderr_is_a_journal().then_some(Path::new(JOURNAL_FOLDER)))
    }

    /// As [`Sink::has_same_reader_as_stderr`]. `journal` is the directory of the sockets of the journal that stderr is
    /// connected to; `None` if it is not connected to one.
    fn shares_reader(&self, journal: Option<&Path>) -> bool {
        match self {
            Sink::Stream { .. } | Sink::Fallback { .. } => true,
            Sink::Journal { path, .. } | Sink::Syslog { path, .. } => {
                journal.is_some_and(|folder| path.canonicalize().is_ok_and(|real| real.starts_with(folder)))
            }
        }
    }

    /// Writes one line. If the log service has gone away, as when it was restarted, it connects and sends once more.
    ///
    /// # Errors
    /// The line is lost.
    pub fn write(&mut self, level: Level, text: &str) -> io::Result<()> {
        self.retry_wanted(RETRY_INTERVAL);
        let first = self.send(level, text);
        let Err(error) = first else { return Ok(()) };
        // Sending the line again would not help a service that is full or slow.
        if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
            return Err(error);
        }
        let again = match self {
            Sink::Journal { path, .. } => Sink::journal(path)?,
            Sink::Syslog { path, .. } => Sink::syslog(path)?,
            Sink::Stream { .. } | Sink::Fallback { .. } => return Err(error),
        };
        *self = again;
        self.send(level, text)
    }

    /// Switches from stderr to the configured log service once it can be reached; tries that at most once per `pause`.
    fn retry_wanted(&mut self, pause: Duration) {
        let Sink::Fallback { wanted, .. } = self else { return };
        if wanted.last_tried.elapsed() < pause {
            return;
        }
        wanted.last_tried = Instant::now();
        if let Ok(found) = wanted.open() {
            *self = found;
        }
    }

    fn send(&mut self, level: Level, text: &str) -> io::Result<()> {
        match self {
            Sink::Fallback { stream, .. } => stream.send(level, text),
            Sink::Journal { socket, .. } => {
                let pid = std::process::id();
                let priority = level.priority();
                let entry = format!("PRIORITY={priority}\nSYSLOG_IDENTIFIER=cpd\nSYSLOG_PID={pid}\nMESSAGE={text}\n");
                socket.send(entry.as_bytes()).map(drop)
            }
            Sink::Syslog { logger, .. } => {
                let sent = match level {
                    Level::Error => logger.err(text),
                    Level::Warn => logger.warning(text),
                    Level::Info => logger.info(text),
                    Level::Debug => logger.debug(text),
                };
                sent.map_err(|error| match error {
                    syslog::Error::Write(cause) | syslog::Error::Io(cause) => cause,
                    other => io::Error::other(other),
                })
            }
            Sink::Stream { out, prefixed } => {
                let line = if *prefixed {
                    format!("<{}>{text}\n", level.priority())
                } else {
                    format!("{:.0} {} {text}\n", jiff::Timestamp::now(), level.name())
                };
                out.write_all(line.as_bytes())?;
                out.flush()
            }
        }
    }
}

/// RFC 3164 without the time stamp: the log service adds its own, and knows the local time that the format requires.
#[derive(Clone, Copy)]
pub struct Rfc3164WithoutTime;

impl LogFormat<&str> for Rfc3164WithoutTime {
    fn format<W: Write>(&self, w: &mut W, severity: Severity, text: &str) -> syslog::Result<()> {
        let priority = Facility::LOG_DAEMON as u8 | severity as u8;
        // A single write: on a datagram socket each write becomes a separate message.
        write!(w, "<{priority}>cpd[{}]: {text}", std::process::id()).map_err(syslog::Error::Write)
    }
}

/// Whether systemd has connected stderr to its journal (`JOURNAL_STREAM`, systemd.exec(5)).
pub fn stderr_is_a_journal() -> bool {
    let Ok(journal_stream) = std::env::var("JOURNAL_STREAM") else { return false };
    // Going by this path avoids borrowing a raw descriptor.
    let Ok(stderr) = std::fs::metadata("/proc/self/fd/2") else { return false };
    journal_stream == format!("{}:{}", stderr.st_dev(), stderr.st_ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 16 * 1024];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn auto_takes_the_journal_then_syslog_then_stderr() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, syslog) = (dir.path().join("journal"), dir.path().join("log"));
        let open = |target| Sink::open_at(target, &journal, &syslog);
        assert_eq!(open(LogTarget::Auto).0.name(), "stderr");
        let (sink, why) = open(LogTarget::Journal);
        assert!(sink.name() == "stderr" && why.unwrap().contains("journal"), "said why it is not the journal");
        let _log = UnixDatagram::bind(&syslog).unwrap();
        assert_eq!(open(LogTarget::Auto).0.name(), "syslog");
        let _journal = UnixDatagram::bind(&journal).unwrap();
        assert_eq!(open(LogTarget::Auto).0.name(), "journal");
        assert_eq!(open(LogTarget::Syslog).0.name(), "syslog");
        assert_eq!(open(LogTarget::Stderr).0.name(), "stderr");
    }

    #[test]
    fn journal_entries_have_level_and_name_and_follow_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let service = UnixDatagram::bind(&path).unwrap();
        let (mut sink, _) = Sink::open_at(LogTarget::Journal, &path, Path::new("/nonexistent"));
        sink.write(Level::Warn, "one a=b").unwrap();
        let entry = receive(&service);
        assert!(entry.starts_with("PRIORITY=4\nSYSLOG_IDENTIFIER=cpd\n"), "{entry}");
        assert!(entry.ends_with("\nMESSAGE=one a=b\n"), "{entry}");
        drop(service);
        std::fs::remove_file(&path).unwrap();
        assert!(sink.write(Level::Info, "lost").is_err());
        let service = UnixDatagram::bind(&path).unwrap();
        sink.write(Level::Info, "two").unwrap();
        assert!(receive(&service).ends_with("\nMESSAGE=two\n"));
    }

    #[test]
    fn syslog_lines_have_facility_and_level_and_follow_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let service = UnixDatagram::bind(&path).unwrap();
        let (mut sink, _) = Sink::open_at(LogTarget::Syslog, Path::new("/nonexistent"), &path);
        sink.write(Level::Error, "one").unwrap();
        assert_eq!(receive(&service), format!("<27>cpd[{}]: one", std::process::id()));
        drop(service);
        std::fs::remove_file(&path).unwrap();
        assert!(sink.write(Level::Info, "lost").is_err());
        let service = UnixDatagram::bind(&path).unwrap();
        sink.write(Level::Info, "two").unwrap();
        assert!(receive(&service).ends_with("two"));
    }

    #[test]
    fn a_service_that_was_away_at_the_start_is_found_when_it_is_there() {
        for target in [LogTarget::Auto, LogTarget::Journal, LogTarget::Syslog] {
            let dir = tempfile::tempdir().unwrap();
            let (journal, syslog) = (dir.path().join("journal"), dir.path().join("log"));
            let (mut sink, _) = Sink::open_at(target, &journal, &syslog);
            assert_eq!(sink.name(), "stderr");
            sink.retry_wanted(Duration::ZERO);
            assert_eq!(sink.name(), "stderr", "nobody is there yet");
            let path = if target == LogTarget::Syslog { &syslog } else { &journal };
            let service = UnixDatagram::bind(path).unwrap();
            sink.retry_wanted(Duration::from_secs(3600));
            assert_eq!(sink.name(), "stderr", "it is not looked for with every line");
            sink.retry_wanted(Duration::ZERO);
            sink.write(Level::Info, "back").unwrap();
            assert!(receive(&service).contains("back"));
        }
    }

    #[test]
    fn a_log_and_a_stderr_that_one_journal_takes_have_one_reader() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let folder = root.join("journal");
        std::fs::create_dir(&folder).unwrap();
        let (socket, behind_link) = (folder.join("socket"), folder.join("dev-log"));
        let (link, other) = (root.join("link"), root.join("log"));
        std::os::unix::fs::symlink(&behind_link, &link).unwrap();
        let _services = [&socket, &behind_link, &other].map(|path| UnixDatagram::bind(path).unwrap());
        let shares = |target, syslog: &Path, journal| Sink::open_at(target, &socket, syslog).0.shares_reader(journal);
        let journal = Some(folder.as_path());
        assert!(shares(LogTarget::Journal, &other, journal) && shares(LogTarget::Syslog, &link, journal));
        assert!(!shares(LogTarget::Syslog, &other, journal), "another log service");
        assert!(
            !shares(LogTarget::Journal, &other, None) && !shares(LogTarget::Syslog, &link, None),
            "stderr elsewhere"
        );
        assert!(shares(LogTarget::Stderr, &other, None));
    }

    #[test]
    fn a_journal_that_takes_nothing_is_not_waited_for_long() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let _service = UnixDatagram::bind(&path).unwrap();
        let (mut sink, _) = Sink::open_at(LogTarget::Journal, &path, Path::new("/nonexistent"));
        // The service never reads, so its queue fills up and the write must return an error.
        let lost = (0..10_000).find_map(|_| sink.write(Level::Info, "x").err());
        assert!(lost.is_some());
    }
}
