//! The control protocol, which cpd and cpctl speak over the control socket: one JSON object per line in each direction.
//!
//! `{"v":1,"cmd":"user.add","name":"bob","password":"…"}` is answered by `{"ok":true,…}` or by
//! `{"ok":false,"error":{"code":"user_exists","message":"…"}}`. Requests are parsed strictly: an unknown version,
//! command or field is refused by name and never skipped, so that an older daemon cannot half-understand a newer tool.
//! Answers are parsed leniently, so that a newer daemon may add fields.
//!
//! This crate is pure: it has no socket, clock or store. It must never reveal a password, neither in an error nor
//! through `Debug`.

#![deny(clippy::expect_used, clippy::indexing_slicing, clippy::unwrap_used)]

pub mod answer;
pub mod encoding;
pub mod error;
pub mod fields;
pub mod frame;
pub mod limits;
pub mod password;
pub mod request;

pub use cpd_core::engine::requests::{BACKUP_CHUNK_BYTES, PurgeFilter};
pub use encoding::{encode_ok, rfc3339};
pub use error::{ControlError, ErrorCode, encode_error};
pub use frame::{Framer, RequestLine};
pub use limits::{
    ANSWER_MAX_BYTES, DAMAGED_ROWS_MAX, FIELDS_MAX, JSON_DEPTH_MAX, NAME_RULE, PASSWORD_RULE, PROTOCOL_VERSION,
    REQUEST_MAX_BYTES, ROWS_DEFAULT, ROWS_MAX,
};
pub use request::Request;
