//! What is logged, and where to.

/// The importance of a line, the most important one first. Levels after the configured one are not logged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
}

impl Level {
    /// All levels, in the order of their discriminants.
    pub const ALL: [Level; 4] = [Level::Error, Level::Warn, Level::Info, Level::Debug];

    /// The name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
        }
    }

    /// The priority of syslog(3).
    pub fn priority(self) -> u8 {
        match self {
            Level::Error => 3,
            Level::Warn => 4,
            Level::Info => 6,
            Level::Debug => 7,
        }
    }
}

/// Where the log goes (`log.target`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogTarget {
    /// The journal if systemd's listens, otherwise syslog if `/dev/log` exists, otherwise stderr.
    Auto,
    Journal,
    Syslog,
    Stderr,
}

impl LogTarget {
    /// All targets.
    pub const ALL: [LogTarget; 4] = [LogTarget::Auto, LogTarget::Journal, LogTarget::Syslog, LogTarget::Stderr];

    /// The name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            LogTarget::Auto => "auto",
            LogTarget::Journal => "journal",
            LogTarget::Syslog => "syslog",
            LogTarget::Stderr => "stderr",
        }
    }
}
