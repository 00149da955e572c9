//! Every bound of the protocol, with its unit (docs/protocol.md section 2).

/// Longest PDU in bytes, without its CRLF.
pub const PDU_MAX_BYTES: usize = 1024;
/// Length of a verb, and of a reply code with its space, in bytes.
pub const VERB_BYTES: usize = 4;
/// Longest user name in bytes.
pub const USERNAME_MAX_BYTES: usize = 10;
/// Longest password in bytes of UTF-8.
pub const PASSWORD_MAX_BYTES: usize = 15;
/// Longest message in bytes of UTF-8.
pub const MESSAGE_MAX_BYTES: usize = 1009;
/// Bytes a client may send without a terminator before it is disconnected.
pub const UNTERMINATED_MAX_BYTES: usize = 64 * 1024;
/// Largest window of `RMSG<n>`, in messages.
pub const WINDOW_MAX_MESSAGES: u16 = 256;
/// Longest wait of `WMSG<s>`, in seconds.
pub const WAIT_MAX_SECONDS: u16 = 300;
/// Failed logins of one connection after which it is closed.
pub const LOGIN_FAILURES_MAX: u8 = 3;
/// Replies of 500 or 560 before a login, behind the last of which the connection is closed.
pub const BAD_PDUS_MAX: u8 = 20;

/// Stores of one session that may be under way behind the one that is answered next (pipelined SMSGs).
pub const OVERLAP_MAX_STORES: u16 = 64;
/// Unsent output of one session, in bytes, at which its input is no longer taken.
pub const OUTPUT_HIGH_WATER_BYTES: usize = 16 * 1024;
/// What a reply or a message adds to the output at most, in bytes.
pub const REPLY_MAX_BYTES: usize = PDU_MAX_BYTES + 2;
/// Bytes that a client takes within the write timeout, if it does not take all: with fewer it reads too slowly.
pub const WRITE_PROGRESS_BYTES: u16 = 16 * 1024;
/// Unread input of one session of the classic dialect, in bytes, at which no more is read: up to here silence is heard
/// while a PDU is being worked on.
pub const CLASSIC_AHEAD_BYTES: usize = 4 * 1024;
/// Bodies that one page of a download may hold, in bytes.
pub const PAGE_MAX_BYTES: usize = 16 * 1024;
/// Messages that one page of a download may hold.
pub const PAGE_MAX_MESSAGES: usize = 256;

const _: () = assert!(VERB_BYTES + USERNAME_MAX_BYTES + 1 + MESSAGE_MAX_BYTES == PDU_MAX_BYTES);
const _: () = assert!(VERB_BYTES + PASSWORD_MAX_BYTES <= PDU_MAX_BYTES);
const _: () = assert!(PDU_MAX_BYTES < UNTERMINATED_MAX_BYTES);
// A PDU of any length can wait, and the next one behind it.
const _: () = assert!(CLASSIC_AHEAD_BYTES >= 2 * (PDU_MAX_BYTES + 2));
const _: () = assert!(PAGE_MAX_MESSAGES >= WINDOW_MAX_MESSAGES as usize);
// One page is enough to fill a session's output.
const _: () = assert!(PAGE_MAX_BYTES >= OUTPUT_HIGH_WATER_BYTES && PAGE_MAX_BYTES >= MESSAGE_MAX_BYTES);
const _: () = assert!(OUTPUT_HIGH_WATER_BYTES >= 2 * (PDU_MAX_BYTES + 2));
