//! Parses a line of JSON into a flat set of fields. All errors are made here: serde's own errors quote the request,
//! which may contain a password.

use std::fmt;
use std::net::IpAddr;

use cp_proto::printable::affects_display;
use cp_proto::secret::WipedText;
use cp_proto::values::{Password, Username};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::error::{ControlError, ErrorCode};
use super::limits::{FIELDS_MAX, JSON_DEPTH_MAX, NAME_RULE};
use super::password::parse_new_password;

/// The fields of a request that have not been read yet.
#[derive(Default)]
pub(super) struct Fields {
    fields: Vec<(String, Scalar)>,
    first_error: Option<ControlError>,
}

/// The value of a field. Nested values are recognised but not kept, because no command takes one.
enum Scalar {
    /// It may be a password.
    Text(WipedText),
    Number(u64),
    Bool(bool),
    /// Anything else: a null, an array, an object, or a number that does not fit into 64 bits without a sign.
    Other,
}

impl Fields {
    /// Parses `line`, which must be exactly one JSON object.
    ///
    /// # Errors
    /// [`ErrorCode::NotUtf8`], [`ErrorCode::TooDeep`], [`ErrorCode::BadJson`], [`ErrorCode::DuplicateField`], or
    /// [`ErrorCode::UnknownField`] when there are more than [`FIELDS_MAX`] fields.
    pub fn parse(line: &[u8]) -> Result<Fields, ControlError> {
        let text = std::str::from_utf8(line).map_err(|e| {
            ControlError::new(ErrorCode::NotUtf8, format!("not UTF-8 from byte {} on", e.valid_up_to() + 1))
        })?;
        if nesting_depth(line) > JSON_DEPTH_MAX {
            let message = format!("nested more than {JSON_DEPTH_MAX} levels deep");
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
        match fields.first_error.take() {
            Some(first_error) => Err(first_error),
            None => Ok(fields),
        }
    }

    /// Refuses the request if it has a field that is not in `known`.
    ///
    /// # Errors
    /// [`ErrorCode::UnknownField`], naming the first such field and the command.
    pub fn refuse_unknown(&self, known: &[&str], command: &str) -> Result<(), ControlError> {
        match self.fields.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            None => Ok(()),
            Some((name, _)) => {
                let message = format!("{command} has no field '{}'", printable_name(name));
                Err(ControlError::new(ErrorCode::UnknownField, message))
            }
        }
    }

    /// Takes a number, or `None` if the field is missing.
    ///
    /// # Errors
    /// [`ErrorCode::BadValue`] for anything but a whole number within `range`.
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

    /// The same as [`Fields::number`] for a range of 32-bit numbers.
    pub fn number_u32(
        &mut self,
        name: &str,
        range: std::ops::RangeInclusive<u32>,
    ) -> Result<Option<u32>, ControlError> {
        let wide = u64::from(*range.start())..=u64::from(*range.end());
        Ok(self.number(name, wide)?.and_then(|n| u32::try_from(n).ok()))
    }

    /// Takes a boolean; a missing field is `false`.
    ///
    /// # Errors
    /// [`ErrorCode::BadValue`] for any other kind of value.
    pub fn boolean(&mut self, name: &str) -> Result<bool, ControlError> {
        match self.take(name) {
            None => Ok(false),
            Some(Scalar::Bool(on)) => Ok(on),
            Some(_) => Err(ControlError::new(ErrorCode::BadValue, format!("'{name}' is true or false"))),
        }
    }

