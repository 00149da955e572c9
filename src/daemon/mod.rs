//! The shell: everything that touches the world.

pub mod config;
pub mod exit;
pub mod logging;
