//! Finding the end of a line: both the floor and the client spend much of their time here.

const BLOCK_BYTES: usize = 32;

/// The place of the first LF. Looks at whole blocks first, which the compiler turns into vector compares.
pub fn find_lf(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    for block in bytes.chunks_exact(BLOCK_BYTES) {
        if block.iter().fold(false, |found, b| found | (*b == b'\n')) {
            break;
        }
        at += BLOCK_BYTES;
    }
    bytes[at..].iter().position(|b| *b == b'\n').map(|i| at + i)
}

/// Gives `each` every complete line (with its LF) of what is kept in `carry` followed by `bytes`, and keeps the rest.
pub fn for_lines<E>(
    carry: &mut Vec<u8>,
    mut bytes: &[u8],
    mut each: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    if !carry.is_empty() {
        let Some(end) = find_lf(bytes) else {
            carry.extend_from_slice(bytes);
            return Ok(());
        };
        let (head, tail) = bytes.split_at(end + 1);
        carry.extend_from_slice(head);
        each(carry)?;
        carry.clear();
        bytes = tail;
    }
    while let Some(end) = find_lf(bytes) {
        let (line, tail) = bytes.split_at(end + 1);
        each(line)?;
        bytes = tail;
    }
    carry.extend_from_slice(bytes);
    Ok(())
}
