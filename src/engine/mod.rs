//! Everything between sessions and store, pure.

pub mod port;
pub mod settings;
