//! A store that does not respond: senders get an error reply, all other sessions continue.

use super::Engine;
use crate::mailboxes::Mailboxes;
use crate::time::Millis;

impl<M: Mailboxes> Engine<M> {
    /// Notes that the store has stopped responding (`stalled`), or responds again. Clients that wait for a 240 then get
    /// a 540 that calls the outcome unknown; a message that turns out to be stored is delivered all the same. Until the
    /// store responds, further messages are refused with a 540.
    pub fn set_store_stalled(&mut self, stalled: bool, now: Millis) {
        self.core.stalled = stalled;
        if stalled {
            let senders: Vec<_> = self.open_slots().map(|slot| slot.id()).collect();
            for session in senders {
                self.with_session(session, now, |s, cx| s.give_up_storing(cx));
            }
            self.core.mailboxes.retry_stores();
        }
        self.handle_mailbox_events(now);
    }
}
