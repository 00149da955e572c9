//! The pages of a store's file as they are after its log, read without SQLite: what is left to read where SQLite finds a
//! file too damaged. The formats are those of <https://www.sqlite.org/fileformat.html>.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::entry;
use super::schema::PAGE_BYTES;

/// Bytes of a page.
pub const PAGE: usize = PAGE_BYTES as usize;
const LOG_HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
/// The first word of a log; its last bit says in which order its checksums take the bytes.
const LOG_MAGIC: u32 = 0x377f_0682;

/// A store's file and its log.
#[derive(Debug)]
pub struct Pages {
    file: File,
    count: u32,
    log: Option<File>,
    /// Where in the log the newest image of a page is.
    newer: BTreeMap<u32, u64>,
    /// Frames of the log that are damaged.
    pub damaged_frames: u64,
}

impl Pages {
    pub fn open(path: &Path, log: Option<&Path>) -> io::Result<Pages> {
        let file = entry::carefully().read(true).open(path)?;
        let count = u32::try_from(file.metadata()?.len() / u64::from(PAGE_BYTES)).unwrap_or(u32::MAX);
        let mut pages = Pages { file, count, log: None, newer: BTreeMap::new(), damaged_frames: 0 };
        match log.map(|log| entry::carefully().read(true).open(log)) {
            Some(Ok(log)) => {
                pages.read_log(&log)?;
                pages.log = Some(log);
            }
            Some(Err(e)) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        Ok(pages)
    }

    /// Pages of the file; they are counted from 1.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// A page, or `None` where there is none or the disk does not give it.
    pub fn page(&self, number: u32) -> Option<Vec<u8>> {
        let mut bytes = vec![0; PAGE];
        if let (Some(offset), Some(log)) = (self.newer.get(&number), &self.log) {
            return log.read_exact_at(&mut bytes, *offset).is_ok().then_some(bytes);
        }
        let offset = u64::from(number.checked_sub(1)?) * u64::from(PAGE_BYTES);
        self.file.read_exact_at(&mut bytes, offset).is_ok().then_some(bytes)
    }

    /// Learns which frames of the log are newer than the file: those up to the end of the last commit. A frame that is
    /// damaged is left out; each checksum goes on from the one before, as it is written there.
    fn read_log(&mut self, log: &File) -> io::Result<()> {
        let length = log.metadata()?.len();
        let mut head = [0; LOG_HEADER];
        if length < LOG_HEADER as u64 {
            return Ok(());
        }
        log.read_exact_at(&mut head, 0)?;
        let (magic, size) = (word(&head, 0), word(&head, 8));
        if magic & !1 != LOG_MAGIC || size != PAGE_BYTES {
            self.damaged_frames += length / (FRAME_HEADER + PAGE) as u64;
            return Ok(());
        }
        let big = magic & 1 == 1;
        let salts = head.get(16..24).map(<[u8]>::to_vec);
        let mut sum = (word(&head, 24), word(&head, 28));
        let (mut waiting, mut offset) = (Vec::new(), LOG_HEADER as u64);
        while offset + (FRAME_HEADER + PAGE) as u64 <= length {
            let mut frame = vec![0; FRAME_HEADER + PAGE];
            log.read_exact_at(&mut frame, offset)?;
            // What an earlier log left has other salts.
            if frame.get(8..16).map(<[u8]>::to_vec) != salts {
                break;
            }
            let (number, commit) = (word(&frame, 0), word(&frame, 4));
            let written = (word(&frame, 16), word(&frame, 20));
            let (head, page) = frame.split_at(FRAME_HEADER);
            let found = checksum(checksum(sum, head.get(..8).unwrap_or_default(), big), page, big);
            match found == written {
                true => waiting.push((number, offset + FRAME_HEADER as u64)),
                false => self.damaged_frames += 1,
            }
            if found == written && commit != 0 {
                self.newer.extend(waiting.drain(..));
                self.count = self.count.max(commit);
            }
            sum = written;
            offset += (FRAME_HEADER + PAGE) as u64;
        }
        Ok(())
    }
}

fn checksum((mut one, mut two): (u32, u32), bytes: &[u8], big: bool) -> (u32, u32) {
    let read = |bytes: [u8; 4]| if big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) };
    for pair in bytes.as_chunks::<8>().0 {
        let [a, b, c, d, e, f, g, h] = *pair;
        one = one.wrapping_add(read([a, b, c, d])).wrapping_add(two);
        two = two.wrapping_add(read([e, f, g, h])).wrapping_add(one);
    }
    (one, two)
}

/// The four bytes at `at`; 0 beyond the end.
pub fn word(bytes: &[u8], at: usize) -> u32 {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found.map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// The two bytes at `at`; 0 beyond the end.
pub fn half(bytes: &[u8], at: usize) -> usize {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found.map_or(0, |bytes| usize::from(u16::from_be_bytes(*bytes)))
}
