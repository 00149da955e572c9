//! A store that does not answer: senders are told, everybody else is let alone.

use super::Engine;
use crate::proto::types::Millis;

impl Engine {
    /// The store does not answer from now on (`stalled`), or does again. Who waits for a 240 meanwhile hears that it is
    /// not known, and what is then found to be stored is delivered all the same. What is sent meanwhile is not stored, and
    /// its sender is told that.
    pub fn store_stalls(&mut self, stalled: bool, now: Millis) {
        self.core.stalled = stalled;
        if stalled {
            let senders: Vec<_> = self.slots().map(|slot| slot.id()).collect();
            for session in senders {
                self.with(session, now, |s, cx| s.give_up_storing(cx));
            }
            for session in std::mem::take(&mut self.core.starved) {
                self.with(session, now, |s, cx| s.resume(cx));
            }
        }
        self.settle(now);
    }
}
