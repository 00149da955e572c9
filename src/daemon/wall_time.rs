//! Converts times of the monotonic clock to wall-clock time.

use std::time::Duration;

use cpd_core::time::Millis;

/// How far the two clocks may drift apart, in milliseconds, before the conversion follows the wall clock. They are
/// never read at exactly the same moment, and converting the same time twice should give the same result.
const TOLERANCE_MS: u64 = 500;

/// Converts monotonic time to wall-clock time.
#[derive(Debug, Clone, Copy, Default)]
pub struct WallTimeConverter {
    /// Milliseconds since 1970 at the monotonic clock's zero.
    wall_at_zero_ms: i64,
}

impl WallTimeConverter {
    /// Notes one reading of both clocks: at the monotonic time `now`, `wall` had passed since 1970.
    pub fn note_reading(&mut self, now: Millis, wall: Duration) {
        let wall_at_zero_ms = i64::try_from(wall.as_millis()).unwrap_or(i64::MAX).saturating_sub_unsigned(now);
        if wall_at_zero_ms.abs_diff(self.wall_at_zero_ms) > TOLERANCE_MS {
            self.wall_at_zero_ms = wall_at_zero_ms;
        }
    }

    /// The wall-clock time at the monotonic time `at`, in seconds since 1970. A time before 1970 becomes 0.
    pub fn wall_seconds_at(&self, at: Millis) -> u64 {
        u64::try_from(self.wall_at_zero_ms.saturating_add_unsigned(at)).map_or(0, |millis| millis / 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL: Duration = Duration::from_millis(1_795_000_000_999);
    const NOW: Millis = 1 << 40;

    fn read(clock: &mut WallTimeConverter, now: Millis, wall: Duration) -> u64 {
        clock.note_reading(now, wall);
        clock.wall_seconds_at(NOW)
    }

    #[test]
    fn a_moment_keeps_its_wall_time_however_the_clocks_are_read() {
        let mut clock = WallTimeConverter::default();
        assert_eq!(read(&mut clock, NOW, WALL), 1_795_000_000);
        for elapsed in 1..3000 {
            for late in [0, 1, 499] {
                let wall = WALL + Duration::from_millis(elapsed + late);
                assert_eq!(read(&mut clock, NOW + elapsed, wall), 1_795_000_000);
            }
        }
        assert_eq!(clock.wall_seconds_at(NOW + 1), 1_795_000_001);
    }

    #[test]
    fn a_clock_that_is_set_is_followed_either_way() {
        let mut clock = WallTimeConverter::default();
        read(&mut clock, NOW, WALL);
        assert_eq!(read(&mut clock, NOW + 5, WALL + Duration::from_millis(5 + 501)), 1_795_000_001);
        assert_eq!(read(&mut clock, NOW + 5, WALL - Duration::from_secs(3600)), 1_795_000_000 - 3600);
        assert_eq!(read(&mut clock, NOW, Duration::from_secs(60)), 60);
    }

    #[test]
    fn times_out_of_range_are_clamped() {
        let mut clock = WallTimeConverter::default();
        assert_eq!(read(&mut clock, NOW + 1000, Duration::from_millis(999)), 0);
        clock.note_reading(0, Duration::MAX);
        assert_eq!(clock.wall_seconds_at(Millis::MAX), i64::MAX.unsigned_abs() / 1000);
    }
}
