//! The server of CP without sockets, clocks, threads and files: bytes, times and answers of the store go in, replies,
//! requests to the store and passwords to verify come out. How CP is written and read is in the crate `cp-proto`.

#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::unwrap_used)]

pub mod decoder_record;
pub mod dfa;
pub mod download;
pub mod engine;
pub mod limits;
pub mod mailboxes;
pub mod record;
pub mod sabotage;
pub mod services;
pub mod session;
pub mod table;
pub mod time;
pub mod timer;
