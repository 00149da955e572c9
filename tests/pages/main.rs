//! README, the manual pages and the house against the program and its sources.

mod manual;
mod tidy;
mod tour;
