//! Users, and the addresses from which they logged in.

use std::collections::HashMap;
use std::hint::black_box;
use std::net::{Ipv4Addr, Ipv6Addr};

use cp_proto::values::Username;
use cpd_core::engine::port::{AddressKey, KNOWN_ADDRESSES_MAX, LoginRecord, Origin, UserRow};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::row::{RowError, read_text, read_unsigned, row_sum};
use super::sqlite::sqlite_integer;

/// Addresses remembered for each user: the most recent ones.
pub const ADDRESSES_PER_USER_MAX: u32 = 16;

/// A user as its row holds it; times are in seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub name: Username,
    pub hash: String,
    pub locked: bool,
    pub created: u64,
    pub last_login: Option<u64>,
}

impl User {
    /// What operators are shown of the user: everything but the hash.
    pub fn to_row(&self) -> UserRow {
        UserRow { name: self.name, locked: self.locked, created: self.created, last_login: self.last_login }
    }

    /// The checksum of its row.
    pub fn checksum(&self) -> u32 {
        // A login at second 0 must differ from no login at all; the length of the last field, which the checksum
        // covers, makes the difference.
        let last = self.last_login.map(u64::to_le_bytes);
        row_sum(
            b"user",
            &[
                self.name.as_str().as_bytes(),
                self.hash.as_bytes(),
                &[u8::from(self.locked)],
                &self.created.to_le_bytes(),
                last.as_ref().map_or(&[], |bytes| bytes.as_slice()),
            ],
        )
    }
}

const USER_COLUMNS: &str = "name, hash, locked, created, last_login, sum";

fn read_user(row: &Row<'_>) -> Result<User, RowError> {
    let shown = read_text(row, 0)?.map(|name| String::from_utf8_lossy(name).into_owned()).unwrap_or_default();
    let damaged = || RowError::Damaged(format!("user {shown:?} does not match its checksum"));
    let name = read_text(row, 0)?.and_then(Username::parse).ok_or_else(damaged)?;
    let hash = read_text(row, 1)?.and_then(|hash| std::str::from_utf8(hash).ok()).ok_or_else(damaged)?.to_owned();
    let last_login = match row.get_ref(4)? {
        rusqlite::types::ValueRef::Null => None,
        _ => Some(read_unsigned(row, 4)?),
    };
    let found = User { name, hash, locked: read_unsigned(row, 2)? == 1, created: read_unsigned(row, 3)?, last_login };
    match read_unsigned(row, 5)? == u64::from(found.checksum()) {
        true => Ok(found),
        false => Err(damaged()),
    }
}

/// Reads the user called `name`; `None` if there is none.
///
/// # Errors
/// The row is damaged or cannot be read.
pub fn find(connection: &Connection, name: Username) -> Result<Option<User>, RowError> {
    let mut statement = connection.prepare_cached(&format!("SELECT {USER_COLUMNS} FROM user WHERE name = ?1"))?;
    let mut rows = statement.query([name.as_str()])?;
    rows.next()?.map(read_user).transpose()
}

/// As [`find`]; `None` takes as long as a user does, unless there is no user at all.
fn find_beside_neighbours(connection: &Connection, name: Username) -> Result<Option<User>, RowError> {
    let own_or_next = format!("SELECT {USER_COLUMNS} FROM user WHERE name >= ?1 ORDER BY name LIMIT 1");
    let previous = format!("SELECT {USER_COLUMNS} FROM user WHERE name < ?1 ORDER BY name DESC LIMIT 1");
    for sql in [own_or_next, previous] {
        let mut statement = connection.prepare_cached(&sql)?;
        let mut rows = statement.query([name.as_str()])?;
        let Some(row) = rows.next()? else { continue };
        let own = read_text(row, 0)? == Some(name.as_str().as_bytes());
        // Damage in a neighbour's row does not concern this login.
        let user = black_box(read_user(row));
        return if own { user.map(Some) } else { Ok(None) };
    }
    Ok(None)
}

/// Passes up to `limit` users whose names follow `after` to `on_user`, in the order of their names; `None` begins with
/// the first user.
///
/// # Errors
/// A row is damaged or cannot be read; the rows after it are not passed.
pub fn each(
    connection: &Connection,
    after: Option<Username>,
    limit: u32,
    mut on_user: impl FnMut(User),
) -> Result<(), RowError> {
    let sql = format!("SELECT {USER_COLUMNS} FROM user WHERE name > ?1 ORDER BY name LIMIT ?2");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params![after.as_ref().map_or("", Username::as_str), limit])?;
    while let Some(row) = rows.next()? {
        on_user(read_user(row)?);
    }
    Ok(())
}

