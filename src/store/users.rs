//! Users, and the addresses that they logged in from.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::row::{RowError, number, sum, text};
use super::sqlite::rowid;
use crate::engine::port::{AddressKey, KNOWN_ADDRESSES_MAX, LoginRecord, Origin, UserRow};
use crate::proto::types::Username;

/// Addresses remembered for each user: the newest ones.
pub const SEEN_MAX: u32 = 16;

/// A user as it stands in its row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub name: Username,
    pub hash: String,
    pub locked: bool,
    pub created: u64,
    pub last_login: Option<u64>,
}

impl User {
    /// What an administrator sees of it.
    pub fn row(&self) -> UserRow {
        UserRow { name: self.name, locked: self.locked, created: self.created, last_login: self.last_login }
    }

    /// The checksum of its row.
    pub fn sum(&self) -> u32 {
        // A login at second 0 and none at all must differ, hence the length of the last field.
        let last = self.last_login.map(u64::to_le_bytes);
        sum(
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

const COLUMNS: &str = "name, hash, locked, created, last_login, sum";

fn user(row: &Row<'_>) -> Result<User, RowError> {
    let shown = text(row, 0)?.map(|name| String::from_utf8_lossy(name).into_owned()).unwrap_or_default();
    let damaged = || RowError::Damaged(format!("user {shown:?} does not match its checksum"));
    let name = text(row, 0)?.and_then(Username::parse).ok_or_else(damaged)?;
    let hash = text(row, 1)?.and_then(|hash| std::str::from_utf8(hash).ok()).ok_or_else(damaged)?.to_owned();
    let last_login = match row.get_ref(4)? {
        rusqlite::types::ValueRef::Null => None,
        _ => Some(number(row, 4)?),
    };
    let found = User { name, hash, locked: number(row, 2)? == 1, created: number(row, 3)?, last_login };
    match number(row, 5)? == u64::from(found.sum()) {
        true => Ok(found),
        false => Err(damaged()),
    }
}

/// The user called `name`.
pub fn find(connection: &Connection, name: Username) -> Result<Option<User>, RowError> {
    let mut statement = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM user WHERE name = ?1"))?;
    let mut rows = statement.query([name.as_str()])?;
    rows.next()?.map(user).transpose()
}

/// Up to `limit` users after `after`, in the order of their names; ends at the first that is damaged.
pub fn each(
    connection: &Connection,
    after: Option<Username>,
    limit: u32,
    mut on_user: impl FnMut(User),
) -> Result<(), RowError> {
    let sql = format!("SELECT {COLUMNS} FROM user WHERE name > ?1 ORDER BY name LIMIT ?2");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params![after.as_ref().map_or("", Username::as_str), limit])?;
    while let Some(row) = rows.next()? {
        on_user(user(row)?);
    }
    Ok(())
}

/// Verifies every user; what is damaged is handed on and the count of rows returned.
pub fn check(connection: &Connection, mut on_damage: impl FnMut(String)) -> rusqlite::Result<u64> {
    let mut statement = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM user"))?;
    let mut rows = statement.query([])?;
    let mut count = 0;
    while let Some(row) = rows.next()? {
        count += 1;
        match user(row) {
            Ok(_) => {}
            Err(RowError::Damaged(what)) => on_damage(what),
            Err(RowError::Sql(error)) => return Err(error),
        }
    }
    Ok(count)
}

/// Writes `user`, in the place of what had its name.
pub fn write(connection: &Connection, user: &User) -> rusqlite::Result<()> {
    let last_login = user.last_login.map(rowid).transpose()?;
    connection
        .prepare_cached(&format!("INSERT OR REPLACE INTO user({COLUMNS}) VALUES(?1, ?2, ?3, ?4, ?5, ?6)"))?
        .execute(params![user.name.as_str(), user.hash, user.locked, rowid(user.created)?, last_login, user.sum()])?;
    Ok(())
}

/// Deletes the user and its addresses.
pub fn remove(connection: &Connection, name: Username) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM user WHERE name = ?1")?.execute([name.as_str()])?;
    connection.prepare_cached("DELETE FROM seen WHERE user = ?1")?.execute([name.as_str()])?;
    Ok(())
}

/// What a login as `name` from `from` is checked against. Both tables are asked whether there is such a user or not, so
/// that this takes about the same time.
pub fn login(connection: &Connection, name: Username, from: Origin) -> Result<Option<Box<LoginRecord>>, RowError> {
    let known = has_seen(connection, name, from.key)?;
    // A login that 0.1.0 recorded.
    let known_before = from.former.map(|former| has_seen(connection, name, former)).transpose()?;
    let Some(found) = find(connection, name)? else { return Ok(None) };
    let known_address = match (known, known_before.flatten()) {
        (Some(false), _) | (_, Some(false)) => {
            return Err(RowError::Damaged(format!("an address of user {name} does not match its checksum")));
        }
        (Some(true), _) | (_, Some(true)) => true,
        (None, None) => false,
    };
    Ok(Some(Box::new(LoginRecord { hash: found.hash, locked: found.locked, known_address })))
}

/// Whether the user has logged in from there: `None` if not, `false` if that row does not match its checksum.
fn has_seen(connection: &Connection, name: Username, from: AddressKey) -> rusqlite::Result<Option<bool>> {
    let address = address(from);
    let row = connection
        .prepare_cached("SELECT at, sum FROM seen WHERE user = ?1 AND address = ?2")?
        .query_row([name.as_str(), &address], |row| Ok((number(row, 0)?, number(row, 1)?)))
        .optional()?;
    Ok(row.map(|(at, check)| check == u64::from(seen_sum(name.as_str(), &address, at))))
}

/// Records a login; of a user that is gone, nothing.
pub fn logged_in(
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
    let address = address(from);
    write_seen(connection, name.as_str(), &address, at)?;
    connection
        .prepare_cached(
            "DELETE FROM seen WHERE user = ?1 AND address <> ?2 AND address NOT IN
             (SELECT address FROM seen WHERE user = ?1 AND address <> ?2 ORDER BY at DESC, address LIMIT ?3)",
        )?
        .execute(params![name.as_str(), address, SEEN_MAX - 1])?;
    Ok(())
}

/// Writes when `user` was last there from `address`.
pub fn write_seen(connection: &Connection, user: &str, address: &str, at: u64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO seen(user, address, at, sum) VALUES(?1, ?2, ?3, ?4)")?
        .execute(params![user, address, rowid(at)?, seen_sum(user, address, at)])?;
    Ok(())
}

/// The addresses from which anybody has logged in, the latest ones, in the order of their last logins.
#[derive(Debug, Default)]
pub struct KnownAddresses(HashMap<AddressKey, u64>);

impl KnownAddresses {
    /// Somebody was last there at `at`.
    pub fn insert(&mut self, address: &str, at: u64) {
        let Some(key) = key(address) else { return };
        let last = self.0.entry(key).or_default();
        *last = at.max(*last);
        if self.0.len() >= 2 * KNOWN_ADDRESSES_MAX {
            self.0 = latest(std::mem::take(&mut self.0)).into_iter().collect();
        }
    }

