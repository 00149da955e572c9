//! The yardstick: a one-thread server that does no more than any server of this protocol must. It believes every login,
//! keeps no state, checks each message as the contract says, appends each loop turn's messages to one file with one
//! fdatasync, and then answers. Runs in a
//! process of its own. Nothing here is an example of how to serve CP.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use cp_proto::command::{Command, Line};
use cp_proto::values::Username;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

use crate::lines::for_lines;
use crate::server::{USERS, user_name};

/// What one connection may bring in one turn, in bytes.
const READ_MAX_BYTES: usize = 16 * 1024;
/// Events of one turn.
const EVENTS_MAX: usize = 1024;
/// Connections accepted in one turn.
const ACCEPT_MAX: usize = 256;
const LISTENER: Token = Token(usize::MAX);
/// Length of the message that a download brings, in bytes.
const MESSAGE_BYTES: usize = 200;

/// How this floor serves.
pub struct FloorOptions {
    /// Where messages are kept; `None`: nowhere.
    pub file: Option<PathBuf>,
    /// Messages that every download brings, out of nothing.
    pub queue: u32,
}

struct Conn {
    stream: TcpStream,
    /// An unfinished line.
    carry: Vec<u8>,
    /// Replies that the socket did not take; while there are some, the connection is not read.
    unsent: Vec<u8>,
    /// Bytes may be waiting that no event will tell of again.
    readable: bool,
    download: Download,
}

#[derive(Default, Clone, Copy)]
struct Download {
    unsent: u32,
    unacknowledged: u32,
}

/// What one loop turn has gathered: every buffer is shared by all connections.
#[derive(Default)]
struct Turn {
    messages: Vec<u8>,
    replies: Vec<u8>,
    /// The slots with replies, and where in `replies` theirs end.
    touched: Vec<(usize, usize)>,
    closing: Vec<usize>,
    /// Who can be sent messages.
    users: HashSet<Username>,
}

struct Floor {
    poll: Poll,
    listener: TcpListener,
    conns: Vec<Option<Conn>>,
    free: Vec<usize>,
    again: Vec<usize>,
    scratch: Vec<u8>,
    turn: Turn,
    file: Option<File>,
    /// One RMSG line, rendered.
    message: Vec<u8>,
    queue: u32,
}

/// Serves until the process is ended. `announce` is told the port.
pub fn serve(options: &FloorOptions, announce: impl FnOnce(u16)) -> io::Result<()> {
    let poll = Poll::new()?;
    let mut listener = TcpListener::bind(([127, 0, 0, 1], 0).into())?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    announce(listener.local_addr()?.port());
    let mut floor = Floor {
        poll,
        listener,
        conns: Vec::new(),
        free: Vec::new(),
        again: Vec::new(),
        scratch: vec![0; READ_MAX_BYTES],
        turn: Turn {
            users: (0..USERS).filter_map(|n| Username::parse(user_name(n).as_bytes())).collect(),
            ..Turn::default()
        },
        file: options.file.as_ref().map(File::create).transpose()?,
        message: [b"RMSGfloor:".as_slice(), &[b'x'; MESSAGE_BYTES], b"\r\n"].concat(),
        queue: options.queue,
    };
    let mut events = Events::with_capacity(EVENTS_MAX);
    loop {
        let timeout = (!floor.again.is_empty()).then_some(Duration::ZERO);
        match floor.poll.poll(&mut events, timeout) {
            Err(e) if e.kind() != ErrorKind::Interrupted => return Err(e),
            _ => floor.turn(&events)?,
        }
    }
}

