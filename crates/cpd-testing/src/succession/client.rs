//! One client of the crowd: what it has asked, what it expects, and a complaint about everything else.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use mio::net::TcpStream;

use crate::ledger::{Answer, End, Ledger, SessionNo};

/// Messages that a downloading client holds unacknowledged; its queue has more than all restarts take.
const HELD: usize = 4;
const LETTERS: usize = 24;
/// PDUs in one burst of a client that does not read, and how often one of them is a message.
const BURST: usize = 9000;
const BURST_MESSAGE_EVERY: usize = 1000;
/// Between two requests of an active client.
const PAUSE: Duration = Duration::from_millis(60);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Logged in and silent.
    Idle,
    /// In the middle of a PDU.
    Half,
    /// In the middle of a download, with messages unacknowledged.
    Downloading,
    /// In WMSG.
    Waiting,
    /// In Error Processing.
    InError,
    /// Has sent thousands of PDUs and reads no reply.
    Unread,
    /// Sends and downloads all the time.
    Active,
}

/// What a client waits for before it is settled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Goal {
    /// Every reply.
    Replies,
    /// So many messages held.
    Held(usize),
    /// The end of a wait, and then the next wait.
    Woken,
    /// Nothing; it waits or does not read.
    Nothing,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expected {
    Code(&'static str),
    /// 240.
    Sent,
    /// Messages, then 255; or 256.
    Download,
}

/// The ledger, and a number for each body.
pub struct Book {
    pub ledger: Ledger,
    pub bodies: u64,
}

pub struct Client {
    stream: TcpStream,
    pub role: Role,
    pub user: String,
    pub goal: Goal,
    session: SessionNo,
    input: Vec<u8>,
    output: Vec<u8>,
    expected: VecDeque<Expected>,
    /// Messages without their 250, and whether they get it at once.
    held: usize,
    acknowledges: bool,
    reads: bool,
    rest: Vec<u8>,
    acts: bool,
    turn: usize,
    asked: Option<Instant>,
    next: Instant,
    longest: Duration,
    last_begun: Option<Instant>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("role", &self.role)
            .field("user", &self.user)
            .field("goal", &self.goal)
            .field("expected", &self.expected.iter().take(3).collect::<Vec<_>>())
            .field("outstanding", &self.expected.len())
            .field("held", &self.held)
            .field("unsent", &self.output.len())
            .field("input", &String::from_utf8_lossy(&self.input[..self.input.len().min(80)]))
            .finish_non_exhaustive()
    }
}

impl Client {
    pub fn new(stream: TcpStream, role: Role, user: String, session: SessionNo, password: &str) -> Client {
        let now = Instant::now();
        let mut client = Client {
            stream,
            role,
            goal: Goal::Replies,
            session,
            input: Vec::new(),
            output: Vec::new(),
            expected: VecDeque::new(),
            held: 0,
            acknowledges: true,
            reads: true,
            rest: Vec::new(),
            acts: false,
            turn: 0,
            asked: None,
            next: now,
            longest: Duration::ZERO,
            last_begun: None,
            user,
        };
        client.ask(&format!("USER{}", client.user.clone()), Expected::Code("220"));
        client.ask(&format!("PASS{password}"), Expected::Code("230"));
        client
    }

    /// Logged in: into the state in which the first restart is to meet it.
    pub fn take_place(&mut self, book: &mut Book) {
        match self.role {
            Role::Downloading => {
                let own = self.user.clone();
                (0..LETTERS).for_each(|_| self.send(book, &own));
                self.acknowledges = false;
                self.download(book, HELD);
                self.goal = Goal::Held(HELD);
            }
            Role::Waiting => self.wait(book),
            Role::Active => self.acts = true,
            Role::Idle | Role::Half | Role::InError | Role::Unread => {}
        }
    }

    /// Into the middle of something.
    pub fn before(&mut self, book: &mut Book, friend: &str, round: usize) {
        match self.role {
            Role::Half => {
                let text = self.message(book, friend);
                let cut = 1 + (round * 5 + self.turn) % (text.len() - 1);
                self.turn += 3;
                self.output.extend_from_slice(&text[..cut]);
                self.rest = text[cut..].to_vec();
            }
            Role::InError => self.ask("SMSGwithout a colon", Expected::Code("540")),
            Role::Unread => {
                self.reads = false;
                self.goal = Goal::Nothing;
                self.burst(book, friend);
            }
            Role::Idle | Role::Downloading | Role::Waiting | Role::Active => {}
        }
    }

    /// Out of it again.
    pub fn after(&mut self, book: &mut Book) {
        match self.role {
            Role::Half => {
                let rest = std::mem::take(&mut self.rest);
                self.output.extend_from_slice(&rest);
                self.expected.push_back(Expected::Sent);
            }
            Role::Downloading => {
                self.acknowledge(book);
                self.goal = Goal::Held(HELD);
            }
            Role::InError => {
                self.ask("RMSG", Expected::Code("500"));
                self.ask("201", Expected::Code("201"));
            }
            Role::Unread => {
                self.reads = true;
                self.goal = Goal::Replies;
            }
            Role::Idle | Role::Waiting | Role::Active => {}
        }
    }

    /// The last word: whatever is under way comes to its end.
    pub fn wind_up(&mut self, book: &mut Book) {
        match self.role {
            Role::Downloading => {
                self.acknowledges = true;
                while self.held > 0 {
                    self.acknowledge(book);
                }
            }
            // Any other PDU ends the wait.
            Role::Waiting => self.ask("NOOP", Expected::Code("500")),
            Role::Idle | Role::Half | Role::InError | Role::Unread | Role::Active => {
                self.ask("NOOP", Expected::Code("500"));
            }
        }
        self.goal = Goal::Replies;
    }

