#!/bin/bash
# netcat-openbsd 1.219 with -qN does not leave when the server has closed the connection: it waits all of the N seconds.
#
# The guess before it was run: -q10 bounds how long nc waits for the server's last words once its own input has ended; a
# server that closes before that ends it at once, as it ends netcat-traditional with the same option.
# What happens: after the end of its input nc stays for the whole time, although the server has closed long since. With
# -w10 in its place (or without an option) it leaves with the server. A script that sends one message an hour does not
# care; one that sends a hundred in a row takes a quarter of an hour.
# So the recipe of cp(7) says -w10.
#
# Needs Debian 12's package lists (apt-get update), its library libbsd0 and python3. Exit 0: as described. Exit 1:
# otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
apt-get download -qq netcat-openbsd=1.219-1 netcat-traditional=1.10-47 2>warnings || { cat warnings; exit 2; }
for package in *.deb; do
    dpkg -x "$package" root
done
cat >serve.py <<'PYTHON'
import socket, subprocess, sys, time

def stays(program, option):
    """Whether the client is still there two seconds after the server has answered and closed, and what it printed."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        client = subprocess.Popen([program, option, "127.0.0.1", port], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        client.stdin.write(b"hello\n")
        client.stdin.close()
        link, _ = server.accept()
        with link:
            link.recv(100)
            link.sendall(b"220 hello\n")
        # The longest of the waits below is five seconds.
        try:
            client.wait(2)
            here = False
        except subprocess.TimeoutExpired:
            here = True
        client.wait(60)
        return here, client.stdout.read()

found = {}
for program, option in [("root/bin/nc.openbsd", "-q5"), ("root/bin/nc.openbsd", "-w5"), ("root/bin/nc.traditional", "-q5")]:
    here, said = stays(program, option)
    found[program, option] = here
    print(f"{program} {option}: printed {said}, two seconds later it {'waits' if here else 'has ended'}")
sys.exit(list(found.values()) != [True, False, False])
PYTHON
timeout 120 python3 serve.py
