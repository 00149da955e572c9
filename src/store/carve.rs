//! Finds the rows of a store page by page, without the trees that lead to them: what is sound is known by its checksum,
//! wherever it lies. Deleted rows are no danger: cpd has SQLite overwrite them.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use super::files::with_suffix;
use super::pages::{PAGE, Pages, half, word};
use super::row::{self, message_sum};
use super::users::{self, User};
use crate::proto::types::Username;

/// Longest row in bytes that is put together.
const ROW_MAX_BYTES: usize = 64 * 1024;
/// Kinds of pages of a tree.
const TABLE_LEAF: u8 = 0x0d;
const TABLE_INSIDE: u8 = 0x05;
const INDEX_LEAF: u8 = 0x0a;
const INDEX_INSIDE: u8 = 0x02;

/// A sound row.
#[derive(Debug)]
pub enum Found {
    Message(Letter),
    User(User),
    Seen {
        user: String,
        address: String,
        at: u64,
    },
    Reserved(u64),
    /// What a running cpd knows its file by.
    Mark,
}

#[derive(Debug)]
pub struct Letter {
    pub id: u64,
    pub recipient: Username,
    pub sender: Username,
    pub queued_at: u64,
    pub body: Vec<u8>,
}

/// What could not be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lost {
    pub messages: u64,
    /// Rows of other tables.
    pub others: u64,
    /// Pages whose rows nobody can count.
    pub pages: u64,
}

/// Hands every sound row to `on_row`, each as often as it is found.
pub fn rows(pages: &Pages, mut on_row: impl FnMut(Found)) -> Lost {
    let mut lost = Lost { pages: pages.damaged_frames, ..Lost::default() };
    // The first page leads to the others.
    let (mut wanted, mut had) = (BTreeSet::from([1]), BTreeSet::new());
    for number in 1..=pages.count() {
        let Some(page) = pages.page(number) else {
            lost.pages += 1;
            continue;
        };
        let Some(tree) = Tree::of(number, &page) else { continue };
        had.insert(number);
        wanted.extend(tree.children());
        wanted.extend(tree.roots(pages));
        for at in tree.cells() {
            match tree.row(at, pages) {
                Some(Ok(found)) => on_row(found),
                Some(Err(Kind::Message)) => lost.messages += 1,
                Some(Err(Kind::Other)) => lost.others += 1,
                None => {}
            }
        }
    }
    lost.pages += wanted.difference(&had).count() as u64;
    lost
}

/// The first id that no message of the store at `path` has had, as far as can be read; 0 when there is no store.
pub fn first_free_id(path: &Path) -> io::Result<u64> {
    let pages = match Pages::open(path, Some(&with_suffix(path, "-wal"))) {
        Ok(pages) => pages,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(e) => return Err(e),
    };
    let mut first = 0u64;
    rows(&pages, |found| {
        first = first.max(match found {
            Found::Message(letter) => letter.id.saturating_add(1),
            Found::Reserved(reserved) => reserved,
            Found::User(_) | Found::Seen { .. } | Found::Mark => 0,
        });
    });
    Ok(first)
}

enum Kind {
    Message,
    Other,
}

/// A page of a tree.
struct Tree<'p> {
    page: &'p [u8],
    base: usize,
    kind: u8,
    first: bool,
}

