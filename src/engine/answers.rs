//! What comes back from the store, to the sessions that wait for it.

use super::port::{Answer, Batch, LoginRecord, MessageId, Op, Outcome, Page, SessionId};
use super::{Engine, sabotage};
use crate::proto::dfa::Refusal;
use crate::proto::types::{Millis, Username};

impl Engine {
    pub(super) fn answer(&mut self, answer: Answer, now: Millis) {
        match answer {
            Answer::Page { session, download, page } => {
                let user = self.session(session).and_then(|s| s.state().user());
                let page = page.map(|page| self.still_queued(user, page));
                self.delete_early(page.as_ref(), now);
                self.with(session, now, |s, cx| s.page(download, page, cx));
            }
            Answer::Login { session, record } => {
                // A store that cannot say is answered like an unknown user: nobody gets in.
                let record: Option<Box<LoginRecord>> = record.ok().flatten();
                self.core.logins.looked_up(session, record);
            }
            Answer::Admin { request, answer } => self.admin_answer(request, answer, now),
        }
    }

    /// Without the messages that were purged while the page was on its way.
    fn still_queued(&self, user: Option<Username>, mut page: Page) -> Page {
        if let Some(user) = user {
            page.messages.retain(|m| self.core.queues.contains(user, m.id));
        }
        page
    }

    pub(super) fn done(&mut self, batch: Batch, outcome: Outcome, now: Millis) {
        self.core.work.done(&batch, outcome);
        self.core.counters.store_batches += 1;
        if !outcome.inserts || !outcome.deletes {
            self.core.counters.store_failures += 1;
        }
        let result = match outcome {
            Outcome { inserts: true, .. } => Ok(()),
            Outcome { no_room: true, .. } => Err(Refusal::NoRoom),
            _ => Err(Refusal::Unknown),
        };
        for op in &batch.ops {
            match op {
                Op::Insert { .. } if sabotage::replies_early() => {}
                Op::Insert { session, id, recipient, .. } => {
                    self.stored(*session, *recipient, *id, result, now);
                }
                Op::Delete { session, .. } => self.with(*session, now, |s, cx| s.deleted(outcome.deletes, cx)),
                Op::Forget { .. } | Op::Fetch { .. } | Op::Lookup { .. } | Op::LoggedIn { .. } | Op::Admin { .. } => {}
            }
        }
        self.core.work.recycle(batch);
        for session in std::mem::take(&mut self.core.starved) {
            self.with(session, now, |s, cx| s.resume(cx));
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
            self.core.counters.stored += 1;
            match self.core.queues.commit(recipient, id) {
                Some(true) => self.core.grants.push_back(recipient),
                Some(false) => {}
                // Its recipient was removed meanwhile, and so was it.
                None => self.core.counters.removed += 1,
            }
        } else {
            self.core.queues.remove(recipient, id);
        }
        self.with(session, now, |s, cx| s.stored(result, cx));
    }
}