/// Verifies every user and returns the number of rows; each damaged one is described to `on_damage`.
pub fn check(connection: &Connection, mut on_damage: impl FnMut(String)) -> rusqlite::Result<u64> {
    let mut statement = connection.prepare_cached(&format!("SELECT {USER_COLUMNS} FROM user"))?;
    let mut rows = statement.query([])?;
    let mut count = 0;
    while let Some(row) = rows.next()? {
        count += 1;
        match read_user(row) {
            Ok(_) => {}
            Err(RowError::Damaged(what)) => on_damage(what),
            Err(RowError::Sql(error)) => return Err(error),
        }
    }
    Ok(count)
}

/// Writes `user`, replacing a user of the same name.
pub fn write(connection: &Connection, user: &User) -> rusqlite::Result<()> {
    let last_login = user.last_login.map(sqlite_integer).transpose()?;
    connection
        .prepare_cached(&format!("INSERT OR REPLACE INTO user({USER_COLUMNS}) VALUES(?1, ?2, ?3, ?4, ?5, ?6)"))?
        .execute(params![
            user.name.as_str(),
            user.hash,
            user.locked,
            sqlite_integer(user.created)?,
            last_login,
            user.checksum()
        ])?;
    Ok(())
}

/// Deletes the user and its addresses.
pub fn remove(connection: &Connection, name: Username) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM user WHERE name = ?1")?.execute([name.as_str()])?;
    connection.prepare_cached("DELETE FROM seen WHERE user = ?1")?.execute([name.as_str()])?;
    Ok(())
}

/// Reads what a login as `name` from `from` is checked against; `None` if there is no such user. Both tables are read
/// in either case, and without such a user the row of a neighbour is read and verified in place of its own, so that the
/// time that this takes does not show whether the user exists.
///
/// # Errors
/// A row is damaged or cannot be read.
pub fn login_record(
    connection: &Connection,
    name: Username,
    from: Origin,
) -> Result<Option<Box<LoginRecord>>, RowError> {
    let known = knows_address(connection, name, from.key)?;
    // cpd 0.1.0 recorded some addresses in another form.
    let known_before = from.former_key.map(|former_key| knows_address(connection, name, former_key)).transpose()?;
    let Some(found) = find_beside_neighbours(connection, name)? else { return Ok(None) };
    let known_address = match (known, known_before.flatten()) {
        (Some(false), _) | (_, Some(false)) => {
            return Err(RowError::Damaged(format!("an address of user {name} does not match its checksum")));
        }
        (Some(true), _) | (_, Some(true)) => true,
        (None, None) => false,
    };
    Ok(Some(Box::new(LoginRecord { hash: found.hash, locked: found.locked, known_address })))
}

/// Whether the user has logged in from `from`: `None` if not, `Some(false)` if so but that row does not match its
/// checksum.
fn knows_address(connection: &Connection, name: Username, from: AddressKey) -> rusqlite::Result<Option<bool>> {
    let address = format_address(from);
    let row = connection
        .prepare_cached("SELECT at, sum FROM seen WHERE user = ?1 AND address = ?2")?
        .query_row([name.as_str(), &address], |row| Ok((read_unsigned(row, 0)?, read_unsigned(row, 1)?)))
        .optional()?;
    Ok(row.map(|(at, check)| check == u64::from(seen_sum(name.as_str(), &address, at))))
}

/// Records a login from `from` at `at`, in seconds since 1970, unless the user does not exist any more. `rehash` is an
/// old and a new hash: the new one is stored if the user's hash is still the old one.
///
/// # Errors
/// The user's row is damaged, or a row cannot be read or written.
pub fn record_login(
    connection: &Connection,
    name: Username,
    from: AddressKey,
    at: u64,
    rehash: Option<&(String, String)>,
) -> Result<(), RowError> {
    let Some(mut found) = find(connection, name)? else { return Ok(()) };
    found.last_login = Some(at);
    if let Some((old, new)) = rehash
        && *old == found.hash
    {
        found.hash.clone_from(new);
    }
    write(connection, &found)?;
    let address = format_address(from);
    write_seen(connection, name.as_str(), &address, at)?;
    connection
        .prepare_cached(
            "DELETE FROM seen WHERE user = ?1 AND address <> ?2 AND address NOT IN
             (SELECT address FROM seen WHERE user = ?1 AND address <> ?2 ORDER BY at DESC, address LIMIT ?3)",
        )?
        .execute(params![name.as_str(), address, ADDRESSES_PER_USER_MAX - 1])?;
    Ok(())
}

