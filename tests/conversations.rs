//! The conversations of tests/conversations, played against a real daemon; and what they cover together.

mod conversation;
