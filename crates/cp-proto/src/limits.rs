//! The bounds of a PDU and of what it carries (docs/protocol.md section 2), with their units.

/// Longest PDU in bytes, without its CRLF.
pub const PDU_MAX_BYTES: usize = 1024;
/// Length of a verb, or of a reply code with its space, in bytes.
pub const VERB_BYTES: usize = 4;
/// Longest user name in bytes.
pub const USERNAME_MAX_BYTES: usize = 10;
/// Longest password in bytes of UTF-8.
pub const PASSWORD_MAX_BYTES: usize = 15;
/// Longest message in bytes of UTF-8.
pub const MESSAGE_MAX_BYTES: usize = 1009;
/// How many bytes a client may send without a line terminator; one more and it is disconnected.
pub const UNTERMINATED_MAX_BYTES: usize = 64 * 1024;
/// Largest window of `RMSG<n>`, in messages.
pub const WINDOW_MAX_MESSAGES: u16 = 256;
/// Longest wait of `WMSG<s>`, in seconds.
pub const WAIT_MAX_SECONDS: u16 = 300;
/// How much a single reply or message can add to the output, in bytes.
pub const REPLY_MAX_BYTES: usize = PDU_MAX_BYTES + 2;

const _: () = assert!(VERB_BYTES + USERNAME_MAX_BYTES + 1 + MESSAGE_MAX_BYTES == PDU_MAX_BYTES);
const _: () = assert!(VERB_BYTES + PASSWORD_MAX_BYTES <= PDU_MAX_BYTES);
const _: () = assert!(PDU_MAX_BYTES < UNTERMINATED_MAX_BYTES);
