//! The state table of docs/protocol.md section 5: one total function from a state and an event to the next state, the
//! reply and the action. It knows nothing of bytes, time or the store.

mod causes;
mod state_name;

use cp_proto::command::{PduFault, SendFault, Verb};
use cp_proto::reply::{DownloadFailure, Reply, SendFailure};
use cp_proto::values::{Password, Username};

use super::download::{Download, MessageId, Page};

pub use self::state_name::StateName;

/// The state of a session. Each state owns the data that exist in it only.
#[derive(Debug)]
pub enum State {
    Idle,
    UserValidated { name: Username },
    AuthenticationValidated { name: Username, credentials: Credentials },
    ProcessCommand { user: Username },
    SendingMessage { user: Username },
    ReceivingMessage { user: Username, download: Box<Download> },
    ErrorProcessing { user: Username },
}

/// How PDUs end and how errors are handled on a listener (section 8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dialect {
    #[default]
    Cp,
    Classic,
}

/// What is being verified in Authentication Validated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credentials {
    Password,
    /// No password came: the same work is done by a dummy verification, and 565 is certain.
    Malformed,
}

/// Why a message that is well formed is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    NoSuchUser,
    QueueFull,
    /// The sender's share of the recipient's queue is used up.
    SenderFull,
    /// The sender has too many messages in all queues together, or sends too many in a minute.
    SenderLimit,
    NoRoom,
    /// The store does not answer, so it was not given the message.
    Stalled,
    /// It is not known whether the message is stored.
    OutcomeUnknown,
}

/// What can happen to a session.
#[derive(Debug)]
pub enum Event {
    User(Username),
    BadUser,
    Pass(Password),
    BadPass,
    Send,
    BadSend(SendFault),
    /// `serial` is the number of the download that begins.
    Receive {
        window: u16,
        serial: u32,
    },
    Wait {
        seconds: u16,
        serial: u32,
    },
    Acknowledge,
    Reject,
    Recover,
    Help,
    Terminate,
    Bad(PduFault),
    /// A PDU with this verb was not completed in time.
    TimedOut(Verb),
    /// The credentials were checked.
    Verified(bool),
    /// The message is on stable storage.
    Stored,
    Refused(Refusal),
    /// There is no message to download, or the wait for one has ended without one.
    Nothing,
    /// The session has got the lease that it waited for.
    Granted,
    Page(Page),
    /// The queue could not be read, or an acknowledged message could not be deleted.
    StoreFailed,
    /// Every message of the download is acknowledged and deleted.
    Finished,
    /// A message was not acknowledged in time.
    AckTimeout,
}

/// What the server sends at a transition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Response {
    Nothing,
    Reply(Reply),
    /// The messages that the window allows.
    Messages,
    /// Nothing: the PDU is not handled yet. It stays unread until the work under way has ended.
    Deferred,
}

/// What the session has to do at a transition.
#[derive(Debug)]
pub enum Action {
    None,
    Verify {
        name: Username,
        password: Password,
    },
    /// A dummy verification.
    VerifyDummy {
        name: Username,
    },
    OpenDownload,
    /// Request the lease, and wait up to `seconds` for it and for a message.
    AwaitMessage {
        seconds: u16,
    },
    ReadQueue,
    Delete(MessageId),
    /// Give back the lease. Messages that were not acknowledged stay queued.
    CloseDownload,
    Close,
}

/// The result of a transition: the next state, what the server sends, and what the session has to do.
#[derive(Debug)]
pub struct Transition {
    pub state: State,
    pub response: Response,
    pub action: Action,
}

impl State {
    /// Its name.
    pub fn name(&self) -> StateName {
        match self {
            State::Idle => StateName::Idle,
            State::UserValidated { .. } => StateName::UserValidated,
            State::AuthenticationValidated { .. } => StateName::AuthenticationValidated,
            State::ProcessCommand { .. } => StateName::ProcessCommand,
            State::SendingMessage { .. } => StateName::SendingMessage,
            State::ReceivingMessage { .. } => StateName::ReceivingMessage,
            State::ErrorProcessing { .. } => StateName::ErrorProcessing,
        }
    }

