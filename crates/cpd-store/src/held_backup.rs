//! A finished copy of the store that an operator may read.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Maximum number of bytes in one answer to a read.
pub const BACKUP_READ_MAX_BYTES: u32 = 1024 * 1024;

/// A finished copy. Its file has no name any more, so it disappears with this value or with the process.
pub struct HeldBackup {
    pub number: u64,
    pub bytes: u64,
    pub file: File,
}

impl HeldBackup {
    /// Reads up to `length` bytes from `offset`, at most [`BACKUP_READ_MAX_BYTES`]; fewer at the end of the copy.
    pub fn read(&self, offset: u64, length: u32) -> io::Result<Vec<u8>> {
        let wanted = u64::from(length.min(BACKUP_READ_MAX_BYTES)).min(self.bytes.saturating_sub(offset));
        let mut bytes = vec![0; usize::try_from(wanted).unwrap_or(0)];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }
}
