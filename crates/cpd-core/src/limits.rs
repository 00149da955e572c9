//! The bounds of a session: of what a client may get wrong (docs/protocol.md sections 1 and 7), and of what is kept in
//! memory for it, with their units. Those of a PDU are in [`cp_proto::limits`].

use cp_proto::limits::{MESSAGE_MAX_BYTES, PDU_MAX_BYTES, WINDOW_MAX_MESSAGES};

/// How many failed logins close a connection (section 7).
pub const LOGIN_FAILURES_MAX: u8 = 3;
/// How many replies of 500 or 560 before the login close a connection; the last one is still sent (section 1).
pub const BAD_PDUS_MAX: u8 = 20;

/// How many pipelined SMSGs of one session may be at the store in addition to the one that is answered next.
pub const PIPELINE_MAX_STORES: u16 = 64;
/// Once this many bytes of a session's output are unsent, it handles no further input until the client has read some.
pub const OUTPUT_HIGH_WATER_BYTES: usize = 16 * 1024;
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

// There is room for a PDU of any length and for the one that follows it.
const _: () = assert!(CLASSIC_UNREAD_MAX_BYTES >= 2 * (PDU_MAX_BYTES + 2));
const _: () = assert!(PAGE_MAX_MESSAGES >= WINDOW_MAX_MESSAGES as usize);
// One page is enough to fill a session's output.
const _: () = assert!(PAGE_MAX_BYTES >= OUTPUT_HIGH_WATER_BYTES && PAGE_MAX_BYTES >= MESSAGE_MAX_BYTES);
const _: () = assert!(OUTPUT_HIGH_WATER_BYTES >= 2 * (PDU_MAX_BYTES + 2));
