//! Everything between the sockets and the store, pure: sessions by id, what they ask of the store and of the verifiers,
//! who has what queued, who may download it, who is throttled. No clock, no thread, no socket: whoever runs it passes
//! the time in and carries the answers to and fro, so that it can be simulated whole.

mod address;
mod admin;
mod age;
mod answers;
mod core;
mod counts;
pub mod events;
mod guests;
mod logins;
mod names;
pub mod port;
pub mod queues;
mod sabotage;
pub mod settings;
mod slot;
mod stall;
mod succession;
pub mod throttle;
pub mod turns;
mod work;

use std::collections::VecDeque;

use self::core::{Core, Desk};
use self::counts::Counts;
use self::events::{AdminResult, Event, Limit};
use self::guests::Guests;
pub use self::logins::Verification;
use self::port::{AddressKey, Batch, FromStore, Op, Origin, RequestId, SessionId};
use self::settings::Settings;
use self::slot::Slot;
pub use self::succession::VERSION;
pub use self::work::BATCHES_UNDER_WAY_MAX;
use crate::proto::dfa::Dialect;
use crate::proto::download::MessageId;
use crate::proto::services::Context;
use crate::proto::session::{Closing, NEVER, Session};
use crate::proto::types::{Millis, Username};
use crate::timer::Wheel;

/// Of so many places one is kept for addresses from which somebody has logged in before.
const RESERVE_ONE_IN: u32 = 20;

/// The engine.
#[derive(Debug)]
pub struct Engine {
    settings: Settings,
    slots: Vec<Slot>,
    free: Vec<u32>,
    serials: u64,
    per_address: Counts<AddressKey>,
    guests: Guests,
    wheel: Wheel<u32>,
    dirty: VecDeque<u32>,
    core: Core,
    /// When messages are looked through for expired ones next, and from which user on.
    sweep: (Millis, usize),
    calendar: age::Calendar,
    /// Messages below this were in the store at the start.
    found_below: MessageId,
    stopping: bool,
}

impl Engine {
    /// An engine without users or messages; `next_message` is the first id it may give.
    pub fn new(settings: Settings, next_message: u64, now: Millis) -> Engine {
        let core = Core { limits: settings.limits, next_message, ..Core::default() };
        Engine {
            settings,
            slots: Vec::new(),
            free: Vec::new(),
            serials: 0,
            per_address: Counts::default(),
            guests: Guests::default(),
            wheel: Wheel::new(now),
            dirty: VecDeque::new(),
            core,
            sweep: (now, 0),
            calendar: age::Calendar::default(),
            found_below: MessageId(next_message),
            stopping: false,
        }
    }

    /// A user that the store knows.
    pub fn load_user(&mut self, name: Username) {
        self.core.queues.add_user(name);
    }

    /// An address from which somebody has logged in before; in the order of their last logins.
    pub fn load_known_address(&mut self, address: AddressKey) {
        self.core.logins.know(address);
    }

    /// A message that the store holds; in the order of ids.
    pub fn load_message(&mut self, message: &port::StoredMessage) {
        let port::StoredMessage { id, recipient, sender, queued_at, bytes } = *message;
        self.core.counters.found += 1;
        self.core.queues.load(id, recipient, sender, queued_at, usize::from(bytes));
    }

    /// The first id that may be given to a message.
    pub fn set_next_message(&mut self, id: u64) {
        self.core.next_message = id;
        self.found_below = MessageId(id);
    }

    /// Before `seconds` since 1970 no clock is right: this program did not exist.
    pub fn set_epoch(&mut self, seconds: u64) {
        self.calendar.epoch = seconds;
    }

    /// Other settings from now on.
    pub fn configure(&mut self, settings: Settings) {
        self.settings = settings;
        self.core.limits = settings.limits;
    }

    /// The wall clock in seconds since 1970; messages are stamped with it.
    pub fn set_wall_clock(&mut self, seconds: u64) {
        self.core.wall = seconds;
    }

