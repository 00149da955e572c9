"""A client of CP for the system test, for the small Python of a minimal Debian.

client.py talk ADDRESS PDU...      sends each PDU, prints the reply to each
client.py bytes ADDRESS HEX...     the same for bytes that no command line could hold
client.py stay ADDRESS FILE PDU... -- PDU...   the same in one connection: the first ones, the others once FILE is gone
client.py crowd ADDRESS FILE COUNT PDU...  COUNT connections send the PDUs and stay while FILE is there; then each asks for
                                   messages. A # stands for a digit, in turns. Prints how many there are, and in the end how
                                   many had their 256
client.py hold ADDRESS FILE        connects and stays while FILE exists
client.py knock ADDRESS FILE       connects and is answered, over and over, while FILE exists; prints how often, the
                                   failures and the longest wait
client.py besiege ADDRESS SECONDS  three clients and a `cpctl status` at a time, over and over; prints the answers, how
                                   long the longest client waited for one or for a close, and what cpctl said
"""

import os
import socket
import subprocess
import sys
import threading
import time

PATIENCE_S = 20


def connect(address):
    return socket.create_connection((address, 5035), timeout=PATIENCE_S)


def ask(link, pdu):
    link.sendall(pdu + b"\r\n")
    reply = b""
    while not reply.endswith(b"\n"):
        piece = link.recv(4096)
        if not piece:
            break
        reply += piece
    return reply


def talk(address, pdus):
    with connect(address) as link:
        for pdu in pdus:
            print(ask(link, pdu).decode("ascii", "backslashreplace").rstrip() or "(closed)", flush=True)


def stay(address, path, pdus):
    split = pdus.index("--")
    with connect(address) as link:
        for number, pdu in enumerate(pdus[:split] + pdus[split + 1 :]):
            if number == split:
                while os.path.exists(path):
                    time.sleep(0.05)
            print(ask(link, pdu.encode()).decode("ascii", "backslashreplace").rstrip() or "(closed)", flush=True)


def crowd(address, path, count, pdus):
    links = [connect(address) for _ in range(count)]
    for number, link in enumerate(links):
        replies = [ask(link, pdu.replace(b"#", b"%d" % (number % 10)))[:3] for pdu in pdus]
        if not all(reply.startswith(b"2") for reply in replies):
            sys.exit("a login: %r" % replies)
    print("connected=%d" % count, flush=True)
    while os.path.exists(path):
        time.sleep(0.05)
    answered = 0
    for link in links:
        try:
            answered += ask(link, b"RMSG")[:3] == b"256"
        except OSError:
            pass
        link.close()
    print("answered=%d" % answered)


def knock(address, path):
    answered, failures, longest = 0, [], 0.0
    while os.path.exists(path):
        begun = time.monotonic()
        try:
            with connect(address) as link:
                reply = ask(link, b"USERnobody")
            if reply.startswith(b"220"):
                answered += 1
            else:
                failures.append("answer %r" % reply)
        except OSError as error:
            failures.append(str(error))
        longest = max(longest, time.monotonic() - begun)
        time.sleep(0.01)
    print("answered=%d failures=%d longest_ms=%d %s" % (answered, len(failures), longest * 1000, failures[:3]))


def besiege(address, seconds):
    end = time.monotonic() + seconds
    answers, sayings, longest = {}, {}, {"client": 0.0, "cpctl": 0.0}
    lock = threading.Lock()

    def again(who, counts, pause, ask_once):
        while time.monotonic() < end:
            begun = time.monotonic()
            answer = ask_once()
            waited = time.monotonic() - begun
            with lock:
                counts[answer] = counts.get(answer, 0) + 1
                longest[who] = max(longest[who], waited)
            time.sleep(pause)

    def client():
        try:
            with connect(address) as link:
                return ask(link, b"USERnobody")[:3].decode() or "closed"
        except OSError as error:
            return str(error)

    def cpctl():
        done = subprocess.run(["cpctl", "status"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        return "%d %s" % (done.returncode, done.stderr.decode("ascii", "backslashreplace").strip())

    threads = [threading.Thread(target=again, args=("client", answers, 0.01, client)) for _ in range(3)]
    threads.append(threading.Thread(target=again, args=("cpctl", sayings, 0.05, cpctl)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print("clients: %s" % ", ".join("%d x %s" % (many, what) for what, many in sorted(answers.items())))
    print("longest_ms: client=%d cpctl=%d" % (longest["client"] * 1000, longest["cpctl"] * 1000))
    for what, many in sorted(sayings.items()):
        print("cpctl: %d x %s" % (many, what))


def main():
    what, address, rest = sys.argv[1], sys.argv[2], sys.argv[3:]
    if what == "talk":
        talk(address, [pdu.encode() for pdu in rest])
    elif what == "crowd":
        crowd(address, rest[0], int(rest[1]), [pdu.encode() for pdu in rest[2:]])
    elif what == "bytes":
        talk(address, [bytes.fromhex(pdu) for pdu in rest])
    elif what == "stay":
        stay(address, rest[0], rest[1:])
    elif what == "hold":
        with connect(address):
            while os.path.exists(rest[0]):
                time.sleep(0.1)
    elif what == "besiege":
        besiege(address, float(rest[0]))
    elif what == "knock":
        knock(address, rest[0])
    else:
        sys.exit("unknown: " + what)


main()
