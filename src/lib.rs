//! The library behind three programs: cpd(8), a daemon for CP, the Chat Protocol (docs/protocol.md), cpctl(8), its
//! admin tool, and `cpd-failed`, the stand-in for a cpd that cannot start.
#![deny(unsafe_code)]

pub mod auth;
pub mod control;
pub mod ctl;
pub mod daemon;
pub mod engine;
pub mod proto;
pub mod sabotage;
pub mod store;
pub mod time;
pub mod timer;
