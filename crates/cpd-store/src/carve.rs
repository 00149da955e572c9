//! Finds the rows of a store page by page, without following the trees that lead to them: a sound row is recognised by
//! its checksum, wherever it lies. Deleted rows do not reappear, because cpd makes SQLite overwrite deleted content.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use cp_proto::values::Username;

use super::pages::{PAGE_SIZE, Pages, read_u16, read_u32};
use super::paths::with_suffix;
use super::row::{self, message_sum};
use super::users::{self, User};

/// Longest record, in bytes, that is assembled from its pages.
const RECORD_MAX_BYTES: usize = 64 * 1024;
/// Types of b-tree pages (SQLite file format, section 1.6).
const TABLE_LEAF: u8 = 0x0d;
const TABLE_INTERIOR: u8 = 0x05;
const INDEX_LEAF: u8 = 0x0a;
const INDEX_INTERIOR: u8 = 0x02;

/// A row whose checksum matches.
#[derive(Debug)]
pub enum CarvedRow {
    Message(CarvedMessage),
    User(User),
    /// A row of the table `seen`.
    Seen {
        user: String,
        address: String,
        at: u64,
    },
    /// The record of used message ids: those below this number may be in use.
    Reserved(u64),
    /// The mark by which a running cpd recognises its file (see [`super::watch`]).
    Mark,
}

/// A message as it stands in its row.
#[derive(Debug)]
pub struct CarvedMessage {
    pub id: u64,
    pub recipient: Username,
    pub sender: Username,
    pub queued_at: u64,
    pub body: Vec<u8>,
}

/// How much could not be recovered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Losses {
    pub messages: u64,
    /// Rows of other tables.
    pub others: u64,
    /// Pages, and frames of the log, whose rows cannot be counted.
    pub pages: u64,
}

/// Calls `on_row` for every sound row, once for each place where it is found.
pub fn each_row(pages: &Pages, mut on_row: impl FnMut(CarvedRow)) -> Losses {
    let mut lost = Losses { pages: pages.damaged_frames, ..Losses::default() };
    // Pages that are referred to, beginning with the first, and pages that were found to belong to a tree.
    let (mut wanted, mut had) = (BTreeSet::from([1]), BTreeSet::new());
    for number in 1..=pages.count() {
        let Some(page) = pages.page(number) else {
            lost.pages += 1;
            continue;
        };
        let Some(tree) = TreePage::parse(number, &page) else { continue };
        had.insert(number);
        wanted.extend(tree.children());
        wanted.extend(tree.roots(pages));
        for at in tree.cells() {
            match tree.row(at, pages) {
                Some(Ok(found)) => on_row(found),
                Some(Err(LostKind::Message)) => lost.messages += 1,
                Some(Err(LostKind::Other)) => lost.others += 1,
                None => {}
            }
        }
    }
    lost.pages += wanted.difference(&had).count() as u64;
    lost
}

/// The first message id above all that the store at `path` is known to have used, as far as it can be read; 0 when
/// there is no store.
pub fn first_free_id(path: &Path) -> io::Result<u64> {
    let pages = match Pages::open(path, Some(&with_suffix(path, "-wal"))) {
        Ok(pages) => pages,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(e) => return Err(e),
    };
    let mut first = 0u64;
    each_row(&pages, |found| {
        first = first.max(match found {
            CarvedRow::Message(message) => message.id.saturating_add(1),
            CarvedRow::Reserved(reserved) => reserved,
            CarvedRow::User(_) | CarvedRow::Seen { .. } | CarvedRow::Mark => 0,
        });
    });
    Ok(first)
}

enum LostKind {
    Message,
    Other,
}

/// A page of a b-tree.
struct TreePage<'p> {
    page: &'p [u8],
    base: usize,
    kind: u8,
    first: bool,
}

