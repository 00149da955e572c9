//! A real cpd that is ended and started again and again, and clients that keep it busy and write a ledger.

pub mod client;
pub mod load;
pub mod sabotage;
pub mod strace;
pub mod trial;

pub use crate::{open_stores, random};
