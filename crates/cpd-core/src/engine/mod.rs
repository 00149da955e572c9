//! Everything between the sockets and the store, as a pure computation: the sessions by id, what they ask of the
//! mailboxes and of the verifiers, and the throttle. There is no clock, thread or socket here: the caller
//! passes the time in and carries requests and answers back and forth, so that the whole engine can be simulated.

mod address;
mod admin;
mod core;
pub mod counters;
mod counts;
pub mod events;
mod expiry;
mod guests;
pub mod handover;
pub mod login_queue;
mod logins;
mod mailbox_events;
pub mod port;
pub mod requests;
mod sabotage;
pub mod settings;
mod slot;
mod stall;
pub mod throttle;
mod trusted_clock;

use std::collections::VecDeque;

use cp_proto::values::Username;

use self::core::{Core, SessionServices};
use self::counts::Counts;
use self::events::{Limit, LogEvent};
use self::guests::Guests;
pub use self::logins::Verification;
use self::port::{AddressKey, Origin, RequestId, SessionId};
use self::requests::AdminResult;
use self::settings::Settings;
use self::slot::Slot;
use self::trusted_clock::TrustedClock;
use crate::dfa::Dialect;
use crate::download::MessageId;
use crate::mailboxes::Mailboxes;
use crate::mailboxes::local::LocalMailboxes;
use crate::sabotage::inject_early_timer;
use crate::services::SessionContext;
use crate::session::{Closing, Session};
use crate::time::{Millis, NEVER};
use crate::timer::Wheel;

/// All sessions, and everything that they share. `M` is the kind of the mailboxes.
#[derive(Debug)]
pub struct Engine<M = LocalMailboxes> {
    settings: Settings,
    slots: Vec<Slot>,
    free_slots: Vec<u32>,
    last_serial: u64,
    per_address: Counts<AddressKey>,
    guests: Guests,
    wheel: Wheel<u32>,
    dirty: VecDeque<u32>,
    core: Core<M>,
    /// When the next scan for expired messages is due, and the index of the user at which it begins.
    expiry_scan: (Millis, usize),
    trusted_clock: TrustedClock,
    /// Messages with lower ids were in the store when the process started.
    first_new_id: MessageId,
    stopping: bool,
}

impl Engine {
    /// An engine without users or messages; `next_message` is the first message id that it may assign.
    pub fn new(settings: Settings, next_message: u64, now: Millis) -> Engine {
        Engine::with_mailboxes(settings, LocalMailboxes::new(next_message), MessageId(next_message), now)
    }

    /// Adds a user that the store holds.
    pub fn load_user(&mut self, name: Username) {
        self.core.mailboxes.load_user(name);
    }

    /// Adds a message that the store holds. Messages must come in the order of their ids.
    pub fn load_message(&mut self, message: &port::StoredMessage) {
        self.core.counters.messages_at_start += 1;
        self.core.mailboxes.load_message(message);
    }

    /// Sets the first message id that may be assigned. Messages with lower ids count as found at the start.
    pub fn set_next_message(&mut self, id: u64) {
        self.core.mailboxes.set_next_message(id);
        self.first_new_id = MessageId(id);
    }
}

impl<M: Mailboxes> Engine<M> {
    /// An engine without sessions. Messages with ids below `first_new_id` count as found at the start.
    pub fn with_mailboxes(settings: Settings, mailboxes: M, first_new_id: MessageId, now: Millis) -> Engine<M> {
        let core = Core::new(mailboxes, settings.limits);
        Engine {
            settings,
            slots: Vec::new(),
            free_slots: Vec::new(),
            last_serial: 0,
            per_address: Counts::default(),
            guests: Guests::default(),
            wheel: Wheel::new(now),
            dirty: VecDeque::new(),
            core,
            expiry_scan: (now, 0),
            trusted_clock: TrustedClock::default(),
            first_new_id,
            stopping: false,
        }
    }

    /// Adds a known address. Addresses must come in the order of their last logins.
    pub fn load_known_address(&mut self, address: AddressKey) {
        self.core.logins.add_known_address(address);
    }

    /// Sets the earliest time, in seconds since 1970, that the wall clock can rightly show: cpd did not exist before.
    pub fn set_earliest_time(&mut self, seconds: u64) {
        self.trusted_clock.earliest_time = seconds;
    }

    /// Replaces the settings while the engine runs.
    pub fn configure(&mut self, settings: Settings) {
        self.settings = settings;
        self.core.limits = settings.limits;
    }

