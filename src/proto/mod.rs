//! CP itself, pure: bytes and events in, replies and effects out. No clock, socket, thread or log.

pub mod limits;
pub mod settings;
pub mod types;