    /// A client connected. Where all places are taken, another one, who has not logged in, is told 500 and closed for it.
    ///
    /// # Errors
    /// The limit that is reached: the client is to be told 500 and closed.
    pub fn open(&mut self, from: impl Into<Origin>, dialect: Dialect, now: Millis) -> Result<SessionId, Limit> {
        let from: Origin = from.into();
        let limits = self.settings.limits;
        let refused = if self.per_address.of(from.key) >= limits.connections_per_address {
            Some(Limit::ConnectionsPerAddress)
        } else if self.connections() >= self.places(from.key) && !self.makes_way(now) {
            Some(Limit::Connections)
        } else {
            None
        };
        if let Some(limit) = refused {
            self.core.counters.refused_connections += 1;
            self.core.events.push_back(Event::Limit { limit, user: None, queue: None });
            return Err(limit);
        }
        let session = Session::new(dialect, now, &self.settings.session);
        Ok(self.place(session, from, now))
    }

    /// How many there are for connections from there: the last ones are for addresses from which somebody has logged in.
    fn places(&self, from: AddressKey) -> u32 {
        let all = self.settings.limits.connections;
        if self.core.logins.knows(from) { all } else { all - all / RESERVE_ONE_IN }
    }

    /// Gives a session a place.
    fn place(&mut self, session: Session, from: Origin, opened: Millis) -> SessionId {
        self.per_address.add(from.key);
        self.core.counters.connections += 1;
        self.serials += 1;
        let place = self.free.pop().unwrap_or_else(|| u32::try_from(self.slots.len()).unwrap_or(u32::MAX));
        let user = session.state().user();
        let session = Some(session);
        let slot = Slot { serial: self.serials, place, from: from.key, opened, timer: None, dirty: false, session };
        let id = slot.id();
        match user {
            Some(user) => self.core.per_user.add(user),
            None => self.guests.insert(from.key, id),
        }
        if let Some(former) = from.former {
            self.core.formers.insert(id, former);
        }
        match self.slots.get_mut(place as usize) {
            Some(old) => *old = slot,
            None => self.slots.push(slot),
        }
        self.arm(id);
        id
    }

    /// Ends the connection that is the first to go when all places are taken. Whether there is one.
    fn makes_way(&mut self, now: Millis) -> bool {
        let Some((from, id)) = self.guests.first_to_go() else { return false };
        self.guests.remove(from, id);
        self.core.counters.refused_connections += 1;
        self.core.events.push_back(Event::MadeWay { session: id, from });
        self.with(id, now, |s, cx| s.make_way(cx));
        true
    }

