//! cpctl against a stand-in for cpd, at a terminal, with a daemon that is slow, and against its page.

mod commands;
mod manual_page;
mod terminal;
mod waits;
