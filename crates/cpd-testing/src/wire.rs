//! What hostile peers need below a client of CP: connections from an address of their choice, resets, and the kernel's
//! figures of a process.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;

use cp_proto::client::{Client, Event};
use cp_proto::values::{Password, Username};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt};

use crate::running::{Daemon, PATIENCE, wait_for};

/// Connects from `source`, an address of this machine.
pub fn connect_from(source: Ipv4Addr, to: SocketAddrV4) -> io::Result<TcpStream> {
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(source, 0)))?;
    connect(socket.as_raw_fd(), &SockaddrIn::from(to))?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// A connection on which this user, whose password is the name, has logged in.
pub fn logged_in(server: SocketAddrV4, name: &str) -> TcpStream {
    let mut stream = connect_from(Ipv4Addr::LOCALHOST, server).expect("connected");
    let mut client = Client::new();
    let name = name.as_bytes();
    client.log_in(Username::parse(name).expect("a name"), &Password::parse(name).expect("a password"));
    stream.write_all(client.output()).expect("sent");
    // Not a byte behind these two lines: whoever gets the connection reads on, or does not.
    let mut byte = [0];
    loop {
        stream.read_exact(&mut byte).expect("an answer");
        client.input(&byte);
        match client.next_event() {
            None => {}
            Some(Event::LoggedIn) => return stream,
            Some(other) => panic!("{other:?} to a login"),
        }
    }
}

/// Ends a connection by a reset: what was not sent or not read is thrown away.
pub fn reset(stream: TcpStream) {
    let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&stream, sockopt::Linger, &at_once).expect("set");
}

/// Allows this process as many descriptors as the system does, and says how many that is.
pub fn raise_file_limit() -> u64 {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("up to the hard limit");
    }
    hard
}

/// Descriptors that a process has open.
pub fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count()
}

/// Memory of a process that is in RAM, in KiB.
pub fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Processor time that a process has used, in hundredths of a second.
pub fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    // The name in parentheses may hold anything; utime and stime are the 12th and 13th behind it.
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    fields[11].parse::<u64>().expect("a number") + fields[12].parse::<u64>().expect("a number")
}

/// One number of `cpctl status`, or of its counters.
pub fn status(daemon: &Daemon, field: &str) -> u64 {
    let text = daemon.cpctl(&["--json", "status"], "");
    let document: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let found = document.get(field).or_else(|| document["counters"].get(field));
    found.and_then(serde_json::Value::as_u64).unwrap_or_else(|| panic!("no number {field} in {text}"))
}

/// Waits until cpd has noticed that every client is gone.
#[track_caller]
pub fn waits_for_nobody(daemon: &Daemon) {
    wait_for("no connection is left", || (status(daemon, "connections") == 0).then_some(()));
}
