//! One connection of a client that writes everything it does and sees into the ledger: before it does it, after it saw it.
//! What is sent and what it means is `cp_proto::client`'s to say; it gets one line at a time, so that what came already and
//! was not taken up can be told apart.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use cp_proto::client::{self, DownloadEnd, Event, Fate};
use cp_proto::values::{Password, Username};

use super::random::Random;
use crate::ledger::{Answer, End, Ledger, Parting, SessionNo};
use crate::running::PATIENCE;

/// The connection is over; the ledger knows.
#[derive(Debug)]
pub struct Over;

/// What the clients of one life of the daemon have in common.
pub struct Site<'a> {
    pub address: SocketAddrV4,
    pub ledger: &'a Mutex<Ledger>,
    /// The daemon will be stopped, not killed: when it closes a connection it has said all it had to say.
    pub orderly: bool,
    /// The store may fail under the daemon: nobody can log in while it cannot be read.
    pub failing: bool,
    /// The power is gone: what is heard from now on would not have been heard.
    pub dark: AtomicBool,
}

impl<'a> Site<'a> {
    /// Where a daemon is that will be killed, on a disk that works.
    pub fn new(address: SocketAddrV4, ledger: &'a Mutex<Ledger>) -> Site<'a> {
        Site { address, ledger, orderly: false, failing: false, dark: AtomicBool::new(false) }
    }

    fn is_dark(&self) -> bool {
        self.dark.load(Ordering::SeqCst)
    }

    pub fn book(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().expect("no client has failed")
    }
}

pub struct Client<'a> {
    site: &'a Site<'a>,
    stream: TcpStream,
    cp: client::Client,
    /// Bytes of lines that were not taken yet.
    unread: Vec<u8>,
    session: SessionNo,
}

/// How a download is acknowledged and ended.
pub struct Manner {
    /// Messages ahead; `None` is plain RMSG.
    pub window: Option<usize>,
    /// WMSG for that many seconds instead.
    pub wait: Option<u64>,
    /// 250s are held back while more is there to read.
    pub lazily: bool,
    /// Of this many messages one is answered by 550; 0 is none.
    pub reject_one_in: u64,
    /// Of this many messages the connection is dropped at one; 0 is none.
    pub drop_one_in: u64,
}

impl Manner {
    /// Everything, in order.
    pub const WHOLE: Manner = Manner { window: Some(256), wait: None, lazily: true, reject_one_in: 0, drop_one_in: 0 };
}

