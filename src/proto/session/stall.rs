//! What a session does while the store does not answer.

use super::{Context, Services, Session};
use crate::proto::dfa::{Event, Refusal, State};

impl Session {
    /// What is on its way to the store is not known to be stored: the client is told so. The outcomes, when they come, are
    /// nobody's any more.
    pub fn give_up_storing<S: Services>(&mut self, cx: &mut Context<'_, S>) {
        if !matches!(self.state, State::SendingMessage { .. }) {
            return;
        }
        while matches!(self.state, State::SendingMessage { .. }) {
            self.void += 1;
            self.apply(Event::Refused(Refusal::Unknown), cx);
            self.follow_up(cx);
        }
        self.resume(cx);
    }
}
