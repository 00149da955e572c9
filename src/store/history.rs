//! What a store's folder knows of its store, beside the store: the number in the header of the store's file, by which a
//! log that belongs to another file is told from its own, and the message ids that were given out. The file's name begins
//! with a dot, so that nobody takes it away or copies it together with the store.
//!
//! Each start gives the store's file a new number. A crash in the middle of that is no riddle: the file has the old or the
//! new number, and both are on record until the change is settled.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::entry;
use crate::sabotage;

/// Where a SQLite file keeps a number that nothing uses any more (`default_cache_size`).
const NUMBER_OFFSET: u64 = 48;
/// Bits of that number: SQLite takes it for a signed one, and its amount.
const NUMBER_MASK: u32 = 0x7fff_ffff;
/// Records are written in turn to two places, so that a write that is cut leaves the one before.
const PLACES: [u64; 2] = [0, 4096];
/// Bytes of a place: what a disk writes whole or not at all.
const PLACE_BYTES: usize = 512;
/// The number of a backup: no log belongs to it.
pub const NO_LOG: u32 = 0;
/// The word that begins a record, with its version.
const HEAD: &str = "cpd-history 1";

/// How far ids go on above every one that is known, where a store was replaced by a copy: what was stored after the copy
/// was made had ids as well.
pub const IDS_APART: u64 = 1 << 40;

/// What the folder knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Record {
    /// The number of the store's file.
    pub number: u32,
    /// The number that it is being given; 0 when it is not.
    pub next: u32,
    /// The number of a copy that is being put in the store's place; 0 when none is.
    pub put: u32,
    /// When that began, in seconds since 1970: the name under which the old files are kept.
    pub put_at: u64,
    /// Message ids below this may have been given out.
    pub reserved: u64,
}

impl Record {
    /// Whether the file with this number is the one that is meant.
    pub fn knows(&self, number: u32) -> bool {
        number == self.number || (self.next != 0 && number == self.next)
    }
}

/// The file of records.
#[derive(Debug)]
pub struct History {
    path: PathBuf,
    exists: bool,
    record: Option<Record>,
    turn: u64,
    open: Option<File>,
}

