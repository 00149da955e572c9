//! CP, the Chat Protocol (docs/protocol.md), on the wire: what a client sends and what a server answers, as values and as
//! bytes. Nothing here uses a socket, a clock, a thread or another crate, so that it serves a daemon on an event loop as
//! well as a script of thirty lines. The API may change with each version of cpd.

#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::unwrap_used)]

pub mod client;
pub mod command;
pub mod limits;
pub mod line;
pub mod printable;
pub mod reply;
pub mod secret;
pub mod telnet;
pub mod values;