    /// Sets the wall clock, in seconds since 1970; messages are stamped with it.
    pub fn set_wall_clock(&mut self, seconds: u64) {
        self.core.wall_seconds = seconds;
    }

    /// Opens a session for a client that has connected. If all connections are in use, a guest may be evicted for it:
    /// that one gets a 500 and is closed (docs/protocol.md section 5).
    ///
    /// # Errors
    /// The limit that is reached. The caller sends the client a 500 and closes the connection.
    pub fn open(&mut self, from: impl Into<Origin>, dialect: Dialect, now: Millis) -> Result<SessionId, Limit> {
        let from: Origin = from.into();
        let limits = self.settings.limits;
        let refused = if self.per_address.get(from.key) >= limits.connections_per_address {
            Some(Limit::ConnectionsPerAddress)
        } else if self.connections()
            >= self.settings.limits.connections_for(self.core.logins.is_known_address(from.key))
            && !self.evict_guest(now)
        {
            Some(Limit::Connections)
        } else {
            None
        };
        if let Some(limit) = refused {
            self.core.counters.connections_refused += 1;
            self.core.events.push_back(LogEvent::Limit { limit, user: None, queue: None });
            return Err(limit);
        }
        let session = Session::new(dialect, now, &self.settings.session);
        Ok(self.insert_session(session, from, now))
    }

    /// Puts a session into a free slot.
    fn insert_session(&mut self, session: Session, from: Origin, opened: Millis) -> SessionId {
        self.per_address.increment(from.key);
        self.core.counters.connections_accepted += 1;
        self.last_serial += 1;
        let index = self.free_slots.pop().unwrap_or_else(|| u32::try_from(self.slots.len()).unwrap_or(u32::MAX));
        let user = session.state().user();
        let session = Some(session);
        let slot = Slot { serial: self.last_serial, index, from: from.key, opened, timer: None, dirty: false, session };
        let id = slot.id();
        match user {
            Some(user) => self.core.per_user.increment(user),
            None => self.guests.insert(from.key, id),
        }
        if let Some(former_key) = from.former_key {
            self.core.former_keys.insert(id, former_key);
        }
        match self.slots.get_mut(index as usize) {
            Some(old) => *old = slot,
            None => self.slots.push(slot),
        }
        self.arm(id);
        id
    }

    /// Evicts the guest that goes first when all connections are in use. Returns whether there was one.
    fn evict_guest(&mut self, now: Millis) -> bool {
        let Some((from, id)) = self.guests.eviction_candidate() else { return false };
        self.guests.remove(from, id);
        self.core.counters.connections_refused += 1;
        self.core.events.push_back(LogEvent::GuestEvicted { session: id, from });
        self.with_session(id, now, |s, cx| s.evict(cx));
        true
    }

    /// Removes a session whose connection is gone. Messages that its client has not acknowledged stay queued.
    pub fn close(&mut self, id: SessionId, now: Millis) {
        let Some(slot) = self.slot_mut(id) else {
            return;
        };
        let Some(session) = slot.session.take() else {
            return;
        };
        let (from, timer) = (slot.from, slot.timer.take());
        if let Some((key, _)) = timer {
            self.wheel.cancel(key);
        }
        if let Some(user) = session.state().user() {
            self.core.per_user.decrement(user);
            self.core.mailboxes.connection_ended(id, user, now);
        }
        self.guests.remove(from, id);
        self.core.logins.abandon(id);
        self.core.former_keys.remove(&id);
        self.per_address.decrement(from);
        self.free_slots.push(id.slot);
        self.handle_mailbox_events(now);
    }

    /// Processes bytes from the client.
    pub fn receive(&mut self, id: SessionId, bytes: &[u8], now: Millis) {
        self.with_session(id, now, |s, cx| s.receive(bytes, cx));
        self.handle_mailbox_events(now);
    }

    /// The client shut down its sending side.
    pub fn end_of_input(&mut self, id: SessionId, now: Millis) {
        self.with_session(id, now, |s, cx| s.end_of_input(cx));
        self.handle_mailbox_events(now);
    }

    /// The bytes to send to the client.
    pub fn output(&self, id: SessionId) -> &[u8] {
        self.session(id).map_or(&[], Session::output)
    }

    /// Notes that the client's socket has taken `count` bytes of the output.
    pub fn sent(&mut self, id: SessionId, count: usize, now: Millis) {
        self.core.now = now;
        if let Some((session, mut services, settings)) = self.session_and_services(id) {
            session.output_sent(count, &mut SessionContext { now, settings, services: &mut services });
        }
        self.handle_mailbox_events(now);
    }

