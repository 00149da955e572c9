//! Faults that a test of the tests orders, one at a time, by the environment variable `CPD_SABOTAGE`. With the feature
//! `sabotage` alone, which no package has; without it [`is`] is `false` at compile time and nothing of this is left.
//! Whatever checks cpd has to find each of them: a check that does not is worth nothing.

/// A promise of docs/protocol.md that is broken on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// 240 leaves before the commit is on the disk.
    EarlyReply,
    /// The store is opened with `synchronous=NORMAL`.
    WeakSync,
    /// A message leaves the queue when it is sent, not at its 250.
    EarlyDelete,
    /// What a lost connection had not acknowledged is not given back.
    ForgottenLease,
    /// Timers run out before their time.
    EarlyTimer,
    /// An unknown user's 565 has another text.
    LeakyReply,
    /// No work is done for an unknown user's password.
    LeakyTime,
    /// Messages are read without a look at their checksums.
    TrustedRows,
    /// That the store's folder could not be synced is overlooked.
    DeafFolder,
    /// That the store's files are no longer the own ones is overlooked.
    BlindStore,
    /// Logins are verified in the order in which they came.
    OneQueue,
    /// A name at an address that it has logged in from counts, and waits, by itself alone.
    OwnBucket,
    /// The limit of core files is left as it is.
    CoreAllowed,
    /// The event loop stands still once the store has done something.
    StuckLoop,
}

impl Fault {
    pub const ALL: [Fault; 14] = [
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
        Fault::StuckLoop,
    ];

    /// As `CPD_SABOTAGE` has it.
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
            Fault::StuckLoop => "stuck-loop",
        }
    }
}

/// Whether this fault was ordered.
#[cfg(not(feature = "sabotage"))]
#[inline]
pub const fn is(_: Fault) -> bool {
    false
}

/// Whether this fault was ordered. A name that is none ends the process: no test may believe that it ordered something.
#[cfg(feature = "sabotage")]
#[inline]
pub fn is(fault: Fault) -> bool {
    *ORDERED == Some(fault)
}

#[cfg(feature = "sabotage")]
static ORDERED: std::sync::LazyLock<Option<Fault>> = std::sync::LazyLock::new(|| {
    let name = std::env::var("CPD_SABOTAGE").ok()?;
    let fault = Fault::ALL.into_iter().find(|fault| fault.name() == name);
    if fault.is_none() {
        eprintln!("CPD_SABOTAGE: there is no fault {name}");
        std::process::exit(64);
    }
    fault
});