    /// The connection is gone: what the session had not acknowledged is given back.
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
            self.core.forget_lease(user, id, now);
            self.core.per_user.take(user);
            self.core.release(user, id);
        }
        self.guests.remove(from, id);
        self.core.logins.abandon(id);
        self.core.formers.remove(&id);
        self.per_address.take(from);
        self.free.push(id.slot);
        self.settle(now);
    }

    /// Bytes came.
    pub fn receive(&mut self, id: SessionId, bytes: &[u8], now: Millis) {
        self.with(id, now, |s, cx| s.receive(bytes, cx));
        self.settle(now);
    }

    /// The client shut down its sending side.
    pub fn end_of_input(&mut self, id: SessionId, now: Millis) {
        self.with(id, now, |s, cx| s.end_of_input(cx));
        self.settle(now);
    }

    /// Bytes for the client.
    pub fn output(&self, id: SessionId) -> &[u8] {
        self.session(id).map_or(&[], Session::output)
    }

    /// The client's side took `count` of them.
    pub fn sent(&mut self, id: SessionId, count: usize, now: Millis) {
        self.core.now = now;
        if let Some((session, mut desk, settings)) = self.parts(id) {
            session.output_sent(count, &mut Context { now, settings, services: &mut desk });
        }
        self.settle(now);
    }

    /// Whether more should be read from the client.
    pub fn wants_input(&self, id: SessionId) -> bool {
        self.session(id).is_some_and(Session::wants_input)
    }

    /// How the session ends, once that is decided.
    pub fn closing(&self, id: SessionId) -> Closing {
        self.session(id).map_or(Closing::Now, Session::closing)
    }

    /// The next session with which something happened: its output is to be sent, its end to be carried out.
    pub fn next_dirty(&mut self) -> Option<SessionId> {
        loop {
            let place = self.dirty.pop_front()?;
            if let Some(slot) = self.slots.get_mut(place as usize) {
                slot.dirty = false;
                if slot.session.is_some() {
                    return Some(slot.id());
                }
            }
        }
    }

    /// Sets the session's timer; to be called when it was looked at.
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

    /// When [`Engine::expire`] is to be called at the latest.
    pub fn next_deadline(&self) -> Millis {
        let sweep = if self.settings.limits.message_age > 0 { self.sweep.0 } else { NEVER };
        self.wheel.next_expiry().unwrap_or(NEVER).min(sweep).min(self.core.work.due().unwrap_or(NEVER))
    }

    /// Does what is due.
    pub fn expire(&mut self, now: Millis) {
        while let Some(place) = self.wheel.expire(now) {
            let Some(slot) = self.slots.get_mut(place as usize) else {
                continue;
            };
            slot.timer = None;
            let id = slot.id();
            let at = sabotage::time_of_expiry(now, self.session(id).map_or(NEVER, Session::deadline));
            if self.session(id).is_some_and(|s| s.deadline() <= at) {
                self.core.counters.timeouts += 1;
                self.with(id, at, |s, cx| s.expire(cx));
            }
            self.arm(id);
        }
        if self.settings.limits.message_age > 0 && self.sweep.0 <= now {
            self.expire_messages(now);
        }
        self.settle(now);
    }

    /// The next batch for the store.
    pub fn next_batch(&mut self, now: Millis) -> Option<Batch> {
        if self.stopping {
            self.core.work.hurry();
        }
        let batch = self.core.work.take(now);
        self.reply_early(batch.as_ref(), now);
        batch
    }

    /// Something came back from the store. [`FromStore::Broken`] and
    /// [`FromStore::Changed`] are not for the engine.
    pub fn from_store(&mut self, what: FromStore, now: Millis) {
        match what {
            FromStore::Answers(answers) => {
                for answer in answers {
                    self.answer(answer, now);
                }
            }
            FromStore::Done(batch, outcome) => self.done(batch, outcome, now),
            FromStore::Broken(_) | FromStore::Changed { .. } => {}
        }
        self.settle(now);
    }

    /// The next password to verify.
    pub fn next_verification(&mut self, now: Millis) -> Option<Verification> {
        let (verification, not_tried) = self.core.logins.next(&self.core.limits, now)?;
        if let Some(login) = not_tried {
            self.core.counters.throttled_logins += 1;
            self.core.events.push_back(Event::Throttled { session: verification.session, login });
        }
        Some(verification)
    }

    /// The outcome of one; `rehash` is the old hash and the new one where the parameters have changed.
    pub fn verified(&mut self, id: SessionId, ok: bool, rehash: Option<Box<(String, String)>>, now: Millis) {
        let Some(login) = self.core.logins.end(id, ok, &self.core.limits, now) else {
            return;
        };
        if let Some(guessing) = login.guessing {
            self.core.events.push_back(Event::Guessing(guessing));
        }
        if !login.ok {
            self.core.counters.failed_logins += 1;
            self.core.events.push_back(Event::LoginFailed { session: id, login });
            self.with(id, now, |s, cx| s.verified(false, cx));
        } else if self.core.per_user.of(login.name) >= self.settings.limits.sessions_per_user {
            self.core.counters.refused_connections += 1;
            self.core.events.push_back(Event::UserFull { session: id, login });
            self.with(id, now, |s, cx| s.one_too_many(cx));
        } else {
            self.admit(id, login, rehash, now);
        }
        self.leak(id, login.name, now);
        self.settle(now);
    }

    /// The right password.
    fn admit(&mut self, id: SessionId, login: logins::Ended, rehash: Option<Box<(String, String)>>, now: Millis) {
        self.guests.remove(login.from, id);
        self.core.counters.logins += 1;
        self.core.events.push_back(Event::LoggedIn { session: id, user: login.name });
        let at = self.core.wall;
        let op = Op::LoggedIn { name: login.name, from: login.from, at, rehash };
        self.core.work.write_lazily(op, now);
        self.with(id, now, |s, cx| s.verified(true, cx));
    }

    /// The next answer for an administrator.
    pub fn next_result(&mut self) -> Option<(RequestId, AdminResult)> {
        self.core.results.pop_front()
    }

    /// The next line for the log.
    pub fn next_event(&mut self) -> Option<Event> {
        self.core.events.pop_front()
    }

    /// The daemon stops: sessions take nothing more; what is being stored is still answered.
    pub fn stop(&mut self) {
        self.stopping = true;
        for slot in &mut self.slots {
            if let Some(session) = &mut slot.session {
                session.stop();
                if !slot.dirty {
                    slot.dirty = true;
                    self.dirty.push_back(slot.place);
                }
            }
        }
    }

    /// Whether the store has nothing of ours under way.
    pub fn is_idle(&self) -> bool {
        self.core.work.is_idle()
    }

    /// Sessions open now.
    pub fn connections(&self) -> u32 {
        u32::try_from(self.slots.len() - self.free.len()).unwrap_or(u32::MAX)
    }

    /// Messages queued now.
    pub fn queued_messages(&self) -> u64 {
        self.core.queues.totals().0
    }

    fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(|slot| slot.session.is_some())
    }

    fn slot_mut(&mut self, id: SessionId) -> Option<&mut Slot> {
        self.slots.get_mut(id.slot as usize).filter(|slot| slot.serial == id.serial)
    }

    fn session(&self, id: SessionId) -> Option<&Session> {
        self.slots.get(id.slot as usize).filter(|slot| slot.serial == id.serial)?.session.as_ref()
    }

    fn parts(&mut self, id: SessionId) -> Option<(&mut Session, Desk<'_>, &crate::proto::settings::SessionSettings)> {
        let slot = self.slots.get_mut(id.slot as usize).filter(|slot| slot.serial == id.serial)?;
        let desk = Desk { core: &mut self.core, session: id, from: slot.from };
        Some((slot.session.as_mut()?, desk, &self.settings.session))
    }

    /// Calls the session, if it is still there, and remembers to look at it.
    fn with(&mut self, id: SessionId, now: Millis, call: impl FnOnce(&mut Session, &mut Context<'_, Desk<'_>>)) {
        self.core.now = now;
        let Some((session, mut desk, settings)) = self.parts(id) else {
            return;
        };
        call(session, &mut Context { now, settings, services: &mut desk });
        if let Some(slot) = self.slot_mut(id)
            && !slot.dirty
        {
            slot.dirty = true;
            self.dirty.push_back(id.slot);
        }
    }

    /// Ends the sessions for which `which` is true, and says how many.
    fn kick(&mut self, which: impl Fn(&Slot) -> bool) -> usize {
        let mut kicked = 0;
        for slot in &mut self.slots {
            if slot.session.is_some() && which(slot) {
                kicked += 1;
                if let Some(session) = &mut slot.session {
                    session.kick();
                }
                if !slot.dirty {
                    slot.dirty = true;
                    self.dirty.push_back(slot.place);
                }
            }
        }
        kicked
    }

    /// Gives queues to sessions that wait for them.
    fn settle(&mut self, now: Millis) {
        while let Some(user) = self.core.grants.pop_front() {
            if let Some(session) = self.core.queues.grant(user) {
                self.with(session, now, |s, cx| s.granted(cx));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_at_rest_is_small() {
        // Of the 512 bytes that a logged-in connection may cost; its socket and its timer need some as well.
        assert!(size_of::<Slot>() <= 256, "{} bytes", size_of::<Slot>());
    }
}