    /// The user that is logged in; `None` before the login.
    pub fn user(&self) -> Option<Username> {
        match self {
            State::Idle | State::UserValidated { .. } | State::AuthenticationValidated { .. } => None,
            State::ProcessCommand { user }
            | State::SendingMessage { user }
            | State::ReceivingMessage { user, .. }
            | State::ErrorProcessing { user } => Some(*user),
        }
    }

    /// Whether a PDU is handled in this state; otherwise it stays unread until the work under way has ended.
    pub fn takes_pdus(&self) -> bool {
        match self {
            State::AuthenticationValidated { .. } | State::SendingMessage { .. } => false,
            State::ReceivingMessage { download, .. } => download.waiting || !download.unacknowledged.is_empty(),
            State::Idle
            | State::UserValidated { .. }
            | State::ProcessCommand { .. }
            | State::ErrorProcessing { .. } => true,
        }
    }

    fn responds(self, response: Response) -> Transition {
        Transition { state: self, response, action: Action::None }
    }

    fn replies(self, reply: Reply) -> Transition {
        self.responds(Response::Reply(reply))
    }

    /// Ignores the event.
    fn stays(self) -> Transition {
        self.responds(Response::Nothing)
    }
}

/// The state after an error: Error Processing, or in the classic dialect, which has no such state, Process Command.
fn error_state(user: Username, dialect: Dialect) -> State {
    match dialect {
        Dialect::Cp => State::ErrorProcessing { user },
        Dialect::Classic => State::ProcessCommand { user },
    }
}

/// The transition at TERM: log out, stop everything, close.
fn terminate() -> Transition {
    Transition { state: State::Idle, response: Response::Nothing, action: Action::Close }
}

/// The state table. It has an entry for every event in every state.
pub fn transition(state: State, event: Event, dialect: Dialect) -> Transition {
    match state {
        State::Idle => idle(event),
        State::UserValidated { name } => user_validated(name, event),
        State::AuthenticationValidated { name, credentials } => authentication_validated(name, credentials, event),
        State::ProcessCommand { user } => process_command(user, event, dialect),
        State::SendingMessage { user } => sending_message(user, event, dialect),
        State::ReceivingMessage { user, download } => receiving_message(user, download, event, dialect),
        State::ErrorProcessing { user } => error_processing(user, event),
    }
}

fn idle(event: Event) -> Transition {
    match event {
        Event::User(name) => State::UserValidated { name }.replies(Reply::UserReceived),
        Event::BadUser | Event::TimedOut(Verb::User) => State::Idle.replies(Reply::UserError),
        Event::Help => State::Idle.replies_help(),
        Event::Terminate => terminate(),
        Event::Pass(_)
        | Event::BadPass
        | Event::Send
        | Event::BadSend(_)
        | Event::Receive { .. }
        | Event::Wait { .. }
        | Event::Acknowledge
        | Event::Reject
        | Event::Recover
        | Event::Bad(_)
        | Event::TimedOut(Verb::Pass | Verb::Smsg | Verb::Other) => State::Idle.replies_bad_command(&event),
        Event::Verified(_)
        | Event::Stored
        | Event::Refused(_)
        | Event::Nothing
        | Event::Granted
        | Event::Page(_)
        | Event::StoreFailed
        | Event::Finished
        | Event::AckTimeout => State::Idle.stays(),
    }
}