    /// Takes a user name, or `None` if the field is missing.
    ///
    /// # Errors
    /// [`ErrorCode::BadName`] for text that is not a valid name, [`ErrorCode::BadValue`] for anything but text.
    pub fn username(&mut self, name: &str) -> Result<Option<Username>, ControlError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let Scalar::Text(text) = value else { return Err(not_a_string(name)) };
        match Username::parse(text.as_bytes()) {
            Some(username) => Ok(Some(username)),
            None => Err(ControlError::new(ErrorCode::BadName, format!("'{name}': {NAME_RULE}"))),
        }
    }

    /// Takes an IP address, or an IPv6 /64 as `throttle.list` shows it, or `None` if the field is missing.
    ///
    /// # Errors
    /// [`ErrorCode::BadValue`] for anything else.
    pub fn address(&mut self, name: &str) -> Result<Option<IpAddr>, ControlError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        match parse_address(&text) {
            Some(address) => Ok(Some(address)),
            None => Err(ControlError::new(ErrorCode::BadValue, format!("'{name}' is an IP address"))),
        }
    }

    /// Takes a new password. The field is required.
    ///
    /// # Errors
    /// [`ErrorCode::MissingField`], [`ErrorCode::BadPassword`], or [`ErrorCode::BadValue`] for anything but text.
    pub fn password(&mut self, name: &str) -> Result<Password, ControlError> {
        let Some(value) = self.take(name) else { return Err(missing_field(name)) };
        let Scalar::Text(text) = value else { return Err(not_a_string(name)) };
        parse_new_password(text.as_bytes())
            .map_err(|fault| ControlError::new(ErrorCode::BadPassword, format!("'{name}': {fault}")))
    }

    /// Takes text that is not secret, such as the name of a command, or `None` if the field is missing. The copy that
    /// is returned is not overwritten when it is dropped.
    ///
    /// # Errors
    /// [`ErrorCode::BadValue`] for any other kind of value.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, ControlError> {
        match self.take(name) {
            None => Ok(None),
            Some(Scalar::Text(text)) => Ok(Some(text.to_string())),
            Some(_) => Err(not_a_string(name)),
        }
    }

    /// Takes the version `v`: `None` if the field is missing, `Some(None)` if it is not a whole number.
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
        if self.first_error.is_some() {
            return;
        }
        if self.fields.iter().any(|(n, _)| *n == name) {
            let message = format!("the field '{}' is there twice", printable_name(&name));
            self.first_error = Some(ControlError::new(ErrorCode::DuplicateField, message));
        } else if self.fields.len() == FIELDS_MAX {
            let message = format!("'{}' is one field too many: no command has {FIELDS_MAX}", printable_name(&name));
            self.first_error = Some(ControlError::new(ErrorCode::UnknownField, message));
        } else {
            self.fields.push((name, value));
        }
    }
}

/// Parses an IPv4 or IPv6 address. An IPv6 address may end in `/64`, because throttles count a whole /64 as one
/// address.
pub fn parse_address(text: &str) -> Option<IpAddr> {
    let (address, v6_only) = text.strip_suffix("/64").map_or((text, false), |address| (address, true));
    address.parse().ok().filter(|address: &IpAddr| address.is_ipv6() || !v6_only)
}

/// The error for a required field that is missing.
pub(super) fn missing_field(name: &str) -> ControlError {
    ControlError::new(ErrorCode::MissingField, format!("the field '{name}' is missing"))
}

/// Makes a name from the request safe to show in an error: it is shortened, so that the answer stays small, and its
/// control characters are replaced. JSON escapes only C0 control characters, not DEL and C1.
pub(super) fn printable_name(name: &str) -> String {
    const SHOWN_MAX_CHARS: usize = 40;
    let mut chars = name.chars().map(|c| if affects_display(c) { char::REPLACEMENT_CHARACTER } else { c });
    let mut shown: String = chars.by_ref().take(SHOWN_MAX_CHARS).collect();
    if chars.next().is_some() {
        shown.push('…');
    }
    shown
}

fn not_a_string(name: &str) -> ControlError {
    ControlError::new(ErrorCode::BadValue, format!("'{name}' is text"))
}

/// The nesting depth of brackets outside strings. It is exact for valid JSON only; the parser then refuses everything
/// else.
fn nesting_depth(line: &[u8]) -> usize {
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
        Ok(Scalar::Text(value.to_owned().into()))
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
