//! The daemon that cpctl talks to, and how long it waits for it.

use std::path::PathBuf;
use std::time::Duration;

use super::service::ServiceManager;
use crate::duration;

/// How the control socket was chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SocketOrigin {
    /// No socket was named, so it is that of the packaged service.
    Default,
    /// The socket was named by `--socket` or the environment variable.
    Named,
    /// The folder was named by `--data`; its cpd was started by hand.
    Data,
}

/// The daemon to connect to.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub socket: PathBuf,
    pub origin: SocketOrigin,
    /// How long the daemon may be silent.
    pub timeout: Duration,
    /// Whether connecting may start a stopped service. Only commands that change something may do that.
    pub may_start_service: bool,
    pub manager: ServiceManager,
}

impl Target {
    /// Whether the socket is that of the packaged service, however it was chosen.
    pub fn is_service_socket(&self) -> bool {
        self.socket == self.manager.socket
    }
}

/// Parses the value of `--timeout`: a whole number and its unit, `ms`, `s`, `m` or `h`, from 1 ms to 24 h.
///
/// # Errors
/// A message that states this rule.
pub(crate) fn parse_timeout(text: &str) -> Result<Duration, String> {
    const MAX_MILLIS: u64 = 24 * 3_600_000;
    match duration::parse(text) {
        Some(millis @ 1..=MAX_MILLIS) => Ok(Duration::from_millis(millis)),
        _ => Err("a time is a number and its unit, one of ms, s, m and h, up to 24h: 5s".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, millis) in [("5s", 5000), ("250ms", 250), ("1m", 60_000), ("24h", 86_400_000), ("1ms", 1)] {
            assert_eq!(parse_timeout(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "5", "s", "0s", "-1s", "+1s", "1.5s", "25h", "5 s", "5S", "99999999999999999999s", "\u{e9}s"] {
            assert!(parse_timeout(text).unwrap_err().contains("ms, s, m and h"), "{text}");
        }
    }
}