impl<'p> TreePage<'p> {
    fn parse(number: u32, page: &'p [u8]) -> Option<TreePage<'p>> {
        let base = if number == 1 { 100 } else { 0 };
        let kind = *page.get(base)?;
        let known = [TABLE_LEAF, TABLE_INTERIOR, INDEX_LEAF, INDEX_INTERIOR].contains(&kind);
        known.then_some(TreePage { page, base, kind, first: number == 1 })
    }

    /// The offsets of the page's cells.
    fn cells(&self) -> impl Iterator<Item = usize> {
        let header = self.base + if matches!(self.kind, TABLE_INTERIOR | INDEX_INTERIOR) { 12 } else { 8 };
        let count = read_u16(self.page, self.base + 3).min(PAGE_SIZE / 2);
        (0..count).map(move |cell| read_u16(self.page, header + 2 * cell))
    }

    /// The pages below this one; none below a leaf.
    fn children(&self) -> Vec<u32> {
        if !matches!(self.kind, TABLE_INTERIOR | INDEX_INTERIOR) {
            return Vec::new();
        }
        let cells = self.cells().map(|at| read_u32(self.page, at));
        cells.chain([read_u32(self.page, self.base + 8)]).collect()
    }

    /// The root pages of the tables. The first page of a file lists them; for any other page the result is empty.
    fn roots(&self, pages: &Pages) -> Vec<u32> {
        let root = |at| {
            let (_, record) = self.record(at, pages)?;
            match decode_columns(&record)?.get(3) {
                Some(Value::Number(root)) => u32::try_from(*root).ok().filter(|root| *root > 0),
                _ => None,
            }
        };
        let cells = self.cells().filter(|_| self.first && self.kind == TABLE_LEAF);
        cells.filter_map(root).collect()
    }

    /// The row in the cell at offset `at`. `None`: the cells of this page hold no rows of a store.
    ///
    /// # Errors
    /// The row is damaged; the error says of which kind it is.
    fn row(&self, at: usize, pages: &Pages) -> Option<Result<CarvedRow, LostKind>> {
        if self.kind == TABLE_INTERIOR || self.first {
            return None;
        }
        let is_table = self.kind == TABLE_LEAF;
        let lost = if is_table { LostKind::Message } else { LostKind::Other };
        let found = self.record(at, pages).and_then(|(id, record)| {
            let values = decode_columns(&record)?;
            if is_table { parse_message(id, &values) } else { parse_other(&values) }
        });
        Some(found.ok_or(lost))
    }

    /// The row id (0 in an index) and the whole record of the cell at offset `at`.
    fn record(&self, at: usize, pages: &Pages) -> Option<(u64, Vec<u8>)> {
        let is_table = self.kind == TABLE_LEAF;
        let mut rest = self.page.get(at + if self.kind == INDEX_INTERIOR { 4 } else { 0 }..)?;
        let length = usize::try_from(varint(&mut rest)?).ok().filter(|length| *length <= RECORD_MAX_BYTES)?;
        let id = if is_table { varint(&mut rest)? } else { 0 };
        // How much of a record is stored on its own page: SQLite file format, section 1.6.
        let max_local = if is_table { PAGE_SIZE - 35 } else { (PAGE_SIZE - 12) * 64 / 255 - 23 };
        if length <= max_local {
            return Some((id, rest.get(..length)?.to_vec()));
        }
        let min_local = (PAGE_SIZE - 12) * 32 / 255 - 23;
        let local = min_local + (length - min_local) % (PAGE_SIZE - 4);
        let local = if local <= max_local { local } else { min_local };
        let mut record = rest.get(..local)?.to_vec();
        let mut next = read_u32(rest, local);
        while record.len() < length {
            let page = pages.page(next)?;
            let wanted = (length - record.len()).min(PAGE_SIZE - 4);
            record.extend_from_slice(page.get(4..4 + wanted)?);
            next = read_u32(&page, 0);
        }
        Some((id, record))
    }
}

enum Value<'r> {
    Null,
    Number(u64),
    Text(&'r [u8]),
}

/// Decodes the columns of a record (SQLite file format, section 2.1). `None`: the record is malformed, or has a column
/// of a type that no store uses.
fn decode_columns(record: &[u8]) -> Option<Vec<Value<'_>>> {
    let mut head = record;
    let length = usize::try_from(varint(&mut head)?).ok()?;
    let mut body = record.get(length..)?;
    let mut types = record.get(record.len() - head.len()..length)?;
    let mut values = Vec::new();
    while !types.is_empty() {
        let kind = varint(&mut types)?;
        let bytes = match kind {
            0 | 8 | 9 => 0,
            1..=4 => usize::try_from(kind).ok()?,
            5 => 6,
            6 => 8,
            13.. if kind % 2 == 1 => usize::try_from((kind - 13) / 2).ok()?,
            _ => return None,
        };
        let (value, rest) = body.split_at_checked(bytes)?;
        body = rest;
        values.push(match kind {
            0 => Value::Null,
            8 => Value::Number(0),
            9 => Value::Number(1),
            1..=6 => {
                let sign = if value.first().is_some_and(|byte| byte & 0x80 != 0) { u64::MAX } else { 0 };
                let number = value.iter().fold(sign, |number, byte| number << 8 | u64::from(*byte));
                // No column of a store is negative.
                Value::Number(if sign == 0 { number } else { u64::MAX })
            }
            _ => Value::Text(value),
        });
    }
    Some(values)
}

