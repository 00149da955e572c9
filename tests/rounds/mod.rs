//! A real cpd that is ended and started again and again, and clients that keep it busy and write a ledger.

pub mod client;
pub mod cpd;
pub mod load;
pub mod random;
pub mod sabotage;
