//! What the table is made of: each state as it can be met, each kind of event, with data that stands for any.

use crate::proto::command::{Fault, SendFault, Verb};
use crate::proto::dfa::{Event, Refusal, State};
use crate::proto::download::{Download, MessageId, Page, PageMessage};
use crate::proto::reply::Stage;
use crate::proto::types::{Password, Username};

/// A state, and of Receiving Message also how far the download has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Situation {
    Idle,
    UserValidated,
    AuthenticationValidated,
    ProcessCommand,
    SendingMessage,
    /// WMSG, and no message is there.
    Waiting,
    /// A page was asked for and is not here; nothing was sent.
    Reading,
    /// One message is unacknowledged, others follow.
    MoreToCome,
    /// One message is unacknowledged, the last.
    LastSent,
    ErrorProcessing,
}

/// Every situation, in the order of the contract.
pub const SITUATIONS: [Situation; 10] = [
    Situation::Idle,
    Situation::UserValidated,
    Situation::AuthenticationValidated,
    Situation::ProcessCommand,
    Situation::SendingMessage,
    Situation::Waiting,
    Situation::Reading,
    Situation::MoreToCome,
    Situation::LastSent,
    Situation::ErrorProcessing,
];

/// What can happen, without the data that comes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
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
    Bad(Fault),
    Late(Verb),
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

/// Every kind of event: what clients send, what took too long, what the world around answers.
pub const KINDS: [Kind; 44] = [
    Kind::User,
    Kind::BadUser,
    Kind::Pass,
    Kind::BadPass,
    Kind::Send,
    Kind::BadSend(SendFault::NoColon),
    Kind::BadSend(SendFault::EmptySide),
    Kind::BadSend(SendFault::TooManyColons),
    Kind::BadSend(SendFault::TooLong),
    Kind::BadSend(SendFault::NotUtf8),
    Kind::BadSend(SendFault::ControlCharacter),
    Kind::BadSend(SendFault::ImpossibleName),
    Kind::Receive,
    Kind::Wait,
    Kind::Acknowledge,
    Kind::Reject,
    Kind::Recover,
    Kind::Help,
    Kind::Terminate,
    Kind::Bad(Fault::UnknownVerb),
    Kind::Bad(Fault::Empty),
    Kind::Bad(Fault::Overlong),
    Kind::Bad(Fault::Window),
    Kind::Bad(Fault::Seconds),
    Kind::Late(Verb::User),
    Kind::Late(Verb::Pass),
    Kind::Late(Verb::Smsg),
    Kind::Late(Verb::Other),
    Kind::Verified(true),
    Kind::Verified(false),
    Kind::Stored,
    Kind::Refused(Refusal::NoSuchUser),
    Kind::Refused(Refusal::QueueFull),
    Kind::Refused(Refusal::SenderFull),
    Kind::Refused(Refusal::SenderLimit),
    Kind::Refused(Refusal::NoRoom),
    Kind::Refused(Refusal::Stalled),
    Kind::Refused(Refusal::Unknown),
    Kind::Nothing,
    Kind::Granted,
    Kind::Page,
    Kind::StoreFailed,
    Kind::Finished,
    Kind::AckTimeout,
];

impl Situation {
    /// The name of its state in the contract.
    pub fn state_name(self) -> &'static str {
        self.state().name()
    }

    /// Tells the situations of one state apart; empty where there is one.
    pub fn detail(self) -> &'static str {
        match self {
            Situation::Waiting => "waiting",
            Situation::Reading => "reading",
            Situation::MoreToCome => "one sent, more to come",
            Situation::LastSent => "the last one sent",
            Situation::Idle
            | Situation::UserValidated
            | Situation::AuthenticationValidated
            | Situation::ProcessCommand
            | Situation::SendingMessage
            | Situation::ErrorProcessing => "",
        }
    }

    /// Whether any PDU is answered here: not while something is under way, and what comes while WMSG waits ends the
    /// wait first.
    pub fn answers(self) -> bool {
        self != Situation::Waiting && self.state().takes_pdus()
    }

    /// What its texts for people call it.
    pub fn stage(self) -> Stage {
        self.state().stage()
    }

    /// A state as it is there.
    pub(super) fn state(self) -> State {
        let user = sample_name();
        let receiving = |download: Download| State::ReceivingMessage { user, download: Box::new(download) };
        match self {
            Situation::Idle => State::Idle,
            Situation::UserValidated => State::UserValidated { name: user },
            Situation::AuthenticationValidated => State::AuthenticationValidated { name: user },
            Situation::ProcessCommand => State::ProcessCommand { user },
            Situation::SendingMessage => State::SendingMessage { user },
            Situation::Waiting => receiving(Download::new(1, 1, true)),
            Situation::Reading => {
                let mut download = Download::new(1, 1, false);
                download.reading = true;
                receiving(download)
            }
            Situation::MoreToCome => receiving(sample_download(2)),
            Situation::LastSent => receiving(sample_download(1)),
            Situation::ErrorProcessing => State::ErrorProcessing { user },
        }
    }
}

