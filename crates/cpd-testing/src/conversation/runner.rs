//! Plays a [`Script`] against a [`Peer`] and says where the two differ. Everything that judges is here; a peer only
//! carries bytes.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::parser::{Action, Expected, Script, Step};
use super::text::readable;

/// How much earlier than `after:` says an answer may come: clocks count in milliseconds.
const EARLY_MAX: Duration = Duration::from_millis(10);
/// How much later it may come where time is virtual: a timer wheel has ticks.
const LATE_MAX_VIRTUAL: Duration = Duration::from_millis(50);

/// A server under test, with its clients' ends of the connections. An `Err` is a fault of the test's own machinery or of
/// the server as a whole (it did not start, it is gone), and ends the conversation.
pub trait Peer {
    /// Opens connection `connection`, called once before anything else is done with it. The listener is the script's.
    fn open(&mut self, connection: usize) -> Result<(), String>;

    /// The client sends `bytes` in one write. It does not wait for anything that the server makes of them.
    fn send(&mut self, connection: usize, bytes: &[u8]) -> Result<(), String>;

    /// The client shuts down its sending side; it still reads.
    fn fin(&mut self, connection: usize) -> Result<(), String>;

    /// The client's end goes away at once, with a reset (`true`) or a plain close. Never used again.
    fn drop_connection(&mut self, connection: usize, reset: bool) -> Result<(), String>;

    /// The client sends `bytes` again and again and reads nothing, until the server has ended the connection. Never
    /// used again. `Err` when the server goes on for ever.
    fn flood(&mut self, connection: usize, bytes: &[u8]) -> Result<(), String>;

    /// What the server sends next, however much of it. Waits for it: real time passes, or virtual time is moved to the
    /// next deadline for as long as there is one. [`Got::Nothing`] when nothing came in a generous time, or no deadline
    /// is left.
    fn read(&mut self, connection: usize) -> Result<Got, String>;

    /// What the server has sent by now. Lets no virtual time pass, and a few tens of real milliseconds at most.
    fn poll(&mut self, connection: usize) -> Result<Got, String>;

    /// Lets `time` pass.
    fn wait(&mut self, time: Duration) -> Result<(), String>;

    /// Time since the start.
    fn now(&self) -> Duration;

    /// Time is virtual: it passes only in `read` and `wait`, and nothing is late.
    fn is_virtual(&self) -> bool;

    /// Does what cpctl does with these arguments, and returns when it is done. An argument `@NAME` stands for the
    /// number of the session in which NAME is logged in. `Err` when it is refused.
    fn admin(&mut self, arguments: &[String], stdin: Option<&str>) -> Result<(), String>;

    /// After the last step: the server must still be there.
    fn finish(&mut self) -> Result<(), String>;
}

/// What came on a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Got {
    /// Never empty.
    Bytes(Vec<u8>),
    /// The server has shut down its sending side, after everything that was read.
    Closed,
    /// The connection was reset.
    Reset,
    Nothing,
}

/// Where and how a conversation went otherwise.
#[derive(Debug)]
pub struct Failure {
    pub path: PathBuf,
    pub line: usize,
    pub expected: String,
    pub got: String,
    pub transcript: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}:{}", self.path.display(), self.line)?;
        writeln!(f, "  expected  {}", self.expected)?;
        writeln!(f, "  got       {}", self.got)?;
        writeln!(f, "  so far:")?;
        self.transcript.iter().try_for_each(|line| writeln!(f, "    {line}"))
    }
}

/// Plays `script`; the first difference ends it.
pub fn play(script: &Script, peer: &mut dyn Peer) -> Result<(), Box<Failure>> {
    let mut runner = Runner {
        peer,
        connections: BTreeMap::new(),
        transcript: Vec::new(),
        marked: Duration::ZERO,
        came: Duration::ZERO,
    };
    let fail = |line, difference: Difference, transcript| {
        let Difference { expected, got } = difference;
        Box::new(Failure { path: script.path.clone(), line, expected, got, transcript })
    };
    for step in &script.steps {
        if let Err(difference) = runner.step(step) {
            return Err(fail(step.line, difference, runner.transcript));
        }
    }
    let last = script.steps.last().map_or(0, |step| step.line);
    runner.finish().map_err(|difference| fail(last, difference, std::mem::take(&mut runner.transcript)))
}

struct Difference {
    expected: String,
    got: String,
}

