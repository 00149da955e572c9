//! What the tests of cpd share: a cpd as a process, clients that keep a ledger of what was promised, stand-ins for what is
//! around cpd, and cpd with an ordered fault. Nothing of it is in a package.

pub mod conversation;
pub mod disk;
pub mod environment;
pub mod fake_daemon;
pub mod findings;
pub mod fuzzing;
pub mod ledger;
pub mod memory;
pub mod memory_store;
pub mod open_stores;
pub mod operator;
pub mod play;
pub mod programs;
pub mod random;
pub mod resets;
pub mod rounds;
pub mod running;
pub mod sabotaged;
pub mod secret;
pub mod slow;
pub mod stand_in;
pub mod stopped;
pub mod succession;
pub mod wire;
