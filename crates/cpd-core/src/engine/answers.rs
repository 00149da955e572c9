//! Results from the store, passed to the sessions that wait for them.

use cp_proto::values::Username;

use super::port::{Answer, Batch, LoginRecord, MessageId, Op, Outcome, Page, SessionId};
use super::{Engine, sabotage};
use crate::dfa::Refusal;
use crate::time::Millis;

impl Engine {
    pub(super) fn store_answer(&mut self, answer: Answer, now: Millis) {
        match answer {
            Answer::Page { session, download, page } => {
                let user = self.session(session).and_then(|s| s.state().user());
                let page = page.map(|page| self.still_queued(user, page));
                self.inject_early_delete(page.as_ref(), now);
                self.with_session(session, now, |s, cx| s.page(download, page, cx));
            }
            Answer::Login { session, record } => {
                // A record that could not be read is treated like an unknown user: the login fails.
                let record: Option<Box<LoginRecord>> = record.ok().flatten();
                self.core.logins.looked_up(session, record);
            }
            Answer::Admin { request, answer } => self.admin_answer(request, answer, now),
        }
    }

    /// The page without the messages that left the queue while it was being read.
    fn still_queued(&self, user: Option<Username>, mut page: Page) -> Page {
        if let Some(user) = user {
            page.messages.retain(|m| self.core.queues.contains(user, m.id));
        }
        page
    }

    pub(super) fn done(&mut self, batch: Batch, outcome: Outcome, now: Millis) {
        self.core.batcher.done(&batch, outcome);
        self.core.counters.store_batches += 1;
        if !outcome.inserts || !outcome.deletes {
            self.core.counters.store_failures += 1;
        }
        let result = match outcome {
            Outcome { inserts: true, .. } => Ok(()),
            Outcome { no_room: true, .. } => Err(Refusal::NoRoom),
            _ => Err(Refusal::OutcomeUnknown),
        };
        for op in &batch.ops {
            match op {
                Op::Insert { .. } if sabotage::early_reply_is_ordered() => {}
                Op::Insert { session, id, recipient, .. } => {
                    self.stored(*session, *recipient, *id, result, now);
                }
                Op::Delete { session, .. } => self.with_session(*session, now, |s, cx| s.deleted(outcome.deletes, cx)),
                Op::DeleteExpired { .. }
                | Op::Fetch { .. }
                | Op::Lookup { .. }
                | Op::LoggedIn { .. }
                | Op::Admin { .. } => {}
            }
        }
        self.core.batcher.recycle(batch);
        for session in std::mem::take(&mut self.core.waiting_for_room) {
            self.with_session(session, now, |s, cx| s.resume(cx));
        }
    }

    pub(super) fn stored(
        &mut self,
        session: SessionId,
        recipient: Username,
        id: MessageId,
        result: Result<(), Refusal>,
        now: Millis,
    ) {
        if result.is_ok() {
            self.core.counters.messages_accepted += 1;
            match self.core.queues.commit(recipient, id) {
                Some(true) => self.core.grant_candidates.push_back(recipient),
                Some(false) => {}
                // The recipient was removed in the meantime, and the message with it.
                None => self.core.counters.messages_removed += 1,
            }
        } else {
            self.core.queues.remove(recipient, id);
        }
        self.with_session(session, now, |s, cx| s.stored(result, cx));
    }
}
