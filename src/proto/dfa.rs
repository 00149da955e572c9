//! The state table of docs/protocol.md section 5: one complete function from (state, event) to what follows. It knows
//! nothing of bytes, time or store.

mod causes;

use self::causes::{fault_reply, refusal_reply};
use super::command::{Fault, SendFault, Verb};
use super::download::{Download, MessageId, Page};
use super::reply::{NotSent, Reply, Stopped};
use super::types::{Password, Username};

/// A session's state; each owns what it needs.
#[derive(Debug)]
pub enum State {
    Idle,
    UserValidated { name: Username },
    AuthenticationValidated { name: Username },
    ProcessCommand { user: Username },
    SendingMessage { user: Username },
    ReceivingMessage { user: Username, download: Box<Download> },
    ErrorProcessing { user: Username },
}

/// Which of the two framings and error treatments a listener speaks (section 8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dialect {
    #[default]
    Cp,
    Classic,
}

impl Dialect {
    /// The name of its key in `[listen]`, and of its sockets in a unit.
    pub fn name(self) -> &'static str {
        match self {
            Dialect::Cp => "cp",
            Dialect::Classic => "classic",
        }
    }
}

/// Why the store does not take a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    NoSuchUser,
    QueueFull,
    /// The sender's share of that queue is used up.
    SenderFull,
    /// The sender has too much queued in all, or sends too fast.
    SenderLimit,
    NoRoom,
    /// The store does not answer: it was not given the message.
    Stalled,
    /// It is not known whether it is stored.
    Unknown,
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
    /// `serial` names the download that begins.
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
    Bad(Fault),
    /// A PDU that began with this verb did not end in time.
    Late(Verb),
    /// The credentials were checked.
    Verified(bool),
    /// The message is on stable storage.
    Stored,
    Refused(Refusal),
    /// No message is there, or the wait for one is over.
    Nothing,
    /// The wait is over: the queue is this session's to download.
    Granted,
    Page(Page),
    /// The queue could not be read, or an acknowledged message not be deleted.
    StoreFailed,
    /// All is acknowledged and gone from the queue.
    Finished,
    /// No acknowledgement came in time.
    AckTimeout,
}

/// What the server says at a transition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Say {
    Nothing,
    Reply(Reply),
    /// The messages that the window allows.
    Messages,
    /// The PDU waits until what is under way has ended; it is not taken.
    Later,
}

/// What a transition asks for.
#[derive(Debug)]
pub enum Action {
    None,
    Verify {
        name: Username,
        password: Password,
    },
    /// The same work for nothing, before the reply leaves.
    VerifyNothing {
        name: Username,
    },
    Store,
    OpenDownload,
    /// Wait for a message, so many seconds.
    AwaitMessage {
        seconds: u16,
    },
    ReadQueue,
    Delete(MessageId),
    /// Messages that are not acknowledged go back into the queue.
    CloseDownload,
    Close,
}

/// A transition: the state that follows, what is said, what is to be done.
#[derive(Debug)]
pub struct Step {
    pub state: State,
    pub say: Say,
    pub action: Action,
}

impl State {
    /// The name that the contract uses.
    pub fn name(&self) -> &'static str {
        match self {
            State::Idle => "Idle",
            State::UserValidated { .. } => "User Validated",
            State::AuthenticationValidated { .. } => "Authentication Validated",
            State::ProcessCommand { .. } => "Process Command",
            State::SendingMessage { .. } => "Sending Message",
            State::ReceivingMessage { .. } => "Receiving Message",
            State::ErrorProcessing { .. } => "Error Processing",
        }
    }

    /// Who is logged in.
    pub fn user(&self) -> Option<Username> {
        match self {
            State::Idle | State::UserValidated { .. } | State::AuthenticationValidated { .. } => None,
            State::ProcessCommand { user }
            | State::SendingMessage { user }
            | State::ReceivingMessage { user, .. }
            | State::ErrorProcessing { user } => Some(*user),
        }
    }

    /// Whether a PDU would be answered now; otherwise it waits for what is under way.
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

    fn says(self, say: Say) -> Step {
        Step { state: self, say, action: Action::None }
    }

    fn replies(self, reply: Reply) -> Step {
        self.says(Say::Reply(reply))
    }

    /// Nothing follows: the event means nothing here.
    fn stays(self) -> Step {
        self.says(Say::Nothing)
    }
}

/// Error Processing, or, for a client that knows no such state, Process Command.
fn error_state(user: Username, dialect: Dialect) -> State {
    match dialect {
        Dialect::Cp => State::ErrorProcessing { user },
        Dialect::Classic => State::ProcessCommand { user },
    }
}

/// Log out, stop everything, close.
fn terminate() -> Step {
    Step { state: State::Idle, say: Say::Nothing, action: Action::Close }
}

/// The table. Total: every state has an answer to every event.
pub fn transition(state: State, event: Event, dialect: Dialect) -> Step {
    match state {
        State::Idle => idle(event),
        State::UserValidated { name } => user_validated(name, event),
        State::AuthenticationValidated { name } => authentication_validated(name, event),
        State::ProcessCommand { user } => process_command(user, event, dialect),
        State::SendingMessage { user } => sending_message(user, event, dialect),
        State::ReceivingMessage { user, download } => receiving_message(user, download, event, dialect),
        State::ErrorProcessing { user } => error_processing(user, event),
    }
}