/// The row of the table `message`. `None`: its checksum does not match.
fn parse_message(id: u64, values: &[Value<'_>]) -> Option<CarvedRow> {
    let [Value::Null, Value::Text(to), Value::Text(from), Value::Number(at), Value::Number(sum), Value::Text(body)] =
        values
    else {
        return None;
    };
    if *sum != u64::from(message_sum(id, to, from, *at, body)) {
        return None;
    }
    let (recipient, sender) = (Username::parse(to)?, Username::parse(from)?);
    Some(CarvedRow::Message(CarvedMessage { id, recipient, sender, queued_at: *at, body: body.to_vec() }))
}

/// The row of a table `WITHOUT ROWID`, which SQLite stores like an index; the number and the types of its columns tell
/// which table that is. `None`: its checksum does not match.
fn parse_other(values: &[Value<'_>]) -> Option<CarvedRow> {
    match values {
        [
            Value::Text(name),
            Value::Text(hash),
            Value::Number(locked),
            Value::Number(created),
            last,
            Value::Number(sum),
        ] => {
            let last_login = match last {
                Value::Null => None,
                Value::Number(at) => Some(*at),
                Value::Text(_) => return None,
            };
            let (name, hash) = (Username::parse(name)?, std::str::from_utf8(hash).ok()?.to_owned());
            let user = User { name, hash, locked: *locked == 1, created: *created, last_login };
            (u64::from(user.checksum()) == *sum).then_some(CarvedRow::User(user))
        }
        [Value::Text(user), Value::Text(address), Value::Number(at), Value::Number(sum)] => {
            let (user, address) = (std::str::from_utf8(user).ok()?, std::str::from_utf8(address).ok()?);
            let is_sound = u64::from(users::seen_sum(user, address, *at)) == *sum;
            is_sound.then(|| CarvedRow::Seen { user: user.to_owned(), address: address.to_owned(), at: *at })
        }
        [Value::Text(key), Value::Number(value), Value::Number(sum)] => {
            let key = std::str::from_utf8(key).ok().filter(|key| u64::from(row::meta_sum(key, *value)) == *sum)?;
            Some(if key == row::RESERVED_KEY { CarvedRow::Reserved(*value) } else { CarvedRow::Mark })
        }
        _ => None,
    }
}

/// Takes a variable-length integer of one to nine bytes from the front of `bytes` (SQLite file format, section 1.6).
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for place in 0..9 {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        if place == 8 {
            return Some(number << 8 | u64::from(*byte));
        }
        number = number << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}
