//! The bounds of the protocol (mostly docs/protocol.md section 2) and of what a session may keep in memory, with their
//! units.

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
/// How many failed logins close a connection (section 7).
pub const LOGIN_FAILURES_MAX: u8 = 3;
/// How many replies of 500 or 560 before the login close a connection; the last one is still sent (section 1).
pub const BAD_PDUS_MAX: u8 = 20;

/// How many pipelined SMSGs of one session may be at the store in addition to the one that is answered next.
pub const PIPELINE_MAX_STORES: u16 = 64;
/// Once this many bytes of a session's output are unsent, it handles no further input until the client has read some.
pub const OUTPUT_HIGH_WATER_BYTES: usize = 16 * 1024;
/// How much a single reply or message can add to the output, in bytes.
pub const REPLY_MAX_BYTES: usize = PDU_MAX_BYTES + 2;
/// How many bytes a client must read within the write timeout unless it reads all of them; one that reads fewer is too
/// slow and is disconnected (section 6).
pub const WRITE_PROGRESS_MIN_BYTES: u16 = 16 * 1024;
/// Once a session of the classic dialect has this many bytes of unread input, its socket is not read. Below this bound
/// the socket is read even while a PDU is being handled, because silence can only be noticed while the socket is read.
pub const CLASSIC_UNREAD_MAX_BYTES: usize = 4 * 1024;
/// How many bytes of message bodies one page of a download may hold.
pub const PAGE_MAX_BYTES: usize = 16 * 1024;
/// How many messages one page of a download may hold.
pub const PAGE_MAX_MESSAGES: usize = 256;

const _: () = assert!(VERB_BYTES + USERNAME_MAX_BYTES + 1 + MESSAGE_MAX_BYTES == PDU_MAX_BYTES);
const _: () = assert!(VERB_BYTES + PASSWORD_MAX_BYTES <= PDU_MAX_BYTES);
const _: () = assert!(PDU_MAX_BYTES < UNTERMINATED_MAX_BYTES);
// There is room for a PDU of any length and for the one that follows it.
const _: () = assert!(CLASSIC_UNREAD_MAX_BYTES >= 2 * (PDU_MAX_BYTES + 2));
const _: () = assert!(PAGE_MAX_MESSAGES >= WINDOW_MAX_MESSAGES as usize);
// One page is enough to fill a session's output.
const _: () = assert!(PAGE_MAX_BYTES >= OUTPUT_HIGH_WATER_BYTES && PAGE_MAX_BYTES >= MESSAGE_MAX_BYTES);
const _: () = assert!(OUTPUT_HIGH_WATER_BYTES >= 2 * (PDU_MAX_BYTES + 2));
