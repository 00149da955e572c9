//! The rows and columns of the matrix: each situation of a session and each kind of event, with sample data.

use cp_proto::command::{PduFault, SendFault, Verb};
use cp_proto::reply::ReplyStage;
use cp_proto::values::{Password, Username};

use crate::dfa::{Credentials, Event, Refusal, State};
use crate::download::{Download, MessageId, Page, PageMessage};

/// A state; for those that have several situations, also which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Situation {
    Idle,
    UserValidated,
    AuthenticationValidated,
    /// Authentication Validated, after a malformed PASS.
    MalformedPassword,
    ProcessCommand,
    SendingMessage,
    /// A WMSG waits for a message.
    Waiting,
    /// A page was requested and has not arrived; nothing was sent.
    Reading,
    /// One message is unacknowledged, and there are others to send.
    MoreToCome,
    /// The last message was sent and is unacknowledged.
    LastSent,
    ErrorProcessing,
}

/// Every situation, in the order of the table of section 5.
pub const SITUATIONS: [Situation; 11] = [
    Situation::Idle,
    Situation::UserValidated,
    Situation::AuthenticationValidated,
    Situation::MalformedPassword,
    Situation::ProcessCommand,
    Situation::SendingMessage,
    Situation::Waiting,
    Situation::Reading,
    Situation::MoreToCome,
    Situation::LastSent,
    Situation::ErrorProcessing,
];

/// The kind of an [`Event`], without its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    User,
    BadUser,
    Pass,
    BadPass,
    Send,
    BadSend(SendFault),
    Receive,
    Wait,
    Acknowledge,
    Reject,
    Recover,
    Help,
    Terminate,
    Bad(PduFault),
    TimedOut(Verb),
    Verified(bool),
    Stored,
    Refused(Refusal),
    Nothing,
    Granted,
    Page,
    StoreFailed,
    Finished,
    AckTimeout,
}

/// Every kind of event: PDUs, PDUs that took too long, and answers from the session's surroundings.
pub const EVENT_KINDS: [EventKind; 44] = [
    EventKind::User,
    EventKind::BadUser,
    EventKind::Pass,
    EventKind::BadPass,
    EventKind::Send,
    EventKind::BadSend(SendFault::NoColon),
    EventKind::BadSend(SendFault::EmptySide),
    EventKind::BadSend(SendFault::TooManyColons),
    EventKind::BadSend(SendFault::TooLong),
    EventKind::BadSend(SendFault::NotUtf8),
    EventKind::BadSend(SendFault::ControlCharacter),
    EventKind::BadSend(SendFault::ImpossibleName),
    EventKind::Receive,
    EventKind::Wait,
    EventKind::Acknowledge,
    EventKind::Reject,
    EventKind::Recover,
    EventKind::Help,
    EventKind::Terminate,
    EventKind::Bad(PduFault::UnknownVerb),
    EventKind::Bad(PduFault::Empty),
    EventKind::Bad(PduFault::Overlong),
    EventKind::Bad(PduFault::Window),
    EventKind::Bad(PduFault::Seconds),
    EventKind::TimedOut(Verb::User),
    EventKind::TimedOut(Verb::Pass),
    EventKind::TimedOut(Verb::Smsg),
    EventKind::TimedOut(Verb::Other),
    EventKind::Verified(true),
    EventKind::Verified(false),
    EventKind::Stored,
    EventKind::Refused(Refusal::NoSuchUser),
    EventKind::Refused(Refusal::QueueFull),
    EventKind::Refused(Refusal::SenderFull),
    EventKind::Refused(Refusal::SenderLimit),
    EventKind::Refused(Refusal::NoRoom),
    EventKind::Refused(Refusal::Stalled),
    EventKind::Refused(Refusal::OutcomeUnknown),
    EventKind::Nothing,
    EventKind::Granted,
    EventKind::Page,
    EventKind::StoreFailed,
    EventKind::Finished,
    EventKind::AckTimeout,
];

