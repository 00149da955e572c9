//! What comes back from the store, and the leases that become free, as events for the sessions. Each event changes the
//! queues only when it is fetched, after the session of the one before has handled that.

use super::queues::Queues;
use super::{LocalMailboxes, ReturnedBatch, sabotage};
use crate::dfa::Refusal;
use crate::download::Page;
use crate::engine::counters::Counters;
use crate::engine::port::{Answer, FromStore, Op, Outcome, SessionId};
use crate::mailboxes::MailboxEvent;
use crate::time::Millis;

impl LocalMailboxes {
    /// Takes what the store has handed back.
    pub(super) fn take_answer(&mut self, answer: FromStore, counters: &mut Counters) {
        match answer {
            FromStore::Answers(answers) => self.answers = answers.into_iter(),
            FromStore::Done(batch, outcome) => {
                self.batcher.done(&batch, outcome);
                counters.store_batches += 1;
                if !outcome.inserts || !outcome.deletes {
                    counters.store_failures += 1;
                }
                let inserts = match outcome {
                    Outcome { inserts: true, .. } => Ok(()),
                    Outcome { no_room: true, .. } => Err(Refusal::NoRoom),
                    _ => Err(Refusal::OutcomeUnknown),
                };
                self.returned = Some(ReturnedBatch { batch, inserts, deletes: outcome.deletes, next: 0 });
            }
            FromStore::Broken(_) | FromStore::Changed { .. } => {}
        }
    }

    /// The next event.
    pub(super) fn find_event(&mut self, counters: &mut Counters, now: Millis) -> Option<MailboxEvent> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        while let Some(answer) = self.answers.next() {
            if let Some(event) = self.event_of(answer, now) {
                return Some(event);
            }
        }
        if let Some(event) = self.event_of_returned_batch(counters) {
            return Some(event);
        }
        if let Some(session) = self.may_retry.pop_front() {
            return Some(MailboxEvent::Room { session });
        }
        while let Some(user) = self.grant_candidates.pop_front() {
            if let Some(session) = self.queues.grant(user) {
                return Some(MailboxEvent::Granted { session });
            }
        }
        None
    }

    /// The event of one answer. `None`: nobody waits for it any more.
    fn event_of(&mut self, answer: Answer, now: Millis) -> Option<MailboxEvent> {
        match answer {
            Answer::Page { session, download, page } => {
                let read = self.reads.remove(&(session, download))?;
                self.inject_early_delete(page.as_ref(), now);
                let page = page.map(|page| still_queued(&self.queues, page, &read));
                Some(MailboxEvent::Page { session, download, page })
            }
            Answer::Login { session, record } => {
                // A record that could not be read is treated like an unknown user: the login fails.
                Some(MailboxEvent::Login { session, record: record.ok().flatten() })
            }
            Answer::Admin { request, answer } => Some(self.event_of_admin_answer(request, answer)),
        }
    }

    /// The event of the next operation of the batch that came back. At the end of the batch, sessions may try again for
    /// which there was no room.
    fn event_of_returned_batch(&mut self, counters: &mut Counters) -> Option<MailboxEvent> {
        let LocalMailboxes { returned, queues, grant_candidates, .. } = self;
        let ReturnedBatch { batch, inserts, deletes, next } = returned.as_mut()?;
        while let Some(op) = batch.ops.get(*next) {
            *next += 1;
            match op {
                Op::Insert { .. } if sabotage::early_reply_is_ordered() => {}
                Op::Insert { session, id, recipient, .. } => {
                    let result = *inserts;
                    match result {
                        Err(_) => {
                            queues.remove(*recipient, *id);
                        }
                        Ok(()) => {
                            counters.messages_accepted += 1;
                            match queues.commit(*recipient, *id) {
                                Some(true) => grant_candidates.push_back(*recipient),
                                Some(false) => {}
                                // The recipient was removed in the meantime, and the message with it.
                                None => counters.messages_removed += 1,
                            }
                        }
                    }
                    return Some(MailboxEvent::Stored { session: *session, result });
                }
                Op::Delete { session, .. } => {
                    let more = count_deletes(batch.ops.get(*next..).unwrap_or_default(), *session);
                    *next += more;
                    let count = u32::try_from(1 + more).unwrap_or(u32::MAX);
                    return Some(MailboxEvent::Deleted { session: *session, count, ok: *deletes });
                }
                Op::DeleteExpired { .. }
                | Op::Fetch { .. }
                | Op::Lookup { .. }
                | Op::LoggedIn { .. }
                | Op::Admin { .. } => {}
            }
        }
        if let Some(ReturnedBatch { batch, .. }) = self.returned.take() {
            self.batcher.recycle(batch);
            self.may_retry.append(&mut self.waiting_for_room);
        }
        None
    }
}

/// How many operations at the beginning of `ops` are deletes of `session`: acknowledgements often come together.
fn count_deletes(ops: &[Op], session: SessionId) -> usize {
    ops.iter().take_while(|op| matches!(op, Op::Delete { session: of, .. } if *of == session)).count()
}

/// The page without the messages that left the queue while it was being read.
fn still_queued(queues: &Queues, mut page: Page, read: &super::PendingRead) -> Page {
    queues.retain_queued(read.user, &mut page.messages);
    page.more = read.more;
    page
}

#[cfg(test)]
mod tests {
    use cp_proto::values::Username;

    use super::*;
    use crate::download::MessageId;
    use crate::engine::port::StoredMessage;
    use crate::mailboxes::Mailboxes;

    #[test]
    fn deletes_of_a_session_that_stand_together_are_one_event() {
        let [a, b] = [1, 2].map(|serial| SessionId { serial, slot: 0 });
        let bob = Username::parse(b"bob").expect("a name");
        let mut mailboxes = LocalMailboxes::new(10);
        mailboxes.load_user(bob);
        for id in 1..=5 {
            let message = StoredMessage { id: MessageId(id), recipient: bob, sender: bob, queued_at: 0, bytes: 1 };
            mailboxes.load_message(&message);
        }
        for (session, id) in [(a, 1), (a, 2), (b, 3), (a, 5)] {
            assert!(mailboxes.delete(session, bob, MessageId(id), 0));
        }
        mailboxes.flush();
        let batch = mailboxes.next_batch(0).expect("the deletes");
        let mut counters = Counters::default();
        mailboxes.answered(
            FromStore::Done(batch, Outcome { inserts: true, no_room: false, deletes: true, epoch: 0 }),
            &mut counters,
        );
        let mut events = Vec::new();
        while let Some(event) = mailboxes.next_event(&mut counters, 0) {
            match event {
                MailboxEvent::Deleted { session, count, ok: true } => events.push((session, count)),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(events, [(a, 2), (b, 1), (a, 1)]);
    }
}
