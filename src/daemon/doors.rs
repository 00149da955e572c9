//! Listening sockets behind which nobody serves: who waits there is turned away, and told why where there is a way to
//! say it. For the last moment of a cpd that cannot go on, and for [`super::stand_in`], while none runs.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};
use sd_notify::NotifyState;

use super::exit::Fatal;
use super::fd::Inherited;
use super::logging::escape_into;
use super::notify;
use crate::control::frame::wipe;
use crate::control::{ErrorCode, encode_error};

/// Longest cause in a status or an answer, in bytes.
const CAUSE_MAX_BYTES: usize = 512;
/// How long a cpd that ends turns people away at most: it has something to say to those who wait, and no time.
const LAST_WORDS: Duration = Duration::from_millis(1000);
/// How long an administrator's request may take to come.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(500);
/// Administrators that are listened to at a time; one more is answered before the question.
const ASKERS_MAX: usize = 64;
/// Connections that are closed in one turn.
const TURN_MAX: usize = 4096;
/// Between two turns, so that somebody who connects without a pause costs no processor.
const PACE: Duration = Duration::from_millis(100);

/// How long people are turned away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stay {
    /// Until nobody waits, for at most so long.
    Pending(Duration),
    /// So long, whoever comes.
    Full(Duration),
}

/// The sockets. They are copies: closing them closes nothing.
#[derive(Debug, Default)]
pub struct Doors {
    clients: Vec<Door>,
    control: Vec<UnixListener>,
}

#[derive(Debug)]
enum Door {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Doors {
    /// Copies of the listening sockets among `inherited`. What cannot be copied is not looked after.
    pub fn of(inherited: &[Inherited]) -> Doors {
        let mut doors = Doors::default();
        for Inherited { name, fd } in inherited {
            if getsockopt(fd, sockopt::AcceptConn) != Ok(true) {
                continue;
            }
            let Ok(copy) = fd.try_clone() else { continue };
            doors.add(name, copy);
        }
        doors
    }

    fn add(&mut self, name: &str, fd: OwnedFd) {
        let tcp = TcpListener::from(fd);
        // Whoever serves later wants the same.
        if tcp.set_nonblocking(true).is_err() {
            return;
        }
        if tcp.local_addr().is_ok() {
            self.clients.push(Door::Tcp(tcp));
            return;
        }
        let unix = UnixListener::from(OwnedFd::from(tcp));
        if name == "control" {
            self.control.push(unix);
        } else {
            self.clients.push(Door::Unix(unix));
        }
    }

    /// Closes every client's connection, and answers each request of an administrator with `cause`.
    pub fn turn_away(&self, cause: &str, stay: Stay) {
        let (Stay::Pending(time) | Stay::Full(time)) = stay;
        let end = Instant::now() + time;
        let answer = encode_error(ErrorCode::Unavailable, cause);
        let mut askers: Vec<Asker> = Vec::new();
        loop {
            let mut came = self.close_clients();
            came += self.take_askers(&mut askers, &answer);
            askers.retain_mut(|asker| asker.goes_on(&answer));
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || (came == 0 && askers.is_empty() && matches!(stay, Stay::Pending(_))) {
                return;
            }
            // Nobody who came in this turn waits longer than a few of them.
            if matches!(stay, Stay::Full(_)) {
                std::thread::sleep(PACE.min(left));
            }
            self.wait(&askers, left);
        }
    }

    fn close_clients(&self) -> usize {
        let mut closed = 0;
        for door in &self.clients {
            while closed < TURN_MAX && door.close_next() {
                closed += 1;
            }
        }
        closed
    }

    fn take_askers(&self, askers: &mut Vec<Asker>, answer: &[u8]) -> usize {
        let mut taken = 0;
        for door in &self.control {
            while taken < TURN_MAX {
                let Ok((stream, _)) = door.accept() else { break };
                taken += 1;
                if stream.set_nonblocking(true).is_err() {
                    continue;
                }
                let mut asker = Asker { stream, until: Instant::now() + REQUEST_TIMEOUT };
                if askers.len() < ASKERS_MAX {
                    askers.push(asker);
                } else {
                    asker.answer(answer);
                }
            }
        }
        taken
    }

    /// Until somebody comes or says something, an asker's time is over, or `left` is.
    fn wait(&self, askers: &[Asker], left: Duration) {
        let doors = self.clients.iter().map(Door::fd).chain(self.control.iter().map(AsFd::as_fd));
        let all = doors.chain(askers.iter().map(|asker| asker.stream.as_fd()));
        let mut fds: Vec<PollFd<'_>> = all.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let now = Instant::now();
        let next = askers.iter().map(|asker| asker.until.saturating_duration_since(now)).min();
        let time = next.map_or(left, |next| next.min(left)) + Duration::from_millis(1);
        // Interrupted or not: the next turn looks at everything.
        let _ = poll(&mut fds, PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX));
    }
}