impl History {
    /// Reads what the folder of `store` knows; changes nothing.
    pub fn read(store: &Path) -> io::Result<History> {
        let path = path(store);
        let (mut record, mut turn) = (None, 0);
        let file = match entry::carefully().read(true).open(&path) {
            Ok(file) => Some(file),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        for place in PLACES {
            let mut bytes = [0; PLACE_BYTES];
            let read = file.as_ref().map_or(Ok(0), |file| read_up_to(file, &mut bytes, place))?;
            if let Some((found_turn, found)) = bytes.get(..read).and_then(parse)
                && (record.is_none() || found_turn > turn)
            {
                (record, turn) = (Some(found), found_turn);
            }
        }
        Ok(History { path, exists: file.is_some(), record, turn, open: None })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the folder had a store.
    pub fn exists(&self) -> bool {
        self.exists
    }

    /// What is on record; `None` also when the file cannot be made sense of.
    pub fn record(&self) -> Option<&Record> {
        self.record.as_ref()
    }

    /// Puts `record` in the place of what is on record, on stable storage.
    pub fn write(&mut self, record: Record) -> io::Result<()> {
        let turn = self.turn.saturating_add(1);
        let place = PLACES[usize::from(turn.is_multiple_of(2))];
        let file = match self.open.take() {
            Some(file) => file,
            None => {
                entry::carefully().read(true).write(true).create(true).truncate(false).mode(0o600).open(&self.path)?
            }
        };
        file.write_all_at(&show(turn, &record), place)?;
        file.sync_data()?;
        if !self.exists {
            let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
            let synced = File::open(folder.unwrap_or(Path::new("."))).and_then(|folder| folder.sync_all());
            if !sabotage::is(sabotage::Fault::DeafFolder) {
                synced?;
            }
        }
        (self.open, self.exists, self.turn, self.record) = (Some(file), true, turn, Some(record));
        Ok(())
    }

    /// Records that ids below `reserved` may be in use, before they are.
    pub fn reserve(&mut self, reserved: u64) -> io::Result<()> {
        match self.record {
            Some(record) if record.reserved < reserved => self.write(Record { reserved, ..record }),
            _ => Ok(()),
        }
    }
}

/// The name of the history of `store`.
pub fn path(store: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(store.file_name().unwrap_or_default());
    name.push(".history");
    store.with_file_name(name)
}

/// The number in the header of a store's file, read without its log. It changes when cpd starts and at no other time, so a
/// file that has another number than at the start is another file, or another one was written over it. 0: a copy, or a
/// store that no start has given a number yet. `None`: the file is too short for a header.
pub fn number_of(file: &File) -> io::Result<Option<u32>> {
    let mut bytes = [0; 4];
    match file.read_exact_at(&mut bytes, NUMBER_OFFSET) {
        Ok(()) => Ok(Some(u32::from_be_bytes(bytes) & NUMBER_MASK)),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(e) => Err(e),
    }
}

/// Gives a whole, closed file without a log this number.
pub fn set_number(file: &File, number: u32) -> io::Result<()> {
    file.write_all_at(&number.to_be_bytes(), NUMBER_OFFSET)
}

/// Takes the number out of the first bytes of a store's file.
pub fn blank_number(head: &mut [u8]) {
    let at = usize::try_from(NUMBER_OFFSET).unwrap_or(usize::MAX);
    head.iter_mut().skip(at).take(4).for_each(|byte| *byte = 0);
}

/// A number that no other store has, as far as chance goes, and that is not `old`.
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

fn read_up_to(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut read = 0;
    while let Some(rest) = bytes.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset.saturating_add(read as u64)) {
            Ok(0) => break,
            Ok(count) => read += count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(read)
}

/// A record as it is written: a line that people can read, and its checksum.
fn show(turn: u64, record: &Record) -> Vec<u8> {
    let Record { number, next, put, put_at, reserved } = record;
    let text = format!("{HEAD} {turn} {number} {next} {put} {put_at} {reserved}");
    let mut bytes = format!("{text} {}\n", crc32fast::hash(text.as_bytes())).into_bytes();
    bytes.resize(PLACE_BYTES, b'\n');
    bytes
}

fn parse(bytes: &[u8]) -> Option<(u64, Record)> {
    let text = std::str::from_utf8(bytes).ok()?.lines().next()?;
    let (text, sum) = text.rsplit_once(' ')?;
    if sum.parse() != Ok(crc32fast::hash(text.as_bytes())) {
        return None;
    }
    let mut fields = text.strip_prefix(HEAD)?.split_whitespace().map(str::parse::<u64>);
    let mut field = || fields.next()?.ok();
    let turn = field()?;
    let number = u32::try_from(field()?).ok()?;
    let next = u32::try_from(field()?).ok()?;
    let put = u32::try_from(field()?).ok()?;
    let (put_at, reserved) = (field()?, field()?);
    Some((turn, Record { number, next, put, put_at, reserved }))
}

/// The number of the store at `path`; `None` when there is no such file, or one too short for a header.
pub fn number_at(path: &Path) -> io::Result<Option<u32>> {
    match entry::carefully().read(true).open(path) {
        Ok(file) => number_of(&file),
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
            history.write(Record { number, next: number + 1, reserved: 65_536, ..Record::default() }).expect("writes");
            let read = History::read(&store).expect("reads");
            assert_eq!((read.exists(), read.record()), (true, history.record()));
        }
        let whole = fs::read(&file).expect("reads");
        // The place that would be written next, cut anywhere, changes nothing; the one that was written last gives way to
        // the one before.
        for (place, left) in [(4096, 7), (0, 6)] {
            for cut in [0, 1, 20, 511] {
                let mut torn = whole.clone();
                torn[place + cut..(place + PLACE_BYTES)].fill(0);
                fs::write(&file, &torn).expect("writes");
                let number = History::read(&store).expect("reads").record().map(|record| record.number);
                let untouched = cut == 511;
                assert_eq!(number, Some(if untouched { 7 } else { left }), "{place} {cut}");
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
        history.write(Record { number: 5, reserved: 10, ..Record::default() }).expect("writes");
        history.reserve(20).expect("writes");
        history.reserve(15).expect("is known");
        assert_eq!(history.record(), Some(&Record { number: 5, reserved: 20, ..Record::default() }));
    }

    #[test]
    fn numbers_are_new() {
        let numbers: std::collections::BTreeSet<u32> = (0..100).map(|_| new_number(3).expect("a number")).collect();
        assert!(numbers.len() > 95 && !numbers.contains(&0) && !numbers.contains(&3));
        assert!(numbers.iter().all(|number| *number <= NUMBER_MASK));
    }
}
