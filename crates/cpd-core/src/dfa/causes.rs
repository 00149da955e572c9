//! The causes of errors, translated into replies.

use cp_proto::command::PduFault;
use cp_proto::reply::{BadCommandCause, Reply, ReplyStage, SendFailure};

use super::{Event, Refusal, State, Transition};

impl State {
    /// The stage that the texts of replies mention for this state.
    pub fn stage(&self) -> ReplyStage {
        match self {
            State::Idle => ReplyStage::Idle,
            State::UserValidated { .. } | State::AuthenticationValidated { .. } => ReplyStage::UserValidated,
            State::ProcessCommand { .. } | State::SendingMessage { .. } => ReplyStage::ProcessCommand,
            State::ReceivingMessage { .. } => ReplyStage::ReceivingMessage,
            State::ErrorProcessing { .. } => ReplyStage::ErrorProcessing,
        }
    }

    pub(super) fn replies_bad_command(self, event: &Event) -> Transition {
        let stage = self.stage();
        self.replies(Reply::BadCommand(stage, bad_command_cause(event, stage)))
    }

    pub(super) fn replies_help(self) -> Transition {
        let stage = self.stage();
        self.replies(Reply::Help(stage))
    }
}

/// Why a PDU is answered 500. Only meaningful for events that are PDUs.
fn bad_command_cause(event: &Event, stage: ReplyStage) -> BadCommandCause {
    match event {
        Event::Acknowledge | Event::Reject => BadCommandCause::NothingToAcknowledge,
        Event::Recover => BadCommandCause::NothingToRecoverFrom,
        Event::TimedOut(_) => BadCommandCause::TimedOut,
        Event::Bad(PduFault::UnknownVerb) => BadCommandCause::UnknownVerb,
        Event::Bad(PduFault::Empty) => BadCommandCause::Empty,
        Event::Bad(PduFault::Overlong) => BadCommandCause::Overlong,
        // In other states these verbs are out of order, whatever their numbers.
        Event::Bad(PduFault::Window) if stage == ReplyStage::ProcessCommand => BadCommandCause::Window,
        Event::Bad(PduFault::Seconds) if stage == ReplyStage::ProcessCommand => BadCommandCause::Seconds,
        _ => BadCommandCause::OutOfOrder,
    }
}

/// The reply to a well-formed SMSG that is not stored.
impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Reply {
        match refusal {
            Refusal::NoSuchUser => Reply::NoSuchUser,
            Refusal::QueueFull => Reply::SendError(SendFailure::QueueFull),
            Refusal::SenderFull => Reply::SendError(SendFailure::SenderFull),
            Refusal::SenderLimit => Reply::SendError(SendFailure::SenderLimit),
            Refusal::NoRoom => Reply::SendError(SendFailure::NoRoom),
            Refusal::Stalled => Reply::SendError(SendFailure::Stalled),
            Refusal::OutcomeUnknown => Reply::SendError(SendFailure::OutcomeUnknown),
        }
    }
}
