//! The version of the control protocol, its bounds, and the rules as they are shown to users.

use cpd_core::engine::requests::BACKUP_CHUNK_BYTES;

/// The version of this protocol, the `v` of every request.
pub const PROTOCOL_VERSION: u64 = 1;
/// The longest request in bytes, without its newline.
pub const REQUEST_MAX_BYTES: usize = 64 * 1024;
/// The deepest nesting of JSON that a request may have; deeper JSON is not parsed. No command takes nested values.
pub const JSON_DEPTH_MAX: usize = 8;
/// The most fields that a request may have. No command has this many.
pub const FIELDS_MAX: usize = 16;
/// The longest answer in bytes, with its newline. A client may close the connection on a longer one.
pub const ANSWER_MAX_BYTES: usize = 1024 * 1024;
/// The most rows that a request may ask for in one page of a list.
pub const ROWS_MAX: u32 = 256;
/// The number of rows in a page when the request has no `limit`.
pub const ROWS_DEFAULT: u32 = 100;
/// The most damaged rows that one page of `store.check` may name.
pub const DAMAGED_ROWS_MAX: usize = 256;

/// The rule for user names as shown to users. [`cp_proto::values::Username`] enforces it.
pub const NAME_RULE: &str =
    "a user name is 1 to 10 ASCII letters, digits, '.', '_' or '-', and starts with a letter or digit";
/// The rule for passwords as shown to users. [`cp_proto::values::Password`] enforces it.
pub const PASSWORD_RULE: &str =
    "a password is 1 to 15 bytes of UTF-8 without control characters, with no space at either end";

// A page of messages with their bodies must fit into an answer: TAB, quotation mark and backslash take two bytes each
// in JSON, and 256 bytes are enough for the rest of a row. Base64 makes a chunk a third larger.
const _: () = assert!(ROWS_MAX as usize * (2 * cp_proto::limits::MESSAGE_MAX_BYTES + 256) < ANSWER_MAX_BYTES);
const _: () = assert!((BACKUP_CHUNK_BYTES as usize) / 3 * 4 + 1024 < ANSWER_MAX_BYTES);