/// A fault of the machinery, told like a difference.
impl From<String> for Difference {
    fn from(fault: String) -> Difference {
        Difference { expected: "the server and its connections to work".into(), got: fault }
    }
}

/// A connection as the client sees it.
#[derive(Default)]
struct Connection {
    /// Came and was not expected yet.
    unread: Vec<u8>,
    ended: Option<Got>,
    /// The client has left.
    left: bool,
}

struct Runner<'a> {
    peer: &'a mut dyn Peer,
    connections: BTreeMap<usize, Connection>,
    transcript: Vec<String>,
    marked: Duration,
    /// When the last expected thing came.
    came: Duration,
}

impl Runner<'_> {
    fn step(&mut self, step: &Step) -> Result<(), Difference> {
        match &step.action {
            Action::Send { connection, bytes } => {
                self.open(*connection)?;
                self.note('C', *connection, &readable(bytes));
                Ok(self.peer.send(*connection, bytes)?)
            }
            Action::Flood { connection, bytes } => {
                self.open(*connection)?;
                self.note('C', *connection, &format!("{} again and again", readable(bytes)));
                self.leave(*connection);
                Ok(self.peer.flood(*connection, bytes)?)
            }
            Action::Fin { connection } => {
                self.open(*connection)?;
                self.note('C', *connection, "<fin>");
                Ok(self.peer.fin(*connection)?)
            }
            Action::Reset { connection } => self.gone(*connection, true),
            Action::Gone { connection } => self.gone(*connection, false),
            Action::Expect { connection, what } => {
                self.open(*connection)?;
                self.expect(*connection, what)
            }
            Action::Wait(time) => Ok(self.peer.wait(*time)?),
            Action::Mark => {
                self.marked = self.peer.now();
                Ok(())
            }
            Action::After(time) => self.after(*time),
            Action::Admin { arguments, stdin } => {
                self.transcript.push(format!("admin: {}", arguments.join(" ")));
                Ok(self.peer.admin(arguments, stdin.as_deref())?)
            }
        }
    }

    fn open(&mut self, connection: usize) -> Result<(), Difference> {
        if let std::collections::btree_map::Entry::Vacant(place) = self.connections.entry(connection) {
            self.peer.open(connection)?;
            place.insert(Connection::default());
        }
        if self.connections[&connection].left {
            return Err(format!("the script uses connection {connection} after the client has left it").into());
        }
        Ok(())
    }

    fn gone(&mut self, connection: usize, reset: bool) -> Result<(), Difference> {
        self.open(connection)?;
        self.note('C', connection, if reset { "<reset>" } else { "<gone>" });
        self.leave(connection);
        Ok(self.peer.drop_connection(connection, reset)?)
    }

    fn leave(&mut self, connection: usize) {
        self.connections.entry(connection).or_default().left = true;
    }

    fn expect(&mut self, connection: usize, what: &Expected) -> Result<(), Difference> {
        match what {
            Expected::Code(code) => {
                let expected = format!("a line with code {code}");
                let line = self.line(connection, &expected)?;
                self.judge(is_reply(&line, code), expected, &line)
            }
            Expected::Line(text) => {
                let expected = readable(text);
                let line = self.line(connection, &expected)?;
                self.judge(line == *text, expected, &line)
            }
            Expected::Bytes(bytes) => {
                let expected = readable(bytes);
                let got = self.bytes(connection, bytes.len(), &expected)?;
                self.judge(got == *bytes, expected, &got)
            }
            Expected::Close => self.close(connection),
            Expected::Quiet => self.quiet(connection),
        }
    }

    fn judge(&mut self, right: bool, expected: String, got: &[u8]) -> Result<(), Difference> {
        self.came = self.peer.now();
        if right { Ok(()) } else { Err(Difference { expected, got: readable(got) }) }
    }

    /// The next line without its CRLF. A line that ends otherwise keeps its end, and so matches nothing.
    fn line(&mut self, connection: usize, expected: &str) -> Result<Vec<u8>, Difference> {
        let end = loop {
            let unread = &self.connections[&connection].unread;
            match unread.iter().position(|byte| *byte == b'\n') {
                Some(end) => break end + 1,
                None => self.more(connection, expected)?,
            }
        };
        let line = self.take(connection, end);
        Ok(line.strip_suffix(b"\r\n").map(<[u8]>::to_vec).unwrap_or(line))
    }

    fn bytes(&mut self, connection: usize, count: usize, expected: &str) -> Result<Vec<u8>, Difference> {
        while self.connections[&connection].unread.len() < count {
            self.more(connection, expected)?;
        }
        Ok(self.take(connection, count))
    }

    fn take(&mut self, connection: usize, count: usize) -> Vec<u8> {
        let unread = &mut self.connections.entry(connection).or_default().unread;
        let rest = unread.split_off(count);
        let taken = std::mem::replace(unread, rest);
        self.note('S', connection, &readable(&taken));
        taken
    }

    /// Reads on, where `expected` needs more bytes.
    fn more(&mut self, connection: usize, expected: &str) -> Result<(), Difference> {
        let got = match self.connections.entry(connection).or_default().ended.take() {
            Some(ended) => ended,
            None => self.peer.read(connection)?,
        };
        let place = self.connections.entry(connection).or_default();
        let unread = readable(&place.unread);
        let otherwise = |what: &str| match unread.as_str() {
            "" => Err(Difference { expected: expected.to_string(), got: what.to_string() }),
            _ => Err(Difference { expected: expected.to_string(), got: format!("{unread}, then {what}") }),
        };
        match got {
            Got::Bytes(bytes) => {
                place.unread.extend(bytes);
                Ok(())
            }
            Got::Closed => otherwise("the server closed"),
            Got::Reset => otherwise("the connection was reset"),
            Got::Nothing => otherwise("nothing came"),
        }
    }

    fn close(&mut self, connection: usize) -> Result<(), Difference> {
        let expected = || "the server to close".to_string();
        let place = self.connections.entry(connection).or_default();
        let got = match place.ended.take() {
            _ if !place.unread.is_empty() => Got::Bytes(std::mem::take(&mut place.unread)),
            Some(ended) => ended,
            None => self.peer.read(connection)?,
        };
        self.came = self.peer.now();
        match got {
            Got::Closed => {
                self.note('S', connection, "<close>");
                self.connections.entry(connection).or_default().ended = Some(Got::Closed);
                Ok(())
            }
            Got::Bytes(bytes) => Err(Difference { expected: expected(), got: readable(&bytes) }),
            Got::Reset => Err(Difference { expected: expected(), got: "a reset".into() }),
            Got::Nothing => Err(Difference { expected: expected(), got: "nothing".into() }),
        }
    }

    fn quiet(&mut self, connection: usize) -> Result<(), Difference> {
        let expected = "nothing to come".to_string();
        let place = self.connections.entry(connection).or_default();
        if !place.unread.is_empty() {
            return Err(Difference { expected, got: readable(&place.unread) });
        }
        if place.ended.is_some() {
            return Ok(());
        }
        match self.peer.poll(connection)? {
            Got::Nothing => Ok(()),
            Got::Bytes(bytes) => Err(Difference { expected, got: readable(&bytes) }),
            Got::Closed => Err(Difference { expected, got: "the server closed".into() }),
            Got::Reset => Err(Difference { expected, got: "a reset".into() }),
        }
    }

    fn after(&self, time: Duration) -> Result<(), Difference> {
        let took = self.came.saturating_sub(self.marked);
        let late = self.peer.is_virtual() && took > time + LATE_MAX_VIRTUAL;
        if took + EARLY_MAX < time || late {
            return Err(Difference { expected: format!("{time:?} after the mark"), got: format!("{took:?} after it") });
        }
        Ok(())
    }

    /// Nobody has said more than the script knows of.
    fn finish(&mut self) -> Result<(), Difference> {
        let open: Vec<usize> = self.connections.iter().filter(|(_, c)| !c.left).map(|(number, _)| *number).collect();
        for connection in open {
            self.quiet(connection)?;
        }
        Ok(self.peer.finish()?)
    }

    fn note(&mut self, who: char, connection: usize, text: &str) {
        let number = if connection == 1 { String::new() } else { connection.to_string() };
        self.transcript.push(format!("{who}{number}: {}", text.trim_end_matches("\\r\\n")));
    }
}

/// A code, one space, and text for people: no control characters, and no longer than a PDU.
fn is_reply(line: &[u8], code: &str) -> bool {
    let text = std::str::from_utf8(line).ok().and_then(|line| line.strip_prefix(code)?.strip_prefix(' '));
    line.len() <= 1024 && text.is_some_and(|text| !text.is_empty() && !text.chars().any(char::is_control))
}

#[cfg(test)]
mod tests;
