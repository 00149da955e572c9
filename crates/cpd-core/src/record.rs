//! The encoding of the records that a process hands over to its successor. Integers are little-endian, a byte string
//! follows its length, and the reader accepts no byte string that is longer than its caller allows. A record may hold a
//! password that a client has sent and that was not verified yet.

use cp_proto::secret::WipedBytes;

/// The format of a record. Each kind of record has a version number of its own; the reader of its first two bytes
/// translates that number into this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordFormat {
    /// The format before the current one: that of 0.1.0 for a session's record, that of 0.1.0 and 0.2.0 for the record
    /// of what no session owns.
    Previous,
    /// The format that this version writes.
    Current,
}

/// Builds a record by appending values.
#[derive(Debug, Default)]
pub struct RecordWriter {
    bytes: WipedBytes,
}

impl RecordWriter {
    /// Begins with `magic`, without a length before it.
    pub fn starting_with(magic: &[u8]) -> RecordWriter {
        RecordWriter { bytes: WipedBytes::concat(&[magic]) }
    }

    /// Appends one byte.
    pub fn u8(&mut self, value: u8) {
        self.bytes.append(&[value]);
    }

    /// Appends two bytes.
    pub fn u16(&mut self, value: u16) {
        self.bytes.append(&value.to_le_bytes());
    }

    /// Appends four bytes.
    pub fn u32(&mut self, value: u32) {
        self.bytes.append(&value.to_le_bytes());
    }

    /// Appends eight bytes.
    pub fn u64(&mut self, value: u64) {
        self.bytes.append(&value.to_le_bytes());
    }

    /// Appends one byte, 0 or 1.
    pub fn bool(&mut self, value: bool) {
        self.u8(u8::from(value));
    }

    /// Appends the length of `value` in 32 bits, then `value` itself.
    pub fn bytes(&mut self, value: &[u8]) {
        self.u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
        self.bytes.append(value);
    }

    /// The record.
    pub fn into_bytes(self) -> WipedBytes {
        self.bytes
    }
}

/// Reads a record's values from the front. Every method returns `None` if the bytes that are left do not begin with the
/// value asked for; the record is then unsound and must not be used.
#[derive(Debug, Clone, Copy)]
pub struct RecordReader<'a> {
    rest: &'a [u8],
}

impl<'a> RecordReader<'a> {
    /// Reads from the beginning of `bytes`.
    pub fn new(bytes: &'a [u8]) -> RecordReader<'a> {
        RecordReader { rest: bytes }
    }

    /// Reads one byte.
    pub fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(u8::from_le_bytes)
    }

    /// Reads two bytes.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    /// Reads four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// Reads eight bytes.
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// Reads one byte, which must be 0 or 1.
    pub fn bool(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    /// Reads a byte string; `None` also if it is longer than `max` bytes.
    pub fn bytes(&mut self, max: usize) -> Option<&'a [u8]> {
        let length = usize::try_from(self.u32()?).ok().filter(|length| *length <= max)?;
        let (bytes, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(bytes)
    }

    /// Checks that the whole record has been read; `None` if bytes are left over.
    pub fn expect_end(self) -> Option<()> {
        self.rest.is_empty().then_some(())
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*bytes)
    }
}
