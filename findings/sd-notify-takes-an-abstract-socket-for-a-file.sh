#!/bin/bash
# sd-notify 0.5.0 cannot reach a service manager whose notification socket is an abstract one (NOTIFY_SOCKET=@name).
#
# The guess before it was run: as sd_notify(3) says, a name that begins with @ is a socket of the abstract namespace,
# and READY=1 arrives there. (Container runtimes and test harnesses that stand in for systemd use such names.)
# What happens: the name is taken for the path of a file, `notify` fails with ENOENT, and nothing arrives; with a path
# the same program is heard. A daemon that ignores the error, as most do, never becomes ready.
# So cpd sends to such a name by itself (src/daemon/notify.rs).
#
# Needs cargo and python3. Exit 0: as described. Exit 1: sd-notify behaves otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
mkdir src
cat >Cargo.toml <<'TOML'
[package]
name = "ready"
version = "0.0.0"
edition = "2024"
[dependencies]
sd-notify = "=0.5.0"
TOML
cat >src/main.rs <<'RUST'
fn main() {
    match sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        Ok(()) => println!("sent"),
        Err(error) => println!("{:?}", error.kind()),
    }
}
RUST
cargo build --quiet
cat >listen.py <<'PYTHON'
import os, socket, subprocess, sys

def heard(address, name):
    """What the program says of its notification, and what arrives at the socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.setblocking(False)
        said = subprocess.run(["target/debug/ready"], env={"NOTIFY_SOCKET": name}, stdout=subprocess.PIPE, text=True)
        try:
            arrived = manager.recv(4096).decode().strip()
        except BlockingIOError:
            arrived = None
        return said.stdout.strip(), arrived

abstract = f"sd-notify-finding-{os.getpid()}"
found = {"a path": heard("manager.sock", os.path.abspath("manager.sock")),
         "an abstract name": heard("\0" + abstract, "@" + abstract)}
for what, (said, arrived) in found.items():
    print(f"{what}: the program says {said}, the manager hears {arrived}")
sys.exit(found != {"a path": ("sent", "READY=1"), "an abstract name": ("NotFound", None)})
PYTHON
timeout 60 python3 listen.py
