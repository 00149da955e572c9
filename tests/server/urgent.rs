//! Urgent data is read in line (docs/protocol.md section 10): a telnet client's Synch does not cost it a byte.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;

use cpd_testing::running::{Daemon, PATIENCE};
use nix::sys::socket::{MsgFlags, send};
use rustix::process::Signal;

fn connect(daemon: &Daemon) -> TcpStream {
    let client = TcpStream::connect(daemon.address()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

#[test]
fn an_urgent_byte_keeps_its_place() {
    let daemon = Daemon::start("");
    let mut client = connect(&daemon);
    client.write_all(b"USE").unwrap();
    send(client.as_raw_fd(), b"R", MsgFlags::MSG_OOB).unwrap();
    client.write_all(b" bob\r\nTERM\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "220 received username successfully\r\n");
}

/// A burst that is there before cpd reads any of it: a read ends at the urgent mark, and what lies behind it must not
/// wait for the next packet.
#[test]
fn what_follows_an_urgent_byte_is_read_without_another_packet() {
    let daemon = Daemon::start("");
    let mut client = connect(&daemon);
    client.write_all(b"NOOP\r\n").unwrap();
    let expected = b"500 bad command: unknown verb; log in with USER first\r\n";
    let mut first = [0; 55];
    client.read_exact(&mut first).unwrap();
    assert_eq!(&first, expected);
    daemon.signal(Signal::STOP);
    client.write_all(b"junk\xff\xf4\xff").unwrap();
    send(client.as_raw_fd(), b"\xf2", MsgFlags::MSG_OOB).unwrap();
    client.write_all(b"USERbob\r\n").unwrap();
    daemon.signal(Signal::CONT);
    let mut answer = [0; 36];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"220 received username successfully\r\n");
}