    /// Whether more should be read from the client.
    pub fn wants_input(&self, id: SessionId) -> bool {
        self.session(id).is_some_and(Session::wants_input)
    }

    /// The next step towards the end of the session; [`Closing::Now`] if the session is gone.
    pub fn next_close_step(&self, id: SessionId) -> Closing {
        self.session(id).map_or(Closing::Now, Session::next_close_step)
    }

    /// The next session that has changed. The caller sends its output and carries out [`Engine::next_close_step`].
    pub fn next_dirty(&mut self) -> Option<SessionId> {
        loop {
            let index = self.dirty.pop_front()?;
            if let Some(slot) = self.slots.get_mut(index as usize) {
                slot.dirty = false;
                if slot.session.is_some() {
                    return Some(slot.id());
                }
            }
        }
    }

    /// Sets the session's timer to its deadline. Call it once a session from [`Engine::next_dirty`] has been handled. A
    /// timer that is set to an earlier time stays: [`Engine::expire`] sets it anew.
    pub fn arm(&mut self, id: SessionId) {
        let Some(slot) = self.slots.get_mut(id.slot as usize).filter(|s| s.serial == id.serial) else {
            return;
        };
        let deadline = slot.session.as_ref().map_or(NEVER, Session::deadline);
        if deadline == NEVER {
            return;
        }
        match slot.timer {
            Some((_, at)) if at <= deadline => {}
            Some((key, _)) => {
                self.wheel.rearm(key, deadline);
                slot.timer = Some((key, deadline));
            }
            None => slot.timer = Some((self.wheel.insert(deadline, id.slot), deadline)),
        }
    }

    /// The latest time at which [`Engine::expire`] must be called, followed by [`Engine::next_batch`].
    pub fn next_deadline(&self) -> Millis {
        let expiry_scan = if self.settings.limits.message_age > 0 { self.expiry_scan.0 } else { NEVER };
        self.wheel
            .next_expiry()
            .unwrap_or(NEVER)
            .min(expiry_scan)
            .min(self.core.mailboxes.next_deadline().unwrap_or(NEVER))
    }

    /// Runs the session timers and the scan for expired messages that are due.
    pub fn expire(&mut self, now: Millis) {
        while let Some(index) = self.wheel.expire(now) {
            let Some(slot) = self.slots.get_mut(index as usize) else {
                continue;
            };
            slot.timer = None;
            let id = slot.id();
            let at = inject_early_timer(now, self.session(id).map_or(NEVER, Session::deadline));
            if self.session(id).is_some_and(|s| s.deadline() <= at) {
                self.core.counters.timeouts += 1;
                self.with_session(id, at, |s, cx| s.expire(cx));
            }
            self.arm(id);
        }
        if self.settings.limits.message_age > 0 && self.expiry_scan.0 <= now {
            self.expire_messages(now);
        }
        self.handle_mailbox_events(now);
    }

    /// The next batch for the store. `None`: there is none, or too many are under way.
    pub fn next_batch(&mut self, now: Millis) -> Option<M::Batch> {
        if self.stopping {
            self.core.mailboxes.flush();
        }
        let batch = self.core.mailboxes.next_batch(now);
        self.handle_mailbox_events(now);
        batch
    }

    /// Handles a result from the store. That the store is broken, or that somebody has changed its files, is ignored: the
    /// caller handles it.
    pub fn from_store(&mut self, what: M::FromStore, now: Millis) {
        self.core.mailboxes.answered(what, &mut self.core.counters);
        self.handle_mailbox_events(now);
    }

    /// The next password to verify. `None`: no login waits, or none of those that wait can be judged yet.
    pub fn next_verification(&mut self, now: Millis) -> Option<Verification> {
        let (verification, not_tried) = self.core.logins.next(&self.core.limits, now)?;
        if let Some(login) = not_tried {
            self.core.counters.logins_throttled += 1;
            self.core.events.push_back(LogEvent::Throttled { session: verification.session, login });
        }
        Some(verification)
    }

    /// Handles the outcome of a verification. `rehash` holds the stored hash and its replacement, where the hashing
    /// parameters have changed.
    pub fn verified(&mut self, id: SessionId, ok: bool, rehash: Option<Box<(String, String)>>, now: Millis) {
        let Some(login) = self.core.logins.end(id, ok, &self.core.limits, now) else {
            return;
        };
        if let Some(guessing) = login.guessing {
            self.core.events.push_back(LogEvent::GuessingAlert(guessing));
        }
        if !login.ok {
            self.core.counters.login_failures += 1;
            self.core.events.push_back(LogEvent::LoginFailed { session: id, login });
            self.with_session(id, now, |s, cx| s.verified(false, cx));
        } else if self.core.per_user.get(login.name) >= self.settings.limits.sessions_per_user {
            self.core.counters.connections_refused += 1;
            self.core.events.push_back(LogEvent::TooManySessions { session: id, login });
            self.with_session(id, now, |s, cx| s.refuse_login(cx));
        } else {
            self.complete_login(id, login, rehash, now);
        }
        self.inject_leaky_reply(id, login.name, now);
        self.handle_mailbox_events(now);
    }

