//! Clients in every state, for restarts that hand them over.

pub mod client;
pub mod crowd;
