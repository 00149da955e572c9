//! Fault injection: a test can order one fault at a time by the environment variable `CPD_SABOTAGE`, to show
//! that a check of cpd notices it. This needs the feature `sabotage`, which no package enables; without it,
//! [`is_ordered`] is `false` at compile time and no fault is compiled in.

use crate::time::{Millis, NEVER};

/// A promise of cpd that is broken on purpose; most are those of docs/protocol.md section 7.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The 240 is sent before the message is on stable storage.
    EarlyReply,
    /// The store is opened with `synchronous=NORMAL`.
    WeakSync,
    /// Messages are deleted from the store once they are read for a download, not at their 250.
    EarlyDelete,
    /// When a connection closes during a download, the oldest message of that queue is deleted.
    ForgottenLease,
    /// Timers fire before their deadlines.
    EarlyTimer,
    /// After the 565 for an unknown user, another reply follows.
    LeakyReply,
    /// The dummy verification, as for an unknown user's password, does no work.
    LeakyTime,
    /// Messages are read without checking their checksums.
    TrustedRows,
    /// A failure to sync the store's folder is ignored.
    DeafFolder,
    /// Changes that others make to the store's files go unnoticed.
    BlindStore,
    /// All addresses take turns as if they were of one network, and known ones have no lane of their own.
    OneQueue,
    /// An attempt on a name from an address that it has logged in from counts, and waits, in the pair's bucket alone.
    OwnBucket,
    /// The limit on the size of core files is left as it is.
    CoreAllowed,
    /// What clients have sent stays in the read buffer, and so do the records of a predecessor in memory.
    ForgottenWipe,
    /// The event loop hangs once the store has done something.
    StuckLoop,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Fault; 15] = [
        Fault::EarlyReply,
        Fault::WeakSync,
        Fault::EarlyDelete,
        Fault::ForgottenLease,
        Fault::EarlyTimer,
        Fault::LeakyReply,
        Fault::LeakyTime,
        Fault::TrustedRows,
        Fault::DeafFolder,
        Fault::BlindStore,
        Fault::OneQueue,
        Fault::OwnBucket,
        Fault::CoreAllowed,
        Fault::ForgottenWipe,
        Fault::StuckLoop,
    ];

    /// The name that `CPD_SABOTAGE` takes.
    pub const fn name(self) -> &'static str {
        match self {
            Fault::EarlyReply => "early-reply",
            Fault::WeakSync => "weak-sync",
            Fault::EarlyDelete => "early-delete",
            Fault::ForgottenLease => "forgotten-lease",
            Fault::EarlyTimer => "early-timer",
            Fault::LeakyReply => "leaky-reply",
            Fault::LeakyTime => "leaky-time",
            Fault::TrustedRows => "trusted-rows",
            Fault::DeafFolder => "deaf-folder",
            Fault::BlindStore => "blind-store",
            Fault::OneQueue => "one-queue",
            Fault::OwnBucket => "own-bucket",
            Fault::CoreAllowed => "core-allowed",
            Fault::ForgottenWipe => "forgotten-wipe",
            Fault::StuckLoop => "stuck-loop",
        }
    }
}

/// Whether this fault was ordered.
#[cfg(not(feature = "sabotage"))]
#[inline]
pub const fn is_ordered(_: Fault) -> bool {
    false
}

/// Whether this fault was ordered. An unknown name ends the process: no test may believe that it has ordered a fault
/// when it has not.
#[cfg(feature = "sabotage")]
#[inline]
pub fn is_ordered(fault: Fault) -> bool {
    *ORDERED == Some(fault)
}

#[cfg(feature = "sabotage")]
#[allow(clippy::disallowed_macros, clippy::disallowed_methods, reason = "a test orders faults by the environment")]
static ORDERED: std::sync::LazyLock<Option<Fault>> = std::sync::LazyLock::new(|| {
    let name = std::env::var("CPD_SABOTAGE").ok()?;
    let fault = Fault::ALL.into_iter().find(|fault| fault.name() == name);
    if fault.is_none() {
        eprintln!("CPD_SABOTAGE: there is no fault {name}");
        std::process::exit(64);
    }
    fault
});

/// The time that is passed to a session whose timer fires.
pub(crate) fn inject_early_timer(now: Millis, deadline: Millis) -> Millis {
    if is_ordered(Fault::EarlyTimer) && deadline != NEVER { now.max(deadline) } else { now }
}