impl<'p> Tree<'p> {
    fn of(number: u32, page: &'p [u8]) -> Option<Tree<'p>> {
        let base = if number == 1 { 100 } else { 0 };
        let kind = *page.get(base)?;
        let known = [TABLE_LEAF, TABLE_INSIDE, INDEX_LEAF, INDEX_INSIDE].contains(&kind);
        known.then_some(Tree { page, base, kind, first: number == 1 })
    }

    /// Where the cells begin.
    fn cells(&self) -> impl Iterator<Item = usize> {
        let header = self.base + if matches!(self.kind, TABLE_INSIDE | INDEX_INSIDE) { 12 } else { 8 };
        let count = half(self.page, self.base + 3).min(PAGE / 2);
        (0..count).map(move |cell| half(self.page, header + 2 * cell))
    }

    fn children(&self) -> Vec<u32> {
        if !matches!(self.kind, TABLE_INSIDE | INDEX_INSIDE) {
            return Vec::new();
        }
        let cells = self.cells().map(|at| word(self.page, at));
        cells.chain([word(self.page, self.base + 8)]).collect()
    }

    /// Where the trees of the tables begin, as the first page of a file says.
    fn roots(&self, pages: &Pages) -> Vec<u32> {
        let root = |at| {
            let (_, record) = self.record(at, pages)?;
            match values(&record)?.get(3) {
                Some(Value::Number(root)) => u32::try_from(*root).ok().filter(|root| *root > 0),
                _ => None,
            }
        };
        let cells = self.cells().filter(|_| self.first && self.kind == TABLE_LEAF);
        cells.filter_map(root).collect()
    }

    /// The row in the cell at `at`; `None` where it is none of a store.
    fn row(&self, at: usize, pages: &Pages) -> Option<Result<Found, Kind>> {
        if self.kind == TABLE_INSIDE || self.first {
            return None;
        }
        let is_table = self.kind == TABLE_LEAF;
        let lost = if is_table { Kind::Message } else { Kind::Other };
        let found = self.record(at, pages).and_then(|(id, record)| {
            let values = values(&record)?;
            if is_table { message(id, &values) } else { other(&values) }
        });
        Some(found.ok_or(lost))
    }

    /// The row's id, in a table, and its record.
    fn record(&self, at: usize, pages: &Pages) -> Option<(u64, Vec<u8>)> {
        let is_table = self.kind == TABLE_LEAF;
        let mut rest = self.page.get(at + if self.kind == INDEX_INSIDE { 4 } else { 0 }..)?;
        let length = usize::try_from(varint(&mut rest)?).ok().filter(|length| *length <= ROW_MAX_BYTES)?;
        let id = if is_table { varint(&mut rest)? } else { 0 };
        let most = if is_table { PAGE - 35 } else { (PAGE - 12) * 64 / 255 - 23 };
        if length <= most {
            return Some((id, rest.get(..length)?.to_vec()));
        }
        let least = (PAGE - 12) * 32 / 255 - 23;
        let here = least + (length - least) % (PAGE - 4);
        let here = if here <= most { here } else { least };
        let mut record = rest.get(..here)?.to_vec();
        let mut next = word(rest, here);
        while record.len() < length {
            let page = pages.page(next)?;
            let wanted = (length - record.len()).min(PAGE - 4);
            record.extend_from_slice(page.get(4..4 + wanted)?);
            next = word(&page, 0);
        }
        Some((id, record))
    }
}

enum Value<'r> {
    Null,
    Number(u64),
    Text(&'r [u8]),
}

/// The columns of a record.
fn values(record: &[u8]) -> Option<Vec<Value<'_>>> {
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
                // Nothing in a store is below 0.
                Value::Number(if sign == 0 { number } else { u64::MAX })
            }
            _ => Value::Text(value),
        });
    }
    Some(values)
}

fn message(id: u64, values: &[Value<'_>]) -> Option<Found> {
    let [Value::Null, Value::Text(to), Value::Text(from), Value::Number(at), Value::Number(sum), Value::Text(body)] =
        values
    else {
        return None;
    };
    if *sum != u64::from(message_sum(id, to, from, *at, body)) {
        return None;
    }
    let (recipient, sender) = (Username::parse(to)?, Username::parse(from)?);
    Some(Found::Message(Letter { id, recipient, sender, queued_at: *at, body: body.to_vec() }))
}

/// A row of the tables that are kept like an index.
fn other(values: &[Value<'_>]) -> Option<Found> {
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
            (u64::from(user.sum()) == *sum).then_some(Found::User(user))
        }
        [Value::Text(user), Value::Text(address), Value::Number(at), Value::Number(sum)] => {
            let (user, address) = (std::str::from_utf8(user).ok()?, std::str::from_utf8(address).ok()?);
            let is_sound = u64::from(users::seen_sum(user, address, *at)) == *sum;
            is_sound.then(|| Found::Seen { user: user.to_owned(), address: address.to_owned(), at: *at })
        }
        [Value::Text(key), Value::Number(value), Value::Number(sum)] => {
            let key = std::str::from_utf8(key).ok().filter(|key| u64::from(row::meta_sum(key, *value)) == *sum)?;
            Some(if key == row::RESERVED { Found::Reserved(*value) } else { Found::Mark })
        }
        _ => None,
    }
}

/// A number of one to nine bytes.
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
