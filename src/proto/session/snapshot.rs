//! A session's state for the process that takes its connection up: everything that the client could tell the difference
//! by. What is under way in the store or with a verifier has ended before, or is unread input again.

use std::collections::VecDeque;

use super::{Closing, Context, NEVER, Services, Session};
use crate::proto::codec::{Form, Reader, Writer};
use crate::proto::dfa::{Dialect, State};
use crate::proto::download::{Download, MessageId};
use crate::proto::limits::{
    BAD_PDUS_MAX, LOGIN_FAILURES_MAX, OUTPUT_HIGH_WATER_BYTES, OVERLAP_MAX_STORES, PDU_MAX_BYTES, USERNAME_MAX_BYTES,
    WINDOW_MAX_MESSAGES, WRITE_PROGRESS_BYTES,
};
use crate::proto::line::Decoder;
use crate::proto::reply::Reply;
use crate::proto::types::{Millis, Password, Username};
use crate::proto::waiting::Waiting;

/// Unread input that a session may bring along: one read, and a PASS that goes back to it.
pub const INPUT_MAX_BYTES: usize = 64 * 1024;
/// Unsent output that a session may bring along.
pub const OUTPUT_MAX_BYTES: usize = 2 * OUTPUT_HIGH_WATER_BYTES;
// The session counts what was sent of it in 16 bits.
const _: () = assert!(OUTPUT_MAX_BYTES < u16::MAX as usize);
const _: () = assert!(
    // The PDU that reaches the mark, and the answers to what is under way then.
    OUTPUT_MAX_BYTES >= OUTPUT_HIGH_WATER_BYTES + PDU_MAX_BYTES + 2 + 80 * (OVERLAP_MAX_STORES as usize + 4)
);

/// The states that a session can be in when nothing is under way.
mod kind {
    pub const IDLE: u8 = 0;
    pub const USER_VALIDATED: u8 = 1;
    pub const PROCESS_COMMAND: u8 = 2;
    pub const RECEIVING_MESSAGE: u8 = 3;
    pub const ERROR_PROCESSING: u8 = 4;
}

impl Session {
    /// A login that is being verified is unread input again; `None`: the password was malformed, or there is none, and
    /// its answer is certain already.
    pub fn undo_login(&mut self, password: Option<&Password>, now: Millis) {
        self.resume_login(now);
        if self.penance {
            self.penance = false;
            Reply::AuthError.write(false, &mut self.output);
            self.failures = self.failures.saturating_add(1);
            if self.failures >= LOGIN_FAILURES_MAX {
                self.closing = Closing::Flush;
            }
        } else if let (State::AuthenticationValidated { name }, Some(password)) = (&self.state, password) {
            self.input = Waiting::of(&[b"PASS", password.as_bytes(), b"\r\n", &self.input]);
            self.tail = None;
            self.state = State::UserValidated { name: *name };
        }
    }

    /// Writes what [`Session::thaw`] reads. `None`: the session cannot be handed over, it has work under way or is at
    /// its end.
    pub fn freeze(&self, now: Millis, out: &mut Writer) -> Option<()> {
        // SMSGs sent ahead are behind a Sending Message.
        let busy = self.penance || self.void > 0 || self.undeleted > 0;
        if busy || self.input.len() > INPUT_MAX_BYTES || matches!(self.closing, Closing::Now) {
            return None;
        }
        let (kind, user) = match &self.state {
            State::Idle => (kind::IDLE, None),
            State::UserValidated { name } => (kind::USER_VALIDATED, Some(name)),
            State::ProcessCommand { user } => (kind::PROCESS_COMMAND, Some(user)),
            State::ReceivingMessage { user, .. } => (kind::RECEIVING_MESSAGE, Some(user)),
            State::ErrorProcessing { user } => (kind::ERROR_PROCESSING, Some(user)),
            State::AuthenticationValidated { .. } | State::SendingMessage { .. } => return None,
        };
        out.u8(kind);
        out.bytes(user.map_or("", Username::as_str).as_bytes());
        if let State::ReceivingMessage { download, .. } = &self.state {
            freeze_download(download, out);
        }
        out.u8(match self.dialect {
            Dialect::Cp => 0,
            Dialect::Classic => 1,
        });
        self.decoder.freeze(out);
        out.bytes(&self.input);
        out.bytes(self.output());
        let deadlines =
            [self.pdu_deadline, self.quiet_deadline, self.state_deadline, self.idle_deadline, self.write_deadline];
        for deadline in deadlines {
            out.u64(if deadline == NEVER { NEVER } else { deadline.saturating_sub(now) });
        }
        out.u32(self.downloads);
        out.u8(self.failures);
        out.bool(self.ended);
        out.bool(matches!(self.closing, Closing::Flush | Closing::Stopping));
        out.u64(self.idle_for(now));
        out.u8(self.bad_pdus);
        out.bool(self.fresh);
        // Of the tail, which is found again by the input, all that the input does not tell.
        out.bool(self.tail.as_ref().is_some_and(|tail| tail.owes_lf()));
        out.u16(self.progress);
        Some(())
    }

