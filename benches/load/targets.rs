//! What cpd is held to: shares of what the same machine does at most in the same minutes.

use crate::table::Target;

/// Stored messages a second, of the floor's.
pub fn store(connections: usize, depth: usize) -> Target {
    match (connections, depth) {
        (1, _) => Target::RatioAtLeast(0.90),
        (_, 1) => Target::RatioAtLeast(0.80),
        _ => Target::RatioAtLeast(0.70),
    }
}

/// cpd's CPU seconds for a stored message, from 200 connections.
pub const STORE_CPU: Target = Target::ValueAtMost(14e-6);

/// Downloaded messages a second, of the same reactor's without a disk.
pub fn fetch(window: usize) -> Target {
    Target::RatioAtLeast(if window == 0 { 0.90 } else { 0.70 })
}

/// Rates with a million queued messages, of those with none.
pub const FLAT: Target = Target::RatioAtLeast(0.80);
/// Bytes of memory of each of a million queued messages: 64 MiB.
pub const QUEUED: Target = Target::ValueAtMost(67.1);
/// Seconds from the start to the first answer, with a million queued messages.
pub const RESTART: Target = Target::ValueAtMost(1.0);
/// Bytes of memory of a logged-in connection that says nothing.
pub const IDLE: Target = Target::ValueAtMost(512.0);
/// Bytes of memory of a connection that pipelines and reads nothing, of the process and of the kernel: 160 KiB.
pub const DEAF: Target = Target::ValueAtMost(163_840.0);
/// Latency of other sessions beside such connections, of that in quiet.
pub const DEAF_P99: Target = Target::RatioAtMost(2.0);
/// Logins a second, of what as many threads hash when they do nothing else.
pub const LOGIN: Target = Target::RatioAtLeast(0.90);
/// Latency of other sessions while logins storm, of that in quiet.
pub const LOGIN_P50: Target = Target::RatioAtMost(3.0);
pub const LOGIN_P99: Target = Target::Shown;
/// Seconds that an honest login takes while 6,000 addresses flood cpd with others.
pub const FLOOD_OWNER: Target = Target::ValueAtMost(1.0);
pub const FLOOD_NEWCOMER: Target = Target::ValueAtMost(10.0);