fn idle(event: Event) -> Step {
    match event {
        Event::User(name) => State::UserValidated { name }.replies(Reply::UserReceived),
        Event::BadUser | Event::Late(Verb::User) => State::Idle.replies(Reply::UserError),
        Event::Help => State::Idle.helps(),
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
        | Event::Late(Verb::Pass | Verb::Smsg | Verb::Other) => State::Idle.bad(&event),
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

fn user_validated(name: Username, event: Event) -> Step {
    let state = State::UserValidated { name };
    match event {
        Event::Pass(password) => Step {
            state: State::AuthenticationValidated { name },
            say: Say::Nothing,
            action: Action::Verify { name, password },
        },
        Event::BadPass | Event::Late(Verb::Pass) => {
            Step { state: State::Idle, say: Say::Reply(Reply::AuthError), action: Action::VerifyNothing { name } }
        }
        Event::Help => state.helps(),
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
        | Event::Late(Verb::User | Verb::Smsg | Verb::Other) => state.bad(&event),
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

fn authentication_validated(name: Username, event: Event) -> Step {
    let state = State::AuthenticationValidated { name };
    match event {
        Event::Verified(true) => State::ProcessCommand { user: name }.replies(Reply::Authenticated),
        Event::Verified(false) => State::Idle.replies(Reply::AuthError),
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
        | Event::Late(_) => state.says(Say::Later),
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

fn process_command(user: Username, event: Event, dialect: Dialect) -> Step {
    let state = State::ProcessCommand { user };
    let failed = |reply| error_state(user, dialect).replies(reply);
    match event {
        Event::Send => Step { state: State::SendingMessage { user }, say: Say::Nothing, action: Action::Store },
        Event::BadSend(fault) => failed(fault_reply(fault)),
        Event::Late(Verb::Smsg) => failed(Reply::SendError(NotSent::Late)),
        Event::Receive { window, serial } => Step {
            state: State::ReceivingMessage { user, download: Box::new(Download::new(serial, window, false)) },
            say: Say::Messages,
            action: Action::OpenDownload,
        },
        Event::Wait { seconds, serial } => Step {
            state: State::ReceivingMessage { user, download: Box::new(Download::new(serial, 1, true)) },
            say: Say::Messages,
            action: Action::AwaitMessage { seconds },
        },
        Event::Help => state.helps(),
        Event::Terminate => terminate(),
        Event::User(_)
        | Event::BadUser
        | Event::Pass(_)
        | Event::BadPass
        | Event::Recover
        | Event::Bad(_)
        | Event::Late(Verb::User | Verb::Pass | Verb::Other) => state.bad(&event),
        // Late or superfluous acknowledgements mean nothing.
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

fn sending_message(user: Username, event: Event, dialect: Dialect) -> Step {
    let state = State::SendingMessage { user };
    match event {
        Event::Stored => State::ProcessCommand { user }.replies(Reply::Sent),
        Event::Refused(refusal) => error_state(user, dialect).replies(refusal_reply(refusal)),
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
        | Event::Late(_) => state.says(Say::Later),
        Event::Verified(_)
        | Event::Nothing
        | Event::Granted
        | Event::Page(_)
        | Event::StoreFailed
        | Event::Finished
        | Event::AckTimeout => state.stays(),
    }
}

fn receiving_message(user: Username, mut download: Box<Download>, event: Event, dialect: Dialect) -> Step {
    let leaves = |state: State, say: Say| Step { state, say, action: Action::CloseDownload };
    match event {
        Event::Acknowledge => match download.unacknowledged.pop_front() {
            Some(id) => Step {
                state: State::ReceivingMessage { user, download },
                say: Say::Messages,
                action: Action::Delete(id),
            },
            // While WMSG waits there is nothing to acknowledge or to reject.
            None if download.waiting => State::ReceivingMessage { user, download }.stays(),
            None => State::ReceivingMessage { user, download }.says(Say::Later),
        },
        Event::Reject if download.waiting => State::ReceivingMessage { user, download }.stays(),
        Event::Reject if download.unacknowledged.is_empty() => {
            State::ReceivingMessage { user, download }.says(Say::Later)
        }
        Event::Reject => leaves(error_state(user, dialect), Say::Nothing),
        Event::Nothing => leaves(State::ProcessCommand { user }, Say::Reply(Reply::NoMessages)),
        Event::Finished => {
            let reply = if download.delivered { Reply::End } else { Reply::NoMessages };
            leaves(State::ProcessCommand { user }, Say::Reply(reply))
        }
        Event::StoreFailed => {
            leaves(error_state(user, dialect), Say::Reply(Reply::DownloadError(Stopped::StoreFailed)))
        }
        Event::AckTimeout => {
            leaves(error_state(user, dialect), Say::Reply(Reply::DownloadError(Stopped::NotAcknowledged)))
        }
        Event::Granted => {
            download.waiting = false;
            Step { state: State::ReceivingMessage { user, download }, say: Say::Messages, action: Action::ReadQueue }
        }
        Event::Page(page) => {
            download.add(page);
            State::ReceivingMessage { user, download }.says(Say::Messages)
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
        | Event::Late(_) => {
            // While WMSG waits the wait is ended first: the PDU belongs to Process Command.
            let later = download.unacknowledged.is_empty();
            let state = State::ReceivingMessage { user, download };
            match event {
                _ if later => state.says(Say::Later),
                Event::Help => state.helps(),
                _ => state.bad(&event),
            }
        }
        Event::Verified(_) | Event::Stored | Event::Refused(_) => State::ReceivingMessage { user, download }.stays(),
    }
}

fn error_processing(user: Username, event: Event) -> Step {
    let state = State::ErrorProcessing { user };
    match event {
        Event::Recover => State::ProcessCommand { user }.replies(Reply::Recovered),
        Event::Help => state.helps(),
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
        | Event::Late(_) => state.bad(&event),
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
