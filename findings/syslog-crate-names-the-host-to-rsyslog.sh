#!/bin/bash
# A line that the crate syslog 7.0.0 sends with its default RFC 3164 formatter is filed by rsyslog 8.2302 under the
# machine's name, not under the program's.
#
# The guess before it was run: both follow RFC 3164, so `programname` and the tag are the program's, and a rule
# `if $programname == "app"` or a logcheck pattern for `app[123]:` meets the line.
# What happens: the crate puts the host's name between the time and the tag, as RFC 3164 has it between machines.
# rsyslog's local socket expects what syslog(3) of the C library sends, where the tag follows the time: it takes the
# host's name for the tag, and the real tag becomes part of the message. Without a hostname in the formatter it is right.
# So cpd leaves the host out (src/daemon/logging/sinks.rs).
#
# Needs cargo, python3 and Debian 12's package lists (apt-get update). Exit 0: as described. Exit 1: otherwise.
set -euo pipefail
folder=$(mktemp -d)
daemon=""
trap '[ -z "$daemon" ] || kill "$daemon" 2>/dev/null; rm -rf "$folder"' EXIT
cd "$folder"
apt-get download -qq rsyslog=8.2302.0-1+deb12u2 libestr0=0.1.11-1 libfastjson4=1.2304.0-1 2>warnings ||
    { cat warnings; exit 2; }
for package in *.deb; do
    dpkg -x "$package" root
done
mkdir src
cat >Cargo.toml <<'TOML'
[package]
name = "app"
version = "0.0.0"
edition = "2024"
[dependencies]
syslog = "=7.0.0"
TOML
cat >src/main.rs <<'RUST'
use syslog::{Facility, Formatter3164, unix_custom};

fn main() -> Result<(), syslog::Error> {
    let path = std::env::args().nth(1).unwrap();
    for hostname in [Some("machine".to_owned()), None] {
        let formatter =
            Formatter3164 { facility: Facility::LOG_DAEMON, hostname, process: "app".into(), pid: 123 };
        unix_custom(formatter, &path)?.info("hello")?;
    }
    Ok(())
}
RUST
cargo build --quiet
libraries=$(dirname "$(find root -name libestr.so.0)")
cat >rsyslog.conf <<CONF
module(load="imuxsock" SysSock.Use="off")
input(type="imuxsock" Socket="$folder/log")
template(name="parts" type="string" string="%programname%|%syslogtag%|%msg%\n")
action(type="omfile" file="$folder/lines" template="parts")
CONF
LD_LIBRARY_PATH=$libraries RSYSLOG_MODDIR=$(dirname "$(find "$folder/root" -name imuxsock.so)") \
    root/usr/sbin/rsyslogd -n -f "$folder/rsyslog.conf" -i "$folder/pid" 2>errors &
daemon=$!
# Bounded waits for what is to appear.
for _ in $(seq 100); do [ -S log ] && break; sleep 0.1; done
target/debug/app "$folder/log"
for _ in $(seq 100); do [ ! -s lines ] || [ "$(wc -l <lines)" -lt 2 ] || break; sleep 0.1; done
cat lines
diff lines - <<'LINES'
machine|machine| app[123]: hello
app|app[123]:| hello
LINES
