//! By which time messages are old: the wall clock's, but not at once when it leaps ahead. What was acknowledged must not
//! be deleted because a clock was wrong for a while.

use super::events::Event;
use super::port::Op;
use super::{Engine, Millis, NEVER};
use crate::proto::codec::{Reader, Writer};
use crate::proto::download::MessageId;

/// By how much the wall clock may be ahead of what the monotonic one makes it, in seconds, without being doubted.
const LEAP_SECONDS: u64 = 3600;
/// How long it has to stay ahead until it is believed.
const DOUBT_MS: Millis = 24 * 3600 * 1000;

/// Expired messages taken out in one go; the rest has its turn soon after.
const EXPIRY_SLICE: usize = 256;

/// The wall clock, doubted.
#[derive(Debug)]
pub struct Calendar {
    /// Before this no clock is right, in seconds since 1970: this program did not exist. A stamp from before is none.
    pub epoch: u64,
    /// Since when the clock has been right, by itself.
    right_since: Option<u64>,
    /// What it was when it was first right in this process.
    first_right: Option<u64>,
    /// When it was last believed, and what it said then.
    believed: Option<(Millis, u64)>,
    ahead_since: Millis,
}

impl Default for Calendar {
    fn default() -> Calendar {
        Calendar { epoch: 0, right_since: None, first_right: None, believed: None, ahead_since: NEVER }
    }
}

/// What is old by a calendar at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Judgement {
    /// Stamps before this are old.
    cutoff: u64,
    /// Stamps before this are none, nor are those behind that on messages that the process found when it started.
    epoch: u64,
    found_at: u64,
    /// Messages below this were found.
    found_below: u64,
    /// Whether a message without a stamp is old: it counts from when the clock was right.
    unstamped: bool,
}

impl Judgement {
    pub fn is_old(&self, id: MessageId, stamp: u64) -> bool {
        let found = id.0 < self.found_below;
        let is_none = stamp < self.epoch || (found && stamp > self.found_at.saturating_add(LEAP_SECONDS));
        if is_none { self.unstamped } else { stamp < self.cutoff }
    }
}

impl Calendar {
    /// Which messages are older than `age` seconds at `now`; those below `found_below` were there when the process started.
    /// `None`: the clock cannot be right, and nothing is old by it.
    pub fn judge(&mut self, wall: u64, now: Millis, age: u64, found_below: MessageId) -> Option<Judgement> {
        if wall < self.epoch {
            self.right_since = None;
            return None;
        }
        if self.believed.is_some_and(|(_, seconds)| seconds < self.epoch) {
            self.believed = None;
        }
        let time = self.read(wall, now);
        let since = *self.right_since.get_or_insert(time);
        let found_at = *self.first_right.get_or_insert(time);
        let cutoff = time.saturating_sub(age);
        let (epoch, found_below) = (self.epoch, found_below.0);
        Some(Judgement { cutoff, epoch, found_at, found_below, unstamped: since < cutoff })
    }

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

    /// A predecessor's calendar in the place of the `own`, with what that was told.
    pub fn continued(predecessor: Calendar, own: &Calendar) -> Calendar {
        Calendar { epoch: own.epoch, ..predecessor }
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
        (believed.is_some() || doubted == NEVER).then_some(Calendar { believed, ahead_since, ..Calendar::default() })
    }
}

impl Engine {
    /// Takes messages out that are older than `message_age`.
    pub(super) fn expire_messages(&mut self, now: Millis) {
        let age = self.settings.limits.message_age;
        let (old, next) = match self.calendar.judge(self.core.wall, now, age, self.found_below) {
            Some(by) => self.core.queues.expired(|id, stamp| by.is_old(id, stamp), self.sweep.1, EXPIRY_SLICE),
            None => (Vec::new(), None),
        };
        let messages = old.len() as u64;
        for (user, id) in old {
            self.core.queues.remove(user, id);
            self.core.work.write_lazily(Op::Forget { id }, now);
        }
        if messages > 0 {
            self.core.counters.expired += messages;
            self.core.events.push_back(Event::Expired { messages });
        }
        self.sweep = match next {
            Some(place) => (now + crate::timer::TICK_MS, place),
            None => (now.saturating_add(age.saturating_mul(100).clamp(1000, 60_000)), 0),
        };
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

    const AGE: u64 = 100;
    const FOUND: MessageId = MessageId(10);

    fn old(judgement: Option<Judgement>, id: u64, stamp: u64) -> Option<bool> {
        judgement.map(|judgement| judgement.is_old(MessageId(id), stamp))
    }

    #[test]
    fn by_a_clock_of_1970_nothing_is_old_and_its_stamps_are_none() {
        let mut calendar = Calendar { epoch: START, ..Calendar::default() };
        assert_eq!(calendar.judge(500, 0, AGE, FOUND), None);
        // Right at last: at once, and what was stamped before counts from here.
        let right = calendar.judge(START + 1000, 1000, AGE, FOUND);
        assert_eq!(old(right, 1, 7), Some(false), "found, stamped by a clock of 1970");
        assert_eq!(old(right, 11, 500), Some(false), "queued since");
        assert_eq!(old(right, 1, START + 899), Some(true));
        assert_eq!(old(right, 1, START + 901), Some(false));
        let later = calendar.judge(START + 1000 + AGE, 1000 + AGE * 1000, AGE, FOUND);
        assert_eq!(old(later, 1, 7), Some(false));
        let later = calendar.judge(START + 1001 + AGE, 1000 + (AGE + 1) * 1000, AGE, FOUND);
        assert_eq!((old(later, 1, 7), old(later, 11, 500)), (Some(true), Some(true)));
        // Wrong and right once more: counted anew.
        assert_eq!(calendar.judge(3, 500_000, AGE, FOUND), None);
        let again = calendar.judge(START + 1500, 600_000, AGE, FOUND);
        assert_eq!(old(again, 12, 3), Some(false));
    }

    #[test]
    fn a_stamp_from_the_future_that_was_found_counts_from_the_start() {
        let mut calendar = Calendar { epoch: START, ..Calendar::default() };
        let future = START + TEN_YEARS;
        let first = calendar.judge(START, 0, AGE, FOUND);
        assert_eq!(old(first, 1, future), Some(false));
        let later = calendar.judge(START + AGE + 1, (AGE + 1) * 1000, AGE, FOUND);
        assert_eq!(old(later, 1, future), Some(true));
        assert_eq!(old(later, 11, future), Some(false), "of this process: kept until its time has come");
        assert_eq!(old(later, 1, START + LEAP_SECONDS), Some(false), "a clock that was a little fast");
    }

    #[test]
    fn a_clock_that_is_set_back_deletes_nothing() {
        let mut calendar = Calendar::default();
        calendar.read(START + TEN_YEARS, 0);
        assert_eq!(calendar.read(START, 1000), START);
        assert_eq!(calendar.read(START + TEN_YEARS, 2000), START + 1);
    }
}