fn user_validated(name: Username, event: Event) -> Transition {
    let state = State::UserValidated { name };
    match event {
        Event::Pass(password) => Transition {
            state: State::AuthenticationValidated { name, credentials: Credentials::Password },
            response: Response::Nothing,
            action: Action::Verify { name, password },
        },
        Event::BadPass | Event::TimedOut(Verb::Pass) => Transition {
            state: State::AuthenticationValidated { name, credentials: Credentials::Malformed },
            response: Response::Nothing,
            action: Action::VerifyDummy { name },
        },
        Event::Help => state.replies_help(),
        Event::Terminate => terminate(),
        Event::User(_)
        | Event::BadUser
        | Event::Send
        | Event::BadSend(_)
        | Event::Receive { .. }
        | Event::Wait { .. }
        | Event::Acknowledge
        | Event::Reject
        | Event::Recover
        | Event::Bad(_)
        | Event::TimedOut(Verb::User | Verb::Smsg | Verb::Other) => state.replies_bad_command(&event),
        Event::Verified(_)
        | Event::Stored
        | Event::Refused(_)
        | Event::Nothing
        | Event::Granted
        | Event::Page(_)
        | Event::StoreFailed
        | Event::Finished
        | Event::AckTimeout => state.stays(),
    }
}

fn authentication_validated(name: Username, credentials: Credentials, event: Event) -> Transition {
    let state = State::AuthenticationValidated { name, credentials };
    match event {
        Event::Verified(true) if credentials == Credentials::Password => {
            State::ProcessCommand { user: name }.replies(Reply::Authenticated)
        }
        Event::Verified(_) => State::Idle.replies(Reply::AuthError),
        Event::User(_)
        | Event::BadUser
        | Event::Pass(_)
        | Event::BadPass
        | Event::Send
        | Event::BadSend(_)
        | Event::Receive { .. }
        | Event::Wait { .. }
        | Event::Acknowledge
        | Event::Reject
        | Event::Recover
        | Event::Help
        | Event::Terminate
        | Event::Bad(_)
        | Event::TimedOut(_) => state.responds(Response::Deferred),
        Event::Stored
        | Event::Refused(_)
        | Event::Nothing
        | Event::Granted
        | Event::Page(_)
        | Event::StoreFailed
        | Event::Finished
        | Event::AckTimeout => state.stays(),
    }
}

fn process_command(user: Username, event: Event, dialect: Dialect) -> Transition {
    let state = State::ProcessCommand { user };
    let failed = |reply| error_state(user, dialect).replies(reply);
    match event {
        Event::Send => {
            Transition { state: State::SendingMessage { user }, response: Response::Nothing, action: Action::None }
        }
        Event::BadSend(fault) => failed(fault.into()),
        Event::TimedOut(Verb::Smsg) => failed(Reply::SendError(SendFailure::TimedOut)),
        Event::Receive { window, serial } => Transition {
            state: State::ReceivingMessage { user, download: Box::new(Download::new(serial, window, false)) },
            response: Response::Messages,
            action: Action::OpenDownload,
        },
        Event::Wait { seconds, serial } => Transition {
            state: State::ReceivingMessage { user, download: Box::new(Download::new(serial, 1, true)) },
            response: Response::Messages,
            action: Action::AwaitMessage { seconds },
        },
        Event::Help => state.replies_help(),
        Event::Terminate => terminate(),
        Event::User(_)
        | Event::BadUser
        | Event::Pass(_)
        | Event::BadPass
        | Event::Recover
        | Event::Bad(_)
        | Event::TimedOut(Verb::User | Verb::Pass | Verb::Other) => state.replies_bad_command(&event),
        // An acknowledgement that comes too late, or one too many, is ignored.
        Event::Acknowledge
        | Event::Reject
        | Event::Verified(_)
        | Event::Stored
        | Event::Refused(_)
        | Event::Nothing
        | Event::Granted
        | Event::Page(_)
        | Event::StoreFailed
        | Event::Finished
        | Event::AckTimeout => state.stays(),
    }
}

fn sending_message(user: Username, event: Event, dialect: Dialect) -> Transition {
    let state = State::SendingMessage { user };
    match event {
        Event::Stored => State::ProcessCommand { user }.replies(Reply::Sent),
        Event::Refused(refusal) => error_state(user, dialect).replies(refusal.into()),
        Event::User(_)
        | Event::BadUser
        | Event::Pass(_)
        | Event::BadPass
        | Event::Send
        | Event::BadSend(_)
        | Event::Receive { .. }
        | Event::Wait { .. }
        | Event::Acknowledge
        | Event::Reject
        | Event::Recover
        | Event::Help
        | Event::Terminate
        | Event::Bad(_)
        | Event::TimedOut(_) => state.responds(Response::Deferred),
        Event::Verified(_)
        | Event::Nothing
        | Event::Granted
        | Event::Page(_)
        | Event::StoreFailed
        | Event::Finished
        | Event::AckTimeout => state.stays(),
    }
}

