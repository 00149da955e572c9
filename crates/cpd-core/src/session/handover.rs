//! The record of a session for a hand-over. It holds everything whose loss the client could notice. Work at the store
//! or at a verifier has ended before the record is written, or is unread input again.

use std::collections::VecDeque;

use cp_proto::limits::{PDU_MAX_BYTES, USERNAME_MAX_BYTES, WINDOW_MAX_MESSAGES};
use cp_proto::line::Decoder;
use cp_proto::reply::Reply;
use cp_proto::secret::WipedBytes;
use cp_proto::values::{Password, Username};

use super::classic::Classic;
use super::deadlines::Deadlines;
use super::output::Output;
use super::{Closing, NEVER, Services, Session, SessionContext, StoreWork};
use crate::decoder_record;
use crate::dfa::{Credentials, Dialect, State};
use crate::download::{Download, MessageId};
use crate::limits::{BAD_PDUS_MAX, LOGIN_FAILURES_MAX, OUTPUT_HIGH_WATER_BYTES, PIPELINE_MAX_STORES};
use crate::record::{RecordFormat, RecordReader, RecordWriter};
use crate::time::Millis;

/// How much unread input a record may hold, in bytes. A session with more is not handed over. This is far above what a
/// session has, as the daemon does not read while there is much unread input.
pub const RECORD_INPUT_MAX_BYTES: usize = 64 * 1024;
/// How much unsent output a record may hold, in bytes.
pub const RECORD_OUTPUT_MAX_BYTES: usize = 2 * OUTPUT_HIGH_WATER_BYTES;
// The number of bytes sent has 16 bits in `Output`.
const _: () = assert!(RECORD_OUTPUT_MAX_BYTES < u16::MAX as usize);
const _: () = assert!(
    // There is room for the PDU that reaches the high-water mark, and for the replies to what is under way then.
    RECORD_OUTPUT_MAX_BYTES >= OUTPUT_HIGH_WATER_BYTES + PDU_MAX_BYTES + 2 + 80 * (PIPELINE_MAX_STORES as usize + 4)
);

/// The numbers in a record of the states in which nothing is under way.
mod state_number {
    pub const IDLE: u8 = 0;
    pub const USER_VALIDATED: u8 = 1;
    pub const PROCESS_COMMAND: u8 = 2;
    pub const RECEIVING_MESSAGE: u8 = 3;
    pub const ERROR_PROCESSING: u8 = 4;
}

impl Session {
    /// Ends a verification that is under way, so that the session can be handed over. `password` is the one that was
    /// being verified; its PASS becomes unread input again. Without a password there is at most a dummy verification,
    /// whose reply is certain and is written now.
    pub fn undo_login(&mut self, password: Option<&Password>, now: Millis) {
        self.resume_login_timer(now);
        let State::AuthenticationValidated { name, credentials } = self.state else { return };
        if credentials == Credentials::Malformed {
            self.state = State::Idle;
            Reply::AuthError.write(false, self.output.buffer());
            self.login_failures = self.login_failures.saturating_add(1);
            if self.login_failures >= LOGIN_FAILURES_MAX {
                self.closing = Closing::Flush;
            }
        } else if let Some(password) = password {
            self.input = WipedBytes::concat(&[b"PASS", password.as_bytes(), b"\r\n", &self.input]);
            self.drop_lookahead();
            self.state = State::UserValidated { name };
        }
    }

    /// Writes this session in the form that [`Session::thaw`] reads. `None` if it cannot be handed over, because it has
    /// work under way or too much unread input, or is being closed at once.
    pub fn freeze(&self, now: Millis, out: &mut RecordWriter) -> Option<()> {
        // Pipelined SMSGs exist in Sending Message only, which is refused below.
        let busy = self.store_work.discarded_outcomes > 0 || self.store_work.pending_deletes > 0;
        if busy || self.input.len() > RECORD_INPUT_MAX_BYTES || matches!(self.closing, Closing::Now) {
            return None;
        }
        let (kind, user) = match &self.state {
            State::Idle => (state_number::IDLE, None),
            State::UserValidated { name } => (state_number::USER_VALIDATED, Some(name)),
            State::ProcessCommand { user } => (state_number::PROCESS_COMMAND, Some(user)),
            State::ReceivingMessage { user, .. } => (state_number::RECEIVING_MESSAGE, Some(user)),
            State::ErrorProcessing { user } => (state_number::ERROR_PROCESSING, Some(user)),
            State::AuthenticationValidated { .. } | State::SendingMessage { .. } => return None,
        };
        out.u8(kind);
        out.bytes(user.map_or("", Username::as_str).as_bytes());
        if let State::ReceivingMessage { download, .. } = &self.state {
            freeze_download(download, out);
        }
        out.u8(match self.dialect() {
            Dialect::Cp => 0,
            Dialect::Classic => 1,
        });
        decoder_record::freeze(&self.decoder, out);
        out.bytes(&self.input);
        out.bytes(self.output());
        let Deadlines { pdu, state, idle } = self.deadlines;
        for deadline in [pdu, self.silence_deadline(), state, idle, self.output.deadline()] {
            out.u64(if deadline == NEVER { NEVER } else { deadline.saturating_sub(now) });
        }
        out.u32(self.downloads);
        out.u8(self.login_failures);
        out.bool(self.input_ended);
        out.bool(matches!(self.closing, Closing::Flush | Closing::Stopping));
        out.u64(self.idle_for(now));
        out.u8(self.bad_pdus);
        out.bool(self.no_line_yet);
        // The lookahead is rebuilt from the input, except for this flag, which the input does not show.
        let lookahead = self.classic.as_ref().and_then(|classic| classic.lookahead.as_ref());
        out.bool(lookahead.is_some_and(Decoder::skip_next_lf));
        out.u16(self.output.progress());
        Some(())
    }

