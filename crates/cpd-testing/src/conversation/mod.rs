//! Conversations: the scripts in tests/conversations, their parser, the runner, and where they are played.

pub mod coverage;
pub mod daemon;
pub mod parser;
pub mod pure;
pub mod runner;
pub mod text;
