//! cpd: a daemon for CP, the Chat Protocol (docs/protocol.md), and cpctl, its admin tool.
#![deny(unsafe_code)]

pub mod engine;
pub mod proto;
pub mod store;