impl Floor {
    fn turn(&mut self, events: &Events) -> io::Result<()> {
        for slot in std::mem::take(&mut self.again) {
            self.read(slot);
        }
        for event in events {
            match event.token() {
                LISTENER => self.accept()?,
                Token(slot) => {
                    if event.is_writable() {
                        self.write_rest(slot);
                    }
                    if event.is_readable() {
                        self.read(slot);
                    }
                }
            }
        }
        if let Some(file) = &mut self.file
            && !self.turn.messages.is_empty()
        {
            file.write_all(&self.turn.messages)?;
            file.sync_data()?;
        }
        self.turn.messages.clear();
        self.answer();
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        for _ in 0..ACCEPT_MAX {
            let mut stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            };
            stream.set_nodelay(true)?;
            let slot = self.free.pop().unwrap_or_else(|| {
                self.conns.push(None);
                self.conns.len() - 1
            });
            self.poll.registry().register(&mut stream, Token(slot), Interest::READABLE | Interest::WRITABLE)?;
            self.conns[slot] = Some(Conn {
                stream,
                carry: Vec::new(),
                unsent: Vec::new(),
                readable: false,
                download: Download::default(),
            });
        }
        // No event tells of those left in the backlog: an accept bounded by the turn goes on in the next one.
        self.poll.registry().reregister(&mut self.listener, LISTENER, Interest::READABLE)
    }

    fn read(&mut self, slot: usize) {
        let Some(Some(conn)) = self.conns.get_mut(slot) else { return };
        if !conn.unsent.is_empty() {
            conn.readable = true;
            return;
        }
        let read = match conn.stream.read(&mut self.scratch) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => return,
            Ok(0) | Err(_) => return self.turn.closing.push(slot),
            Ok(read) => read,
        };
        if read == READ_MAX_BYTES {
            self.again.push(slot);
        }
        let Conn { carry, download, .. } = conn;
        let turn = &mut self.turn;
        let before = turn.replies.len();
        let done: Result<(), ()> = for_lines(carry, &self.scratch[..read], |line| {
            handle(line, download, turn, &self.message, self.queue);
            Ok(())
        });
        debug_assert!(done.is_ok());
        if turn.replies.len() > before {
            turn.touched.push((slot, turn.replies.len()));
        }
        if carry.len() > READ_MAX_BYTES {
            turn.closing.push(slot);
        }
    }

    /// Sends the turn's replies, each connection's with one write.
    fn answer(&mut self) {
        let turn = &mut self.turn;
        let mut start = 0;
        for (slot, end) in turn.touched.drain(..) {
            let replies = &turn.replies[start..end];
            start = end;
            let Some(Some(conn)) = self.conns.get_mut(slot) else { continue };
            let sent = if conn.unsent.is_empty() { conn.stream.write(replies) } else { Ok(0) };
            match sent {
                Ok(sent) => conn.unsent.extend_from_slice(&replies[sent..]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => conn.unsent.extend_from_slice(replies),
                Err(_) => turn.closing.push(slot),
            }
        }
        turn.replies.clear();
        for slot in turn.closing.drain(..) {
            if self.conns[slot].take().is_some() {
                self.free.push(slot);
            }
        }
    }

    fn write_rest(&mut self, slot: usize) {
        let Some(Some(conn)) = self.conns.get_mut(slot) else { return };
        if conn.unsent.is_empty() {
            return;
        }
        match conn.stream.write(&conn.unsent) {
            Ok(sent) => drop(conn.unsent.drain(..sent)),
            Err(e) if e.kind() == ErrorKind::WouldBlock => return,
            Err(_) => return self.turn.closing.push(slot),
        }
        if conn.unsent.is_empty() && std::mem::take(&mut conn.readable) {
            self.again.push(slot);
        }
    }
}

fn handle(line: &[u8], download: &mut Download, turn: &mut Turn, message: &[u8], queue: u32) {
    let reply: &[u8] = match line.get(..4).unwrap_or_default() {
        b"SMSG" => match Command::parse(Line::Whole(line.trim_ascii_end()), false) {
            Command::Send { recipient, .. } if turn.users.contains(&recipient) => {
                turn.messages.extend_from_slice(line);
                b"240 message successfully sent\r\n"
            }
            Command::Send { .. } => b"545 receiver user does not exist\r\n",
            _ => b"540 error sending message\r\n",
        },
        b"250\r" | b"250\n" | b"250 " if download.unacknowledged > 0 => {
            download.unacknowledged -= 1;
            return send_messages(download, 1, turn, message);
        }
        b"RMSG" => {
            let digits = std::str::from_utf8(&line[4..]).unwrap_or_default().trim_end();
            *download = Download { unsent: queue, unacknowledged: 0 };
            return send_messages(download, digits.parse().unwrap_or(1), turn, message);
        }
        b"USER" => b"220 received username successfully\r\n",
        b"PASS" => b"230 user authenticated successfully\r\n",
        _ => b"500 bad command\r\n",
    };
    turn.replies.extend_from_slice(reply);
}

fn send_messages(download: &mut Download, window: u32, turn: &mut Turn, message: &[u8]) {
    for _ in 0..window.min(download.unsent) {
        download.unsent -= 1;
        download.unacknowledged += 1;
        turn.replies.extend_from_slice(message);
    }
    if download.unacknowledged == 0 {
        turn.replies.extend_from_slice(b"255 end of messages\r\n");
    }
}
