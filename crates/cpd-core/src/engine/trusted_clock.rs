//! The time by which messages expire: the wall clock's, except that a jump forward is trusted only after a day. A message
//! that was answered with 240 must not be deleted because a clock was wrong for a while.

use crate::download::MessageId;
use crate::record::{RecordReader, RecordWriter};
use crate::time::{Millis, NEVER};

/// By how many seconds the wall clock may be ahead of the time that the monotonic clock predicts before it is
/// distrusted.
const JUMP_MIN_SECONDS: u64 = 3600;
/// How long it has to stay ahead before it is trusted again.
const JUMP_GRACE_MS: Millis = 24 * 3600 * 1000;

/// The wall clock as far as it is trusted.
#[derive(Debug)]
pub struct TrustedClock {
    /// The earliest plausible time, in seconds since 1970: cpd did not exist before. An earlier stamp is not valid.
    pub earliest_time: u64,
    /// The trusted time at which the clock became plausible, in seconds since 1970. `None`: it is not plausible now.
    plausible_since: Option<u64>,
    /// The trusted time at which the clock was first plausible in this process.
    first_plausible: Option<u64>,
    /// The monotonic time at which the clock was last trusted, and what it showed then, in seconds since 1970.
    last_trusted: Option<(Millis, u64)>,
    /// The monotonic time since which the clock has been distrusted; [`NEVER`]: it is not.
    distrusted_since: Millis,
}

impl Default for TrustedClock {
    fn default() -> TrustedClock {
        TrustedClock {
            earliest_time: 0,
            plausible_since: None,
            first_plausible: None,
            last_trusted: None,
            distrusted_since: NEVER,
        }
    }
}

/// Decides which messages have expired at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExpiryCutoff {
    /// Messages with an earlier stamp have expired.
    cutoff: u64,
    /// Stamps before `earliest_time` are not valid. On messages that were in the store at the start, neither are stamps
    /// more than an hour after `found_at`.
    earliest_time: u64,
    found_at: u64,
    /// Messages with lower ids were in the store at the start.
    first_new_id: u64,
    /// Whether messages without a valid stamp have expired: their age counts from when the clock became plausible.
    invalid_stamps_expired: bool,
}

impl ExpiryCutoff {
    /// Whether the message with this id and stamp, in seconds since 1970, has expired.
    pub fn has_expired(&self, id: MessageId, stamp: u64) -> bool {
        let found = id.0 < self.first_new_id;
        let is_invalid =
            stamp < self.earliest_time || (found && stamp > self.found_at.saturating_add(JUMP_MIN_SECONDS));
        if is_invalid { self.invalid_stamps_expired } else { stamp < self.cutoff }
    }
}

impl TrustedClock {
    /// Decides which messages are older than `age` seconds at `now`; those with ids below `first_new_id` were in the
    /// store at the start. `None`: the clock cannot be right, and no message expires.
    pub fn expiry_cutoff(
        &mut self,
        wall_seconds: u64,
        now: Millis,
        age: u64,
        first_new_id: MessageId,
    ) -> Option<ExpiryCutoff> {
        if wall_seconds < self.earliest_time {
            self.plausible_since = None;
            return None;
        }
        if self.last_trusted.is_some_and(|(_, seconds)| seconds < self.earliest_time) {
            self.last_trusted = None;
        }
        let time = self.trusted_time(wall_seconds, now);
        let since = *self.plausible_since.get_or_insert(time);
        let found_at = *self.first_plausible.get_or_insert(time);
        let cutoff = time.saturating_sub(age);
        let (earliest_time, first_new_id) = (self.earliest_time, first_new_id.0);
        Some(ExpiryCutoff { cutoff, earliest_time, found_at, first_new_id, invalid_stamps_expired: since < cutoff })
    }

