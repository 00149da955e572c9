"""A service manager as far as a succession needs one: it holds a listening socket and a descriptor store, starts cpd with
both, and starts it again when it has ended. As systemd's, the store keeps every descriptor that it is sent under a name,
the newest first, until that name is removed.

usage: manager.py CPD DATA CONFIG. It says `ready` and the port on which it listens when cpd is ready. Each line on standard input is one order: `restart` (TERM, then a new
cpd), `kill` (KILL, then a new one), or, behind a `restart` that kept its records, `leftover` (the successor finds those
beside the new ones), `half` (no connections beside the records), `swapped` (those in the place of the new ones) or `partial`
(the first message of connections is gone), or `fewer` (as `restart`, but the successor may open less than there are
connections), `old` (as `restart`, but the records are those of 0.2.0, in memory that is not sealed), `unsealed` (in such
memory as well, but this version's), or `change` (as `restart`, after a try to change the records in every way). Each is answered by one line when the new cpd is ready; the end of input ends all.
"""

import array
import fcntl
import mmap
import os
import resource
import select
import signal
import socket
import sys

cpd, data, config = sys.argv[1:4]
listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
notify_path = os.path.join(data, "notify.sock")
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.bind(notify_path)
notify.settimeout(30)
stored = []
polled = set()
RECORDS = "cpd-records"
FEWER = 64
kept = None


def start(order=None):
    child = os.fork()
    if child:
        return child
    fds = [("cp", listener.fileno())] + stored
    # Out of the way first: a target number may be somebody's source.
    high = [(name, fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 200)) for name, fd in fds]
    for number, (name, fd) in enumerate(high):
        os.dup2(fd, 3 + number, inheritable=True)
    environment = dict(os.environ, LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)))
    environment.update(LISTEN_FDNAMES=":".join(name for name, _ in fds), NOTIFY_SOCKET=notify_path)
    if order == "fewer":
        resource.setrlimit(resource.RLIMIT_NOFILE, (FEWER, FEWER))
    os.execve(cpd, [cpd, "--data", data, "--config", config], environment)


def message():
    """One message: its assignments and its descriptors."""
    text, control, _, _ = notify.recvmsg(65536, socket.CMSG_SPACE(4 * 256))
    fds = array.array("i")
    for level, kind, payload in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    for fd in fds:
        os.set_inheritable(fd, False)
    fields = dict(line.split("=", 1) for line in text.decode().splitlines() if "=" in line)
    return fields, list(fds)


def take(fields, fds):
    """Does what the message asks for; True when it says that cpd is ready."""
    if fields.get("FDSTORE") == "1":
        for fd in fds:
            stored.insert(0, (fields["FDNAME"], fd))
            if fields.get("FDPOLL") != "0":
                polled.add(fd)
        return False
    if fields.get("FDSTOREREMOVE") == "1":
        for entry in [entry for entry in stored if entry[0] == fields["FDNAME"]]:
            stored.remove(entry)
            os.close(entry[1])
    for fd in fds:
        os.close(fd)
    return fields.get("READY") == "1"


def drop_hung_up():
    """As systemd does: a stored descriptor that hangs up leaves by itself, unless FDPOLL=0 came with it."""
    for entry in [entry for entry in stored if entry[1] in polled]:
        poll = select.poll()
        poll.register(entry[1], 0)
        if poll.poll(0):
            stored.remove(entry)
            polled.discard(entry[1])
            os.close(entry[1])


def spoil(order):
    """Does to the store what a manager never does, or only behind a crash."""
    global kept
    records = [fd for name, fd in stored if name == RECORDS]
    if order == "restart" and records:
        kept = os.dup(records[0])
    if order in ("half", "swapped"):
        unwanted = "cpd-clients" if order == "half" else RECORDS
        for entry in [entry for entry in stored if entry[0] == unwanted]:
            stored.remove(entry)
            os.close(entry[1])
    if order == "partial":
        # As a successor that is killed while it takes connections up.
        queue = socket.socket(fileno=os.dup(dict(stored)["cpd-clients"]))
        for fd in socket.recv_fds(queue, 16, 256)[1]:
            os.close(fd)
    if order in ("leftover", "swapped"):
        stored.append((RECORDS, kept))
    if order in ("old", "unsealed"):
        entry = [entry for entry in stored if entry[0] == RECORDS][0]
        content = os.pread(entry[1], 1 << 30, 0)
        if order == "old":
            content = content.replace(b"cpd succession 3\n", b"cpd succession 2\n", 1)
        copy = os.memfd_create("cpd-records", os.MFD_CLOEXEC)
        os.write(copy, content)
        stored[stored.index(entry)] = (RECORDS, copy)
        os.close(entry[1])
    if order == "change":
        change(records[0])


def change(fd):
    """Ends this with an error when it can."""
    length = os.fstat(fd).st_size
    ways = [
        lambda: os.pwrite(fd, b"x", 0),
        lambda: os.ftruncate(fd, length - 1),
        lambda: os.ftruncate(fd, length + 1),
        lambda: mmap.mmap(fd, length, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE),
    ]
    for way in ways:
        try:
            way()
        except PermissionError:
            continue
        raise SystemExit("the records that were left can be changed")


def until_ready():
    while not take(*message()):
        pass


def until_ended(child):
    """A cpd that stops waits for its barrier, so the messages are taken while it does."""
    notify.settimeout(0.02)
    try:
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            try:
                take(*message())
            except TimeoutError:
                pass
    finally:
        notify.settimeout(30)


child = start()
until_ready()
print("ready", listener.getsockname()[1], flush=True)
try:
    for order in sys.stdin:
        os.kill(child, signal.SIGKILL if order.strip() == "kill" else signal.SIGTERM)
        until_ended(child)
        drop_hung_up()
        spoil(order.strip())
        child = start(order.strip())
        until_ready()
        print("ready", len(stored), flush=True)
finally:
    os.kill(child, signal.SIGTERM)
    until_ended(child)
