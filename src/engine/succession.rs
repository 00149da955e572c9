//! Sessions from one process to the next: what the old engine writes, the new one takes up. Each connection's state is a
//! record of its own, so that one which cannot be read costs one connection.

use std::collections::HashSet;

use super::port::{Origin, SessionId};
use super::slot::Slot;
use super::{Engine, age};
use crate::proto::codec::{Form, Reader, Writer};
use crate::proto::dfa::Dialect;
use crate::proto::download::MessageId;
use crate::proto::session::Session;
use crate::proto::types::Millis;

/// Of the sessions' records' form. One that is neither this nor 0.1.0's is not read.
pub const VERSION: u16 = 3;
/// What 0.1.0 wrote.
const OLD_VERSION: u16 = 2;
/// Of the form of what is not any connection's.
const COMMON_VERSION: u16 = 3;
/// What 0.1.0 and 0.2.0 wrote.
const OLD_COMMON_VERSION: u16 = 2;

impl Engine {
    /// Every open session, in the order in which their records are to be taken up: those that wait for messages first,
    /// as they wait; then those that download, before an RMSG that another has not read yet can take their queue.
    pub fn succession(&self) -> Vec<SessionId> {
        let mut order = self.core.queues.waiters();
        let known: HashSet<SessionId> = order.iter().copied().collect();
        let others = self.slots().filter(|slot| !known.contains(&slot.id()));
        let downloads = |slot: &&Slot| slot.session().is_some_and(|session| session.unfinished_download().is_some());
        let (downloading, others): (Vec<&Slot>, Vec<&Slot>) = others.partition(downloads);
        order.extend(downloading.into_iter().chain(others).map(Slot::id));
        order
    }

    /// Sessions take nothing more, and what nobody waits for goes to the store now: when [`Engine::is_idle`], they can be
    /// frozen.
    pub fn pause(&mut self) {
        self.stopping = true;
        self.slots.iter_mut().filter_map(|slot| slot.session.as_mut()).for_each(Session::pause);
    }

    /// Which dialect the session speaks.
    pub fn dialect(&self, id: SessionId) -> Dialect {
        self.session(id).map_or(Dialect::Cp, Session::dialect)
    }

    /// The session's record. A login that is being verified is unread input in it. `None`: it cannot be handed over.
    pub fn freeze(&mut self, id: SessionId, now: Millis) -> Option<Vec<u8>> {
        let password = self.core.logins.undo(id);
        let slot = self.slots.get_mut(id.slot as usize).filter(|slot| slot.serial == id.serial)?;
        let session = slot.session.as_mut()?;
        session.undo_login(password.as_ref(), now);
        let mut record = Writer::default();
        record.u16(VERSION);
        record.u64(now.saturating_sub(slot.opened));
        let end = session.unfinished_download().and_then(|(user, ..)| self.core.queues.lease_end(user, id));
        record.u64(end.map_or(0, |id| id.0));
        session.freeze(now, &mut record)?;
        Some(record.finish())
    }

    /// Takes up a session of a client at `from`. `None`: the record is of another version or unsound, or the user is no
    /// longer there; the connection is to be closed.
    pub fn thaw(&mut self, record: &[u8], from: impl Into<Origin>, now: Millis) -> Option<SessionId> {
        let mut reader = Reader::new(record);
        let form = match reader.u16()? {
            VERSION => Form::Now,
            OLD_VERSION => Form::Old,
            _ => return None,
        };
        let age = reader.u64()?;
        let end = MessageId(reader.u64()?);
        let session = Session::thaw(&mut reader, form, now)?;
        reader.end()?;
        if session.state().user().is_some_and(|user| !self.core.queues.exists(user)) {
            return None;
        }
        let download = session.unfinished_download();
        if !matches!(download, Some((_, false, _))) && end.0 != 0 {
            return None;
        }
        let id = self.place(session, from.into(), now.saturating_sub(age));
        match download {
            Some((user, true, _)) => self.core.queues.wait(user, id),
            Some((user, false, sent)) if !self.core.queues.lease_again(user, id, sent, end) => {
                self.close(id, now);
                return None;
            }
            Some(_) | None => {}
        }
        self.with(id, now, |s, cx| s.take_up(cx));
        if let Some((user, ..)) = download {
            self.core.grants.push_back(user);
        }
        Some(id)
    }

    /// Every record was offered: queues that nobody took up again go to those that wait for them.
    pub fn succeeded(&mut self, now: Millis) {
        self.settle(now);
    }

    /// What is not any connection's: which time is believed, and the failed logins of the last minute.
    pub fn freeze_common(&self, now: Millis) -> Vec<u8> {
        let mut record = Writer::default();
        record.u16(COMMON_VERSION);
        self.calendar.freeze(now, &mut record);
        self.core.logins.freeze_failures(now, &mut record);
        record.finish()
    }

    /// Takes it up. `None`: it is of another version or unsound, and nothing is taken up.
    pub fn thaw_common(&mut self, record: &[u8], now: Millis) -> Option<()> {
        let mut reader = Reader::new(record);
        let form = match reader.u16()? {
            COMMON_VERSION => Form::Now,
            OLD_COMMON_VERSION => Form::Old,
            _ => return None,
        };
        let calendar = age::Calendar::thaw(&mut reader, now)?;
        self.core.logins.thaw_failures(&mut reader, form, now)?;
        self.calendar = age::Calendar::continued(calendar, &self.calendar);
        Some(())
    }
}
