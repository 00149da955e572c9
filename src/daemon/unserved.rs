//! Listening sockets that no cpd serves: clients that connect are turned away, and operators are answered with the
//! cause. Used in the last moments of a cpd that has to end, and by [`super::stand_in`] while no cpd runs.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use cp_proto::printable::escape_into;
use cp_proto::secret::wipe;
use cpd_control::{ErrorCode, encode_error};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};
use sd_notify::NotifyState;

use super::exit::Fatal;
use super::fd::Inherited;
use super::notify;

/// The longest cause in a status or an answer, in bytes.
const CAUSE_MAX_BYTES: usize = 512;
/// How long a cpd that has to end may spend on turning away clients and operators that wait.
const TURN_AWAY_MAX: Duration = Duration::from_millis(1000);
/// How long an operator's request may take to come.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(500);
/// Operators whose requests are awaited at a time; further ones are answered before they ask.
const OPERATORS_MAX: usize = 64;
/// The most connections of each kind that are accepted in one turn.
const ACCEPTS_PER_TURN: usize = 4096;
/// The time between two turns, so that somebody who connects without a pause costs little processor time.
const TURN_INTERVAL: Duration = Duration::from_millis(100);

/// How long clients and operators are turned away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Period {
    /// Until nobody waits, for at most this long.
    UntilIdle(Duration),
    /// For all of this time, also those who connect later.
    Throughout(Duration),
}

/// Duplicates of the listening sockets; closing them does not close the sockets.
#[derive(Debug, Default)]
pub struct UnservedSockets {
    /// Every socket but those of operators.
    clients: Vec<ClientSocket>,
    control: Vec<UnixListener>,
}

#[derive(Debug)]
enum ClientSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl UnservedSockets {
    /// Duplicates the listening sockets among `inherited`. Those that cannot be duplicated are left out.
    pub fn duplicates_of(inherited: &[Inherited]) -> UnservedSockets {
        let mut sockets = UnservedSockets::default();
        for Inherited { name, fd } in inherited {
            if getsockopt(fd, sockopt::AcceptConn) != Ok(true) {
                continue;
            }
            let Ok(copy) = fd.try_clone() else { continue };
            sockets.add(name, copy);
        }
        sockets
    }

    fn add(&mut self, name: &str, fd: OwnedFd) {
        let tcp = TcpListener::from(fd);
        // This affects the socket itself, but a cpd that serves it later needs it non-blocking as well.
        if tcp.set_nonblocking(true).is_err() {
            return;
        }
        if tcp.local_addr().is_ok() {
            self.clients.push(ClientSocket::Tcp(tcp));
            return;
        }
        let unix = UnixListener::from(OwnedFd::from(tcp));
        if name == "control" {
            self.control.push(unix);
        } else {
            self.clients.push(ClientSocket::Unix(unix));
        }
    }

    /// Closes every client's connection, and answers each request of an operator with `cause`.
    pub fn turn_away(&self, cause: &str, period: Period) {
        let (Period::UntilIdle(time) | Period::Throughout(time)) = period;
        let end = Instant::now() + time;
        let answer = encode_error(ErrorCode::Unavailable, cause);
        let mut operators: Vec<Operator> = Vec::new();
        loop {
            let mut came = self.close_clients();
            came += self.accept_operators(&mut operators, &answer);
            operators.retain_mut(|operator| operator.answer_requests(&answer));
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || (came == 0 && operators.is_empty() && matches!(period, Period::UntilIdle(_))) {
                return;
            }
            // At most one turn for each [`TURN_INTERVAL`].
            if matches!(period, Period::Throughout(_)) {
                std::thread::sleep(TURN_INTERVAL.min(left));
            }
            self.wait(&operators, left);
        }
    }

    fn close_clients(&self) -> usize {
        let mut closed = 0;
        for socket in &self.clients {
            while closed < ACCEPTS_PER_TURN && socket.close_next() {
                closed += 1;
            }
        }
        closed
    }

    fn accept_operators(&self, operators: &mut Vec<Operator>, answer: &[u8]) -> usize {
        let mut taken = 0;
        for socket in &self.control {
            while taken < ACCEPTS_PER_TURN {
                let Ok((stream, _)) = socket.accept() else { break };
                taken += 1;
                if stream.set_nonblocking(true).is_err() {
                    continue;
                }
                let mut operator = Operator { stream, until: Instant::now() + REQUEST_TIMEOUT };
                if operators.len() < OPERATORS_MAX {
                    operators.push(operator);
                } else {
                    operator.answer(answer);
                }
            }
        }
        taken
    }

    /// Waits for a connection, a request, the end of a request's time, or for `left`.
    fn wait(&self, operators: &[Operator], left: Duration) {
        let sockets = self.clients.iter().map(ClientSocket::fd).chain(self.control.iter().map(AsFd::as_fd));
        let all = sockets.chain(operators.iter().map(|operator| operator.stream.as_fd()));
        let mut fds: Vec<PollFd<'_>> = all.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let now = Instant::now();
        let next = operators.iter().map(|operator| operator.until.saturating_duration_since(now)).min();
        let time = next.map_or(left, |next| next.min(left)) + Duration::from_millis(1);
        // An error or an interruption does not matter: the next turn looks at everything.
        let _ = poll(&mut fds, PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX));
    }
}