    pub fn stop_acting(&mut self) {
        self.acts = false;
    }

    pub fn send(&mut self, book: &mut Book, recipient: &str) {
        let text = self.message(book, recipient);
        self.output.extend_from_slice(&text);
        self.expected.push_back(Expected::Sent);
    }

    pub fn download(&mut self, book: &mut Book, window: usize) {
        book.ledger.downloading(self.session, window);
        self.ask(&format!("RMSG{window}"), Expected::Download);
    }

    pub fn is_settled(&self) -> bool {
        self.output.is_empty()
            && match self.goal {
                Goal::Replies => self.expected.is_empty() || self.acts,
                Goal::Held(count) => self.held == count,
                Goal::Woken => false,
                Goal::Nothing => true,
            }
            || self.goal == Goal::Nothing && !self.reads
    }

    pub fn has_done_one_since(&self, time: Instant) -> bool {
        self.last_begun.is_some_and(|begun| begun > time)
    }

    /// The longest wait since it was last asked for; of active clients.
    pub fn take_longest(&mut self) -> Option<Duration> {
        (self.role == Role::Active).then(|| std::mem::take(&mut self.longest))
    }

    /// An active client's next request, when it is time.
    pub fn act(&mut self, book: &mut Book, now: Instant, users: usize) {
        if !self.expected.is_empty() {
            return;
        }
        if let Some(asked) = self.asked.take() {
            self.longest = self.longest.max(asked.elapsed());
            self.last_begun = Some(asked);
            self.next = now + PAUSE;
        }
        if self.acts && now >= self.next {
            self.turn += 1;
            self.asked = Some(now);
            if self.turn.is_multiple_of(4) {
                self.download(book, 16);
            } else {
                self.send(book, &format!("a{}", self.turn % users));
            }
            self.serve(book).unwrap_or_else(|fault| panic!("{fault}: {self:#?}"));
        }
    }

    /// Writes and reads what is possible.
    pub fn serve(&mut self, book: &mut Book) -> Result<(), String> {
        loop {
            self.write()?;
            if !self.reads || !self.read()? {
                return Ok(());
            }
            while let Some(end) = self.input.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.input.drain(..=end).collect();
                self.take(book, line.strip_suffix(b"\r\n").ok_or("a line without CRLF")?)?;
            }
        }
    }

    fn write(&mut self) -> Result<(), String> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(format!("the connection is lost: {error}")),
            }
        }
        Ok(())
    }

    /// `false`: nothing is there.
    fn read(&mut self) -> Result<bool, String> {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => Err("the connection is closed".into()),
            Ok(count) => {
                self.input.extend_from_slice(&buffer[..count]);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(format!("the connection is lost: {error}")),
        }
    }

    fn take(&mut self, book: &mut Book, line: &[u8]) -> Result<(), String> {
        let text = String::from_utf8_lossy(line).into_owned();
        let front = *self.expected.front().ok_or_else(|| format!("nobody asked for {text:?}"))?;
        match front {
            Expected::Code(code) if text.starts_with(code) => {}
            Expected::Sent if text.starts_with("240") => book.ledger.answered(self.session, Answer::Kept),
            Expected::Download if text.starts_with("RMSG") => {
                let (sender, body) = text[4..].split_once(':').ok_or("a message without a colon")?;
                book.ledger.received(self.session, sender, body.as_bytes());
                self.held += 1;
                if self.acknowledges {
                    self.acknowledge(book);
                }
                return Ok(());
            }
            Expected::Download if text.starts_with("255") => book.ledger.ended(self.session, End::All),
            Expected::Download if text.starts_with("256") => book.ledger.ended(self.session, End::Nothing),
            _ => return Err(format!("expected {front:?}, got {text:?}")),
        }
        self.expected.pop_front();
        if front == Expected::Download && self.role == Role::Waiting && self.goal == Goal::Woken {
            self.wait(book);
        }
        Ok(())
    }

    fn acknowledge(&mut self, book: &mut Book) {
        if self.held > 0 {
            book.ledger.acknowledging(self.session);
            self.output.extend_from_slice(b"250\r\n");
            self.held -= 1;
        }
    }

    fn wait(&mut self, book: &mut Book) {
        book.ledger.downloading(self.session, 1);
        self.ask("WMSG300", Expected::Download);
        self.goal = Goal::Nothing;
    }

    fn burst(&mut self, book: &mut Book, friend: &str) {
        for number in 0..BURST {
            match (number.is_multiple_of(BURST_MESSAGE_EVERY), (number * number + self.turn) % 7) {
                (true, _) => self.send(book, friend),
                (false, 0..3) => self.ask("USERsomebody", Expected::Code("500")),
                (false, _) => self.ask("SMSGa b", Expected::Code("540")),
            }
            if self.expected.back() == Some(&Expected::Code("540")) {
                self.ask("201", Expected::Code("201"));
            }
        }
        self.turn += 1;
    }

    fn ask(&mut self, pdu: &str, expected: Expected) {
        self.output.extend_from_slice(pdu.as_bytes());
        self.output.extend_from_slice(b"\r\n");
        self.expected.push_back(expected);
    }

    fn message(&mut self, book: &mut Book, recipient: &str) -> Vec<u8> {
        book.bodies += 1;
        let body = format!("letter {}", book.bodies);
        book.ledger.sending(self.session, recipient, body.as_bytes());
        format!("SMSG{recipient}:{body}\r\n").into_bytes()
    }
}
