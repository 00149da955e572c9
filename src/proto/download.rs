//! What a session in Receiving Message owns: the messages on their way to the client.

use std::collections::VecDeque;
use std::ops::Range;

use super::types::Username;

/// A message's number: grows with the order of queueing and is never used twice, not even after a restart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MessageId(pub u64);

/// Messages of a download. `bytes[body]` is a message's body.
#[derive(Debug, Default)]
pub struct Page {
    pub messages: Vec<PageMessage>,
    pub bytes: Vec<u8>,
}

#[derive(Debug)]
pub struct PageMessage {
    pub id: MessageId,
    pub sender: Username,
    pub body: Range<u32>,
}

/// One RMSG or WMSG from its PDU to its 255.
#[derive(Debug)]
pub struct Download {
    /// Tells this download's pages from those of an earlier one of the same session.
    pub serial: u32,
    /// Messages that may be sent ahead of their acknowledgements.
    pub window: u16,
    /// WMSG: no message yet, or another session downloads.
    pub waiting: bool,
    /// A page was asked for and is not here.
    pub reading: bool,
    /// Messages beyond the page that was asked for last.
    pub more: bool,
    /// At least one message was sent.
    pub delivered: bool,
    /// Sent and not acknowledged, oldest first.
    pub unacknowledged: VecDeque<MessageId>,
    page: Page,
    next: usize,
    ahead: Option<Page>,
}

impl Download {
    pub fn new(serial: u32, window: u16, waiting: bool) -> Download {
        Download {
            serial,
            window,
            waiting,
            reading: false,
            more: false,
            delivered: false,
            unacknowledged: VecDeque::new(),
            page: Page::default(),
            next: 0,
            ahead: None,
        }
    }

    /// Takes a page in; messages of an earlier one are sent before it.
    pub fn add(&mut self, page: Page) {
        self.reading = false;
        if self.next >= self.page.messages.len() {
            self.page = page;
            self.next = 0;
        } else {
            self.ahead = Some(page);
        }
    }

    /// The next message to send, if one is here.
    pub fn take_next(&mut self) -> Option<(MessageId, Username, &[u8])> {
        if self.next >= self.page.messages.len() {
            self.page = self.ahead.take()?;
            self.next = 0;
        }
        let message = self.page.messages.get(self.next)?;
        self.next += 1;
        let body = self.page.bytes.get(message.body.start as usize..message.body.end as usize)?;
        Some((message.id, message.sender, body))
    }

    /// Whether a message is here that was not sent.
    pub fn has_next(&self) -> bool {
        self.next < self.page.messages.len() || self.ahead.as_ref().is_some_and(|p| !p.messages.is_empty())
    }

    /// Whether another page should be asked for: one is kept ahead of the one being sent.
    pub fn wants_page(&self) -> bool {
        self.more && !self.reading && !self.waiting && self.ahead.is_none()
    }

    /// Whether the window has room for messages that are being read.
    pub fn starved(&self) -> bool {
        self.reading && !self.has_next() && self.unacknowledged.len() < usize::from(self.window)
    }

    /// Whether every message of this download was sent and acknowledged.
    pub fn exhausted(&self) -> bool {
        self.unacknowledged.is_empty() && !self.waiting && !self.reading && !self.more && !self.has_next()
    }

    /// Forgets the messages not yet sent for which `gone` is true.
    pub fn drop_unsent(&mut self, gone: impl Fn(MessageId) -> bool) {
        let sent = self.next.min(self.page.messages.len());
        self.page.messages.drain(..sent);
        self.next = 0;
        self.page.messages.retain(|m| !gone(m.id));
        if let Some(page) = &mut self.ahead {
            page.messages.retain(|m| !gone(m.id));
        }
    }
}

#[cfg(test)]
mod tests;
