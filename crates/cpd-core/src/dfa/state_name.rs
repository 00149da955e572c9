//! The names of the states.

/// The name of a state, without its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StateName {
    Idle,
    UserValidated,
    AuthenticationValidated,
    ProcessCommand,
    SendingMessage,
    ReceivingMessage,
    ErrorProcessing,
}

impl StateName {
    /// All of them, in the order of docs/protocol.md section 5.
    pub const ALL: [StateName; 7] = [
        StateName::Idle,
        StateName::UserValidated,
        StateName::AuthenticationValidated,
        StateName::ProcessCommand,
        StateName::SendingMessage,
        StateName::ReceivingMessage,
        StateName::ErrorProcessing,
    ];

    /// The name in docs/protocol.md section 5.
    pub const fn as_str(self) -> &'static str {
        match self {
            StateName::Idle => "Idle",
            StateName::UserValidated => "User Validated",
            StateName::AuthenticationValidated => "Authentication Validated",
            StateName::ProcessCommand => "Process Command",
            StateName::SendingMessage => "Sending Message",
            StateName::ReceivingMessage => "Receiving Message",
            StateName::ErrorProcessing => "Error Processing",
        }
    }

    /// The name in answers of the control protocol.
    pub const fn key(self) -> &'static str {
        match self {
            StateName::Idle => "idle",
            StateName::UserValidated => "user_validated",
            StateName::AuthenticationValidated => "authentication_validated",
            StateName::ProcessCommand => "process_command",
            StateName::SendingMessage => "sending_message",
            StateName::ReceivingMessage => "receiving_message",
            StateName::ErrorProcessing => "error_processing",
        }
    }
}
