//! A line of JSON as a flat set of fields. Every error is ours and named: serde's own would quote the request, and a
//! request may hold a password.

use std::fmt;
use std::net::IpAddr;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::error::{ControlError, ErrorCode};
use super::frame::wipe;
use super::password::new_password;
use super::{DEPTH_MAX, FIELDS_MAX, NAME_RULE};
use crate::proto::types::{Password, Username};

/// The fields of a request that were not taken yet.
#[derive(Default)]
pub(super) struct Fields {
    fields: Vec<(String, Scalar)>,
    problem: Option<ControlError>,
}

/// A field's value. Nested values are recognised, never kept: no command takes one.
enum Scalar {
    Text(Wiped),
    Number(u64),
    Bool(bool),
    Other,
}

/// Text that may be a password; overwritten when dropped.
struct Wiped(String);

impl Drop for Wiped {
    fn drop(&mut self) {
        wipe(&mut std::mem::take(&mut self.0).into_bytes());
    }
}

impl Fields {
    /// The fields of the one JSON object in `line`.
    ///
    /// Errors: [`ErrorCode::NotUtf8`], [`ErrorCode::TooDeep`], [`ErrorCode::BadJson`], [`ErrorCode::DuplicateField`],
    /// [`ErrorCode::UnknownField`] when there are more than any command has.
    pub fn parse(line: &[u8]) -> Result<Fields, ControlError> {
        let text = std::str::from_utf8(line).map_err(|e| {
            ControlError::new(ErrorCode::NotUtf8, format!("not UTF-8 from byte {} on", e.valid_up_to() + 1))
        })?;
        if depth(line) > DEPTH_MAX {
            let message = format!("nested more than {DEPTH_MAX} levels deep");
            return Err(ControlError::new(ErrorCode::TooDeep, message));
        }
        let mut fields: Fields = serde_json::from_str(text).map_err(|e| {
            let what = match e.classify() {
                serde_json::error::Category::Data => "not a JSON object".to_owned(),
                serde_json::error::Category::Eof => "not JSON: it ends too early".to_owned(),
                _ => format!("not JSON from column {} on", e.column()),
            };
            ControlError::new(ErrorCode::BadJson, what)
        })?;
        match fields.problem.take() {
            Some(problem) => Err(problem),
            None => Ok(fields),
        }
    }

    /// Refuses the first field that is not among `known`.
    pub fn only(&self, known: &[&str], command: &str) -> Result<(), ControlError> {
        match self.fields.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            None => Ok(()),
            Some((name, _)) => {
                let message = format!("{command} has no field '{}'", shown(name));
                Err(ControlError::new(ErrorCode::UnknownField, message))
            }
        }
    }

    /// A number within `range`, if the field is there.
    pub fn number(&mut self, name: &str, range: std::ops::RangeInclusive<u64>) -> Result<Option<u64>, ControlError> {
        match self.take(name) {
            None => Ok(None),
            Some(Scalar::Number(n)) if range.contains(&n) => Ok(Some(n)),
            Some(_) => {
                let message = format!("'{name}' is a whole number from {} to {}", range.start(), range.end());
                Err(ControlError::new(ErrorCode::BadValue, message))
            }
        }
    }

    /// A number of 32 bits within `range`, if the field is there.
    pub fn number32(&mut self, name: &str, range: std::ops::RangeInclusive<u32>) -> Result<Option<u32>, ControlError> {
        let wide = u64::from(*range.start())..=u64::from(*range.end());
        Ok(self.number(name, wide)?.and_then(|n| u32::try_from(n).ok()))
    }

    /// Whether a switch is on; off when it is not there.
    pub fn switch(&mut self, name: &str) -> Result<bool, ControlError> {
        match self.take(name) {
            None => Ok(false),
            Some(Scalar::Bool(on)) => Ok(on),
            Some(_) => Err(ControlError::new(ErrorCode::BadValue, format!("'{name}' is true or false"))),
        }
    }

    /// A user name, if the field is there.
    pub fn username(&mut self, name: &str) -> Result<Option<Username>, ControlError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let Scalar::Text(text) = value else { return Err(not_text(name)) };
        match Username::parse(text.0.as_bytes()) {
            Some(username) => Ok(Some(username)),
            None => Err(ControlError::new(ErrorCode::BadName, format!("'{name}': {NAME_RULE}"))),
        }
    }

    /// An address, or a network as a throttle names it, if the field is there.
    pub fn address(&mut self, name: &str) -> Result<Option<IpAddr>, ControlError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        match address(&text) {
            Some(address) => Ok(Some(address)),
            None => Err(ControlError::new(ErrorCode::BadValue, format!("'{name}' is an IP address"))),
        }
    }

    /// The password to set, which must be there.
    pub fn password(&mut self, name: &str) -> Result<Password, ControlError> {
        let Some(value) = self.take(name) else { return Err(missing(name)) };
        let Scalar::Text(text) = value else { return Err(not_text(name)) };
        new_password(text.0.as_bytes())
            .map_err(|fault| ControlError::new(ErrorCode::BadPassword, format!("'{name}': {fault}")))
    }

    /// Short text such as a command's name, if the field is there.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, ControlError> {
        match self.take(name) {
            None => Ok(None),
            Some(Scalar::Text(text)) => Ok(Some(text.0.clone())),
            Some(_) => Err(not_text(name)),
        }
    }

    /// The value of `v`, whatever its kind: `None` when it is not there, `Some(None)` when it is no number.
    pub fn version(&mut self) -> Option<Option<u64>> {
        match self.take("v")? {
            Scalar::Number(n) => Some(Some(n)),
            _ => Some(None),
        }
    }

    fn take(&mut self, name: &str) -> Option<Scalar> {
        let at = self.fields.iter().position(|(n, _)| n == name)?;
        Some(self.fields.remove(at).1)
    }

    fn insert(&mut self, name: String, value: Scalar) {
        if self.problem.is_some() {
            return;
        }
        if self.fields.iter().any(|(n, _)| *n == name) {
            let message = format!("the field '{}' is there twice", shown(&name));
            self.problem = Some(ControlError::new(ErrorCode::DuplicateField, message));
        } else if self.fields.len() == FIELDS_MAX {
            let message = format!("'{}' is one field too many: no command has {FIELDS_MAX}", shown(&name));
            self.problem = Some(ControlError::new(ErrorCode::UnknownField, message));
        } else {
            self.fields.push((name, value));
        }
    }
}

