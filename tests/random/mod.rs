pub mod book;
pub mod chance;
pub mod client;
pub mod world;
