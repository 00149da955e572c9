//! Why the server refuses something, and what it tells people of it.

use super::{Event, Refusal, State, Step};
use crate::proto::command::{Fault, SendFault};
use crate::proto::reply::{NotSent, Reply, Stage, Why};

impl State {
    /// What a client may send next, as texts for people tell it.
    pub fn stage(&self) -> Stage {
        match self {
            State::Idle => Stage::Idle,
            State::UserValidated { .. } | State::AuthenticationValidated { .. } => Stage::UserValidated,
            State::ProcessCommand { .. } | State::SendingMessage { .. } => Stage::ProcessCommand,
            State::ReceivingMessage { .. } => Stage::ReceivingMessage,
            State::ErrorProcessing { .. } => Stage::ErrorProcessing,
        }
    }

    pub(super) fn bad(self, event: &Event) -> Step {
        let stage = self.stage();
        self.replies(Reply::BadCommand(stage, why_bad(event, stage)))
    }

    pub(super) fn helps(self) -> Step {
        let stage = self.stage();
        self.replies(Reply::Help(stage))
    }
}

/// Why a PDU is a bad command; for any other event this means nothing.
fn why_bad(event: &Event, stage: Stage) -> Why {
    match event {
        Event::Acknowledge | Event::Reject => Why::NothingToAcknowledge,
        Event::Recover => Why::NothingToRecoverFrom,
        Event::Late(_) => Why::Late,
        Event::Bad(Fault::UnknownVerb) => Why::UnknownVerb,
        Event::Bad(Fault::Empty) => Why::Empty,
        Event::Bad(Fault::Overlong) => Why::Overlong,
        // Elsewhere these are out of order, whatever their number.
        Event::Bad(Fault::Window) if stage == Stage::ProcessCommand => Why::Window,
        Event::Bad(Fault::Seconds) if stage == Stage::ProcessCommand => Why::Seconds,
        _ => Why::OutOfOrder,
    }
}

/// Why a message is not sent, as far as its bytes tell.
pub(super) fn fault_reply(fault: SendFault) -> Reply {
    match fault {
        SendFault::NoColon => Reply::SendError(NotSent::NoColon),
        SendFault::EmptySide => Reply::SendError(NotSent::EmptySide),
        SendFault::TooManyColons => Reply::TooManyColons,
        SendFault::TooLong => Reply::SendError(NotSent::TooLong),
        SendFault::NotUtf8 => Reply::SendError(NotSent::NotUtf8),
        SendFault::ControlCharacter => Reply::SendError(NotSent::ControlCharacter),
        SendFault::ImpossibleName => Reply::NoSuchUser,
    }
}

/// The same, as the store has it.
pub(super) fn refusal_reply(refusal: Refusal) -> Reply {
    match refusal {
        Refusal::NoSuchUser => Reply::NoSuchUser,
        Refusal::QueueFull => Reply::SendError(NotSent::QueueFull),
        Refusal::SenderFull => Reply::SendError(NotSent::SenderFull),
        Refusal::SenderLimit => Reply::SendError(NotSent::SenderLimit),
        Refusal::NoRoom => Reply::SendError(NotSent::NoRoom),
        Refusal::Stalled => Reply::SendError(NotSent::Stalled),
        Refusal::Unknown => Reply::SendError(NotSent::Unknown),
    }
}