    /// The trusted time at `now`, in seconds since 1970: `wall_seconds`, or, while a jump forward is distrusted, what
    /// the monotonic clock predicts.
    pub fn trusted_time(&mut self, wall_seconds: u64, now: Millis) -> u64 {
        let (at, seconds) = *self.last_trusted.get_or_insert((now, wall_seconds));
        let expected = seconds.saturating_add(now.saturating_sub(at) / 1000);
        if wall_seconds > expected.saturating_add(JUMP_MIN_SECONDS) {
            self.distrusted_since = self.distrusted_since.min(now);
            if now.saturating_sub(self.distrusted_since) < JUMP_GRACE_MS {
                return expected;
            }
        }
        (self.last_trusted, self.distrusted_since) = (Some((now, wall_seconds)), NEVER);
        wall_seconds
    }

    /// A predecessor's clock that takes the place of `own`, with the earliest plausible time of `own`.
    pub fn continued(predecessor: TrustedClock, own: &TrustedClock) -> TrustedClock {
        TrustedClock { earliest_time: own.earliest_time, ..predecessor }
    }

    /// Writes the record that [`TrustedClock::thaw`] reads: a successor continues to distrust what is distrusted
    /// here.
    pub fn freeze(&self, now: Millis, out: &mut RecordWriter) {
        let expected = |(at, seconds): (Millis, u64)| seconds.saturating_add(now.saturating_sub(at) / 1000);
        out.u64(self.last_trusted.map_or(0, expected));
        out.u64(if self.distrusted_since == NEVER { NEVER } else { now.saturating_sub(self.distrusted_since) });
    }