    /// The session that was written, or `None` when it is not what a version of this `form` writes.
    pub fn thaw(from: &mut Reader<'_>, form: Form, now: Millis) -> Option<Session> {
        let kind = from.u8()?;
        let name = from.bytes(USERNAME_MAX_BYTES)?;
        let state = match (kind, Username::parse(name)) {
            (kind::IDLE, None) if name.is_empty() => State::Idle,
            (kind::USER_VALIDATED, Some(name)) => State::UserValidated { name },
            (kind::PROCESS_COMMAND, Some(user)) => State::ProcessCommand { user },
            (kind::RECEIVING_MESSAGE, Some(user)) => {
                State::ReceivingMessage { user, download: Box::new(thaw_download(from)?) }
            }
            (kind::ERROR_PROCESSING, Some(user)) => State::ErrorProcessing { user },
            _ => return None,
        };
        let dialect = match from.u8()? {
            0 => Dialect::Cp,
            1 => Dialect::Classic,
            _ => return None,
        };
        let decoder = Decoder::thaw(from, form)?;
        let input = Waiting::of(&[from.bytes(INPUT_MAX_BYTES)?]);
        let output = from.bytes(OUTPUT_MAX_BYTES)?.to_vec();
        let mut deadlines = [NEVER; 5];
        for deadline in &mut deadlines {
            let rest = from.u64()?;
            *deadline = if rest == NEVER { NEVER } else { now.checked_add(rest).filter(|at| *at != NEVER)? };
        }
        let [pdu_deadline, quiet_deadline, state_deadline, idle_deadline, write_deadline] = deadlines;
        let idle = matches!(state, State::Idle);
        let mut session = Session {
            state,
            decoder,
            input,
            tail: None,
            output,
            sent: 0,
            progress: 0,
            pdu_deadline,
            quiet_deadline,
            state_deadline,
            idle_deadline,
            write_deadline,
            ahead: 0,
            void: 0,
            undeleted: 0,
            downloads: from.u32()?,
            failures: from.u8().filter(|failures| *failures <= LOGIN_FAILURES_MAX)?,
            penance: false,
            ended: from.bool()?,
            dialect,
            closing: if from.bool()? { Closing::Flush } else { Closing::Open },
            last_pdu: now.checked_sub(from.u64()?)?,
            bad_pdus: 0,
            // Of a session of 0.1.0 nobody knows whether lines came.
            fresh: idle,
        };
        if form == Form::Now {
            session.bad_pdus = from.u8().filter(|count| *count <= BAD_PDUS_MAX)?;
            session.fresh = from.bool()?;
            if from.bool()? {
                let mut tail = session.decoder.tail(&session.input);
                tail.set_owes_lf();
                session.tail = Some(Box::new(tail));
            }
            session.progress = from.u16().filter(|progress| *progress < WRITE_PROGRESS_BYTES)?;
        }
        Some(session)
    }

    /// Goes on where the predecessor was, once the queue is this session's again.
    pub fn take_up<S: Services>(&mut self, cx: &mut Context<'_, S>) {
        if let State::ReceivingMessage { download, .. } = &mut self.state {
            download.more = !download.waiting;
        }
        self.deliver(cx);
        self.resume(cx);
    }

    /// What the session had sent and not heard of when it was frozen: the user, whether it only waits for a message, and
    /// the last message sent.
    pub fn unfinished_download(&self) -> Option<(Username, bool, MessageId)> {
        match &self.state {
            State::ReceivingMessage { user, download } => {
                let sent = download.unacknowledged.back().copied().unwrap_or(MessageId(0));
                Some((*user, download.waiting, sent))
            }
            State::Idle
            | State::UserValidated { .. }
            | State::AuthenticationValidated { .. }
            | State::ProcessCommand { .. }
            | State::SendingMessage { .. }
            | State::ErrorProcessing { .. } => None,
        }
    }
}

fn freeze_download(download: &Download, out: &mut Writer) {
    out.u32(download.serial);
    out.u16(download.window);
    out.bool(download.waiting);
    out.bool(download.delivered);
    out.u16(u16::try_from(download.unacknowledged.len()).unwrap_or(u16::MAX));
    for id in &download.unacknowledged {
        out.u64(id.0);
    }
}

/// Messages that were read and not sent are read again: they are still in the queue.
fn thaw_download(from: &mut Reader<'_>) -> Option<Download> {
    let serial = from.u32()?;
    let window = from.u16().filter(|window| (1..=WINDOW_MAX_MESSAGES).contains(window))?;
    let mut download = Download::new(serial, window, from.bool()?);
    download.delivered = from.bool()?;
    let count = from.u16().filter(|count| *count <= window)?;
    let ids: Option<VecDeque<MessageId>> = (0..count).map(|_| from.u64().map(MessageId)).collect();
    download.unacknowledged = ids?;
    let ascending = download.unacknowledged.iter().is_sorted();
    // Who waits was sent nothing, and what is not acknowledged was sent.
    let fits = if download.delivered { !download.waiting } else { count == 0 };
    (ascending && fits).then_some(download)
}
