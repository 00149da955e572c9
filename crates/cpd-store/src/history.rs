//! What a store's folder records about its store, in a file of its own: the number in the header of the store's file,
//! which tells a log of this file from a log of another one, and the message ids that were given out. The name of the
//! history file begins with a dot, so that nobody takes it away or copies it together with the store.
//!
//! Each start gives the store's file a new number. A crash in between does no harm: the file has the old or the new
//! number, and both are on record until the change is complete.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use cpd_core::sabotage;

use super::open_error::{OpenError, system_error};
use super::paths::careful_options;

/// Offset of a field in the header of a SQLite file that nothing uses any more (`default_cache_size`); it holds the
/// store's number.
const NUMBER_OFFSET: u64 = 48;
/// Bits of that number: SQLite takes the field for a signed integer and uses its absolute value.
const NUMBER_MASK: u32 = 0x7fff_ffff;
/// Offsets of the two slots to which records are written alternately, so that an interrupted write leaves the record
/// before it intact.
const SLOT_OFFSETS: [u64; 2] = [0, 4096];
/// Bytes of a slot: a disk writes this much either completely or not at all.
const SLOT_BYTES: usize = 512;
/// The number of a backup. It says that no log belongs to the file.
pub const COPY_NUMBER: u32 = 0;
/// The beginning of each record: its format and the version of that.
const RECORD_PREFIX: &str = "cpd-history 1";

/// Gap between the last known message id and the first new one after a store was replaced by a copy: messages that were
/// stored after the copy was made had ids too.
pub const ID_GAP: u64 = 1 << 40;

/// What the history records about the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HistoryRecord {
    /// The number of the store's file.
    pub number: u32,
    /// The number that the file is being given; 0 when it is not being given one.
    pub next_number: u32,
    /// The number of a copy that is replacing the store; 0 when there is none.
    pub restore_number: u32,
    /// When that replacement began, in seconds since 1970; the names of the old files that are kept contain this time.
    pub restore_time: u64,
    /// Message ids below this may have been given out.
    pub reserved: u64,
}

impl HistoryRecord {
    /// Whether the file with this number is the store that the record describes.
    pub fn matches(&self, number: u32) -> bool {
        number == self.number || (self.next_number != 0 && number == self.next_number)
    }
}

/// The history file of a store.
#[derive(Debug)]
pub struct History {
    path: PathBuf,
    exists: bool,
    record: Option<HistoryRecord>,
    /// Sequence number of `record`; it is 1 for the first that was written.
    sequence: u64,
    /// The history file, open for writing; `None` before the first write.
    open: Option<File>,
}

impl History {
    /// Reads the history of `store` without changing anything. It is no error if there is none.
    pub fn read(store: &Path) -> io::Result<History> {
        let path = path(store);
        let (mut record, mut sequence) = (None, 0);
        let file = match careful_options().read(true).open(&path) {
            Ok(file) => Some(file),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        for offset in SLOT_OFFSETS {
            let mut bytes = [0; SLOT_BYTES];
            let read = file.as_ref().map_or(Ok(&[][..]), |file| read_up_to(file, offset, &mut bytes))?;
            if let Some((found_sequence, found)) = parse_record(read)
                && (record.is_none() || found_sequence > sequence)
            {
                (record, sequence) = (Some(found), found_sequence);
            }
        }
        Ok(History { path, exists: file.is_some(), record, sequence, open: None })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is a history file: if so, the folder has had a store.
    pub fn exists(&self) -> bool {
        self.exists
    }

    /// The current record. `None`: there is no history file, or it has no intact record.
    pub fn record(&self) -> Option<&HistoryRecord> {
        self.record.as_ref()
    }

    /// Replaces the current record by `record`, on stable storage.
    pub fn write(&mut self, record: HistoryRecord) -> io::Result<()> {
        let sequence = self.sequence.saturating_add(1);
        let [odd, even] = SLOT_OFFSETS;
        let offset = if sequence.is_multiple_of(2) { even } else { odd };
        let file = match self.open.take() {
            Some(file) => file,
            None => {
                careful_options().read(true).write(true).create(true).truncate(false).mode(0o600).open(&self.path)?
            }
        };
        file.write_all_at(&format_record(sequence, &record), offset)?;
        file.sync_data()?;
        if !self.exists {
            let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
            let synced = File::open(folder.unwrap_or(Path::new("."))).and_then(|folder| folder.sync_all());
            if !sabotage::is_ordered(sabotage::Fault::DeafFolder) {
                synced?;
            }
        }
        (self.open, self.exists, self.sequence, self.record) = (Some(file), true, sequence, Some(record));
        Ok(())
    }

    /// Records that ids below `reserved` may be in use. Call this before they are given out.
    pub fn reserve(&mut self, reserved: u64) -> io::Result<()> {
        match self.record {
            Some(record) if record.reserved < reserved => self.write(HistoryRecord { reserved, ..record }),
            _ => Ok(()),
        }
    }
}

/// Reads the history in the store's folder.
pub fn read_history(store: &Path) -> Result<History, OpenError> {
    History::read(store).map_err(|e| system_error(&path(store), "cannot read", &e))
}

/// The path of the history of `store`.
pub fn path(store: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(store.file_name().unwrap_or_default());
    name.push(".history");
    store.with_file_name(name)
}

/// The number in the header of a store's file, read without its log. It changes only when cpd starts: a file with
/// another number than at the start is another file, or was overwritten with another one. 0: a copy, or a store that no
/// start has numbered yet. `None`: the file is too short for a header.
pub fn read_number(file: &File) -> io::Result<Option<u32>> {
    let mut bytes = [0; 4];
    match file.read_exact_at(&mut bytes, NUMBER_OFFSET) {
        Ok(()) => Ok(Some(u32::from_be_bytes(bytes) & NUMBER_MASK)),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(e) => Err(e),
    }
}

/// Writes this number into a complete file that has no log and that SQLite does not have open.
pub fn set_number(file: &File, number: u32) -> io::Result<()> {
    file.write_all_at(&number.to_be_bytes(), NUMBER_OFFSET)
}

/// Replaces the number in the first bytes of a store's file by 0.
pub fn zero_number(head: &mut [u8]) {
    let at = usize::try_from(NUMBER_OFFSET).unwrap_or(usize::MAX);
    head.iter_mut().skip(at).take(4).for_each(|byte| *byte = 0);
}

/// A random number, which is not `old` and which hardly any other store can have.
///
/// # Errors
/// The system provides no random numbers.
pub fn new_number(old: u32) -> io::Result<u32> {
    loop {
        let mut bytes = [0; 4];
        getrandom::fill(&mut bytes).map_err(|e| io::Error::other(e.to_string()))?;
        let number = u32::from_be_bytes(bytes) & NUMBER_MASK;
        if number != 0 && number != old {
            return Ok(number);
        }
    }
}

/// Reads into `bytes` from `offset` on, and returns what was read; it is shorter than `bytes` at the end of the file.
pub fn read_up_to<'b>(file: &File, offset: u64, bytes: &'b mut [u8]) -> io::Result<&'b [u8]> {
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset.saturating_add(filled as u64)) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(bytes.get(..filled).unwrap_or_default())
}