impl Door {
    fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match self {
            Door::Tcp(socket) => socket.as_fd(),
            Door::Unix(socket) => socket.as_fd(),
        }
    }

    /// Takes one connection and ends it; `false`: nobody waits. What the client has sent is read, so that it sees an
    /// end and not a reset.
    fn close_next(&self) -> bool {
        let mut scrap = [0; 4096];
        match self {
            Door::Tcp(socket) => {
                let Ok((mut stream, _)) = socket.accept() else { return false };
                let _ = stream.set_nonblocking(true).and_then(|()| stream.read(&mut scrap));
                let _ = stream.shutdown(Shutdown::Both);
            }
            Door::Unix(socket) => {
                let Ok((mut stream, _)) = socket.accept() else { return false };
                let _ = stream.set_nonblocking(true).and_then(|()| stream.read(&mut scrap));
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        true
    }
}

/// An administrator's connection.
struct Asker {
    stream: UnixStream,
    until: Instant,
}

impl Asker {
    /// Answers each line that has come; `false`: the connection is over.
    fn goes_on(&mut self, answer: &[u8]) -> bool {
        let mut piece = [0; 4096];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => return false,
                Ok(length) => {
                    let lines = piece.iter().take(length).filter(|byte| **byte == b'\n').count();
                    // It may hold a password.
                    wipe(&mut piece);
                    (0..lines).for_each(|_| self.answer(answer));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Instant::now() < self.until,
                Err(_) => return false,
            }
        }
    }

    fn answer(&mut self, answer: &[u8]) {
        // Who does not take it learns nothing.
        let _ = self.stream.write_all(answer);
    }
}

/// `cause` as one harmless line of bounded length.
pub fn one_line(cause: &str) -> String {
    let mut line = String::new();
    escape_into(&mut line, cause);
    line.truncate(line.floor_char_boundary(CAUSE_MAX_BYTES));
    line
}

/// What an administrator is told, with the command that goes on after the repair.
pub fn words(cause: &str) -> String {
    format!("cpd cannot run: {cause} (after the repair: systemctl restart cpd)")
}

/// The last words of a cpd that cannot go on: to the service manager, and to those who wait at `doors`.
pub fn last_words(doors: &Doors, fatal: &Fatal) {
    tell_manager(fatal);
    doors.turn_away(&words(&one_line(&fatal.message)), Stay::Pending(LAST_WORDS));
}

/// The cause as the status of the service, which `systemctl status` shows until the next start.
pub fn tell_manager(fatal: &Fatal) {
    if std::env::var_os("NOTIFY_SOCKET").is_some() {
        // To a manager that does not listen the exit code says the same.
        let _ = notify::tell(&[NotifyState::Status(&one_line(&fatal.message))], &[]);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::TcpStream;

    use super::*;

    struct House {
        _dir: tempfile::TempDir,
        doors: Doors,
        clients: std::net::SocketAddr,
        control: std::path::PathBuf,
    }

    fn house() -> House {
        let dir = tempfile::tempdir().unwrap();
        let control = dir.path().join("control.sock");
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let clients = tcp.local_addr().unwrap();
        let unix = UnixListener::bind(&control).unwrap();
        let (records, _) = UnixStream::pair().unwrap();
        let inherited = [
            Inherited { name: "cp".into(), fd: tcp.into() },
            Inherited { name: "control".into(), fd: unix.into() },
            Inherited { name: "cpd-clients".into(), fd: records.into() },
        ];
        let doors = Doors::of(&inherited);
        assert_eq!((doors.clients.len(), doors.control.len()), (1, 1));
        House { _dir: dir, doors, clients, control }
    }

    #[test]
    fn who_waits_is_closed_or_told_the_cause() {
        let House { _dir, doors, clients, control } = house();
        let mut client = TcpStream::connect(clients).unwrap();
        client.write_all(b"USERbob\r\n").unwrap();
        let mut asker = UnixStream::connect(&control).unwrap();
        asker.write_all(b"{\"v\":1,\"cmd\":\"status\"}\n").unwrap();
        let told = std::thread::spawn(move || {
            let mut line = String::new();
            BufReader::new(asker).read_line(&mut line).map(|_| line)
        });
        doors.turn_away("the \"key\"", Stay::Pending(Duration::from_secs(60)));
        assert_eq!(client.read(&mut [0; 10]).unwrap(), 0);
        let line = told.join().unwrap().unwrap();
        assert_eq!(line, "{\"ok\":false,\"error\":{\"code\":\"unavailable\",\"message\":\"the \\\"key\\\"\"}}\n");
        // The sockets are still there.
        TcpStream::connect(clients).unwrap();
        UnixStream::connect(&control).unwrap();
    }

    #[test]
    fn nobody_waits_for_one_who_asks_nothing() {
        let House { _dir, doors, control, .. } = house();
        let silent = UnixStream::connect(&control).unwrap();
        let crowd: Vec<_> = (0..ASKERS_MAX + 8).map(|_| UnixStream::connect(&control)).collect();
        doors.turn_away("cause", Stay::Pending(Duration::from_secs(3600)));
        drop((silent, crowd));
    }

    #[test]
    fn a_full_stay_answers_those_who_come_later() {
        let House { _dir, doors, clients, .. } = house();
        let staying = std::thread::spawn(move || doors.turn_away("cause", Stay::Full(Duration::from_secs(2))));
        for _ in 0..3 {
            assert_eq!(TcpStream::connect(clients).unwrap().read(&mut [0; 10]).unwrap(), 0);
        }
        staying.join().unwrap();
    }

    #[test]
    fn a_cause_is_one_short_line() {
        assert_eq!(one_line("a\nb"), "a\\nb");
        assert_eq!(one_line(&"ä".repeat(2000)).len(), CAUSE_MAX_BYTES);
    }
}
