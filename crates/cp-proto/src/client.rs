//! A client of one connection, without a socket: requests become bytes to send, bytes that were received become events
//! (docs/protocol.md sections 3 to 5).
//!
//! Requests may be pipelined: each is answered in its turn, and [`Event`]s name the request that they answer. After an
//! error reply the server takes nothing but 201 (Error Processing). The client sends that by itself; what was sent before
//! it is answered by 500, which means [`Fate::NotStored`], and can be sent again. The classic dialect (section 8), which has
//! no such state, is not spoken.
//!
//! A session over a blocking socket, which sends a message and then takes all that is there:
//!
//! ```no_run
//! use std::io::{Read, Write};
//! use std::net::TcpStream;
//!
//! use cp_proto::client::{Client, Event};
//! use cp_proto::values::{Password, Username};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let ann = Username::parse(b"ann").ok_or("not a name")?;
//!     let bob = Username::parse(b"bob").ok_or("not a name")?;
//!     let mut socket = TcpStream::connect("127.0.0.1:5035")?;
//!     let (mut client, mut bytes) = (Client::new(), [0; 4096]);
//!     client.log_in(ann, &Password::parse(b"hunter2").ok_or("not a password")?);
//!     client.send(bob, b"hello")?;
//!     client.receive(16)?;
//!     loop {
//!         socket.write_all(client.output())?;
//!         client.output_sent(client.output().len());
//!         match socket.read(&mut bytes)? {
//!             0 => client.input_ended(),
//!             count => client.input(&bytes[..count]),
//!         }
//!         while let Some(event) = client.next_event() {
//!             match event {
//!                 Event::Message { sender, body } => println!("{sender}: {}", String::from_utf8_lossy(body)),
//!                 Event::DownloadEnded(_) => client.terminate(),
//!                 Event::Closed { .. } => return Ok(()),
//!                 other => println!("{other:?}"),
//!             }
//!             client.acknowledge_all();
//!         }
//!     }
//! }
//! ```

mod replies;

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;

use crate::limits::{PDU_MAX_BYTES, WAIT_MAX_SECONDS, WINDOW_MAX_MESSAGES};
use crate::secret::WipedBytes;
use crate::values::{Password, Username, is_valid_message};

/// The number of a request within its connection, from 0.
pub type RequestNumber = u64;

/// What has happened. Texts are the server's words for a human reader, without the code.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// 230: the user is logged in.
    LoggedIn,
    /// The login failed. `code` is 560 for an impossible name, 565 for all that is wrong with name and password, and 500
    /// if the server takes no login now.
    LoginFailed { code: u16, text: &'a str },
    /// 240: the server keeps this message, whatever crashes from now on.
    Sent(RequestNumber),
    /// The message was not accepted.
    NotSent { request: RequestNumber, fate: Fate, code: u16, text: &'a str },
    /// The next message of a download. It stays in the queue until it is acknowledged.
    Message { sender: Username, body: &'a [u8] },
    /// The download that is under way has ended.
    DownloadEnded(DownloadEnd<'a>),
    /// 214: what may be sent now.
    Help(&'a str),
    /// A reply to none of the client's requests: a server that is full says so before it closes.
    Unasked { code: u16, text: &'a str },
    /// The server sent what no CP server sends. The connection is of no further use.
    Violation(Violation),
    /// The connection has ended, and nothing more will come. Of the messages `unanswered`, which were sent and not
    /// answered, it is not known whether they are stored.
    Closed { unanswered: Range<RequestNumber> },
}

/// What became of a message that was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is certainly not stored.
    NotStored,
    /// It may be stored: sent again, it may arrive twice (540).
    Unknown,
}

/// How a download has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DownloadEnd<'a> {
    /// 255: all of its messages are acknowledged and gone from the queue.
    Complete,
    /// 256: there was no message.
    Empty,
    /// 550 or 500: an acknowledgement came too late, the queue could not be read, or the server takes no download now.
    /// What was not acknowledged stays in the queue.
    Failed { code: u16, text: &'a str },
    /// The client has rejected it, and the server has recovered from that.
    Rejected,
}

/// What no CP server sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// A line of more than [`PDU_MAX_BYTES`].
    Overlong,
    /// A line that is neither a reply nor a message.
    NotCp,
    /// A message although no download is under way, or more of them than were asked for.
    UnexpectedMessage,
    /// A code that does not answer what was asked.
    UnexpectedReply(u16),
}

/// Why a request was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotNow {
    /// A download is under way: only acknowledgements, HELP and TERM make sense until it has ended.
    Downloading,
    /// TERM was sent, or the connection has ended.
    Ended,
    /// The message is empty, too long, not UTF-8, or has a control character in it (section 2).
    BadMessage,
    /// The number is 0, or over [`WINDOW_MAX_MESSAGES`] or [`WAIT_MAX_SECONDS`].
    OutOfRange,
}

impl fmt::Display for NotNow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NotNow::Downloading => "a download is under way",
            NotNow::Ended => "the session has ended",
            NotNow::BadMessage => "not a valid message",
            NotNow::OutOfRange => "a number out of range",
        })
    }
}

