//! The server's side of CP as pure code: bytes and events go in, replies and requests to the surroundings come out.
//! Nothing in it uses a clock, a socket, a thread or a log. How CP is written and read is in the crate `cp-proto`.

pub mod decoder_record;
pub mod dfa;
pub mod download;
pub mod limits;
pub mod record;
pub mod services;
pub mod session;
pub mod settings;
pub mod table;
