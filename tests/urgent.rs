//! Urgent data is read in line (docs/protocol.md section 10): a telnet client's Synch does not cost it a byte.

use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cpd_testing::running;
use nix::sys::socket::{MsgFlags, send};

const START_MAX: Duration = Duration::from_secs(20);

struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(folder: &std::path::Path, address: SocketAddrV4) -> Daemon {
    let config = folder.join("cpd.toml");
    std::fs::write(&config, format!("[listen]\ncp = [\"{address}\"]\n")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_cpd"));
    command.arg("--data").arg(folder).arg("--config").arg(&config).stderr(Stdio::null());
    let mut daemon = Daemon(command.spawn().unwrap());
    let begun = Instant::now();
    while UnixStream::connect(folder.join("control.sock")).is_err() {
        assert!(daemon.0.try_wait().unwrap().is_none(), "cpd ended at its start");
        assert!(begun.elapsed() < START_MAX, "no control socket");
        std::thread::sleep(Duration::from_millis(5));
    }
    daemon
}

#[test]
fn an_urgent_byte_keeps_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let address = running::next_address();
    let _daemon = start(folder.path(), address);
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(START_MAX)).unwrap();
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
    let folder = tempfile::tempdir().unwrap();
    let address = running::next_address();
    let daemon = start(folder.path(), address);
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(START_MAX)).unwrap();
    client.write_all(b"NOOP\r\n").unwrap();
    let expected = b"500 bad command: unknown verb; log in with USER first\r\n";
    let mut first = [0; 55];
    client.read_exact(&mut first).unwrap();
    assert_eq!(&first, expected);
    let signal = |name: &str| {
        assert!(Command::new("kill").arg(name).arg(daemon.0.id().to_string()).status().unwrap().success());
    };
    signal("-STOP");
    client.write_all(b"junk\xff\xf4\xff").unwrap();
    send(client.as_raw_fd(), b"\xf2", MsgFlags::MSG_OOB).unwrap();
    client.write_all(b"USERbob\r\n").unwrap();
    signal("-CONT");
    let mut answer = [0; 36];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"220 received username successfully\r\n");
}