impl Situation {
    /// The name of its state in section 5.
    pub fn state_name(self) -> &'static str {
        self.state().name().as_str()
    }

    /// Distinguishes the situations of one state; empty if the state has only one.
    pub fn detail(self) -> &'static str {
        match self {
            Situation::AuthenticationValidated => "a password",
            Situation::MalformedPassword => "a malformed password",
            Situation::Waiting => "waiting",
            Situation::Reading => "reading",
            Situation::MoreToCome => "one sent, more to come",
            Situation::LastSent => "the last one sent",
            Situation::Idle
            | Situation::UserValidated
            | Situation::ProcessCommand
            | Situation::SendingMessage
            | Situation::ErrorProcessing => "",
        }
    }

    /// Whether PDUs are answered in this situation. They are not while work is under way, nor while a WMSG waits,
    /// because there they end the wait first.
    pub fn answers_pdus(self) -> bool {
        self != Situation::Waiting && self.state().takes_pdus()
    }

    /// The stage that the texts of replies mention in this situation.
    pub fn stage(self) -> ReplyStage {
        self.state().stage()
    }

    /// A state in this situation.
    pub(super) fn state(self) -> State {
        let user = sample_name();
        let receiving = |download: Download| State::ReceivingMessage { user, download: Box::new(download) };
        match self {
            Situation::Idle => State::Idle,
            Situation::UserValidated => State::UserValidated { name: user },
            Situation::AuthenticationValidated => {
                State::AuthenticationValidated { name: user, credentials: Credentials::Password }
            }
            Situation::MalformedPassword => {
                State::AuthenticationValidated { name: user, credentials: Credentials::Malformed }
            }
            Situation::ProcessCommand => State::ProcessCommand { user },
            Situation::SendingMessage => State::SendingMessage { user },
            Situation::Waiting => receiving(Download::new(1, 1, true)),
            Situation::Reading => {
                let mut download = Download::new(1, 1, false);
                download.page_requested = true;
                receiving(download)
            }
            Situation::MoreToCome => receiving(sample_download(2)),
            Situation::LastSent => receiving(sample_download(1)),
            Situation::ErrorProcessing => State::ErrorProcessing { user },
        }
    }
}

impl EventKind {
    /// A human-readable name.
    pub fn name(self) -> String {
        match self {
            EventKind::User => "USER".to_owned(),
            EventKind::BadUser => "USER, malformed".to_owned(),
            EventKind::Pass => "PASS".to_owned(),
            EventKind::BadPass => "PASS, malformed".to_owned(),
            EventKind::Send => "SMSG".to_owned(),
            EventKind::BadSend(SendFault::NoColon) => "SMSG, no colon".to_owned(),
            EventKind::BadSend(SendFault::EmptySide) => "SMSG, an empty side".to_owned(),
            EventKind::BadSend(SendFault::TooManyColons) => "SMSG, a second colon".to_owned(),
            EventKind::BadSend(SendFault::TooLong) => "SMSG, too long".to_owned(),
            EventKind::BadSend(SendFault::NotUtf8) => "SMSG, not UTF-8".to_owned(),
            EventKind::BadSend(SendFault::ControlCharacter) => "SMSG, a control character".to_owned(),
            EventKind::BadSend(SendFault::ImpossibleName) => "SMSG, impossible name".to_owned(),
            EventKind::Receive => "RMSG".to_owned(),
            EventKind::Wait => "WMSG".to_owned(),
            EventKind::Acknowledge => "250".to_owned(),
            EventKind::Reject => "550".to_owned(),
            EventKind::Recover => "201".to_owned(),
            EventKind::Help => "HELP".to_owned(),
            EventKind::Terminate => "TERM".to_owned(),
            EventKind::Bad(PduFault::UnknownVerb) => "an unknown verb".to_owned(),
            EventKind::Bad(PduFault::Empty) => "an empty line".to_owned(),
            EventKind::Bad(PduFault::Overlong) => "an over-long line".to_owned(),
            EventKind::Bad(PduFault::Window) => "RMSG, malformed".to_owned(),
            EventKind::Bad(PduFault::Seconds) => "WMSG, malformed".to_owned(),
            EventKind::TimedOut(Verb::User) => "USER, late".to_owned(),
            EventKind::TimedOut(Verb::Pass) => "PASS, late".to_owned(),
            EventKind::TimedOut(Verb::Smsg) => "SMSG, late".to_owned(),
            EventKind::TimedOut(Verb::Other) => "another PDU, late".to_owned(),
            EventKind::Verified(true) => "credentials correct".to_owned(),
            EventKind::Verified(false) => "credentials wrong".to_owned(),
            EventKind::Stored => "stored".to_owned(),
            EventKind::Refused(Refusal::NoSuchUser) => "no such recipient".to_owned(),
            EventKind::Refused(Refusal::QueueFull) => "the queue is full".to_owned(),
            EventKind::Refused(Refusal::SenderFull) => "the sender's share is used up".to_owned(),
            EventKind::Refused(Refusal::SenderLimit) => "the sender has sent too much".to_owned(),
            EventKind::Refused(Refusal::NoRoom) => "no room".to_owned(),
            EventKind::Refused(Refusal::Stalled) => "not stored, the store does not answer".to_owned(),
            EventKind::Refused(Refusal::OutcomeUnknown) => "not known to be stored".to_owned(),
            EventKind::Nothing => "nothing there".to_owned(),
            EventKind::Granted => "the wait is over".to_owned(),
            EventKind::Page => "messages read".to_owned(),
            EventKind::StoreFailed => "the store fails".to_owned(),
            EventKind::Finished => "all is gone".to_owned(),
            EventKind::AckTimeout => "no 250 in time".to_owned(),
        }
    }

