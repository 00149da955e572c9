//! The NVT commands of RFC 854 ahead of framing (docs/protocol.md section 10): a plain `telnet` is a full client.

/// Begins a command; doubled, it is a data byte.
pub const IAC: u8 = 255;
/// The lowest command that there is, the client's end; what is below makes no command of the IAC before it.
const EOF: u8 = 236;
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
    /// The IAC before this byte began no command: it is a byte of data, and this one is still to be fed.
    Stray,
    /// The client has said that nothing more comes.
    End,
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
    /// The client's end came: whatever follows is nothing.
    Ended,
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

    /// Whether an IAC came of which nobody knows yet what it begins.
    pub fn is_open(self) -> bool {
        self == Telnet::Command
    }

    /// Whether the client has said that nothing more comes.
    pub fn has_ended(self) -> bool {
        self == Telnet::Ended
    }

    /// The stream stops behind an IAC: whether it did; such an IAC is a byte of data.
    pub fn close(&mut self) -> bool {
        let open = self.is_open();
        if open {
            *self = Telnet::Plain;
        }
        open
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
            (Telnet::Command, EOF) => (Telnet::Ended, Nvt::End),
            (Telnet::Command, EC) => (Telnet::Plain, Nvt::EraseCharacter),
            (Telnet::Command, EL | IP) => (Telnet::Plain, Nvt::EraseLine),
            (Telnet::Command, ..EOF) => (Telnet::Plain, Nvt::Stray),
            (Telnet::Command, _) => (Telnet::Plain, Nvt::Nothing),
            (Telnet::Option(WILL), option) => (Telnet::Plain, Nvt::Refuse([IAC, DONT, option])),
            (Telnet::Option(DO), option) => (Telnet::Plain, Nvt::Refuse([IAC, WONT, option])),
            (Telnet::Option(_), _) => (Telnet::Plain, Nvt::Nothing),
            (Telnet::Subnegotiation, IAC) => (Telnet::SubnegotiationCommand, Nvt::Nothing),
            (Telnet::Subnegotiation, _) => (Telnet::Subnegotiation, Nvt::Nothing),
            (Telnet::SubnegotiationCommand, SE) => (Telnet::Plain, Nvt::Nothing),
            (Telnet::SubnegotiationCommand, _) => (Telnet::Subnegotiation, Nvt::Nothing),
            (Telnet::Ended, _) => (Telnet::Ended, Nvt::Nothing),
        };
        *self = next;
        nvt
    }
}
