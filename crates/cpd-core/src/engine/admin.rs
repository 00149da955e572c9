//! Operators' requests. Those that need the store go there in order with everything else, and take effect on sessions once
//! they are on stable storage.

use cp_proto::values::Username;

use super::Engine;
use super::core::{Core, Pending};
use super::port::{AddressKey, AdminAnswer, AdminOp, RequestId, UserRow};
use super::requests::{AdminResult, BACKUP_CHUNK_BYTES, Request, SessionRow, Status, UserState, keep_first_by_key};
use crate::dfa::StateName;
use crate::download::MessageId;
use crate::mailboxes::Mailboxes;
use crate::time::Millis;

impl<M: Mailboxes> Engine<M> {
    /// Handles a request; its result comes from [`Engine::next_result`].
    pub fn admin(&mut self, request: RequestId, what: Request, now: Millis) {
        match what {
            Request::UserAdd { name, password: hash } => {
                let op = AdminOp::UserAdd { name, hash, at: self.core.wall_seconds };
                self.core.ask_store(request, Pending::UserAdd { name }, op);
            }
            Request::UserPasswd { name, password: hash, keep_sessions } => {
                let pending = Pending::UserPasswd { name, keep_sessions };
                self.core.ask_store(request, pending, AdminOp::UserPasswd { name, hash });
            }
            Request::UserLock { name } => self.core.set_locked(request, name, true),
            Request::UserUnlock { name } => self.core.set_locked(request, name, false),
            Request::UserRemove { name } => {
                self.core.pending.insert(request, Pending::UserRemove { name });
                self.core.mailboxes.remove_user(request, name);
            }
            Request::UserList { after, limit } => {
                let op = AdminOp::Users { after, limit: limit.saturating_add(1) };
                self.core.ask_store(request, Pending::Users { limit: limit as usize }, op);
            }
            Request::UserShow { name } => {
                self.core.ask_store(request, Pending::Users { limit: 1 }, AdminOp::User { name });
            }
            Request::QueueList { after, limit } => {
                self.core.mailboxes.list_queues(request, after, limit as usize);
            }
            Request::QueueShow { user, after, limit, body } => {
                self.core.mailboxes.show_queue(request, user, MessageId(after), limit as usize, body);
            }
            Request::QueuePurge { user, which } => {
                self.core.pending.insert(request, Pending::Purge);
                self.core.mailboxes.purge(request, user, which, self.core.wall_seconds);
            }
            Request::StoreBackup => self.core.ask_store(request, Pending::Plain, AdminOp::BackupBegin),
            Request::StoreBackupRead { backup, offset } => {
                let length = BACKUP_CHUNK_BYTES;
                self.core.ask_store(request, Pending::Plain, AdminOp::BackupRead { backup, offset, length });
            }
            Request::StoreBackupEnd { backup } => {
                self.core.ask_store(request, Pending::Plain, AdminOp::BackupEnd { backup });
            }
            Request::StoreShrink => self.core.ask_store(request, Pending::Plain, AdminOp::Shrink),
            Request::StoreCheck { after, limit } => {
                self.core.ask_store(request, Pending::Plain, AdminOp::Check { after, limit });
            }
            Request::SessionList { after, limit } => self.list_sessions(request, after, limit as usize, now),
            Request::ThrottleList { limit } => {
                let (throttle, limits) = (self.core.logins.throttle(), &self.core.limits);
                let (rows, more) = throttle.list(limits, limit as usize, now);
                self.core.finish_request(request, AdminResult::Throttles { rows, more });
            }
            Request::ThrottleClear { user, address } => {
                let throttle = self.core.logins.throttle();
                let buckets = match (user, address) {
                    (None, None) => throttle.clear(),
                    _ => {
                        let of_user = user.map_or(0, |user| throttle.clear_name(user));
                        of_user + address.map_or(0, |address| throttle.clear_address(AddressKey::of(address), now))
                    }
                };
                self.core.finish_request(request, AdminResult::FailuresCleared { buckets });
            }
            Request::SessionClose { id } => {
                let found = self.disconnect(|slot| slot.id().serial == id) > 0;
                self.core.finish_request(request, if found { AdminResult::Done } else { AdminResult::NoSuchSession });
            }
            Request::Ping => self.core.finish_request(request, AdminResult::Done),
            Request::Status { .. } => self.core.ask_store(request, Pending::Status, AdminOp::Size),
        }
        self.handle_mailbox_events(now);
    }

    /// Answers, with this result, a request that does not reach [`Engine::admin`].
    pub fn refuse(&mut self, request: RequestId, result: AdminResult) {
        self.core.finish_request(request, result);
    }

