//! The protocol CP as pure code: bytes and events go in, replies and requests to the surroundings come out. Nothing in
//! it uses a clock, a socket, a thread or a log.

pub mod command;
pub mod dfa;
pub mod download;
pub mod limits;
pub mod line;
pub mod record;
pub mod reply;
pub mod services;
pub mod session;
pub mod settings;
pub mod table;
pub mod telnet;
pub mod types;
pub mod unread;
