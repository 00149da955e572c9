//! The NVT commands of RFC 854 ahead of framing (docs/protocol.md section 10): a plain `telnet` is a full client.

/// Begins a command; doubled, it is a data byte.
pub const IAC: u8 = 255;
const SE: u8 = 240;
const IP: u8 = 244;
const AYT: u8 = 246;
const EC: u8 = 247;
const EL: u8 = 248;
const SB: u8 = 250;
const WILL: u8 = 251;
const WONT: u8 = 252;
const DO: u8 = 253;
const DONT: u8 = 254;

/// The answer to AYT: a line, not a PDU.
pub const PRESENT: &[u8] = b"[yes]\r\n";

/// What one byte of the stream turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nvt {
    Data(u8),
    /// Part of a command, or one that CP has no use for.
    Nothing,
    /// The refusal of an option, to be sent.
    Refuse([u8; 3]),
    AreYouThere,
    EraseCharacter,
    EraseLine,
}

/// Where in a command the stream stands.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Telnet {
    #[default]
    Plain,
    Command,
    /// WILL, WONT, DO or DONT came; its option follows.
    Option(u8),
    Subnegotiation,
    SubnegotiationCommand,
}

impl Telnet {
    /// Whether the next byte is data unless it is IAC.
    pub fn is_plain(self) -> bool {
        self == Telnet::Plain
    }

    /// Whether a subnegotiation has begun that has no end yet.
    pub fn is_subnegotiation(self) -> bool {
        matches!(self, Telnet::Subnegotiation | Telnet::SubnegotiationCommand)
    }

    /// Takes the next byte of the stream.
    pub fn feed(&mut self, byte: u8) -> Nvt {
        let (next, nvt) = match (*self, byte) {
            (Telnet::Plain, IAC) => (Telnet::Command, Nvt::Nothing),
            (Telnet::Plain, data) => (Telnet::Plain, Nvt::Data(data)),
            (Telnet::Command, IAC) => (Telnet::Plain, Nvt::Data(IAC)),
            (Telnet::Command, SB) => (Telnet::Subnegotiation, Nvt::Nothing),
            (Telnet::Command, verb @ (WILL | WONT | DO | DONT)) => (Telnet::Option(verb), Nvt::Nothing),
            (Telnet::Command, AYT) => (Telnet::Plain, Nvt::AreYouThere),
            (Telnet::Command, EC) => (Telnet::Plain, Nvt::EraseCharacter),
            (Telnet::Command, EL | IP) => (Telnet::Plain, Nvt::EraseLine),
            (Telnet::Command, _) => (Telnet::Plain, Nvt::Nothing),
            (Telnet::Option(WILL), option) => (Telnet::Plain, Nvt::Refuse([IAC, DONT, option])),
            (Telnet::Option(DO), option) => (Telnet::Plain, Nvt::Refuse([IAC, WONT, option])),
            (Telnet::Option(_), _) => (Telnet::Plain, Nvt::Nothing),
            (Telnet::Subnegotiation, IAC) => (Telnet::SubnegotiationCommand, Nvt::Nothing),
            (Telnet::Subnegotiation, _) => (Telnet::Subnegotiation, Nvt::Nothing),
            (Telnet::SubnegotiationCommand, SE) => (Telnet::Plain, Nvt::Nothing),
            (Telnet::SubnegotiationCommand, _) => (Telnet::Subnegotiation, Nvt::Nothing),
        };
        *self = next;
        nvt
    }
}
