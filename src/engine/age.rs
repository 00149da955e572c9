//! By which time messages are old: the wall clock's, but not at once when it leaps ahead. What was acknowledged must not
//! be deleted because a clock was wrong for a while.

use super::{Millis, NEVER};
use crate::proto::codec::{Reader, Writer};

/// By how much the wall clock may be ahead of what the monotonic one makes it, in seconds, without being doubted.
const LEAP_SECONDS: u64 = 3600;
/// How long it has to stay ahead until it is believed.
const DOUBT_MS: Millis = 24 * 3600 * 1000;

/// The wall clock, doubted.
#[derive(Debug)]
pub struct Calendar {
    /// When it was last believed, and what it said then.
    believed: Option<(Millis, u64)>,
    ahead_since: Millis,
}

impl Default for Calendar {
    fn default() -> Calendar {
        Calendar { believed: None, ahead_since: NEVER }
    }
}

impl Calendar {
    /// The time by which messages may expire at `now`, in seconds since 1970.
    pub fn read(&mut self, wall: u64, now: Millis) -> u64 {
        let (at, seconds) = *self.believed.get_or_insert((now, wall));
        let expected = seconds.saturating_add(now.saturating_sub(at) / 1000);
        if wall > expected.saturating_add(LEAP_SECONDS) {
            self.ahead_since = self.ahead_since.min(now);
            if now.saturating_sub(self.ahead_since) < DOUBT_MS {
                return expected;
            }
        }
        (self.believed, self.ahead_since) = (Some((now, wall)), NEVER);
        wall
    }

    /// Writes what [`Calendar::thaw`] reads: a successor doubts on.
    pub fn freeze(&self, now: Millis, out: &mut Writer) {
        let expected = |(at, seconds): (Millis, u64)| seconds.saturating_add(now.saturating_sub(at) / 1000);
        out.u64(self.believed.map_or(0, expected));
        out.u64(if self.ahead_since == NEVER { NEVER } else { now.saturating_sub(self.ahead_since) });
    }

    /// The calendar that was written, or `None`.
    pub fn thaw(from: &mut Reader<'_>, now: Millis) -> Option<Calendar> {
        let (seconds, doubted) = (from.u64()?, from.u64()?);
        let believed = (seconds > 0).then_some((now, seconds));
        let ahead_since = if doubted == NEVER { NEVER } else { now.checked_sub(doubted)? };
        (believed.is_some() || doubted == NEVER).then_some(Calendar { believed, ahead_since })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN_YEARS: u64 = 3652 * 24 * 3600;
    const START: u64 = 1_000_000_000;

    #[test]
    fn a_clock_that_goes_is_believed() {
        let mut calendar = Calendar::default();
        for hours in 0..100 {
            // A little fast, and set back now and then.
            let wall = START + hours * 3700 - hours % 7;
            assert_eq!(calendar.read(wall, hours * 3_600_000), wall);
        }
    }

    #[test]
    fn a_leap_ahead_is_believed_after_a_day() {
        let mut calendar = Calendar::default();
        calendar.read(START, 5000);
        assert_eq!(calendar.read(START + TEN_YEARS, 65_000), START + 60);
        assert_eq!(calendar.read(START + TEN_YEARS, 65_000 + DOUBT_MS - 1), START + 60 + 86_399);
        assert_eq!(calendar.read(START + TEN_YEARS, 65_000 + DOUBT_MS), START + TEN_YEARS);
        assert_eq!(calendar.read(START + TEN_YEARS + 1, 66_000 + DOUBT_MS), START + TEN_YEARS + 1);
    }

    #[test]
    fn a_leap_that_is_taken_back_is_forgotten() {
        let mut calendar = Calendar::default();
        calendar.read(START, 0);
        calendar.read(START + TEN_YEARS, 1000);
        assert_eq!(calendar.read(START + 2, 2000), START + 2);
        assert_eq!(calendar.read(START + TEN_YEARS, DOUBT_MS + 1000), START + 2 + 86_399, "doubted anew");
    }

    #[test]
    fn a_successor_doubts_what_its_predecessor_doubted_and_for_as_long() {
        let mut calendar = Calendar::default();
        calendar.read(START, 0);
        calendar.read(START + TEN_YEARS, 60_000);
        let mut record = Writer::default();
        calendar.freeze(100_000, &mut record);
        let record = record.finish();
        let began = 7 * DOUBT_MS;
        let mut successor = Calendar::thaw(&mut Reader::new(&record), began).expect("a record");
        assert_eq!(successor.read(START + TEN_YEARS, began), START + 100);
        let rest = DOUBT_MS - 40_000;
        assert_eq!(successor.read(START + TEN_YEARS, began + rest - 1), START + 100 + rest / 1000 - 1);
        assert_eq!(successor.read(START + TEN_YEARS, began + rest), START + TEN_YEARS);
        assert!(Calendar::thaw(&mut Reader::new(&record), 0).is_none(), "older than its clock");
    }

    #[test]
    fn a_clock_that_is_set_back_deletes_nothing() {
        let mut calendar = Calendar::default();
        calendar.read(START + TEN_YEARS, 0);
        assert_eq!(calendar.read(START, 1000), START);
        assert_eq!(calendar.read(START + TEN_YEARS, 2000), START + 1);
    }
}
