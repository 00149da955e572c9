//! The commands to type next, shown to somebody who tries cpd at a terminal.

use std::io::{IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use cp_proto::printable::escape_into;

use super::config::{Config, DATA_SOCKET};
use super::listeners::{ListenerKind, Listeners};

/// Prints the next commands on stderr if that is a terminal and cpd was started with `--data`. `data` is the directory
/// as the user typed it; `new` says that the store has no users yet.
pub fn print_next_steps(data: Option<&Path>, config: &Config, listeners: &Listeners, new: bool) {
    let mut stderr = std::io::stderr();
    let Some(data) = data.filter(|_| stderr.is_terminal()) else { return };
    let address = listeners.streams.iter().find(|one| one.kind == ListenerKind::Cp).map(|one| one.address);
    // A failed write is ignored: if the terminal is gone, SIGHUP deals with that.
    let _ = stderr.write_all(next_steps(data, config, address, new).as_bytes());
}

fn next_steps(data: &Path, config: &Config, address: Option<SocketAddr>, new: bool) -> String {
    let own = config.data.as_ref().is_some_and(|dir| dir.join(DATA_SOCKET) == config.control_socket);
    let (option, path) = if own { ("--data", data) } else { ("--socket", config.control_socket.as_path()) };
    let mut text = String::from("cpd: to go on, in another terminal:\n");
    if new {
        text += &format!("  cpctl {option} {} user add NAME\n", shell_quoted(path));
    }
    if let Some(address) = address {
        let ip = match address.ip() {
            ip if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            ip => ip,
        };
        text += &format!("  telnet {ip} {}\n", address.port());
    }
    text += "Ctrl-C ends cpd.\n";
    text
}

/// `path` in shell quotes where they are needed, escaped so that it is safe to show on a terminal.
fn shell_quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%".contains(c);
    let mut shown = String::new();
    if !text.is_empty() && text.chars().all(is_plain) {
        shown.push_str(&text);
    } else {
        escape_into(&mut shown, &format!("'{}'", text.replace('\'', "'\\''")));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(config: &Config, data: &str, address: &str, new: bool) -> String {
        next_steps(Path::new(data), config, Some(address.parse().unwrap()), new)
    }

    #[test]
    fn the_printed_commands_can_be_typed() {
        let dir = Path::new("/tmp/try");
        let config = Config { data: Some(dir.into()), control_socket: dir.join(DATA_SOCKET), ..Config::default() };
        let text = at(&config, "./try", "127.0.0.1:5035", true);
        assert!(text.contains("\n  cpctl --data ./try user add NAME\n  telnet 127.0.0.1 5035\n"), "{text}");
        let text = at(&config, "my try", "[::]:7", true);
        assert!(text.contains("\n  cpctl --data 'my try' user add NAME\n  telnet 127.0.0.1 7\n"), "{text}");
        let text = at(&config, "./try", "[::1]:5035", false);
        assert!(text.contains(":\n  telnet ::1 5035\n") && !text.contains("user add"), "{text}");
        let elsewhere = Config { control_socket: "/run/own.sock".into(), ..config };
        assert!(
            at(&elsewhere, "./try", "127.0.0.1:1", true).contains("  cpctl --socket /run/own.sock user add NAME\n")
        );
        assert_eq!(shell_quoted(Path::new("it's \u{1b}")), "'it'\\''s \\u{1b}'");
    }
}
