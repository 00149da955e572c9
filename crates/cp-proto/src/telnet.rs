//! Parses the NVT commands of RFC 854 before lines are framed, so that a plain `telnet` is a full client
//! (docs/protocol.md section 10).

/// The byte that begins a command. Two of them are one data byte.
pub const IAC: u8 = 255;
/// The command by which a client ends its stream. It is the lowest command: an IAC before a lower byte is a data byte.
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

/// The answer to the command AYT ("are you there"): a line that is not a PDU.
pub const AYT_ANSWER: &[u8] = b"[yes]\r\n";

/// The meaning of one byte of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NvtEvent {
    /// A data byte.
    Data(u8),
    /// Part of a command that is not complete, or the end of one that CP ignores.
    Nothing,
    /// The client asked for an option or offered one; these bytes refuse it and must be sent.
    Refuse([u8; 3]),
    AreYouThere,
    EraseCharacter,
    EraseLine,
    /// The IAC before this byte did not begin a command and is a data byte. This byte must be fed again.
    StrayIac,
    /// The client ends its stream.
    End,
}

/// The state of the parser between two bytes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum NvtParser {
    /// Outside of any command.
    #[default]
    Plain,
    /// After an IAC.
    Command,
    /// After WILL, WONT, DO or DONT, which is the value; the option follows.
    Option(u8),
    Subnegotiation,
    /// After an IAC within a subnegotiation.
    SubnegotiationCommand,
    /// The client has ended its stream. All further bytes are ignored.
    Ended,
}

impl NvtParser {
    /// Whether the stream is outside of any command, so that the next byte is data unless it is an IAC.
    pub fn is_plain(self) -> bool {
        self == NvtParser::Plain
    }

    /// Whether a subnegotiation has begun and not ended.
    pub fn is_subnegotiation(self) -> bool {
        matches!(self, NvtParser::Subnegotiation | NvtParser::SubnegotiationCommand)
    }

    /// Whether the last byte was an IAC whose meaning depends on the next byte.
    pub fn is_after_iac(self) -> bool {
        self == NvtParser::Command
    }

    /// Whether the client has ended its stream.
    pub fn has_ended(self) -> bool {
        self == NvtParser::Ended
    }

    /// If the last byte was an IAC whose meaning is open, makes it a data byte, because the stream or the line ends
    /// here. Returns whether that was so; adding the byte to the line is left to the caller.
    pub fn end_lone_iac(&mut self) -> bool {
        let open = self.is_after_iac();
        if open {
            *self = NvtParser::Plain;
        }
        open
    }

    /// Parses the next byte of the stream.
    pub fn feed(&mut self, byte: u8) -> NvtEvent {
        let (next, nvt) = match (*self, byte) {
            (NvtParser::Plain, IAC) => (NvtParser::Command, NvtEvent::Nothing),
            (NvtParser::Plain, data) => (NvtParser::Plain, NvtEvent::Data(data)),
            (NvtParser::Command, IAC) => (NvtParser::Plain, NvtEvent::Data(IAC)),
            (NvtParser::Command, SB) => (NvtParser::Subnegotiation, NvtEvent::Nothing),
            (NvtParser::Command, verb @ (WILL | WONT | DO | DONT)) => (NvtParser::Option(verb), NvtEvent::Nothing),
            (NvtParser::Command, AYT) => (NvtParser::Plain, NvtEvent::AreYouThere),
            (NvtParser::Command, EOF) => (NvtParser::Ended, NvtEvent::End),
            (NvtParser::Command, EC) => (NvtParser::Plain, NvtEvent::EraseCharacter),
            (NvtParser::Command, EL | IP) => (NvtParser::Plain, NvtEvent::EraseLine),
            (NvtParser::Command, ..EOF) => (NvtParser::Plain, NvtEvent::StrayIac),
            (NvtParser::Command, _) => (NvtParser::Plain, NvtEvent::Nothing),
            (NvtParser::Option(WILL), option) => (NvtParser::Plain, NvtEvent::Refuse([IAC, DONT, option])),
            (NvtParser::Option(DO), option) => (NvtParser::Plain, NvtEvent::Refuse([IAC, WONT, option])),
            (NvtParser::Option(_), _) => (NvtParser::Plain, NvtEvent::Nothing),
            (NvtParser::Subnegotiation, IAC) => (NvtParser::SubnegotiationCommand, NvtEvent::Nothing),
            (NvtParser::Subnegotiation, _) => (NvtParser::Subnegotiation, NvtEvent::Nothing),
            (NvtParser::SubnegotiationCommand, SE) => (NvtParser::Plain, NvtEvent::Nothing),
            (NvtParser::SubnegotiationCommand, _) => (NvtParser::Subnegotiation, NvtEvent::Nothing),
            (NvtParser::Ended, _) => (NvtParser::Ended, NvtEvent::Nothing),
        };
        *self = next;
        nvt
    }
}
