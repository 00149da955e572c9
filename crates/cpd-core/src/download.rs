//! The data of the state Receiving Message: the messages of a download that are on their way to the client.

use std::collections::VecDeque;
use std::ops::Range;

use cp_proto::values::Username;

/// The number of a message. It is never used again, not even after a restart. The numbers of one sender's messages for one
/// recipient grow in the order of queueing. So do those of all messages of one queue where one process assigns them; a
/// session does not rely on that.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MessageId(pub u64);

/// Some consecutive messages of a download, as the store reads them at once. `bytes` holds their bodies.
#[derive(Debug, Default)]
pub struct Page {
    pub messages: Vec<PageMessage>,
    pub bytes: Vec<u8>,
    /// The download has more messages behind this page. The mailboxes know; a store that only reads leaves it `false`.
    pub more: bool,
}

/// A message of a page.
#[derive(Debug)]
pub struct PageMessage {
    pub id: MessageId,
    pub sender: Username,
    /// The range of its body in [`Page::bytes`].
    pub body: Range<u32>,
}

/// A download: what one RMSG or WMSG started, until it ends.
#[derive(Debug)]
pub struct Download {
    /// The number of this download within its session, by which late pages of an earlier download are recognised.
    pub serial: u32,
    /// How many messages may be sent and not yet acknowledged.
    pub window: u16,
    /// This is a WMSG that has not got the lease yet: there is no message, or another session has the lease.
    pub waiting: bool,
    /// A page was requested and has not arrived, or it is not known yet whether this download has the lease.
    pub page_requested: bool,
    /// Messages are left after the page that arrived last.
    pub more_queued: bool,
    /// At least one message was sent.
    pub any_sent: bool,
    /// The messages that were sent and not acknowledged, oldest first.
    pub unacknowledged: VecDeque<MessageId>,
    /// The page that is being sent.
    page: Page,
    /// Index in `page` of the next message to send.
    next_index: usize,
    /// The page after `page`, if it has arrived already.
    next_page: Option<Page>,
}

impl Download {
    /// A download of which nothing has been read. The arguments are the fields of the same names.
    pub fn new(serial: u32, window: u16, waiting: bool) -> Download {
        Download {
            serial,
            window,
            waiting,
            page_requested: false,
            more_queued: false,
            any_sent: false,
            unacknowledged: VecDeque::new(),
            page: Page::default(),
            next_index: 0,
            next_page: None,
        }
    }

    /// Adds the page that was requested. What is left of the page before it is sent first.
    pub fn add_page(&mut self, page: Page) {
        self.page_requested = false;
        self.more_queued = page.more;
        if self.next_index >= self.page.messages.len() {
            self.page = page;
            self.next_index = 0;
        } else {
            self.next_page = Some(page);
        }
    }

    /// Takes the next message to send, as id, sender and body; `None` if no page with one has arrived.
    pub fn take_next(&mut self) -> Option<(MessageId, Username, &[u8])> {
        if self.next_index >= self.page.messages.len() {
            self.page = self.next_page.take()?;
            self.next_index = 0;
        }
        let message = self.page.messages.get(self.next_index)?;
        self.next_index += 1;
        let body = self.page.bytes.get(message.body.start as usize..message.body.end as usize)?;
        Some((message.id, message.sender, body))
    }

    /// Whether a message has been read and not been sent.
    pub fn has_next(&self) -> bool {
        self.next_index < self.page.messages.len() || self.next_page.as_ref().is_some_and(|p| !p.messages.is_empty())
    }

    /// Whether another page should be requested. One page is read in advance while the page before it is being sent.
    pub fn wants_page(&self) -> bool {
        self.more_queued && !self.page_requested && !self.waiting && self.next_page.is_none()
    }

    /// Whether the window has room for another message, but the next one is still being read.
    pub fn awaits_page(&self) -> bool {
        self.page_requested && !self.has_next() && self.unacknowledged.len() < usize::from(self.window)
    }

    /// Whether every message of this download was sent and acknowledged.
    pub fn exhausted(&self) -> bool {
        self.unacknowledged.is_empty() && !self.waiting && !self.page_requested && !self.more_queued && !self.has_next()
    }

    /// Drops those unsent messages for which `gone` is true.
    pub fn drop_unsent(&mut self, gone: impl Fn(MessageId) -> bool) {
        let sent = self.next_index.min(self.page.messages.len());
        self.page.messages.drain(..sent);
        self.next_index = 0;
        self.page.messages.retain(|m| !gone(m.id));
        if let Some(page) = &mut self.next_page {
            page.messages.retain(|m| !gone(m.id));
        }
    }
}

#[cfg(test)]
mod tests;
