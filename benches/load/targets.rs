//! What cpd is held to: shares of what the same machine does at most in the same minute.

use crate::table::Target;

/// Stored messages a second, of the floor's: one sync for all that wait is its design as well.
pub const STORE: Target = Target::RatioAtLeast(0.70);
/// CPU of a stored message, of the floor's: SQLite's own work is in it.
pub const STORE_CPU: Target = Target::RatioAtMost(2.00);
/// Downloaded messages a second, of the same reactor's without a disk.
pub const FETCH: Target = Target::RatioAtLeast(0.60);
/// Rates with a million queued messages, of those with none.
pub const FLAT: Target = Target::RatioAtLeast(0.90);
/// Memory of a queued message: its place in an index and no more.
pub const QUEUED: Target = Target::ValueAtMost(100.0);
/// From the start to the first answer, with a million queued messages.
pub const RESTART: Target = Target::ValueAtMost(2.0);
/// Memory of a logged-in connection that says nothing; mosquitto needs 838 bytes.
pub const IDLE: Target = Target::ValueAtMost(838.0);
/// Logins a second, of what as many threads hash when they do nothing else.
pub const LOGIN: Target = Target::RatioAtLeast(0.90);
/// Latencies of other sessions while logins storm, of those in quiet.
pub const LOGIN_P50: Target = Target::RatioAtMost(1.50);
pub const LOGIN_P99: Target = Target::RatioAtMost(3.00);