    /// Completes a login whose password was right.
    fn complete_login(
        &mut self,
        id: SessionId,
        login: logins::Ended,
        rehash: Option<Box<(String, String)>>,
        now: Millis,
    ) {
        self.guests.remove(login.from, id);
        self.core.counters.logins += 1;
        self.core.events.push_back(LogEvent::LoggedIn { session: id, user: login.name });
        self.core.now = now;
        let (mailboxes, cx) = self.core.mailboxes();
        mailboxes.record_login(login.name, login.from, rehash, &cx);
        self.with_session(id, now, |s, cx| s.verified(true, cx));
    }

    /// The next result for an operator.
    pub fn next_result(&mut self) -> Option<(RequestId, AdminResult)> {
        self.core.results.pop_front()
    }

    /// The next event for the log.
    pub fn next_event(&mut self) -> Option<LogEvent> {
        self.core.events.pop_front()
    }

    /// Begins to stop: sessions take no more PDUs, but messages that are being stored are still answered.
    pub fn stop(&mut self) {
        self.stopping = true;
        for slot in &mut self.slots {
            if let Some(session) = &mut slot.session {
                session.stop();
                if !slot.dirty {
                    slot.dirty = true;
                    self.dirty.push_back(slot.index);
                }
            }
        }
    }

    /// Whether nothing waits for the store or is under way in it.
    pub fn is_idle(&self) -> bool {
        self.core.mailboxes.is_idle()
    }

    /// The number of open sessions.
    pub fn connections(&self) -> u32 {
        u32::try_from(self.slots.len() - self.free_slots.len()).unwrap_or(u32::MAX)
    }

    /// The number of queued messages, including those on their way to the store.
    pub fn queued_messages(&self) -> u64 {
        self.core.mailboxes.totals().0
    }

    fn open_slots(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(|slot| slot.session.is_some())
    }

    fn slot_mut(&mut self, id: SessionId) -> Option<&mut Slot> {
        self.slots.get_mut(id.slot as usize).filter(|slot| slot.serial == id.serial)
    }

    fn session(&self, id: SessionId) -> Option<&Session> {
        self.slots.get(id.slot as usize).filter(|slot| slot.serial == id.serial)?.session.as_ref()
    }

    fn session_and_services(
        &mut self,
        id: SessionId,
    ) -> Option<(&mut Session, SessionServices<'_, M>, &crate::session::settings::SessionSettings)> {
        let slot = self.slots.get_mut(id.slot as usize).filter(|slot| slot.serial == id.serial)?;
        let services = SessionServices { core: &mut self.core, session: id, from: slot.from };
        Some((slot.session.as_mut()?, services, &self.settings.session))
    }

    /// Calls the session, if it is still there, and marks it as changed.
    fn with_session(
        &mut self,
        id: SessionId,
        now: Millis,
        call: impl FnOnce(&mut Session, &mut SessionContext<'_, SessionServices<'_, M>>),
    ) {
        self.core.now = now;
        let Some((session, mut services, settings)) = self.session_and_services(id) else {
            return;
        };
        call(session, &mut SessionContext { now, settings, services: &mut services });
        if let Some(slot) = self.slot_mut(id)
            && !slot.dirty
        {
            slot.dirty = true;
            self.dirty.push_back(id.slot);
        }
    }

    /// Ends the sessions for which `which` is true, and returns their number.
    fn disconnect(&mut self, which: impl Fn(&Slot) -> bool) -> usize {
        let mut disconnected = 0;
        for slot in &mut self.slots {
            if slot.session.is_some() && which(slot) {
                disconnected += 1;
                if let Some(session) = &mut slot.session {
                    session.disconnect();
                }
                if !slot.dirty {
                    slot.dirty = true;
                    self.dirty.push_back(slot.index);
                }
            }
        }
        disconnected
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_at_rest_is_small() {
        // A logged-in connection may cost 512 bytes, and its socket and its timer need some of them.
        assert!(size_of::<Slot>() <= 256, "{} bytes", size_of::<Slot>());
    }
}