impl<'a> Client<'a> {
    /// Connects and logs in. `Err`: the daemon is not there, or ended meanwhile.
    pub fn login(site: &'a Site<'a>, user: &str) -> Result<Client<'a>, Over> {
        let stream = TcpStream::connect(site.address).map_err(|_| Over)?;
        stream.set_nodelay(true).map_err(|_| Over)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(|_| Over)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(|_| Over)?;
        let session = site.book().session(user);
        let mut client = Client { site, stream, cp: client::Client::new(), unread: Vec::new(), session };
        client.cp.log_in(name(user), &Password::parse(user.as_bytes()).expect("a password"));
        let admitted = client.next(|event| match event {
            Event::LoggedIn => true,
            Event::LoginFailed { code: 565, .. } if site.failing => false,
            other => panic!("{other:?} to a login"),
        })?;
        if admitted { Ok(client) } else { Err(client.close(Parting::Torn)) }
    }

    /// Sends messages, all at once, and reads the answers: how many got their 240.
    pub fn send(&mut self, messages: &[(&str, String)]) -> Result<usize, Over> {
        self.begin(messages);
        self.flush()?;
        let mut kept = 0;
        for _ in messages {
            let answer = self.next(|event| match event {
                Event::Sent(_) => Answer::Kept,
                Event::NotSent { fate: Fate::Unknown, .. } => Answer::Unknown,
                Event::NotSent { fate: Fate::NotStored, .. } => Answer::NotStored,
                other => panic!("{other:?} is no answer to SMSG"),
            })?;
            kept += usize::from(answer == Answer::Kept);
            let heard = if self.site.is_dark() { Answer::Unknown } else { answer };
            self.book().answered(self.session, heard);
        }
        if kept < messages.len() {
            self.recover()?;
        }
        Ok(kept)
    }

    /// Sends messages and goes away without an answer, perhaps in the middle of a line.
    pub fn send_and_go(mut self, messages: &[(&str, String)], random: &mut Random) -> Over {
        self.begin(messages);
        let bytes = self.cp.output().to_vec();
        let cut = random.between(1, bytes.len() as u64) as usize;
        match self.write(&bytes[..cut]) {
            Ok(()) => self.close(Parting::Torn),
            Err(over) => over,
        }
    }

    /// One download; says whether there was anything.
    pub fn download(&mut self, manner: &Manner, random: &mut Random) -> Result<bool, Over> {
        Ok(self.download_to_its_end(manner, random)? != Some(End::Nothing))
    }

    /// One download; says how the server ended it, if it did.
    pub fn download_to_its_end(&mut self, manner: &Manner, random: &mut Random) -> Result<Option<End>, Over> {
        let window = if manner.wait.is_some() { 1 } else { manner.window.unwrap_or(1) };
        self.book().downloading(self.session, window);
        match manner.wait {
            Some(seconds) => self.cp.wait(u16::try_from(seconds).expect("short")),
            None => self.cp.receive(u16::try_from(window).expect("small")),
        }
        .expect("nothing is being downloaded");
        let mut owed = 0;
        loop {
            let heard = self.next(|event| match event {
                Event::Message { sender, body } => Heard::Message(sender, body.to_vec()),
                Event::DownloadEnded(DownloadEnd::Complete) => Heard::End(End::All),
                Event::DownloadEnded(DownloadEnd::Empty) => Heard::End(End::Nothing),
                Event::DownloadEnded(DownloadEnd::Failed { code: 550, .. }) => Heard::End(End::Failed),
                other => panic!("{other:?} in a download"),
            })?;
            if self.site.is_dark() {
                return Err(self.close(Parting::Torn));
            }
            let (sender, body) = match heard {
                Heard::Message(sender, body) => (sender, body),
                Heard::End(end) => return self.end(end).map(Some),
            };
            if self.site.failing && self.is_ended_already() {
                self.book().stopping(self.session);
            }
            self.book().received(self.session, sender.as_str(), &body);
            owed += 1;
            if manner.drop_one_in > 0 && random.one_in(manner.drop_one_in) {
                let owed = if random.one_in(2) { owed } else { 0 };
                self.acknowledge(owed)?;
                return Err(self.close(Parting::Torn));
            }
            if manner.reject_one_in > 0 && random.one_in(manner.reject_one_in) {
                self.reject()?;
                return Ok(None);
            }
            if owed == window || !manner.lazily || self.unread.is_empty() {
                self.acknowledge(owed)?;
                owed = 0;
            }
        }
    }

    /// Closes the connection.
    pub fn close(&mut self, parting: Parting) -> Over {
        self.book().closed(self.session, parting);
        // Not the end of this value only: its owner may keep it a while. It fails when the daemon was first.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        Over
    }

    fn begin(&mut self, messages: &[(&str, String)]) {
        let mut book = self.book();
        for (recipient, body) in messages {
            book.sending(self.session, recipient, body.as_bytes());
            self.cp.send(name(recipient), body.as_bytes()).expect("a message");
        }
    }

    fn acknowledge(&mut self, count: usize) -> Result<(), Over> {
        if count == 0 {
            return Ok(());
        }
        let mut book = self.book();
        for _ in 0..count {
            book.acknowledging(self.session);
            assert!(self.cp.acknowledge(), "every message that was received can be acknowledged");
        }
        drop(book);
        self.flush()
    }

    /// 550, and 201 at once; what comes before its answer was sent before the 550.
    fn reject(&mut self) -> Result<(), Over> {
        self.book().stopping(self.session);
        assert!(self.cp.reject(), "a message can be rejected");
        self.flush()?;
        loop {
            // The protocol's client drops what comes from here on; the ledger counts it.
            let line = self.line()?;
            if self.site.is_dark() {
                return Err(self.close(Parting::Torn));
            }
            if let Some(message) = line.strip_prefix(b"RMSG") {
                let colon = message.iter().position(|byte| *byte == b':').unwrap_or(message.len());
                let sender = String::from_utf8_lossy(&message[..colon]);
                self.book().received(self.session, &sender, message.get(colon + 1..).unwrap_or_default());
            }
            // The server's own 550 may have been under way already: then this one was out of order, which is 500, and
            // nobody knows which 250s came before it.
            if self.site.failing && line.starts_with(b"550") {
                self.book().ended(self.session, End::Failed);
            }
            if self.site.failing && line.starts_with(b"500") {
                continue;
            }
            self.cp.input(&[line.as_slice(), b"\r\n"].concat());
            match self.cp.next_event() {
                None if line.starts_with(b"RMSG") || self.site.failing => {}
                Some(Event::DownloadEnded(DownloadEnd::Rejected)) => break,
                event => panic!("{:?} after 550: {event:?}", String::from_utf8_lossy(&line)),
            }
        }
        self.book().recovered(self.session);
        Ok(())
    }

    fn end(&mut self, end: End) -> Result<End, Over> {
        self.book().ended(self.session, end);
        if end == End::Failed {
            self.recover()?;
        }
        Ok(end)
    }

    /// Waits for the answer to the 201 that the protocol's client sends by itself behind an error.
    fn recover(&mut self) -> Result<(), Over> {
        self.flush()?;
        let line = self.line()?;
        self.cp.input(&[line.as_slice(), b"\r\n"].concat());
        let event = self.cp.next_event();
        let right = line.starts_with(b"201") && event.is_none();
        assert!(right, "{:?} instead of 201: {event:?}", String::from_utf8_lossy(&line));
        Ok(())
    }

    /// What `take` makes of the next event, for which what is to be sent is sent.
    fn next<T>(&mut self, take: impl FnOnce(Event<'_>) -> T) -> Result<T, Over> {
        self.flush()?;
        loop {
            let line = self.line()?;
            self.cp.input(&[line.as_slice(), b"\r\n"].concat());
            if let Some(event) = self.cp.next_event() {
                return Ok(take(event));
            }
        }
    }

    fn flush(&mut self) -> Result<(), Over> {
        let bytes = self.cp.output().to_vec();
        self.cp.output_sent(bytes.len());
        self.write(&bytes)
    }

    fn book(&self) -> MutexGuard<'a, Ledger> {
        self.site.book()
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Over> {
        match self.stream.write_all(bytes) {
            Ok(()) => Ok(()),
            Err(error) => {
                assert!(is_gone(&error), "cpd does not read: {error}");
                // The last words may still be there, but a reset has no order.
                Err(self.close(Parting::Torn))
            }
        }
    }

    /// Whether the server's own 550, which a failing store can bring about at any time, has come already behind what was
    /// read: then that left earlier, and somebody else may have had the queue since.
    fn is_ended_already(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        self.stream.set_nonblocking(true).expect("a socket");
        while let Ok(count @ 1..) = self.stream.read(&mut buffer) {
            self.unread.extend_from_slice(&buffer[..count]);
        }
        self.stream.set_nonblocking(false).expect("a socket");
        self.unread.split(|byte| *byte == b'\n').any(|line| line.starts_with(b"550 "))
    }

    /// The next line without its end.
    fn line(&mut self) -> Result<Vec<u8>, Over> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.unread.drain(..=end).collect();
                line.truncate(end);
                assert_eq!(line.pop(), Some(b'\r'), "the server always sends CRLF");
                return Ok(line);
            }
            let mut buffer = [0; 16 * 1024];
            match self.stream.read(&mut buffer) {
                Ok(0) if self.site.orderly => {
                    assert!(self.unread.is_empty(), "half a PDU: {:?}", String::from_utf8_lossy(&self.unread));
                    return Err(self.close(Parting::Orderly));
                }
                Ok(0) => return Err(self.close(Parting::Torn)),
                Ok(count) => self.unread.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    assert!(is_gone(&error), "cpd does not answer: {error}");
                    return Err(self.close(Parting::Torn));
                }
            }
        }
    }
}

/// What comes in a download.
enum Heard {
    Message(Username, Vec<u8>),
    End(End),
}

fn name(text: &str) -> Username {
    Username::parse(text.as_bytes()).expect("a name")
}

fn is_gone(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted)
}
