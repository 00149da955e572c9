//! What cpd and cpctl say to each other over the control socket: one JSON object a line each way.
//!
//! `{"v":1,"cmd":"user.add","name":"bob","password":"…"}` is answered by `{"ok":true,…}` or by
//! `{"ok":false,"error":{"code":"user_exists","message":"…"}}`. Requests are parsed strictly: what this version does not
//! know is refused by name, never skipped, so that an older daemon cannot half-understand a newer tool. Answers are read
//! leniently, so that a newer daemon may say more.
//!
//! The room is pure: no socket, no clock, no store. It must never show a password, not in an error and not by `Debug`.

pub mod answer;
pub mod error;
pub mod fields;
pub mod frame;
pub mod password;
pub mod request;

pub use answer::{encode_error, encode_ok, rfc3339};
pub use error::{ControlError, ErrorCode};
pub use frame::{Framer, Line};
pub use request::{PurgeFilter, Request};

/// The version of this protocol, the `v` of every request.
pub const VERSION: u64 = 1;
/// Longest request in bytes, without its newline.
pub const REQUEST_MAX_BYTES: usize = 64 * 1024;
/// Deepest nesting of a request's JSON that is looked at. No command takes nested values.
pub const DEPTH_MAX: usize = 8;
/// Most fields of a request. No command has as many.
pub const FIELDS_MAX: usize = 16;
/// Longest answer in bytes, with its newline; what asks may hang up on a longer one.
pub const ANSWER_MAX_BYTES: usize = 1024 * 1024;
/// Most rows that one page of a list may be asked for.
pub const ROWS_MAX: u32 = 256;
/// Rows of a page when a request does not say.
pub const ROWS_DEFAULT: u32 = 100;
/// Most bytes of a backup in one answer, before base64.
pub const BACKUP_CHUNK_BYTES: u32 = 256 * 1024;
/// Most damaged rows that one page of `store.check` may name.
pub const DAMAGED_MAX: usize = 256;

/// What a user name must be, for people. `proto::types::Username` holds to it.
pub const NAME_RULE: &str =
    "a user name is 1 to 10 ASCII letters, digits, '.', '_' or '-', and starts with a letter or digit";
/// What a password must be, for people. `proto::types::Password` holds to it.
pub const PASSWORD_RULE: &str =
    "a password is 1 to 15 bytes of UTF-8 without control characters, with no space at either end";

// A page of whole messages must fit an answer: TAB, quote and backslash take two bytes in JSON, the rest of a row is
// small. A chunk grows by a third in base64.
const _: () = assert!(ROWS_MAX as usize * (2 * crate::proto::limits::MESSAGE_MAX_BYTES + 256) < ANSWER_MAX_BYTES);
const _: () = assert!((BACKUP_CHUNK_BYTES as usize) / 3 * 4 + 1024 < ANSWER_MAX_BYTES);
