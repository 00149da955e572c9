//! Operators' requests about users and queues. What the store has to do goes there in order with everything else; what the
//! queues know is answered at once.

use cp_proto::values::Username;

use super::queues::QueuedMessage;
use super::{LocalMailboxes, PendingRequest};
use crate::download::MessageId;
use crate::engine::port::{AdminAnswer, AdminOp, MessageRow, Op, RequestId};
use crate::engine::requests::{AdminResult, PurgeFilter};
use crate::mailboxes::MailboxEvent;

impl LocalMailboxes {
    /// Passes a request to the store.
    pub(super) fn ask_store(&mut self, request: RequestId, op: AdminOp) {
        if let AdminOp::UserAdd { name, .. } = &op {
            self.requests.insert(request, PendingRequest::Addition(*name));
        }
        self.batcher.write(Op::Admin { request, op: Box::new(op) });
    }

    fn ask_for(&mut self, request: RequestId, pending: PendingRequest, op: AdminOp) {
        self.requests.insert(request, pending);
        self.batcher.write(Op::Admin { request, op: Box::new(op) });
    }

    fn report(&mut self, request: RequestId, result: AdminResult) {
        self.events.push_back(MailboxEvent::Result { request, result });
    }

    pub(super) fn begin_removal(&mut self, request: RequestId, name: Username) {
        if !self.queues.exists(name) {
            return self.report(request, AdminResult::NoSuchUser);
        }
        let ids = self.queues.begin_removal(name);
        self.ask_for(request, PendingRequest::Removal(name), AdminOp::UserRemove { name, ids });
    }

    pub(super) fn report_queues(&mut self, request: RequestId, after: Option<Username>, limit: usize) {
        let (rows, more) = self.queues.list(after, limit);
        self.report(request, AdminResult::Queues { rows, more });
    }

    pub(super) fn report_messages(
        &mut self,
        request: RequestId,
        user: Username,
        after: MessageId,
        (limit, bodies): (usize, bool),
    ) {
        if !self.queues.exists(user) {
            return self.report(request, AdminResult::NoSuchUser);
        }
        let (rows, more) = self.queues.show(user, after, limit);
        if bodies {
            let ids = rows.iter().map(|row| row.id.0).collect();
            return self.ask_for(request, PendingRequest::Messages(more), AdminOp::Messages { ids, bodies });
        }
        let describe = |m: QueuedMessage| MessageRow {
            id: m.id,
            sender: m.sender,
            queued_at: m.at,
            bytes: u32::try_from(m.bytes).unwrap_or(u32::MAX),
            body: None,
        };
        self.report(request, AdminResult::Messages { rows: rows.into_iter().map(describe).collect(), more });
    }

    pub(super) fn begin_purge(&mut self, request: RequestId, user: Username, which: PurgeFilter, wall_seconds: u64) {
        if !self.queues.exists(user) {
            return self.report(request, AdminResult::NoSuchUser);
        }
        if which.id.is_some_and(|id| self.queues.select(user, |m| m.id.0 == id).is_empty()) {
            return self.report(request, AdminResult::NoSuchMessage);
        }
        let before = which.older_than_seconds.map(|age| wall_seconds.saturating_sub(age));
        let ids = self.queues.select(user, |m| {
            which.id.is_none_or(|id| m.id.0 == id)
                && which.from.is_none_or(|from| m.sender == from)
                && before.is_none_or(|before| m.at < before)
        });
        let purged = self.queues.remove_all(user, &ids);
        let op = AdminOp::Purge { ids: ids.iter().map(|id| id.0).collect() };
        if let Some(session) = self.queues.leaseholder(user) {
            self.events.push_back(MailboxEvent::Purged { session, ids });
        }
        self.ask_for(request, PendingRequest::Purge(user, purged), op);
    }

    /// Brings the queues in line with the store's answer to a request.
    pub(super) fn event_of_admin_answer(&mut self, request: RequestId, answer: AdminAnswer) -> MailboxEvent {
        let result = match (self.requests.remove(&request), answer) {
            (Some(PendingRequest::Addition(name)), AdminAnswer::Done) => {
                self.queues.add_user(name);
                return MailboxEvent::Answer { request, answer: AdminAnswer::Done };
            }
            (None | Some(PendingRequest::Addition(_)), answer) => return MailboxEvent::Answer { request, answer },
            (Some(PendingRequest::Removal(name)), AdminAnswer::Done) => {
                let messages = self.queues.queued(name);
                self.queues.remove_user(name);
                AdminResult::Removed { messages, sessions: 0 }
            }
            (Some(PendingRequest::Removal(name)), answer) => {
                self.queues.cancel_removal(name);
                refusal(answer)
            }
            (Some(PendingRequest::Purge(_, purged)), AdminAnswer::Done) => {
                AdminResult::Removed { messages: purged.count(), sessions: 0 }
            }
            (Some(PendingRequest::Purge(user, purged)), answer) => {
                if self.queues.put_back(user, purged) {
                    self.grant_candidates.push_back(user);
                }
                refusal(answer)
            }
            (Some(PendingRequest::Messages(more)), AdminAnswer::Messages(rows)) => AdminResult::Messages { rows, more },
            (Some(PendingRequest::Messages(_)), answer) => refusal(answer),
        };
        MailboxEvent::Result { request, result }
    }
}

/// The result of a request that the store could not carry out.
fn refusal(answer: AdminAnswer) -> AdminResult {
    match answer {
        AdminAnswer::Missing => AdminResult::NoSuchUser,
        AdminAnswer::Failed(cause) => AdminResult::Failed(cause),
        AdminAnswer::Done
        | AdminAnswer::Exists
        | AdminAnswer::Busy
        | AdminAnswer::Users(_)
        | AdminAnswer::Messages(_)
        | AdminAnswer::Backup { .. }
        | AdminAnswer::Bytes(_)
        | AdminAnswer::Checked { .. }
        | AdminAnswer::Shrunk { .. }
        | AdminAnswer::Size { .. } => AdminResult::Failed("the store answered something else".to_string()),
    }
}
