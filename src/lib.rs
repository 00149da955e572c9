//! The library behind three programs: cpd(8), a daemon for CP, the Chat Protocol (docs/protocol.md), cpctl(8), its
//! admin tool, and `cpd-failed`, the stand-in for a cpd that cannot start.

#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::unwrap_used)]

pub mod auth;
pub mod ctl;
pub mod daemon;
pub mod duration;