    /// Reads a session from a record; `None` if no session is written like that in this format.
    pub fn thaw(from: &mut RecordReader<'_>, form: RecordFormat, now: Millis) -> Option<Session> {
        let kind = from.u8()?;
        let name = from.bytes(USERNAME_MAX_BYTES)?;
        let state = match (kind, Username::parse(name)) {
            (state_number::IDLE, None) if name.is_empty() => State::Idle,
            (state_number::USER_VALIDATED, Some(name)) => State::UserValidated { name },
            (state_number::PROCESS_COMMAND, Some(user)) => State::ProcessCommand { user },
            (state_number::RECEIVING_MESSAGE, Some(user)) => {
                State::ReceivingMessage { user, download: Box::new(thaw_download(from)?) }
            }
            (state_number::ERROR_PROCESSING, Some(user)) => State::ErrorProcessing { user },
            _ => return None,
        };
        let dialect = match from.u8()? {
            0 => Dialect::Cp,
            1 => Dialect::Classic,
            _ => return None,
        };
        let decoder = decoder_record::thaw(from, form)?;
        let input = WipedBytes::concat(&[from.bytes(RECORD_INPUT_MAX_BYTES)?]);
        let output = from.bytes(RECORD_OUTPUT_MAX_BYTES)?.to_vec();
        let mut deadlines = [NEVER; 5];
        for deadline in &mut deadlines {
            let rest = from.u64()?;
            *deadline = if rest == NEVER { NEVER } else { now.checked_add(rest).filter(|at| *at != NEVER)? };
        }
        let [pdu, silence, state_deadline, idle_deadline, write] = deadlines;
        let is_idle = matches!(state, State::Idle);
        let mut session = Session {
            state,
            decoder,
            input,
            classic: Classic::for_dialect(dialect),
            output: Output::restored(output, write),
            deadlines: Deadlines { pdu, state: state_deadline, idle: idle_deadline },
            store_work: StoreWork::default(),
            downloads: from.u32()?,
            login_failures: from.u8().filter(|failures| *failures <= LOGIN_FAILURES_MAX)?,
            input_ended: from.bool()?,
            closing: if from.bool()? { Closing::Flush } else { Closing::Open },
            last_pdu_at: now.checked_sub(from.u64()?)?,
            bad_pdus: 0,
            // 0.1.0 did not record whether a line had come. Only in Idle it is possible that none had.
            no_line_yet: is_idle,
        };
        match &mut session.classic {
            Some(classic) => classic.silence = silence,
            None if silence == NEVER => {}
            None => return None,
        }
        if form == RecordFormat::Current {
            session.bad_pdus = from.u8().filter(|count| *count <= BAD_PDUS_MAX)?;
            session.no_line_yet = from.bool()?;
            if from.bool()? {
                let mut lookahead = session.decoder.lookahead(&session.input);
                lookahead.set_skip_next_lf();
                session.classic.as_mut()?.lookahead = Some(lookahead);
            }
            session.output.set_progress(from.u16()?)?;
        }
        Some(session)
    }

    /// Continues where the predecessor stopped. Call this once the lease of the download, if any, has been restored.
    pub fn resume_after_handover<S: Services>(&mut self, cx: &mut SessionContext<'_, S>) {
        if let State::ReceivingMessage { download, .. } = &mut self.state {
            download.more_queued = !download.waiting;
        }
        self.deliver(cx);
        self.resume(cx);
    }

    /// The download in progress, if any: its user, whether it only waits for a message, and the last message that was
    /// sent and not acknowledged (id 0 if there is none).
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

fn freeze_download(download: &Download, out: &mut RecordWriter) {
    out.u32(download.serial);
    out.u16(download.window);
    out.bool(download.waiting);
    out.bool(download.any_sent);
    out.u16(u16::try_from(download.unacknowledged.len()).unwrap_or(u16::MAX));
    for id in &download.unacknowledged {
        out.u64(id.0);
    }
}

/// Reads a download from a record. Messages that had been read and not sent are not in it, because they are still
/// queued.
fn thaw_download(from: &mut RecordReader<'_>) -> Option<Download> {
    let serial = from.u32()?;
    let window = from.u16().filter(|window| (1..=WINDOW_MAX_MESSAGES).contains(window))?;
    let mut download = Download::new(serial, window, from.bool()?);
    download.any_sent = from.bool()?;
    let count = from.u16().filter(|count| *count <= window)?;
    let ids: Option<VecDeque<MessageId>> = (0..count).map(|_| from.u64().map(MessageId)).collect();
    download.unacknowledged = ids?;
    let ascending = download.unacknowledged.iter().is_sorted();
    // A download that waits has sent nothing, and messages that are not acknowledged have been sent.
    let fits = if download.any_sent { !download.waiting } else { count == 0 };
    (ascending && fits).then_some(download)
}
