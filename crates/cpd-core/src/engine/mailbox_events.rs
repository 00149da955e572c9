//! Events of the mailboxes, passed to the sessions and to the operators that wait for them.

use super::Engine;
use crate::mailboxes::{MailboxEvent, Mailboxes};
use crate::time::Millis;

impl<M: Mailboxes> Engine<M> {
    /// Handles everything that has happened in the mailboxes since the last call.
    pub(super) fn handle_mailbox_events(&mut self, now: Millis) {
        while let Some(event) = self.core.mailboxes.next_event(&mut self.core.counters, now) {
            match event {
                MailboxEvent::Stored { session, result } => {
                    self.with_session(session, now, |s, cx| s.stored(result, cx))
                }
                MailboxEvent::Deleted { session, count, ok } => {
                    self.with_session(session, now, |s, cx| s.deleted(count, ok, cx));
                }
                MailboxEvent::Page { session, download, page } => {
                    self.with_session(session, now, |s, cx| s.page(download, page, cx));
                }
                MailboxEvent::Granted { session } => self.with_session(session, now, |s, cx| s.granted(cx)),
                MailboxEvent::Nothing { session } => self.with_session(session, now, |s, cx| s.nothing(cx)),
                MailboxEvent::Room { session } => self.with_session(session, now, |s, cx| s.resume(cx)),
                MailboxEvent::Purged { session, ids } => {
                    self.with_session(session, now, |s, cx| s.purged(|id| ids.binary_search(&id).is_ok(), cx));
                }
                MailboxEvent::Login { session, record } => self.core.logins.looked_up(session, record),
                MailboxEvent::Answer { request, answer } => self.admin_answer(request, answer, now),
                MailboxEvent::Result { request, result } => self.admin_result(request, result),
            }
        }
    }
}