/// A record as it is written to its slot: a line of text that ends with its checksum.
fn format_record(sequence: u64, record: &HistoryRecord) -> Vec<u8> {
    let HistoryRecord { number, next_number, restore_number, restore_time, reserved } = record;
    let text = format!("{RECORD_PREFIX} {sequence} {number} {next_number} {restore_number} {restore_time} {reserved}");
    let mut bytes = format!("{text} {}\n", crc32fast::hash(text.as_bytes())).into_bytes();
    bytes.resize(SLOT_BYTES, b'\n');
    bytes
}

/// The record in a slot and its sequence number. `None`: the slot has no intact record.
fn parse_record(bytes: &[u8]) -> Option<(u64, HistoryRecord)> {
    let text = std::str::from_utf8(bytes).ok()?.lines().next()?;
    let (text, sum) = text.rsplit_once(' ')?;
    if sum.parse() != Ok(crc32fast::hash(text.as_bytes())) {
        return None;
    }
    let mut fields = text.strip_prefix(RECORD_PREFIX)?.split_whitespace().map(str::parse::<u64>);
    let mut field = || fields.next()?.ok();
    let sequence = field()?;
    let number = u32::try_from(field()?).ok()?;
    let next_number = u32::try_from(field()?).ok()?;
    let restore_number = u32::try_from(field()?).ok()?;
    let (restore_time, reserved) = (field()?, field()?);
    Some((sequence, HistoryRecord { number, next_number, restore_number, restore_time, reserved }))
}

/// The number of the store at `path`; `None` when there is no such file, or one too short for a header.
pub fn read_number_at(path: &Path) -> io::Result<Option<u32>> {
    match careful_options().read(true).open(path) {
        Ok(file) => read_number(&file),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_last_whole_record_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = folder.path().join("cpd.db");
        let mut history = History::read(&store).expect("reads");
        assert!(!history.exists() && history.record().is_none());
        let file = folder.path().join(".cpd.db.history");
        assert!(!file.exists(), "reading makes nothing");
        for number in 1..=7 {
            history
                .write(HistoryRecord { number, next_number: number + 1, reserved: 65_536, ..HistoryRecord::default() })
                .expect("writes");
            let read = History::read(&store).expect("reads");
            assert_eq!((read.exists(), read.record()), (true, history.record()));
        }
        let whole = fs::read(&file).expect("reads");
        // Cutting off the older of the two records changes nothing. Without the newer one, the older one counts.
        for (offset, left) in [(4096, 7), (0, 6)] {
            for cut in [0, 1, 20, 511] {
                let mut torn = whole.clone();
                torn[offset + cut..(offset + SLOT_BYTES)].fill(0);
                fs::write(&file, &torn).expect("writes");
                let number = History::read(&store).expect("reads").record().map(|record| record.number);
                let untouched = cut == 511;
                assert_eq!(number, Some(if untouched { 7 } else { left }), "{offset} {cut}");
            }
        }
        for nothing in [&b""[..], b"hello\n", &[0; 5000]] {
            fs::write(&file, nothing).expect("writes");
            let read = History::read(&store).expect("reads");
            assert!(read.exists() && read.record().is_none());
        }
    }

    #[test]
    fn ids_are_never_taken_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut history = History::read(&folder.path().join("cpd.db")).expect("reads");
        history.write(HistoryRecord { number: 5, reserved: 10, ..HistoryRecord::default() }).expect("writes");
        history.reserve(20).expect("writes");
        history.reserve(15).expect("is known");
        assert_eq!(history.record(), Some(&HistoryRecord { number: 5, reserved: 20, ..HistoryRecord::default() }));
    }

    #[test]
    fn numbers_are_new() {
        let numbers: std::collections::BTreeSet<u32> = (0..100).map(|_| new_number(3).expect("a number")).collect();
        assert!(numbers.len() > 95 && !numbers.contains(&0) && !numbers.contains(&3));
        assert!(numbers.iter().all(|number| *number <= NUMBER_MASK));
    }
}
