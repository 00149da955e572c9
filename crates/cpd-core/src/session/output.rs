//! What is still to be sent to the client, and the timer of a client that reads too slowly (docs/protocol.md section 6).

use cp_proto::limits::REPLY_MAX_BYTES;

use crate::limits::{OUTPUT_HIGH_WATER_BYTES, WRITE_PROGRESS_MIN_BYTES};
use crate::time::{Millis, NEVER};

/// Output that is bounded: once it [is full](Output::is_full), nothing is added but replies to work under way.
#[derive(Debug)]
pub(super) struct Output {
    bytes: Vec<u8>,
    /// How many bytes at the beginning have been sent.
    sent: u16,
    /// How many bytes the client has read since the deadline was set.
    progress: u16,
    /// When the client has read too slowly; [`NEVER`] while there is nothing to send.
    deadline: Millis,
}

impl Default for Output {
    fn default() -> Output {
        Output::restored(Vec::new(), NEVER)
    }
}

impl Output {
    /// Output of a predecessor, and its deadline.
    pub fn restored(bytes: Vec<u8>, deadline: Millis) -> Output {
        Output { bytes, sent: 0, progress: 0, deadline }
    }

    /// The bytes that are still to be sent.
    pub fn unsent(&self) -> &[u8] {
        self.bytes.get(usize::from(self.sent)..).unwrap_or_default()
    }

    /// Whether everything has been sent.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether so much is unsent that no further input is handled.
    pub fn is_full(&self) -> bool {
        self.unsent().len() >= OUTPUT_HIGH_WATER_BYTES
    }

    /// The buffer, with room for one more reply or message. A vector that grows by itself doubles its capacity, which
    /// near the high-water mark would waste that much memory for every client that does not read.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        let free = self.bytes.capacity() - self.bytes.len();
        if free < REPLY_MAX_BYTES && self.bytes.len() >= OUTPUT_HIGH_WATER_BYTES / 2 {
            let all = OUTPUT_HIGH_WATER_BYTES + 2 * REPLY_MAX_BYTES;
            self.bytes.reserve_exact(all.saturating_sub(self.bytes.len()).max(REPLY_MAX_BYTES));
        }
        &mut self.bytes
    }

    /// Removes `count` bytes, because the client's socket has taken them. `timeout`: how long the client may take for
    /// the next [`WRITE_PROGRESS_MIN_BYTES`].
    pub fn remove(&mut self, count: usize, now: Millis, timeout: Millis) {
        self.sent = self.sent.saturating_add(u16::try_from(count).unwrap_or(u16::MAX));
        if usize::from(self.sent) >= self.bytes.len() {
            *self = Output::default();
        } else if count > 0 {
            if usize::from(self.sent) >= OUTPUT_HIGH_WATER_BYTES / 2 {
                self.bytes.drain(..usize::from(self.sent));
                self.sent = 0;
            }
            // Only this many bytes restart the timer; a byte now and then does not.
            self.progress = self.progress.saturating_add(u16::try_from(count).unwrap_or(u16::MAX));
            if self.progress >= WRITE_PROGRESS_MIN_BYTES {
                self.progress = 0;
                self.deadline = now.saturating_add(timeout);
            }
        }
    }

    /// When the client has read too slowly.
    pub fn deadline(&self) -> Millis {
        self.deadline
    }

    /// Brings the deadline forward.
    pub fn shorten_deadline(&mut self, to: Millis) {
        self.deadline = self.deadline.min(to);
    }

    /// Starts or stops the timer as there is output or none.
    pub fn rearm(&mut self, now: Millis, timeout: Millis) {
        if self.bytes.is_empty() {
            self.deadline = NEVER;
        } else if self.deadline == NEVER {
            self.progress = 0;
            self.deadline = now.saturating_add(timeout);
        }
    }

    /// How many bytes the client has read since the deadline was set, for a successor.
    pub fn progress(&self) -> u16 {
        self.progress
    }

    /// Sets what [`Output::progress`] returns; `None` if that many would have restarted the timer.
    pub fn set_progress(&mut self, progress: u16) -> Option<()> {
        self.progress = Some(progress).filter(|progress| *progress < WRITE_PROGRESS_MIN_BYTES)?;
        Some(())
    }
}