impl std::error::Error for NotNow {}

/// A PDU that has not been answered yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unanswered {
    User,
    Password,
    Send(RequestNumber),
    Download {
        window: u16,
        unacknowledged: u16,
        any_received: bool,
    },
    /// 201; `rejected`: it follows the client's 550, and what still comes of the download is dropped.
    Recover {
        rejected: bool,
    },
    Help,
    /// The PASS behind a USER that was refused.
    Void,
}

/// The client of one connection.
#[derive(Debug, Default)]
pub struct Client {
    output: WipedBytes,
    input: Vec<u8>,
    /// How many bytes of `input` were parsed.
    parsed: usize,
    unanswered: VecDeque<Unanswered>,
    next_request: RequestNumber,
    input_ended: bool,
    over: bool,
    closed: bool,
}

impl Client {
    /// A client of a connection on which nothing was sent yet.
    pub fn new() -> Client {
        Client::default()
    }

    // ---- requests ----

    /// Logs in: USER and PASS. One event answers both.
    pub fn log_in(&mut self, name: Username, password: &Password) {
        if self.over {
            return;
        }
        self.pdu(&[b"USER", name.as_str().as_bytes()], Some(Unanswered::User));
        self.pdu(&[b"PASS", password.as_bytes()], Some(Unanswered::Password));
    }

    /// Leaves a message for a user: SMSG. Its number is the one that events and [`Event::Closed`] name.
    ///
    /// # Errors
    /// [`NotNow`]; nothing is sent then.
    pub fn send(&mut self, recipient: Username, body: &[u8]) -> Result<RequestNumber, NotNow> {
        if !is_valid_message(body) {
            return Err(NotNow::BadMessage);
        }
        self.ready()?;
        let number = self.next_request;
        self.next_request += 1;
        self.pdu(&[b"SMSG", recipient.as_str().as_bytes(), b":", body], Some(Unanswered::Send(number)));
        Ok(number)
    }

    /// Downloads what is queued: RMSG, with up to `window` messages ahead of their acknowledgements (1 to 256).
    ///
    /// # Errors
    /// [`NotNow`]; nothing is sent then.
    pub fn receive(&mut self, window: u16) -> Result<(), NotNow> {
        self.ready()?;
        match window {
            0 => return Err(NotNow::OutOfRange),
            1 => self.pdu(&[b"RMSG"], Some(Unanswered::download(1))),
            2..=WINDOW_MAX_MESSAGES => {
                self.pdu(&[b"RMSG", window.to_string().as_bytes()], Some(Unanswered::download(window)));
            }
            _ => return Err(NotNow::OutOfRange),
        }
        Ok(())
    }

    /// Waits up to `seconds` (1 to 300) for a message, then downloads one after another: WMSG. While nothing has come,
    /// another request ends the wait: [`DownloadEnd::Empty`], then the answer to that request.
    ///
    /// # Errors
    /// [`NotNow`]; nothing is sent then.
    pub fn wait(&mut self, seconds: u16) -> Result<(), NotNow> {
        self.ready()?;
        if !(1..=WAIT_MAX_SECONDS).contains(&seconds) {
            return Err(NotNow::OutOfRange);
        }
        self.pdu(&[b"WMSG", seconds.to_string().as_bytes()], Some(Unanswered::download(1)));
        Ok(())
    }

