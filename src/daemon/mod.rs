//! The shell: everything that touches the world.

pub mod auth_pool;
pub mod config;
pub mod exit;
pub mod fd;
pub mod listeners;
pub mod logging;
pub mod notify;
