//! A client that sends and compares lines as a test writes them down, malformed ones among them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::time::Duration;

use super::{PATIENCE, QUIET};

/// A client of CP.
pub struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    #[track_caller]
    pub fn connect(address: SocketAddrV4) -> Client {
        let stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("{address}: {error}"));
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        Client { reader: BufReader::new(stream) }
    }

    #[track_caller]
    pub fn send(&mut self, line: &str) {
        self.reader.get_mut().write_all(format!("{line}\r\n").as_bytes()).expect("sent");
    }

    /// Sends a part of a line.
    #[track_caller]
    pub fn begins(&mut self, part: &str) {
        self.reader.get_mut().write_all(part.as_bytes()).expect("sent");
    }

    /// Its own end's port.
    pub fn port(&self) -> u16 {
        self.reader.get_ref().local_addr().expect("connected").port()
    }

    /// The next line without its CRLF; empty at the end of the connection.
    #[track_caller]
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("a line or the end");
        line.trim_end_matches("\r\n").to_owned()
    }

    /// As [`Client::line`], also empty after a reset; `None` when nothing comes for so long.
    pub fn line_within(&mut self, patience: Duration) -> Option<String> {
        self.reader.get_ref().set_read_timeout(Some(patience)).expect("set");
        let mut line = String::new();
        let read = self.reader.read_line(&mut line);
        self.reader.get_ref().set_read_timeout(Some(PATIENCE)).expect("set");
        let late = read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        (!late).then(|| line.trim_end_matches("\r\n").to_owned())
    }

    /// Sends a line to a server that may have closed; whether it could be sent.
    pub fn says(&mut self, line: &str) -> bool {
        self.reader.get_mut().write_all(format!("{line}\r\n").as_bytes()).is_ok()
    }

    /// Sends a line and compares the beginning of the answer.
    #[track_caller]
    pub fn asks(&mut self, line: &str, answer: &str) {
        self.send(line);
        let said = self.line();
        assert!(said.starts_with(answer), "{line}: {said:?} instead of {answer:?}");
    }

    /// Compares the beginning of the next line.
    #[track_caller]
    pub fn hears(&mut self, beginning: &str) {
        let said = self.line();
        assert!(said.starts_with(beginning), "{said:?} instead of {beginning:?}");
    }

    /// All that comes up to the end of the connection, and whether that is a reset.
    pub fn rest(&mut self) -> (String, std::io::Result<()>) {
        let mut rest = Vec::new();
        let end = self.reader.read_to_end(&mut rest).map(drop);
        (String::from_utf8_lossy(&rest).into_owned(), end)
    }

    /// Its socket.
    pub fn stream(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    #[track_caller]
    pub fn logs_in(&mut self, name: &str, password: &str) {
        self.asks(&format!("USER {name}"), "220 ");
        self.asks(&format!("PASS {password}"), "230 ");
    }

    /// That the server has closed, having said nothing more.
    #[track_caller]
    pub fn is_closed(&mut self) {
        // A reset is an end as well.
        let (rest, _) = self.rest();
        assert!(rest.is_empty(), "{rest:?}");
    }

    /// That nothing comes for a while.
    #[track_caller]
    pub fn hears_nothing(&mut self) {
        self.reader.get_ref().set_read_timeout(Some(QUIET)).expect("set");
        let heard = self.reader.fill_buf().map(<[u8]>::to_vec);
        assert!(heard.is_err(), "{heard:?}");
        self.reader.get_ref().set_read_timeout(Some(PATIENCE)).expect("set");
    }
}
