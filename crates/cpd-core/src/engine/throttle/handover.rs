//! The hand-over of failed logins: a restart must be no way to guess faster.

use cp_proto::limits::USERNAME_MAX_BYTES;
use cp_proto::values::Username;

use super::bucket::{Failures, FillLevel};
use super::name_failures::{NameFailures, SHARES_MAX, Share};
use super::{ADDRESSES_MAX, DAY_MS, MINUTE_MS, NAMES_MAX, PAIRS_MAX, Throttle};
use crate::engine::port::AddressKey;
use crate::record::{RecordReader, RecordWriter};
use crate::time::Millis;

/// Buckets in a record of 0.2.0 or before, at most.
const OLD_MAX: usize = 2 * (65_536 + 1);

impl Throttle {
    /// Writes the record that [`Throttle::thaw`] reads.
    pub fn freeze(&self, now: Millis, out: &mut RecordWriter) {
        let addresses = self.addresses.iter().filter(|(_, bucket)| bucket.level.empty_at > now);
        out.u32(count(addresses.clone().count()));
        for (address, bucket) in addresses {
            freeze_address(*address, out);
            freeze_level(bucket.level, now, out);
        }
        let pairs = self.pairs.iter().filter(|(_, bucket)| bucket.level.empty_at > now);
        out.u32(count(pairs.clone().count()));
        for ((name, address), bucket) in pairs {
            out.bytes(name.as_str().as_bytes());
            freeze_address(*address, out);
            freeze_level(bucket.level, now, out);
        }
        let names = self.names.iter().filter(|(_, guessed)| guessed.minute.empty_at.max(guessed.day.empty_at) > now);
        out.u32(count(names.clone().count()));
        for (name, guessed) in names {
            out.bytes(name.as_str().as_bytes());
            freeze_level(guessed.minute, now, out);
            freeze_level(guessed.day, now, out);
            out.u32(guessed.failures);
            out.u32(count(guessed.shares.len()));
            for share in &guessed.shares {
                freeze_address(share.from, out);
                freeze_level(share.minute, now, out);
                freeze_level(share.day, now, out);
            }
        }
    }

    /// Reads a record. `None`: it is malformed.
    pub fn thaw(reader: &mut RecordReader<'_>, now: Millis) -> Option<Throttle> {
        let mut throttle = Throttle::default();
        for _ in 0..read_count(reader, ADDRESSES_MAX)? {
            let (address, level) = (thaw_address(reader)?, thaw_level(reader, MINUTE_MS, now)?);
            throttle.addresses.update_or_insert(address, now, |bucket| raise(bucket, level));
        }
        for _ in 0..read_count(reader, PAIRS_MAX)? {
            let name = Username::parse(reader.bytes(USERNAME_MAX_BYTES)?)?;
            let (address, level) = (thaw_address(reader)?, thaw_level(reader, MINUTE_MS, now)?);
            throttle.pairs.update_or_insert((name, address), now, |bucket| raise(bucket, level));
        }
        for _ in 0..read_count(reader, NAMES_MAX)? {
            let name = Username::parse(reader.bytes(USERNAME_MAX_BYTES)?)?;
            let (minute, day) = (thaw_level(reader, MINUTE_MS, now)?, thaw_level(reader, DAY_MS, now)?);
            let mut guessed = NameFailures { minute, day, failures: reader.u32()?, ..NameFailures::default() };
            for _ in 0..read_count(reader, SHARES_MAX)? {
                let (from, minute) = (thaw_address(reader)?, thaw_level(reader, MINUTE_MS, now)?);
                guessed.shares.push(Share { from, minute, day: thaw_level(reader, DAY_MS, now)? });
            }
            throttle.names.update_or_insert(name, now, |place| *place = guessed);
        }
        Some(throttle)
    }

    /// Reads a record of 0.2.0 or 0.1.0, whose failures for a name go into the bucket for a minute. `None`: it is
    /// malformed.
    pub fn thaw_old(from: &mut RecordReader<'_>, now: Millis) -> Option<Throttle> {
        let mut throttle = Throttle::default();
        for _ in 0..read_count(from, OLD_MAX)? {
            match from.u8()? {
                0 => {
                    let (address, level) = (thaw_address(from)?, thaw_level(from, MINUTE_MS, now)?);
                    throttle.addresses.update_or_insert(address, now, |bucket| raise(bucket, level));
                }
                1 => {
                    let name = Username::parse(from.bytes(USERNAME_MAX_BYTES)?)?;
                    let minute = thaw_level(from, MINUTE_MS, now)?;
                    throttle
                        .names
                        .update_or_insert(name, now, |guessed| guessed.minute = guessed.minute.fuller(minute));
                }
                2 => {
                    let name = Username::parse(from.bytes(USERNAME_MAX_BYTES)?)?;
                    let (address, level) = (thaw_address(from)?, thaw_level(from, MINUTE_MS, now)?);
                    throttle.pairs.update_or_insert((name, address), now, |bucket| raise(bucket, level));
                }
                // Buckets that many keys shared there; here each key has its own.
                3 | 4 => {
                    from.u64()?;
                }
                _ => return None,
            }
        }
        Some(throttle)
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Reads the number of entries that follow. `None`: it is impossible. A table may have been over its bound by some
/// buckets with attempts under way.
fn read_count(from: &mut RecordReader<'_>, max: usize) -> Option<usize> {
    usize::try_from(from.u32()?).ok().filter(|count| *count <= max.saturating_add(1024))
}

/// Raises the bucket to this level. Two addresses that 0.1.0 distinguished may count as one now.
fn raise(bucket: &mut Failures, level: FillLevel) {
    bucket.level = bucket.level.fuller(level);
}

fn freeze_level(level: FillLevel, now: Millis, out: &mut RecordWriter) {
    out.u64(level.empty_at.saturating_sub(now));
}

fn thaw_level(from: &mut RecordReader<'_>, window: Millis, now: Millis) -> Option<FillLevel> {
    Some(FillLevel { empty_at: now.saturating_add(from.u64()?.min(window)) })
}

fn freeze_address(address: AddressKey, out: &mut RecordWriter) {
    let (kind, bits) = match address {
        AddressKey::V4(bits) => (4, u64::from(bits)),
        AddressKey::V6(bits) => (6, bits),
        AddressKey::Local(uid) => (0, u64::from(uid)),
    };
    out.u8(kind);
    out.u64(bits);
}

fn thaw_address(from: &mut RecordReader<'_>) -> Option<AddressKey> {
    match (from.u8()?, from.u64()?) {
        (4, bits) => u32::try_from(bits).ok().map(AddressKey::V4),
        (6, bits) => Some(AddressKey::of_prefix(bits)),
        (0, uid) => u32::try_from(uid).ok().map(AddressKey::Local),
        _ => None,
    }
}