    /// Reads a record. `None`: it is malformed, or does not fit `now`.
    pub fn thaw(from: &mut RecordReader<'_>, now: Millis) -> Option<TrustedClock> {
        let (seconds, doubted) = (from.u64()?, from.u64()?);
        let last_trusted = (seconds > 0).then_some((now, seconds));
        let distrusted_since = if doubted == NEVER { NEVER } else { now.checked_sub(doubted)? };
        (last_trusted.is_some() || doubted == NEVER).then_some(TrustedClock {
            last_trusted,
            distrusted_since,
            ..TrustedClock::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN_YEARS: u64 = 3652 * 24 * 3600;
    const START: u64 = 1_000_000_000;

    #[test]
    fn a_steady_clock_is_trusted() {
        let mut trusted_clock = TrustedClock::default();
        for hours in 0..100 {
            // A little fast, and set back now and then.
            let wall_seconds = START + hours * 3700 - hours % 7;
            assert_eq!(trusted_clock.trusted_time(wall_seconds, hours * 3_600_000), wall_seconds);
        }
    }

    #[test]
    fn a_jump_forward_is_trusted_after_a_day() {
        let mut trusted_clock = TrustedClock::default();
        trusted_clock.trusted_time(START, 5000);
        assert_eq!(trusted_clock.trusted_time(START + TEN_YEARS, 65_000), START + 60);
        assert_eq!(trusted_clock.trusted_time(START + TEN_YEARS, 65_000 + JUMP_GRACE_MS - 1), START + 60 + 86_399);
        assert_eq!(trusted_clock.trusted_time(START + TEN_YEARS, 65_000 + JUMP_GRACE_MS), START + TEN_YEARS);
        assert_eq!(trusted_clock.trusted_time(START + TEN_YEARS + 1, 66_000 + JUMP_GRACE_MS), START + TEN_YEARS + 1);
    }

    #[test]
    fn a_jump_that_is_undone_is_forgotten() {
        let mut trusted_clock = TrustedClock::default();
        trusted_clock.trusted_time(START, 0);
        trusted_clock.trusted_time(START + TEN_YEARS, 1000);
        assert_eq!(trusted_clock.trusted_time(START + 2, 2000), START + 2);
        assert_eq!(
            trusted_clock.trusted_time(START + TEN_YEARS, JUMP_GRACE_MS + 1000),
            START + 2 + 86_399,
            "doubted anew"
        );
    }

    #[test]
    fn a_successor_distrusts_a_jump_for_the_rest_of_the_day() {
        let mut trusted_clock = TrustedClock::default();
        trusted_clock.trusted_time(START, 0);
        trusted_clock.trusted_time(START + TEN_YEARS, 60_000);
        let mut record = RecordWriter::default();
        trusted_clock.freeze(100_000, &mut record);
        let record = record.into_bytes();
        let began = 7 * JUMP_GRACE_MS;
        let mut successor = TrustedClock::thaw(&mut RecordReader::new(&record), began).expect("a record");
        assert_eq!(successor.trusted_time(START + TEN_YEARS, began), START + 100);
        let rest = JUMP_GRACE_MS - 40_000;
        assert_eq!(successor.trusted_time(START + TEN_YEARS, began + rest - 1), START + 100 + rest / 1000 - 1);
        assert_eq!(successor.trusted_time(START + TEN_YEARS, began + rest), START + TEN_YEARS);
        assert!(TrustedClock::thaw(&mut RecordReader::new(&record), 0).is_none(), "older than its clock");
    }

    const AGE: u64 = 100;
    const FOUND: MessageId = MessageId(10);

    fn old(cutoff: Option<ExpiryCutoff>, id: u64, stamp: u64) -> Option<bool> {
        cutoff.map(|cutoff| cutoff.has_expired(MessageId(id), stamp))
    }

    #[test]
    fn an_implausible_clock_expires_nothing_and_its_stamps_are_invalid() {
        let mut trusted_clock = TrustedClock { earliest_time: START, ..TrustedClock::default() };
        assert_eq!(trusted_clock.expiry_cutoff(500, 0, AGE, FOUND), None);
        // Once the clock is plausible it counts at once, and the age of what was stamped before counts from here.
        let right = trusted_clock.expiry_cutoff(START + 1000, 1000, AGE, FOUND);
        assert_eq!(old(right, 1, 7), Some(false), "found, stamped by a clock of 1970");
        assert_eq!(old(right, 11, 500), Some(false), "queued since");
        assert_eq!(old(right, 1, START + 899), Some(true));
        assert_eq!(old(right, 1, START + 901), Some(false));
        let later = trusted_clock.expiry_cutoff(START + 1000 + AGE, 1000 + AGE * 1000, AGE, FOUND);
        assert_eq!(old(later, 1, 7), Some(false));
        let later = trusted_clock.expiry_cutoff(START + 1001 + AGE, 1000 + (AGE + 1) * 1000, AGE, FOUND);
        assert_eq!((old(later, 1, 7), old(later, 11, 500)), (Some(true), Some(true)));
        // Implausible and plausible once more: the age counts from here again.
        assert_eq!(trusted_clock.expiry_cutoff(3, 500_000, AGE, FOUND), None);
        let again = trusted_clock.expiry_cutoff(START + 1500, 600_000, AGE, FOUND);
        assert_eq!(old(again, 12, 3), Some(false));
    }

    #[test]
    fn a_future_stamp_found_at_the_start_counts_from_the_start() {
        let mut trusted_clock = TrustedClock { earliest_time: START, ..TrustedClock::default() };
        let future = START + TEN_YEARS;
        let first = trusted_clock.expiry_cutoff(START, 0, AGE, FOUND);
        assert_eq!(old(first, 1, future), Some(false));
        let later = trusted_clock.expiry_cutoff(START + AGE + 1, (AGE + 1) * 1000, AGE, FOUND);
        assert_eq!(old(later, 1, future), Some(true));
        assert_eq!(old(later, 11, future), Some(false), "of this process: kept until its time has come");
        assert_eq!(old(later, 1, START + JUMP_MIN_SECONDS), Some(false), "a clock that was a little fast");
    }

    #[test]
    fn a_clock_that_is_set_back_deletes_nothing() {
        let mut trusted_clock = TrustedClock::default();
        trusted_clock.trusted_time(START + TEN_YEARS, 0);
        assert_eq!(trusted_clock.trusted_time(START, 1000), START);
        assert_eq!(trusted_clock.trusted_time(START + TEN_YEARS, 2000), START + 1);
    }
}
