//! The pages of a store's file with its log applied, read without SQLite: the only way to read a file that SQLite finds
//! too damaged. The formats are those of <https://www.sqlite.org/fileformat.html>.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::format::PAGE_BYTES;
use super::paths::careful_options;

/// Bytes of a page.
pub const PAGE_SIZE: usize = PAGE_BYTES as usize;
const LOG_HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
/// The first word of a log; if its lowest bit is set, its checksums read the bytes as big-endian words.
const LOG_MAGIC: u32 = 0x377f_0682;

/// A store's file with its log applied.
#[derive(Debug)]
pub struct Pages {
    file: File,
    count: u32,
    log: Option<File>,
    /// The offset in the log of the newest committed image of each page that is in it.
    log_offsets: BTreeMap<u32, u64>,
    /// Number of damaged frames in the log.
    pub damaged_frames: u64,
}

impl Pages {
    /// Opens the file at `path`, and the log if there is one.
    ///
    /// # Errors
    /// One of them cannot be opened or read.
    pub fn open(path: &Path, log: Option<&Path>) -> io::Result<Pages> {
        let file = careful_options().read(true).open(path)?;
        let count = u32::try_from(file.metadata()?.len() / u64::from(PAGE_BYTES)).unwrap_or(u32::MAX);
        let mut pages = Pages { file, count, log: None, log_offsets: BTreeMap::new(), damaged_frames: 0 };
        match log.map(|log| careful_options().read(true).open(log)) {
            Some(Ok(log)) => {
                pages.read_log(&log)?;
                pages.log = Some(log);
            }
            Some(Err(e)) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        Ok(pages)
    }

    /// Number of pages; the first has the number 1.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Reads a page; `None` if there is no such page or it cannot be read.
    pub fn page(&self, number: u32) -> Option<Vec<u8>> {
        let mut bytes = vec![0; PAGE_SIZE];
        if let (Some(offset), Some(log)) = (self.log_offsets.get(&number), &self.log) {
            return log.read_exact_at(&mut bytes, *offset).is_ok().then_some(bytes);
        }
        let offset = u64::from(number.checked_sub(1)?) * u64::from(PAGE_BYTES);
        self.file.read_exact_at(&mut bytes, offset).is_ok().then_some(bytes)
    }

    /// Finds the pages of which the log has a newer image, up to the last commit in it. A damaged frame is skipped; the
    /// checksum of each frame continues from the one that is stored in the frame before.
    fn read_log(&mut self, log: &File) -> io::Result<()> {
        let length = log.metadata()?.len();
        let mut head = [0; LOG_HEADER];
        if length < LOG_HEADER as u64 {
            return Ok(());
        }
        log.read_exact_at(&mut head, 0)?;
        let (magic, size) = (read_u32(&head, 0), read_u32(&head, 8));
        if magic & !1 != LOG_MAGIC || size != PAGE_BYTES {
            self.damaged_frames += length / (FRAME_HEADER + PAGE_SIZE) as u64;
            return Ok(());
        }
        let big_endian = magic & 1 == 1;
        let salts = head.get(16..24).map(<[u8]>::to_vec);
        let mut sum = (read_u32(&head, 24), read_u32(&head, 28));
        let (mut uncommitted, mut offset) = (Vec::new(), LOG_HEADER as u64);
        while offset + (FRAME_HEADER + PAGE_SIZE) as u64 <= length {
            let mut frame = vec![0; FRAME_HEADER + PAGE_SIZE];
            log.read_exact_at(&mut frame, offset)?;
            // Frames that an earlier log has left behind have other salts.
            if frame.get(8..16).map(<[u8]>::to_vec) != salts {
                break;
            }
            let (number, commit) = (read_u32(&frame, 0), read_u32(&frame, 4));
            let written = (read_u32(&frame, 16), read_u32(&frame, 20));
            let (head, page) = frame.split_at(FRAME_HEADER);
            let found = checksum(checksum(sum, head.get(..8).unwrap_or_default(), big_endian), page, big_endian);
            match found == written {
                true => uncommitted.push((number, offset + FRAME_HEADER as u64)),
                false => self.damaged_frames += 1,
            }
            if found == written && commit != 0 {
                self.log_offsets.extend(uncommitted.drain(..));
                self.count = self.count.max(commit);
            }
            sum = written;
            offset += (FRAME_HEADER + PAGE_SIZE) as u64;
        }
        Ok(())
    }
}

fn checksum((mut one, mut two): (u32, u32), bytes: &[u8], big_endian: bool) -> (u32, u32) {
    let read = |bytes: [u8; 4]| if big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) };
    for pair in bytes.as_chunks::<8>().0 {
        let [a, b, c, d, e, f, g, h] = *pair;
        one = one.wrapping_add(read([a, b, c, d])).wrapping_add(two);
        two = two.wrapping_add(read([e, f, g, h])).wrapping_add(one);
    }
    (one, two)
}

/// The big-endian number in the four bytes at `at`; 0 beyond the end.
pub fn read_u32(bytes: &[u8], at: usize) -> u32 {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found.map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// The big-endian number in the two bytes at `at`; 0 beyond the end.
pub fn read_u16(bytes: &[u8], at: usize) -> usize {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found.map_or(0, |bytes| usize::from(u16::from_be_bytes(*bytes)))
}
