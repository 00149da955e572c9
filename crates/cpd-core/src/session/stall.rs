//! What a session does while the store does not answer.

use super::{Services, Session, SessionContext};
use crate::dfa::{Event, Refusal, State};

impl Session {
    /// Answers the SMSGs that are at the store, the first one with 540, because it is not known whether they are
    /// stored. Their outcomes will be discarded when they come.
    pub fn give_up_storing<S: Services>(&mut self, cx: &mut SessionContext<'_, S>) {
        if !matches!(self.state, State::SendingMessage { .. }) {
            return;
        }
        while matches!(self.state, State::SendingMessage { .. }) {
            self.store_work.discarded_outcomes += 1;
            self.apply(Event::Refused(Refusal::OutcomeUnknown), cx);
            self.advance_pipeline(cx);
        }
        self.resume(cx);
    }
}
