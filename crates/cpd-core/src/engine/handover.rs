//! The hand-over of sessions: the predecessor's engine writes records, the successor's reads them. Each session has a
//! record of its own, so that one that cannot be read costs one connection only.

use std::collections::HashSet;

use cp_proto::secret::WipedBytes;

use super::Engine;
use super::port::{Origin, SessionId};
use super::slot::Slot;
use super::trusted_clock::TrustedClock;
use crate::dfa::Dialect;
use crate::download::MessageId;
use crate::mailboxes::Mailboxes;
use crate::record::{RecordFormat, RecordReader, RecordWriter};
use crate::session::Session;
use crate::time::Millis;

/// The version of a session's record. Records of other versions are refused, except 0.1.0's.
pub const RECORD_VERSION: u16 = 3;
/// The version of a session's record that 0.1.0 wrote.
const OLD_RECORD_VERSION: u16 = 2;
/// The version of the common record, which belongs to no single session.
const COMMON_RECORD_VERSION: u16 = 3;
/// The version of the common record that 0.1.0 and 0.2.0 wrote.
const OLD_COMMON_RECORD_VERSION: u16 = 2;

impl<M: Mailboxes> Engine<M> {
    /// Every open session, in the order in which the successor must read their records: first those that wait for
    /// messages, in the order in which they wait; then those that download, so that an RMSG in the unread input of
    /// another session cannot take their queue.
    pub fn handover_order(&self) -> Vec<SessionId> {
        let mut order = self.core.mailboxes.waiters();
        let known: HashSet<SessionId> = order.iter().copied().collect();
        let others = self.open_slots().filter(|slot| !known.contains(&slot.id()));
        let downloads = |slot: &&Slot| slot.session().is_some_and(|session| session.unfinished_download().is_some());
        let (downloading, others): (Vec<&Slot>, Vec<&Slot>) = others.partition(downloads);
        order.extend(downloading.into_iter().chain(others).map(Slot::id));
        order
    }

    /// Prepares the hand-over: sessions take no more PDUs, and lazy writes go to the store at once. As soon as
    /// [`Engine::is_idle`] is true, sessions can be frozen.
    pub fn pause(&mut self) {
        self.stopping = true;
        self.slots.iter_mut().filter_map(|slot| slot.session.as_mut()).for_each(Session::pause);
    }

    /// The dialect of the session.
    pub fn dialect(&self, id: SessionId) -> Dialect {
        self.session(id).map_or(Dialect::Cp, Session::dialect)
    }

    /// The session's record. A login under way goes back into the unread input. `None`: the session cannot be handed
    /// over.
    pub fn freeze(&mut self, id: SessionId, now: Millis) -> Option<WipedBytes> {
        let password = self.core.logins.undo(id);
        let slot = self.slots.get_mut(id.slot as usize).filter(|slot| slot.serial == id.serial)?;
        let session = slot.session.as_mut()?;
        session.undo_login(password.as_ref(), now);
        let mut record = RecordWriter::default();
        record.u16(RECORD_VERSION);
        record.u64(now.saturating_sub(slot.opened));
        let end = session.unfinished_download().and_then(|(user, ..)| self.core.mailboxes.lease_end(id, user));
        record.u64(end.map_or(0, |id| id.0));
        session.freeze(now, &mut record)?;
        Some(record.into_bytes())
    }

    /// Continues a session from its record, for a client at `from`. `None`: the record is malformed or of another
    /// version, its user no longer exists, or its queue cannot be leased again; the caller closes the connection.
    pub fn thaw(&mut self, record: &[u8], from: impl Into<Origin>, now: Millis) -> Option<SessionId> {
        let mut reader = RecordReader::new(record);
        let form = match reader.u16()? {
            RECORD_VERSION => RecordFormat::Current,
            OLD_RECORD_VERSION => RecordFormat::Previous,
            _ => return None,
        };
        let age = reader.u64()?;
        let end = MessageId(reader.u64()?);
        let session = Session::thaw(&mut reader, form, now)?;
        reader.expect_end()?;
        if session.state().user().is_some_and(|user| !self.core.mailboxes.may_exist(user)) {
            return None;
        }
        let download = session.unfinished_download();
        if !matches!(download, Some((_, false, _))) && end.0 != 0 {
            return None;
        }
        let id = self.insert_session(session, from.into(), now.saturating_sub(age));
        match download {
            Some((user, true, _)) => self.core.mailboxes.resume_wait(id, user),
            Some((user, false, sent)) if !self.core.mailboxes.resume_download(id, user, sent, end) => {
                self.close(id, now);
                return None;
            }
            Some(_) | None => {}
        }
        self.with_session(id, now, |s, cx| s.resume_after_handover(cx));
        Some(id)
    }

    /// Ends the hand-over, after all records: queues that no session leases any longer are granted to those that wait
    /// for them.
    pub fn finish_handover(&mut self, now: Millis) {
        self.handle_mailbox_events(now);
    }

    /// The common record: the trusted clock and the failed logins that are counted.
    pub fn freeze_common(&self, now: Millis) -> WipedBytes {
        let mut record = RecordWriter::default();
        record.u16(COMMON_RECORD_VERSION);
        self.trusted_clock.freeze(now, &mut record);
        self.core.logins.freeze_failures(now, &mut record);
        record.into_bytes()
    }

    /// Takes over the common record. `None`: it is malformed or of another version, and nothing is taken over.
    pub fn thaw_common(&mut self, record: &[u8], now: Millis) -> Option<()> {
        let mut reader = RecordReader::new(record);
        let form = match reader.u16()? {
            COMMON_RECORD_VERSION => RecordFormat::Current,
            OLD_COMMON_RECORD_VERSION => RecordFormat::Previous,
            _ => return None,
        };
        let trusted_clock = TrustedClock::thaw(&mut reader, now)?;
        self.core.logins.thaw_failures(&mut reader, form, now)?;
        self.trusted_clock = TrustedClock::continued(trusted_clock, &self.trusted_clock);
        Some(())
    }
}
