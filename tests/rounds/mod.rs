//! A real cpd that is ended and started again and again, and clients that keep it busy and write a ledger.

#![allow(dead_code, reason = "each test uses its part of this")]

pub mod client;
pub mod cpd;
pub mod load;
#[path = "../support/open_stores.rs"]
pub mod open_stores;
pub mod random;
pub mod sabotage;
#[allow(clippy::duplicate_mod, reason = "tests/rounds has it, and so has tests/support/sabotaged.rs")]
#[path = "../support/sabotaged_program.rs"]
pub mod sabotaged_program;
pub mod strace;
pub mod trial;
