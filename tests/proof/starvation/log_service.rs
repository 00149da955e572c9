//! The log service, syslog or the journal, stops reading, goes away and comes back: cpd has a /dev or /run of its own,
//! where the test is the service.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::findings::{Findings, Verdict, Wrong};
use crate::running::{Setup, answers, next_address, wait_for};

/// Logins while nobody reads: more lines than may wait.
const STALLED: usize = 1500;
/// Logins while nobody listens.
const ABSENT: usize = 20;
/// Were each login held up by its line, they would take ten times as long.
const STALLED_MAX: Duration = Duration::from_secs(150);

/// Several times what cpd waits for the service with one line.
const GIVEN_UP: Duration = Duration::from_millis(3500);
/// How long what is told may take; a line that never comes is a fault.
const TOLD_MAX: Duration = Duration::from_secs(10);

/// Which service.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Syslog,
    Journal,
}

impl Kind {
    /// The setting, the name of the socket in a folder, and how that folder becomes the place where cpd looks for it, in
    /// a mount namespace of its own.
    fn place(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Kind::Syslog => ("syslog", "log", "mount --bind \"$folder\" /dev"),
            // Not every system has a journal's folder.
            Kind::Journal => (
                "journal",
                "socket",
                "mount -t tmpfs -o mode=0755 tmpfs /run && mkdir -p /run/systemd/journal &&
                 mount --bind \"$folder\" /run/systemd/journal",
            ),
        }
    }

    /// What cpd says in a datagram.
    fn text(self, datagram: &str) -> Option<&str> {
        match self {
            Kind::Syslog => datagram.split_once("]: ").map(|(_, text)| text),
            Kind::Journal => datagram.lines().find_map(|field| field.strip_prefix("MESSAGE=")),
        }
    }
}

struct Service {
    kind: Kind,
    path: PathBuf,
    socket: Option<UnixDatagram>,
    lines: Vec<String>,
}

impl Service {
    fn listen(&mut self) {
        let socket = UnixDatagram::bind(&self.path).expect("bound");
        socket.set_nonblocking(true).expect("set");
        self.socket = Some(socket);
    }

    fn go_away(&mut self) {
        self.socket = None;
        std::fs::remove_file(&self.path).expect("there it was");
    }

    /// Takes what is there.
    fn read(&mut self) {
        let mut buffer = [0; 16 * 1024];
        let Some(socket) = &self.socket else { return };
        loop {
            match socket.recv(&mut buffer) {
                Ok(length) => {
                    let datagram = String::from_utf8_lossy(&buffer[..length]);
                    let text = self.kind.text(&datagram);
                    self.lines.push(text.unwrap_or_else(|| panic!("no line of {:?}: {datagram:?}", self.kind)).into());
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

impl Service {
    /// Or until that takes too long, which shows in what was told.
    fn reads_until_all_is_told(&mut self, logins: usize) {
        let begun = Instant::now();
        while accounts(&self.lines, logins).is_err() && begun.elapsed() < TOLD_MAX {
            self.read();
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Plays it; the log as it arrived, and how many logins there were. The clients must be served all the time.
pub fn play(kind: Kind) -> (Vec<String>, usize) {
    let folder = tempfile::tempdir().expect("a folder");
    let (target, socket, mount) = kind.place();
    let place = folder.path().join("service");
    std::fs::create_dir(&place).expect("made");
    let mut service = Service { kind, path: place.join(socket), socket: None, lines: Vec::new() };
    service.listen();
    let script = format!("folder='{}'\n{mount} && exec \"$0\" \"$@\"", place.display());
    let setup = Setup::new(&format!("log.target = \"{target}\"\n")).in_folder(folder).listen(next_address());
    let daemon = setup.wrapped(&["unshare", "--mount", "sh", "-c", &script]).launch();
    wait_for("its control socket", || answers(&daemon.socket()).then_some(()));
    daemon.add_user("bob", "bob");
    let mut made = 0;
    let mut login = |count: usize| {
        for _ in 0..count {
            let mut client = daemon.connect();
            client.logs_in("bob", "bob");
            client.send("TERM");
            client.is_closed();
        }
        made += count;
    };
    login(5);
    wait_for("lines", || {
        service.read();
        (service.lines.iter().filter(|line| line.starts_with("login ")).count() == 5).then_some(())
    });
    // Nobody reads.
    let begun = Instant::now();
    login(STALLED);
    // Long enough that the log gives up on some lines.
    std::thread::sleep(GIVEN_UP);
    assert!(begun.elapsed() < STALLED_MAX, "the log holds clients up: {:?}", begun.elapsed());
    login(1);
    service.reads_until_all_is_told(5 + STALLED + 1);
    // Nobody listens.
    service.go_away();
    login(ABSENT);
    std::thread::sleep(Duration::from_millis(500));
    service.listen();
    login(1);
    service.reads_until_all_is_told(5 + STALLED + 1 + ABSENT + 1);
    (service.lines, made)
}

/// Whether each login is in the log, or among those that it counts as missing.
pub fn accounts(lines: &[String], logins: usize) -> Verdict {
    let told = lines.iter().filter(|line| line.starts_with("login ")).count();
    let sum = |field: &str| -> usize {
        lines.iter().filter_map(|line| line.split(field).nth(1)?.trim().parse::<usize>().ok()).sum()
    };
    let (lost, dropped) = (sum(" lost="), sum(" dropped="));
    let figures = format!("{logins} logins: {told} in the log, {lost} counted as lost, {dropped} as dropped");
    let mut found = Findings::default();
    found.unless(told + lost + dropped == logins, Wrong::Miscounted, || figures.clone());
    found.unless(lost > 0 && dropped > 0 && told > 0, Wrong::NoPressure, || figures.clone());
    found.or(|| figures)
}
