//! Servers that do what cpd must not: a check that does not notice them is worth nothing.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::{Child, Command, Stdio};

use crate::running::need;

/// Keeps a few bytes of each connection.
pub const LEAKS_MEMORY: &str = "
kept = []
while True:
    peer, _ = listener.accept()
    kept.append(bytearray(300))
    peer.close()
";
/// Keeps each connection.
pub const LEAKS_DESCRIPTORS: &str = "
kept = []
while True:
    kept.append(listener.accept())
";
/// Asks again at once when no descriptor is left.
pub const SPINS: &str = "
import select
kept = []
while True:
    select.select([listener], [], [])
    try:
        kept.append(listener.accept())
    except OSError:
        pass
";

/// Serves, and sleeps for long when no descriptor is left.
pub const SLEEPS: &str = "
import select, time
kept = []
while True:
    for ready in select.select([listener] + kept, [], [])[0]:
        if ready is listener:
            try:
                kept.append(listener.accept()[0])
            except OSError:
                time.sleep(60)
        elif ready.recv(512):
            ready.sendall(b'220 \\r\\n')
        else:
            kept.remove(ready)
            ready.close()
";

/// A small server as a process of its own. Dropping it kills it.
pub struct StandIn {
    child: Child,
    pub address: SocketAddrV4,
}

impl StandIn {
    /// Starts a `habit` in Python, with at most `ulimit -n` descriptors if that is given.
    pub fn with_files(habit: &str, files: Option<usize>) -> StandIn {
        need("python3", "python3");
        let limit = files.map(|files| format!("ulimit -n {files}; ")).unwrap_or_default();
        let head = "import socket\nlistener = socket.create_server(('127.0.0.1', 0), backlog=1024)\n\
                    print(listener.getsockname()[1], flush=True)\n";
        let script = format!("{limit}exec python3 -c \"$0\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script, &format!("{head}{habit}")]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("a shell");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a port");
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, line.trim().parse().expect("a port"));
        StandIn { child, address }
    }

    pub fn start(habit: &str) -> StandIn {
        StandIn::with_files(habit, None)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        // Both fail only when it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
