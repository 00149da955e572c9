//! Points in time, as everything but the daemon is given them: nothing reads a clock by itself.

/// Milliseconds on a monotonic clock, counted from a moment that the caller chose.
pub type Millis = u64;

/// The value of a deadline that is not set.
pub const NEVER: Millis = Millis::MAX;