/// An IPv4 or IPv6 address; or one that stands for its /64, which is what is throttled.
pub fn address(text: &str) -> Option<IpAddr> {
    let (address, v6_only) = text.strip_suffix("/64").map_or((text, false), |address| (address, true));
    address.parse().ok().filter(|address: &IpAddr| address.is_ipv6() || !v6_only)
}

/// What is missing, by name.
pub(super) fn missing(name: &str) -> ControlError {
    ControlError::new(ErrorCode::MissingField, format!("the field '{name}' is missing"))
}

/// A name as an error may show it: cut, so that an answer stays small, and without what a terminal would obey. JSON
/// escapes C0 alone, not DEL and C1.
pub(super) fn shown(name: &str) -> String {
    const SHOWN_MAX_CHARS: usize = 40;
    let mut chars = name.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c });
    let mut shown: String = chars.by_ref().take(SHOWN_MAX_CHARS).collect();
    if chars.next().is_some() {
        shown.push('…');
    }
    shown
}

fn not_text(name: &str) -> ControlError {
    ControlError::new(ErrorCode::BadValue, format!("'{name}' is text"))
}

/// How deep brackets nest outside strings. Right for valid JSON; for anything else the parser has its say afterwards.
fn depth(line: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0usize, 0usize, false, false);
    for byte in line {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Fields, D::Error> {
        struct ObjectVisitor;
        impl<'de> Visitor<'de> for ObjectVisitor {
            type Value = Fields;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Fields::default();
                while let Some(name) = map.next_key::<String>()? {
                    fields.insert(name, map.next_value::<Scalar>()?);
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(ObjectVisitor)
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Scalar, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Scalar, E> {
        Ok(Scalar::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Scalar, E> {
        Ok(Scalar::Number(value))
    }

    fn visit_i64<E>(self, _negative: i64) -> Result<Scalar, E> {
        Ok(Scalar::Other)
    }

    fn visit_f64<E>(self, _fraction: f64) -> Result<Scalar, E> {
        Ok(Scalar::Other)
    }

    fn visit_str<E>(self, value: &str) -> Result<Scalar, E> {
        Ok(Scalar::Text(Wiped(value.to_owned())))
    }

    fn visit_unit<E>(self) -> Result<Scalar, E> {
        Ok(Scalar::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Scalar, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scalar, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other)
    }
}
