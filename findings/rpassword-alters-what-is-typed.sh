#!/bin/bash
# rpassword 7.5.4 does not give back the line that was typed at a terminal.
#
# The guess before it was run: with the echo off, the function returns the bytes up to the Enter, as read(2) delivers
# them, and an error where they are not UTF-8 (version 5 worked so).
# What happens: the crate reads character by character and interprets them. A TAB is left out of the password without a
# word, and a byte that begins a sequence of UTF-8 but is none becomes U+FFFD and takes the letter behind it along.
# Nothing is said, and whoever uses that password with another program gets 'wrong password'.
# So cpctl reads the terminal's line itself (src/ctl/prompt.rs).
#
# Needs cargo, a C compiler and python3. Exit 0: as described. Exit 1: rpassword behaves otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
mkdir src
cat >Cargo.toml <<'TOML'
[package]
name = "typed"
version = "0.0.0"
edition = "2024"
[dependencies]
rpassword = "=7.5.4"
TOML
cat >src/main.rs <<'RUST'
fn main() {
    let line = rpassword::prompt_password("Password: ");
    println!("<{}>", line.map_or_else(|e| format!("error: {e}"), |l| l.escape_unicode().to_string()));
}
RUST
cargo build --quiet
cat >type.py <<'PYTHON'
import os, pty, sys

def typed(line):
    """What the program says to these bytes and an Enter, typed when it has asked."""
    child, terminal = pty.fork()
    if child == 0:
        os.execv("target/debug/typed", ["typed"])
    said = b""
    while b"Password: " not in said:
        said += os.read(terminal, 4096)
    os.write(terminal, line + b"\r")
    try:
        while b">" not in said:
            said += os.read(terminal, 4096)
    except OSError:
        pass
    os.waitpid(child, 0)
    answer = said[said.index(b"<") + 1:said.rindex(b">")].decode()
    return answer.replace("\\u{", "").replace("}", " ").split()

cases = [
    ("letters", b"abcd", ["61", "62", "63", "64"]),
    ("a TAB between letters", b"ab\tcd", ["61", "62", "63", "64"]),
    ("a letter of ISO 8859-1 behind two others", b"ab\xd6cd", ["61", "62", "fffd", "64"]),
]
differs = False
for what, line, wanted in cases:
    found = typed(line)
    print(f"{what}: typed {line!r}, returned {found}")
    differs |= found != wanted
sys.exit(differs)
PYTHON
timeout 60 python3 type.py
