//! Failed logins from one process to the next: a restart is no way to guess faster.

use super::{BUCKETS_MAX, Bucket, Key, Throttle, WINDOW_MS};
use crate::engine::port::AddressKey;
use crate::proto::codec::{Reader, Writer};
use crate::proto::limits::USERNAME_MAX_BYTES;
use crate::proto::types::{Millis, Username};

impl Throttle {
    /// Writes what [`Throttle::thaw`] reads.
    pub fn freeze(&self, now: Millis, out: &mut Writer) {
        let failed = self.strangers.iter().chain(&self.owners).filter(|(_, bucket)| bucket.empty_at > now);
        out.u32(u32::try_from(failed.clone().count()).unwrap_or(u32::MAX));
        for (key, bucket) in failed {
            match key {
                Key::Address(address) => {
                    out.u8(0);
                    freeze_address(*address, out);
                }
                Key::Name(name) => {
                    out.u8(1);
                    out.bytes(name.as_str().as_bytes());
                }
                Key::Owner(name, address) => {
                    out.u8(2);
                    out.bytes(name.as_str().as_bytes());
                    freeze_address(*address, out);
                }
                Key::Overflow => out.u8(3),
                Key::OwnerOverflow => out.u8(4),
            }
            out.u64(bucket.empty_at.saturating_sub(now));
        }
    }

    /// The throttle that was written, or `None`.
    pub fn thaw(from: &mut Reader<'_>, now: Millis) -> Option<Throttle> {
        let count = usize::try_from(from.u32()?).ok().filter(|count| *count <= 2 * (BUCKETS_MAX + 1))?;
        let mut throttle = Throttle::default();
        for _ in 0..count {
            let key = match from.u8()? {
                0 => Key::Address(thaw_address(from)?),
                1 => Key::Name(Username::parse(from.bytes(USERNAME_MAX_BYTES)?)?),
                2 => Key::Owner(Username::parse(from.bytes(USERNAME_MAX_BYTES)?)?, thaw_address(from)?),
                3 => Key::Overflow,
                4 => Key::OwnerOverflow,
                _ => return None,
            };
            let empty_at = now.saturating_add(from.u64()?.min(WINDOW_MS));
            // Two of 0.1.0's may count as one now.
            let bucket = throttle.table(key).entry(key).or_insert(Bucket { empty_at, under_way: 0 });
            bucket.empty_at = bucket.empty_at.max(empty_at);
        }
        Some(throttle)
    }
}

fn freeze_address(address: AddressKey, out: &mut Writer) {
    let (kind, bits) = match address {
        AddressKey::V4(bits) => (4, u64::from(bits)),
        AddressKey::V6(bits) => (6, bits),
        AddressKey::Local(uid) => (0, u64::from(uid)),
    };
    out.u8(kind);
    out.u64(bits);
}

fn thaw_address(from: &mut Reader<'_>) -> Option<AddressKey> {
    match (from.u8()?, from.u64()?) {
        (4, bits) => u32::try_from(bits).ok().map(AddressKey::V4),
        (6, bits) => Some(AddressKey::of_prefix(bits)),
        (0, uid) => u32::try_from(uid).ok().map(AddressKey::Local),
        _ => None,
    }
}