    /// Acknowledges the oldest message that was received and not acknowledged: 250. The server deletes it. Returns
    /// whether there was one.
    pub fn acknowledge(&mut self) -> bool {
        match self.unanswered.front_mut() {
            Some(Unanswered::Download { unacknowledged, .. }) if *unacknowledged > 0 && !self.over => {
                *unacknowledged -= 1;
                self.pdu(&[b"250"], None);
                true
            }
            _ => false,
        }
    }

    /// Acknowledges all messages that were received.
    pub fn acknowledge_all(&mut self) {
        while self.acknowledge() {}
    }

    /// Ends the download and keeps what was not acknowledged in the queue: 550. [`DownloadEnd::Rejected`] follows; what
    /// is received up to it is dropped. Returns whether a message could be rejected.
    pub fn reject(&mut self) -> bool {
        match self.unanswered.front() {
            Some(Unanswered::Download { unacknowledged: 1.., .. }) if !self.over => {
                self.pdu(&[b"550\r\n201"], None);
                self.unanswered.pop_front();
                self.unanswered.push_front(Unanswered::Recover { rejected: true });
                true
            }
            _ => false,
        }
    }

    /// Asks what may be sent: HELP.
    pub fn help(&mut self) {
        if !self.over {
            self.pdu(&[b"HELP"], Some(Unanswered::Help));
        }
    }

    /// Ends the session: TERM. What was sent before is still answered.
    pub fn terminate(&mut self) {
        if !self.over {
            self.pdu(&[b"TERM"], None);
            self.over = true;
        }
    }

    fn ready(&self) -> Result<(), NotNow> {
        let downloads = |pdu: &Unanswered| matches!(pdu, Unanswered::Download { any_received: true, .. });
        if self.over {
            Err(NotNow::Ended)
        } else if self.unanswered.iter().any(downloads) {
            Err(NotNow::Downloading)
        } else {
            Ok(())
        }
    }

    fn pdu(&mut self, parts: &[&[u8]], unanswered: Option<Unanswered>) {
        parts.iter().for_each(|part| self.output.append(part));
        self.output.append(b"\r\n");
        self.unanswered.extend(unanswered);
    }

    // ---- bytes ----

    /// What is to be sent.
    pub fn output(&self) -> &[u8] {
        &self.output
    }

    /// The first `count` bytes of the output were sent.
    pub fn output_sent(&mut self, count: usize) {
        self.output.consume(count);
    }

    /// Takes what was received. [`Client::next_event`] parses it; until then it is kept.
    pub fn input(&mut self, bytes: &[u8]) {
        self.input.drain(..self.parsed);
        self.parsed = 0;
        self.input.extend_from_slice(bytes);
    }

    /// The server has ended its stream, or the connection is lost.
    pub fn input_ended(&mut self) {
        self.input_ended = true;
        self.over = true;
    }

    /// The next event of what was received; `None`: more input is needed.
    pub fn next_event(&mut self) -> Option<Event<'_>> {
        loop {
            if self.closed {
                return None;
            }
            let rest = self.input.get(self.parsed..).unwrap_or_default();
            let Some(length) = rest.iter().position(|byte| *byte == b'\n') else {
                if rest.len() > PDU_MAX_BYTES + 1 {
                    return Some(self.violate(Violation::Overlong));
                }
                return self.input_ended.then(|| self.close());
            };
            let begin = self.parsed;
            self.parsed += length + 1;
            if let Some(found) = self.take_line(begin..begin + length) {
                return Some(self.event(found));
            }
        }
    }

    fn close(&mut self) -> Event<'_> {
        self.closed = true;
        let mut sends = self.unanswered.iter().filter_map(|pdu| match pdu {
            Unanswered::Send(number) => Some(*number),
            _ => None,
        });
        let first = sends.next().unwrap_or(self.next_request);
        Event::Closed { unanswered: first..self.next_request }
    }

    fn violate(&mut self, violation: Violation) -> Event<'static> {
        (self.over, self.input_ended) = (true, true);
        self.parsed = self.input.len();
        Event::Violation(violation)
    }
}

impl Unanswered {
    fn download(window: u16) -> Unanswered {
        Unanswered::Download { window, unacknowledged: 0, any_received: false }
    }
}

#[cfg(test)]
mod tests;
