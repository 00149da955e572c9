//! CP itself, pure: bytes and events in, replies and effects out. No clock, socket, thread or log.

pub mod codec;
pub mod command;
pub mod dfa;
pub mod download;
pub mod limits;
pub mod line;
pub mod reply;
pub mod services;
pub mod session;
pub mod settings;
pub mod table;
pub mod telnet;
pub mod types;
pub mod waiting;