/// Records that `user` last logged in from `address` at `at`, in seconds since 1970.
pub fn write_seen(connection: &Connection, user: &str, address: &str, at: u64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO seen(user, address, at, sum) VALUES(?1, ?2, ?3, ?4)")?
        .execute(params![user, address, sqlite_integer(at)?, seen_sum(user, address, at)])?;
    Ok(())
}

/// The addresses from which users have logged in most recently, with the time of the last login from each.
#[derive(Debug, Default)]
pub struct KnownAddresses(HashMap<AddressKey, u64>);

impl KnownAddresses {
    /// Adds a login from `address` at `at`, in seconds since 1970. A text that is not an address is ignored.
    pub fn insert(&mut self, address: &str, at: u64) {
        let Some(key) = parse_address(address) else { return };
        let last = self.0.entry(key).or_default();
        *last = at.max(*last);
        if self.0.len() >= 2 * KNOWN_ADDRESSES_MAX {
            self.0 = keep_latest(std::mem::take(&mut self.0)).into_iter().collect();
        }
    }

    /// At most [`KNOWN_ADDRESSES_MAX`] addresses, ordered by last login, oldest first.
    pub fn into_latest(self) -> impl Iterator<Item = AddressKey> {
        keep_latest(self.0).into_iter().map(|(key, _)| key)
    }
}

fn keep_latest(all: HashMap<AddressKey, u64>) -> Vec<(AddressKey, u64)> {
    let mut all: Vec<_> = all.into_iter().collect();
    all.sort_by_key(|(key, at)| (*at, *key));
    all.split_off(all.len().saturating_sub(KNOWN_ADDRESSES_MAX))
}

/// Verifies every address and returns the number of rows; `on_damage` decides whether to continue after a damaged one.
pub fn check_seen(
    connection: &Connection,
    on_damage: impl FnMut(String) -> Result<(), RowError>,
) -> Result<u64, RowError> {
    each_seen(connection, |_, _| (), on_damage)
}

/// As [`check_seen`], and passes each sound row to `on_seen`: the address, and when a user last logged in from it.
pub fn each_seen(
    connection: &Connection,
    mut on_seen: impl FnMut(&str, u64),
    mut on_damage: impl FnMut(String) -> Result<(), RowError>,
) -> Result<u64, RowError> {
    let mut statement = connection.prepare_cached("SELECT user, address, at, sum FROM seen")?;
    let mut rows = statement.query([])?;
    let mut count = 0;
    while let Some(row) = rows.next()? {
        count += 1;
        let user = String::from_utf8_lossy(read_text(row, 0)?.unwrap_or_default()).into_owned();
        let address = String::from_utf8_lossy(read_text(row, 1)?.unwrap_or_default()).into_owned();
        if read_unsigned(row, 3)? != u64::from(seen_sum(&user, &address, read_unsigned(row, 2)?)) {
            on_damage(format!("an address of user {user:?} does not match its checksum"))?;
        } else {
            on_seen(&address, read_unsigned(row, 2)?);
        }
    }
    Ok(count)
}

/// The checksum of a row of the table `seen`.
pub fn seen_sum(user: &str, address: &str, at: u64) -> u32 {
    row_sum(b"seen", &[user.as_bytes(), address.as_bytes(), &at.to_le_bytes()])
}

/// Parses an address as [`format_address`] writes it; `None` for any other text.
fn parse_address(text: &str) -> Option<AddressKey> {
    if let Some(uid) = text.strip_prefix("uid ") {
        return uid.parse().ok().map(AddressKey::Local);
    }
    match text.strip_suffix("/64") {
        Some(prefix) => prefix.parse::<Ipv6Addr>().ok().map(|v6| AddressKey::V6((v6.to_bits() >> 64) as u64)),
        None => text.parse::<Ipv4Addr>().ok().map(|v4| AddressKey::V4(v4.to_bits())),
    }
}

/// The address as text, in the form that the table `seen` holds.
fn format_address(key: AddressKey) -> String {
    match key {
        AddressKey::V4(bits) => Ipv4Addr::from_bits(bits).to_string(),
        AddressKey::V6(prefix) => format!("{}/64", Ipv6Addr::from_bits(u128::from(prefix) << 64)),
        AddressKey::Local(uid) => format!("uid {uid}"),
    }
}