    /// At most [`KNOWN_ADDRESSES_MAX`] of them.
    pub fn into_latest(self) -> impl Iterator<Item = AddressKey> {
        latest(self.0).into_iter().map(|(key, _)| key)
    }
}

fn latest(all: HashMap<AddressKey, u64>) -> Vec<(AddressKey, u64)> {
    let mut all: Vec<_> = all.into_iter().collect();
    all.sort_by_key(|(key, at)| (*at, *key));
    all.split_off(all.len().saturating_sub(KNOWN_ADDRESSES_MAX))
}

/// Verifies every address; `on_damage` decides whether to go on.
pub fn check_seen(
    connection: &Connection,
    on_damage: impl FnMut(String) -> Result<(), RowError>,
) -> Result<u64, RowError> {
    each_seen(connection, |_, _| (), on_damage)
}

/// The same, and hands on what is right: an address, and when a user was last there.
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
        let user = String::from_utf8_lossy(text(row, 0)?.unwrap_or_default()).into_owned();
        let address = String::from_utf8_lossy(text(row, 1)?.unwrap_or_default()).into_owned();
        if number(row, 3)? != u64::from(seen_sum(&user, &address, number(row, 2)?)) {
            on_damage(format!("an address of user {user:?} does not match its checksum"))?;
        } else {
            on_seen(&address, number(row, 2)?);
        }
    }
    Ok(count)
}

/// The checksum of an address.
pub fn seen_sum(user: &str, address: &str, at: u64) -> u32 {
    sum(b"seen", &[user.as_bytes(), address.as_bytes(), &at.to_le_bytes()])
}

/// The key of an address as [`address`] writes it; `None` of any other text.
fn key(text: &str) -> Option<AddressKey> {
    if let Some(uid) = text.strip_prefix("uid ") {
        return uid.parse().ok().map(AddressKey::Local);
    }
    match text.strip_suffix("/64") {
        Some(prefix) => prefix.parse::<Ipv6Addr>().ok().map(|v6| AddressKey::V6((v6.to_bits() >> 64) as u64)),
        None => text.parse::<Ipv4Addr>().ok().map(|v4| AddressKey::V4(v4.to_bits())),
    }
}

/// The address as people write it.
fn address(key: AddressKey) -> String {
    match key {
        AddressKey::V4(bits) => Ipv4Addr::from_bits(bits).to_string(),
        AddressKey::V6(prefix) => format!("{}/64", Ipv6Addr::from_bits(u128::from(prefix) << 64)),
        AddressKey::Local(uid) => format!("uid {uid}"),
    }
}