fn receiving_message(user: Username, mut download: Box<Download>, event: Event, dialect: Dialect) -> Transition {
    let leaves = |state: State, response: Response| Transition { state, response, action: Action::CloseDownload };
    match event {
        Event::Acknowledge => match download.unacknowledged.pop_front() {
            Some(id) => Transition {
                state: State::ReceivingMessage { user, download },
                response: Response::Messages,
                action: Action::Delete(id),
            },
            // While WMSG waits, there is nothing to acknowledge or to reject.
            None if download.waiting => State::ReceivingMessage { user, download }.stays(),
            None => State::ReceivingMessage { user, download }.responds(Response::Deferred),
        },
        Event::Reject if download.waiting => State::ReceivingMessage { user, download }.stays(),
        Event::Reject if download.unacknowledged.is_empty() => {
            State::ReceivingMessage { user, download }.responds(Response::Deferred)
        }
        Event::Reject => leaves(error_state(user, dialect), Response::Nothing),
        Event::Nothing => leaves(State::ProcessCommand { user }, Response::Reply(Reply::NoMessages)),
        Event::Finished => {
            let reply = if download.any_sent { Reply::End } else { Reply::NoMessages };
            leaves(State::ProcessCommand { user }, Response::Reply(reply))
        }
        Event::StoreFailed => {
            leaves(error_state(user, dialect), Response::Reply(Reply::DownloadError(DownloadFailure::StoreFailed)))
        }
        Event::AckTimeout => {
            leaves(error_state(user, dialect), Response::Reply(Reply::DownloadError(DownloadFailure::NotAcknowledged)))
        }
        Event::Granted => {
            download.waiting = false;
            Transition {
                state: State::ReceivingMessage { user, download },
                response: Response::Messages,
                action: Action::ReadQueue,
            }
        }
        Event::Page(page) => {
            download.add_page(page);
            State::ReceivingMessage { user, download }.responds(Response::Messages)
        }
        Event::Terminate => terminate(),
        Event::User(_)
        | Event::BadUser
        | Event::Pass(_)
        | Event::BadPass
        | Event::Send
        | Event::BadSend(_)
        | Event::Receive { .. }
        | Event::Wait { .. }
        | Event::Recover
        | Event::Help
        | Event::Bad(_)
        | Event::TimedOut(_) => {
            // While WMSG waits, the session ends the wait first and then handles this PDU in Process Command.
            let later = download.unacknowledged.is_empty();
            let state = State::ReceivingMessage { user, download };
            match event {
                _ if later => state.responds(Response::Deferred),
                Event::Help => state.replies_help(),
                _ => state.replies_bad_command(&event),
            }
        }
        Event::Verified(_) | Event::Stored | Event::Refused(_) => State::ReceivingMessage { user, download }.stays(),
    }
}

fn error_processing(user: Username, event: Event) -> Transition {
    let state = State::ErrorProcessing { user };
    match event {
        Event::Recover => State::ProcessCommand { user }.replies(Reply::Recovered),
        Event::Help => state.replies_help(),
        Event::Terminate => terminate(),
        Event::User(_)
        | Event::BadUser
        | Event::Pass(_)
        | Event::BadPass
        | Event::Send
        | Event::BadSend(_)
        | Event::Receive { .. }
        | Event::Wait { .. }
        | Event::Bad(_)
        | Event::TimedOut(_) => state.replies_bad_command(&event),
        Event::Acknowledge
        | Event::Reject
        | Event::Verified(_)
        | Event::Stored
        | Event::Refused(_)
        | Event::Nothing
        | Event::Granted
        | Event::Page(_)
        | Event::StoreFailed
        | Event::Finished
        | Event::AckTimeout => state.stays(),
    }
}
