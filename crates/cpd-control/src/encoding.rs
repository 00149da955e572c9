//! How answers are written: one JSON object on a line, times as RFC 3339, numbers by their names.

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::{ErrorCode, encode_error};

/// The answer to a request that succeeded: one line with its newline. `body` must be a struct; its fields are put next
/// to `ok`.
pub fn encode_ok(body: &impl Serialize) -> Vec<u8> {
    #[derive(Serialize)]
    struct Success<'a, T: Serialize> {
        ok: bool,
        #[serde(flatten)]
        body: &'a T,
    }
    match serde_json::to_vec(&Success { ok: true, body }) {
        Ok(mut line) => {
            line.push(b'\n');
            line
        }
        Err(_) => encode_error(ErrorCode::Internal, "the answer could not be encoded"),
    }
}

/// Formats `seconds` since 1970 as RFC 3339 in UTC: `2026-01-31T12:00:00Z`. A time after the year 9999 becomes the last
/// time that can be represented.
pub fn rfc3339(seconds: u64) -> String {
    let second = i64::try_from(seconds).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(second).unwrap_or(jiff::Timestamp::MAX).to_string()
}

/// Named numbers, in an order that is kept: what an older or newer daemon counts, it names.
#[derive(Debug, PartialEq, Eq, Clone, Default)]
pub struct Numbers(Vec<(String, u64)>);

impl Numbers {
    /// The names and numbers, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(name, number)| (name.as_str(), *number))
    }
}

impl<'a> FromIterator<(&'a str, u64)> for Numbers {
    fn from_iter<T: IntoIterator<Item = (&'a str, u64)>>(numbers: T) -> Numbers {
        Numbers(numbers.into_iter().map(|(name, number)| (name.to_owned(), number)).collect())
    }
}

impl Serialize for Numbers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Numbers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Numbers, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Numbers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of numbers")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Numbers, A::Error> {
                let mut numbers = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    numbers.push(entry);
                }
                Ok(Numbers(numbers))
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}
