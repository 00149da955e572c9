//! cpd: a daemon for CP, the Chat Protocol (docs/protocol.md), and cpctl, its admin tool.
#![deny(unsafe_code)]

pub mod auth;
pub mod control;
pub mod ctl;
pub mod daemon;
pub mod engine;
pub mod proto;
pub mod sabotage;
pub mod store;
pub mod timer;