    /// Handles the store's answer to a request.
    pub(super) fn admin_answer(&mut self, request: RequestId, answer: AdminAnswer, now: Millis) {
        let Some(pending) = self.core.pending.remove(&request) else {
            return;
        };
        let sessions = if matches!(answer, AdminAnswer::Done) { self.apply_change(&pending) } else { 0 };
        let result = match (pending, answer) {
            (Pending::UserPasswd { .. } | Pending::UserLock { locked: true, .. }, AdminAnswer::Done) => {
                AdminResult::SessionsEnded { sessions }
            }
            (Pending::Status, AdminAnswer::Size { bytes }) => AdminResult::Status(Box::new(self.status(bytes))),
            (Pending::Users { limit }, AdminAnswer::Users(mut users)) => {
                let more = users.len() > limit;
                users.truncate(limit);
                AdminResult::Users { rows: users.into_iter().map(|row| self.core.user_state(row, now)).collect(), more }
            }
            (_, AdminAnswer::Done) => AdminResult::Done,
            (_, AdminAnswer::Exists) => AdminResult::UserExists,
            (Pending::Plain, AdminAnswer::Missing) => AdminResult::NoSuchBackup,
            (_, AdminAnswer::Missing) => AdminResult::NoSuchUser,
            (_, AdminAnswer::Busy) => AdminResult::Busy,
            (_, AdminAnswer::Failed(cause)) => AdminResult::Failed(cause),
            (_, AdminAnswer::Backup { backup, bytes }) => AdminResult::Backup { backup, bytes },
            (_, AdminAnswer::Bytes(bytes)) => AdminResult::Bytes(bytes),
            (_, AdminAnswer::Checked { rows, damaged, next }) => AdminResult::Checked { rows, damaged, next },
            (_, AdminAnswer::Shrunk { before, after }) => AdminResult::Shrunk { before, after },
            (_, AdminAnswer::Users(_) | AdminAnswer::Messages(_) | AdminAnswer::Size { .. }) => {
                AdminResult::Failed("the store answered something else".to_string())
            }
        };
        self.core.finish_request(request, result);
    }

    /// Handles the mailboxes' result of a request about users or queues.
    pub(super) fn admin_result(&mut self, request: RequestId, result: AdminResult) {
        let result = match (self.core.pending.remove(&request), result) {
            (Some(pending @ Pending::UserRemove { .. }), AdminResult::Removed { messages, .. }) => {
                self.core.counters.messages_removed += messages;
                AdminResult::Removed { messages, sessions: self.apply_change(&pending) }
            }
            (Some(Pending::Purge), AdminResult::Removed { messages, sessions }) => {
                self.core.counters.messages_purged += messages;
                AdminResult::Removed { messages, sessions }
            }
            (_, result) => result,
        };
        self.core.finish_request(request, result);
    }

    /// Applies a change that is on stable storage to sessions and logins. Returns the number of sessions that it ended.
    fn apply_change(&mut self, pending: &Pending) -> u64 {
        match pending {
            Pending::UserAdd { name } => {
                self.core.logins.clear_name_history(*name, false);
            }
            Pending::UserPasswd { name, keep_sessions } => {
                self.core.logins.invalidate(*name);
                self.core.logins.clear_name_history(*name, false);
                if !keep_sessions {
                    return self.disconnect_user(*name);
                }
            }
            Pending::UserLock { name, locked: true } => {
                self.core.logins.invalidate(*name);
                return self.disconnect_user(*name);
            }
            Pending::UserRemove { name } => {
                self.core.logins.invalidate(*name);
                self.core.logins.clear_name_history(*name, true);
                return self.disconnect_user(*name);
            }
            Pending::UserLock { locked: false, .. }
            | Pending::Users { .. }
            | Pending::Purge
            | Pending::Status
            | Pending::Plain => {}
        }
        0
    }

    fn disconnect_user(&mut self, name: Username) -> u64 {
        self.disconnect(|slot| slot.session().is_some_and(|s| s.state().user() == Some(name))) as u64
    }

    fn list_sessions(&mut self, request: RequestId, after: u64, limit: usize, now: Millis) {
        let mut rows: Vec<SessionRow> = self
            .open_slots()
            .filter(|slot| slot.id().serial > after)
            .filter_map(|slot| {
                let session = slot.session()?;
                Some(SessionRow {
                    id: slot.id(),
                    user: session.state().user(),
                    state: session.state().name(),
                    opened: slot.opened(),
                    idle: session.idle_for(now),
                })
            })
            .collect();
        let more = keep_first_by_key(&mut rows, limit, |row| row.id.serial);
        self.core.finish_request(request, AdminResult::Sessions { rows, more });
    }

    fn status(&self, store_bytes: u64) -> Status {
        let mut states = StateName::ALL.map(|name| (name, 0));
        for session in self.open_slots().filter_map(|slot| slot.session()) {
            let name = session.state().name();
            states.iter_mut().filter(|(known, _)| *known == name).for_each(|(_, count)| *count += 1);
        }
        let (queued_messages, queued_bytes) = self.core.mailboxes.totals();
        Status {
            connections: self.connections(),
            states,
            queued_messages,
            queued_bytes,
            store_bytes,
            counters: self.core.counters,
        }
    }
}

impl<M: Mailboxes> Core<M> {
    pub(super) fn finish_request(&mut self, request: RequestId, result: AdminResult) {
        self.results.push_back((request, result));
    }

    fn user_state(&mut self, row: UserRow, now: Millis) -> UserState {
        let throttled = self.logins.throttle().name_throttle(row.name, &self.limits, now).map(|one| one.until);
        UserState { queued: self.mailboxes.queued(row.name), throttled, row }
    }

    fn ask_store(&mut self, request: RequestId, pending: Pending, op: AdminOp) {
        self.pending.insert(request, pending);
        self.mailboxes.ask(request, op);
    }

    fn set_locked(&mut self, request: RequestId, name: Username, locked: bool) {
        self.ask_store(request, Pending::UserLock { name, locked }, AdminOp::UserLock { name, locked });
    }
}
