"""A client of CP for the system test, for the small Python of a minimal Debian.

client.py talk ADDRESS PDU...      sends each PDU, prints the reply to each
client.py bytes ADDRESS HEX...     the same for bytes that no command line could hold
client.py stay ADDRESS FILE PDU... -- PDU...   the same in one connection: the first ones, the others once FILE is gone
client.py hold ADDRESS FILE        connects and stays while FILE exists
client.py knock ADDRESS FILE       connects and is answered, over and over, while FILE exists; prints how often, the
                                   failures and the longest wait
"""

import os
import socket
import sys
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


def main():
    what, address, rest = sys.argv[1], sys.argv[2], sys.argv[3:]
    if what == "talk":
        talk(address, [pdu.encode() for pdu in rest])
    elif what == "bytes":
        talk(address, [bytes.fromhex(pdu) for pdu in rest])
    elif what == "stay":
        stay(address, rest[0], rest[1:])
    elif what == "hold":
        with connect(address):
            while os.path.exists(rest[0]):
                time.sleep(0.1)
    elif what == "knock":
        knock(address, rest[0])
    else:
        sys.exit("unknown: " + what)


main()
