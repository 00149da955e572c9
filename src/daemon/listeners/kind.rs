//! What clients of a listener speak.

use cpd_core::dfa::Dialect;

/// What a listener is for. Its name is that of its key in the configuration's section `[listen]`, and of its sockets in a
/// systemd unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerKind {
    Cp,
    Classic,
}

impl ListenerKind {
    /// All kinds that accept clients.
    pub const ALL: [ListenerKind; 2] = [ListenerKind::Cp, ListenerKind::Classic];

    /// The kind whose clients speak this dialect.
    pub fn of(dialect: Dialect) -> ListenerKind {
        match dialect {
            Dialect::Cp => ListenerKind::Cp,
            Dialect::Classic => ListenerKind::Classic,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            ListenerKind::Cp => "cp",
            ListenerKind::Classic => "classic",
        }
    }

    /// What its clients speak.
    pub fn dialect(self) -> Dialect {
        match self {
            ListenerKind::Cp => Dialect::Cp,
            ListenerKind::Classic => Dialect::Classic,
        }
    }
}
