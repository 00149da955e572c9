//! What has happened since the process started, in numbers. The table below is the only list of them: it yields the fields,
//! the names in the control protocol and in `cpctl status`, and the check of cpctl(8).

macro_rules! counters {
    ($($(#[$meaning:meta])* $name:ident $(($shown:ident))?,)*) => {
        /// Totals since the process started.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$meaning])* pub $name: u64,)*
        }

        /// All counters, in the order in which they are shown.
        pub const COUNTERS: &[Counter] = &[
            $(Counter {
                name: stringify!($name),
                field: concat!("counters.", stringify!($name)),
                in_details_only: false $(|| stringify!($shown).len() > 0)?,
                value: |counters| counters.$name,
            },)*
        ];
    };
}

/// One counter.
#[derive(Debug)]
pub struct Counter {
    /// Its name in answers.
    pub name: &'static str,
    /// The path of its field in the answer to a status request.
    pub field: &'static str,
    /// Answers contain it only if they were asked for details.
    pub in_details_only: bool,
    pub value: fn(&Counters) -> u64,
}

counters! {
    connections_accepted,
    /// Connections refused or closed because of a limit.
    connections_refused,
    logins,
    login_failures,
    /// The part of `login_failures` that was refused by a throttle.
    logins_throttled,
    /// Messages answered with 240.
    messages_accepted,
    /// Messages answered with 540, 545 or 546.
    messages_refused,
    /// Messages acknowledged with 250.
    messages_delivered,
    /// Messages deleted because they were older than `limits.message_age`.
    messages_expired,
    /// Messages deleted by `queue.purge`.
    messages_purged,
    /// Messages deleted with their recipient by `user.remove`.
    messages_removed (in_details_only),
    /// Messages in the queues when the process started.
    messages_at_start (in_details_only),
    /// PDUs answered with 500.
    bad_commands,
    /// Timers of sessions that ran out, including the end of a WMSG and the silence that ends a PDU in the classic
    /// dialect.
    timeouts,
    /// The batches that the store has answered, whether they succeeded or failed.
    store_batches,
    /// The part of `store_batches` of which something failed.
    store_failures,
}