impl Kind {
    /// A name for people.
    pub fn name(self) -> String {
        match self {
            Kind::User => "USER".to_owned(),
            Kind::BadUser => "USER, malformed".to_owned(),
            Kind::Pass => "PASS".to_owned(),
            Kind::BadPass => "PASS, malformed".to_owned(),
            Kind::Send => "SMSG".to_owned(),
            Kind::BadSend(SendFault::NoColon) => "SMSG, no colon".to_owned(),
            Kind::BadSend(SendFault::EmptySide) => "SMSG, an empty side".to_owned(),
            Kind::BadSend(SendFault::TooManyColons) => "SMSG, a second colon".to_owned(),
            Kind::BadSend(SendFault::TooLong) => "SMSG, too long".to_owned(),
            Kind::BadSend(SendFault::NotUtf8) => "SMSG, not UTF-8".to_owned(),
            Kind::BadSend(SendFault::ControlCharacter) => "SMSG, a control character".to_owned(),
            Kind::BadSend(SendFault::ImpossibleName) => "SMSG, impossible name".to_owned(),
            Kind::Receive => "RMSG".to_owned(),
            Kind::Wait => "WMSG".to_owned(),
            Kind::Acknowledge => "250".to_owned(),
            Kind::Reject => "550".to_owned(),
            Kind::Recover => "201".to_owned(),
            Kind::Help => "HELP".to_owned(),
            Kind::Terminate => "TERM".to_owned(),
            Kind::Bad(Fault::UnknownVerb) => "an unknown verb".to_owned(),
            Kind::Bad(Fault::Empty) => "an empty line".to_owned(),
            Kind::Bad(Fault::Overlong) => "an over-long line".to_owned(),
            Kind::Bad(Fault::Window) => "RMSG, malformed".to_owned(),
            Kind::Bad(Fault::Seconds) => "WMSG, malformed".to_owned(),
            Kind::Late(Verb::User) => "USER, late".to_owned(),
            Kind::Late(Verb::Pass) => "PASS, late".to_owned(),
            Kind::Late(Verb::Smsg) => "SMSG, late".to_owned(),
            Kind::Late(Verb::Other) => "another PDU, late".to_owned(),
            Kind::Verified(true) => "credentials correct".to_owned(),
            Kind::Verified(false) => "credentials wrong".to_owned(),
            Kind::Stored => "stored".to_owned(),
            Kind::Refused(Refusal::NoSuchUser) => "no such recipient".to_owned(),
            Kind::Refused(Refusal::QueueFull) => "the queue is full".to_owned(),
            Kind::Refused(Refusal::SenderFull) => "the sender's share is used up".to_owned(),
            Kind::Refused(Refusal::SenderLimit) => "the sender has sent too much".to_owned(),
            Kind::Refused(Refusal::NoRoom) => "no room".to_owned(),
            Kind::Refused(Refusal::Stalled) => "not stored, the store does not answer".to_owned(),
            Kind::Refused(Refusal::Unknown) => "not known to be stored".to_owned(),
            Kind::Nothing => "nothing there".to_owned(),
            Kind::Granted => "the wait is over".to_owned(),
            Kind::Page => "messages read".to_owned(),
            Kind::StoreFailed => "the store fails".to_owned(),
            Kind::Finished => "all is gone".to_owned(),
            Kind::AckTimeout => "no 250 in time".to_owned(),
        }
    }

    /// Whether it is a client's PDU, complete or not.
    pub fn is_pdu(self) -> bool {
        match self {
            Kind::User
            | Kind::BadUser
            | Kind::Pass
            | Kind::BadPass
            | Kind::Send
            | Kind::BadSend(_)
            | Kind::Receive
            | Kind::Wait
            | Kind::Acknowledge
            | Kind::Reject
            | Kind::Recover
            | Kind::Help
            | Kind::Terminate
            | Kind::Bad(_)
            | Kind::Late(_) => true,
            Kind::Verified(_)
            | Kind::Stored
            | Kind::Refused(_)
            | Kind::Nothing
            | Kind::Granted
            | Kind::Page
            | Kind::StoreFailed
            | Kind::Finished
            | Kind::AckTimeout => false,
        }
    }

    pub(super) fn is_other_pdu(self) -> bool {
        self.is_pdu() && ![Kind::Terminate, Kind::Help].contains(&self)
    }

    /// An event of this kind.
    pub(super) fn event(self) -> Event {
        match self {
            Kind::User => Event::User(sample_name()),
            Kind::BadUser => Event::BadUser,
            Kind::Pass => Password::parse(b"secret").map_or(Event::BadPass, Event::Pass),
            Kind::BadPass => Event::BadPass,
            Kind::Send => Event::Send,
            Kind::BadSend(fault) => Event::BadSend(fault),
            Kind::Receive => Event::Receive { window: 1, serial: 1 },
            Kind::Wait => Event::Wait { seconds: 1, serial: 1 },
            Kind::Acknowledge => Event::Acknowledge,
            Kind::Reject => Event::Reject,
            Kind::Recover => Event::Recover,
            Kind::Help => Event::Help,
            Kind::Terminate => Event::Terminate,
            Kind::Bad(fault) => Event::Bad(fault),
            Kind::Late(verb) => Event::Late(verb),
            Kind::Verified(ok) => Event::Verified(ok),
            Kind::Stored => Event::Stored,
            Kind::Refused(refusal) => Event::Refused(refusal),
            Kind::Nothing => Event::Nothing,
            Kind::Granted => Event::Granted,
            Kind::Page => Event::Page(sample_page(1)),
            Kind::StoreFailed => Event::StoreFailed,
            Kind::Finished => Event::Finished,
            Kind::AckTimeout => Event::AckTimeout,
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
    Page { messages: (1..=messages).map(message).collect(), bytes: b"hi".to_vec() }
}

/// A download of so many messages whose first one was sent.
fn sample_download(messages: u64) -> Download {
    let mut download = Download::new(1, 1, false);
    download.add(sample_page(messages));
    if let Some((id, ..)) = download.take_next() {
        download.unacknowledged.push_back(id);
        download.delivered = true;
    }
    download
}