impl ClientSocket {
    fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match self {
            ClientSocket::Tcp(socket) => socket.as_fd(),
            ClientSocket::Unix(socket) => socket.as_fd(),
        }
    }

    /// Accepts one connection and closes it; `false` if none waits. What the client has sent is read first, so that it
    /// sees an orderly end and no reset.
    fn close_next(&self) -> bool {
        let mut scrap = [0; 4096];
        match self {
            ClientSocket::Tcp(socket) => {
                let Ok((mut stream, _)) = socket.accept() else { return false };
                let _ = stream.set_nonblocking(true).and_then(|()| stream.read(&mut scrap));
                let _ = stream.shutdown(Shutdown::Both);
            }
            ClientSocket::Unix(socket) => {
                let Ok((mut stream, _)) = socket.accept() else { return false };
                let _ = stream.set_nonblocking(true).and_then(|()| stream.read(&mut scrap));
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        // It may hold a password.
        wipe(&mut scrap);
        true
    }
}

/// An operator's connection.
struct Operator {
    stream: UnixStream,
    until: Instant,
}

impl Operator {
    /// Answers each line that has come; `false` if the connection is over.
    fn answer_requests(&mut self, answer: &[u8]) -> bool {
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
        // If the peer does not read its answer, nothing can be done.
        let _ = self.stream.write_all(answer);
    }
}

/// `cause` as one line without control characters, of bounded length.
pub fn one_line(cause: &str) -> String {
    let mut line = String::new();
    escape_into(&mut line, cause);
    line.truncate(line.floor_char_boundary(CAUSE_MAX_BYTES));
    line
}

/// The answer to an operator: the cause, and the command with which cpd is started after the repair.
pub fn unavailable_message(cause: &str) -> String {
    format!("cpd cannot run: {cause} (after the repair: systemctl restart cpd)")
}

/// Reports the error of a cpd that has to end to the service manager, and turns away those who wait.
pub fn report_and_turn_away(sockets: &UnservedSockets, fatal: &Fatal) {
    report_to_manager(fatal);
    sockets.turn_away(&unavailable_message(&one_line(&fatal.message)), Period::UntilIdle(TURN_AWAY_MAX));
}

/// Sets the service's status, which `systemctl status` shows until the next start, to the cause.
pub fn report_to_manager(fatal: &Fatal) {
    if std::env::var_os("NOTIFY_SOCKET").is_some() {
        // If the manager does not listen, the exit code still reports the failure.
        let _ = notify::notify_manager(&[NotifyState::Status(&one_line(&fatal.message))], &[]);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::TcpStream;

    use super::*;

    struct Fixture {
        _dir: tempfile::TempDir,
        sockets: UnservedSockets,
        clients: std::net::SocketAddr,
        control: std::path::PathBuf,
    }

    fn fixture() -> Fixture {
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
        let sockets = UnservedSockets::duplicates_of(&inherited);
        assert_eq!((sockets.clients.len(), sockets.control.len()), (1, 1));
        Fixture { _dir: dir, sockets, clients, control }
    }

    #[test]
    fn clients_are_closed_and_operators_get_the_cause() {
        let Fixture { _dir, sockets, clients, control } = fixture();
        let mut client = TcpStream::connect(clients).unwrap();
        client.write_all(b"USERbob\r\n").unwrap();
        let mut operator = UnixStream::connect(&control).unwrap();
        operator.write_all(b"{\"v\":1,\"cmd\":\"status\"}\n").unwrap();
        let told = std::thread::spawn(move || {
            let mut line = String::new();
            BufReader::new(operator).read_line(&mut line).map(|_| line)
        });
        sockets.turn_away("the \"key\"", Period::UntilIdle(Duration::from_secs(60)));
        assert_eq!(client.read(&mut [0; 10]).unwrap(), 0);
        let line = told.join().unwrap().unwrap();
        assert_eq!(line, "{\"ok\":false,\"error\":{\"code\":\"unavailable\",\"message\":\"the \\\"key\\\"\"}}\n");
        // The sockets are still there.
        TcpStream::connect(clients).unwrap();
        UnixStream::connect(&control).unwrap();
    }

    #[test]
    fn a_silent_operator_is_given_up() {
        let Fixture { _dir, sockets, control, .. } = fixture();
        let silent = UnixStream::connect(&control).unwrap();
        let crowd: Vec<_> = (0..OPERATORS_MAX + 8).map(|_| UnixStream::connect(&control)).collect();
        sockets.turn_away("cause", Period::UntilIdle(Duration::from_secs(3600)));
        drop((silent, crowd));
    }

    #[test]
    fn connections_that_come_later_are_turned_away_too() {
        let Fixture { _dir, sockets, clients, .. } = fixture();
        let staying =
            std::thread::spawn(move || sockets.turn_away("cause", Period::Throughout(Duration::from_secs(2))));
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