    /// Whether it is a client's PDU, or one that took too long.
    pub fn is_pdu(self) -> bool {
        match self {
            EventKind::User
            | EventKind::BadUser
            | EventKind::Pass
            | EventKind::BadPass
            | EventKind::Send
            | EventKind::BadSend(_)
            | EventKind::Receive
            | EventKind::Wait
            | EventKind::Acknowledge
            | EventKind::Reject
            | EventKind::Recover
            | EventKind::Help
            | EventKind::Terminate
            | EventKind::Bad(_)
            | EventKind::TimedOut(_) => true,
            EventKind::Verified(_)
            | EventKind::Stored
            | EventKind::Refused(_)
            | EventKind::Nothing
            | EventKind::Granted
            | EventKind::Page
            | EventKind::StoreFailed
            | EventKind::Finished
            | EventKind::AckTimeout => false,
        }
    }

    pub(super) fn is_other_pdu(self) -> bool {
        self.is_pdu() && ![EventKind::Terminate, EventKind::Help].contains(&self)
    }

    /// An event of this kind, with sample data.
    pub(super) fn event(self) -> Event {
        match self {
            EventKind::User => Event::User(sample_name()),
            EventKind::BadUser => Event::BadUser,
            EventKind::Pass => Password::parse(b"secret").map_or(Event::BadPass, Event::Pass),
            EventKind::BadPass => Event::BadPass,
            EventKind::Send => Event::Send,
            EventKind::BadSend(fault) => Event::BadSend(fault),
            EventKind::Receive => Event::Receive { window: 1, serial: 1 },
            EventKind::Wait => Event::Wait { seconds: 1, serial: 1 },
            EventKind::Acknowledge => Event::Acknowledge,
            EventKind::Reject => Event::Reject,
            EventKind::Recover => Event::Recover,
            EventKind::Help => Event::Help,
            EventKind::Terminate => Event::Terminate,
            EventKind::Bad(fault) => Event::Bad(fault),
            EventKind::TimedOut(verb) => Event::TimedOut(verb),
            EventKind::Verified(ok) => Event::Verified(ok),
            EventKind::Stored => Event::Stored,
            EventKind::Refused(refusal) => Event::Refused(refusal),
            EventKind::Nothing => Event::Nothing,
            EventKind::Granted => Event::Granted,
            EventKind::Page => Event::Page(sample_page(1)),
            EventKind::StoreFailed => Event::StoreFailed,
            EventKind::Finished => Event::Finished,
            EventKind::AckTimeout => Event::AckTimeout,
        }
    }
}

fn sample_name() -> Username {
    match Username::parse(b"bob") {
        Some(name) => name,
        None => unreachable!("bob is a name"),
    }
}

fn sample_page(messages: u64) -> Page {
    let message = |id| PageMessage { id: MessageId(id), sender: sample_name(), body: 0..2 };
    Page { messages: (1..=messages).map(message).collect(), bytes: b"hi".to_vec(), more: false }
}

/// A download with this many messages, the first of which has been sent.
fn sample_download(messages: u64) -> Download {
    let mut download = Download::new(1, 1, false);
    download.add_page(sample_page(messages));
    if let Some((id, ..)) = download.take_next() {
        download.unacknowledged.push_back(id);
        download.any_sent = true;
    }
    download
}
