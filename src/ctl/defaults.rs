//! Where cpctl looks for the daemon, and for how long, unless it is told otherwise.

use std::time::Duration;

/// The control socket of a daemon whose configuration does not name another.
pub const SOCKET_DEFAULT: &str = "/run/cpd/control.sock";
/// The environment variable that is used if `--socket` is missing.
pub const SOCKET_VARIABLE: &str = "CPCTL_SOCKET";
/// The file name of the control socket in the folder of `cpd --data`.
pub const DATA_SOCKET: &str = "control.sock";
/// How long the daemon may be silent before cpctl gives up, unless `--timeout` is set.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// The group whose members may use the control socket unless cpd.toml names another.
pub const GROUP_DEFAULT: &str = "cpd-admin";
