//! When something was by the wall clock that is known by the monotonic one.

use std::time::Duration;

use crate::proto::types::Millis;

/// By how much the clocks may part, in milliseconds, until what is told follows the wall clock. The two are never read at
/// the same moment, and what was told a moment ago should be told again.
const TOLERANCE_MS: u64 = 500;

/// The wall clock, as the monotonic one goes on from it.
#[derive(Debug, Clone, Copy, Default)]
pub struct WallClock {
    /// Milliseconds since 1970 at the monotonic clock's zero.
    origin: i64,
}

impl WallClock {
    /// `now` was `wall` since 1970.
    pub fn read(&mut self, now: Millis, wall: Duration) {
        let origin = i64::try_from(wall.as_millis()).unwrap_or(i64::MAX).saturating_sub_unsigned(now);
        if origin.abs_diff(self.origin) > TOLERANCE_MS {
            self.origin = origin;
        }
    }

    /// What it was at `at`, in seconds since 1970, or 0 before that.
    pub fn seconds_at(&self, at: Millis) -> u64 {
        u64::try_from(self.origin.saturating_add_unsigned(at)).map_or(0, |millis| millis / 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL: Duration = Duration::from_millis(1_795_000_000_999);
    const NOW: Millis = 1 << 40;

    fn read(clock: &mut WallClock, now: Millis, wall: Duration) -> u64 {
        clock.read(now, wall);
        clock.seconds_at(NOW)
    }

    #[test]
    fn a_moment_is_told_alike_however_the_two_readings_fall() {
        let mut clock = WallClock::default();
        assert_eq!(read(&mut clock, NOW, WALL), 1_795_000_000);
        for elapsed in 1..3000 {
            for late in [0, 1, 499] {
                let wall = WALL + Duration::from_millis(elapsed + late);
                assert_eq!(read(&mut clock, NOW + elapsed, wall), 1_795_000_000);
            }
        }
        assert_eq!(clock.seconds_at(NOW + 1), 1_795_000_001);
    }

    #[test]
    fn a_clock_that_is_set_is_followed_either_way() {
        let mut clock = WallClock::default();
        read(&mut clock, NOW, WALL);
        assert_eq!(read(&mut clock, NOW + 5, WALL + Duration::from_millis(5 + 501)), 1_795_000_001);
        assert_eq!(read(&mut clock, NOW + 5, WALL - Duration::from_secs(3600)), 1_795_000_000 - 3600);
        assert_eq!(read(&mut clock, NOW, Duration::from_secs(60)), 60);
    }

    #[test]
    fn what_lies_before_1970_or_beyond_all_time_is_its_end() {
        let mut clock = WallClock::default();
        assert_eq!(read(&mut clock, NOW + 1000, Duration::from_millis(999)), 0);
        clock.read(0, Duration::MAX);
        assert_eq!(clock.seconds_at(Millis::MAX), i64::MAX.unsigned_abs() / 1000);
    }
}
