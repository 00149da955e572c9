//! One event as one line: `event key=value key="a value"`. Text from a peer cannot end the line, start another one, or
//! affect the terminal that shows it.

use std::fmt::{Display, Write};

use cp_proto::printable::escape_into;

/// Longest value, in bytes before escaping; a longer one is cut and ends in `…`.
pub const VALUE_MAX_BYTES: usize = 512;
/// Longest line, in bytes; fields that do not fit are left out, and `cut=true` is appended.
pub const LINE_MAX_BYTES: usize = 8 * 1024;

/// A log line under construction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogLine {
    text: String,
    /// Fields were left out.
    cut: bool,
}

impl LogLine {
    /// Starts the line of an event. Its name is a few plain words fixed in the source, such as `auth failure`.
    pub fn new(event: &'static str) -> LogLine {
        LogLine { text: String::from(event), cut: false }
    }

    /// Adds ` key=value`. The value is quoted if it is empty, was cut, or contains anything but ASCII letters, digits
    /// and `._:/@+,-[]%`; inside the quotes it is escaped.
    pub fn field(mut self, key: &'static str, value: impl Display) -> LogLine {
        let value = value.to_string();
        let (shown, more) = shorten(&value);
        let mut text = String::with_capacity(shown.len() + 2);
        if !more && !shown.is_empty() && shown.bytes().all(is_plain) {
            text.push_str(shown);
        } else {
            text.push('"');
            escape_quoted(&mut text, shown);
            text.push_str(if more { "…\"" } else { "\"" });
        }
        if self.text.len() + key.len() + text.len() + 2 > LINE_MAX_BYTES {
            self.cut = true;
            return self;
        }
        let _ = write!(self.text, " {key}={text}");
        self
    }

    /// The line without a line break.
    pub fn into_text(mut self) -> String {
        if self.cut {
            self.text.push_str(" cut=true");
        }
        self.text
    }
}

/// The beginning of `value` that fits into [`VALUE_MAX_BYTES`], and whether something was cut off.
fn shorten(value: &str) -> (&str, bool) {
    if value.len() <= VALUE_MAX_BYTES {
        return (value, false);
    }
    let end = value.floor_char_boundary(VALUE_MAX_BYTES);
    (value.get(..end).unwrap_or_default(), true)
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._:/@+,-[]%".contains(&byte)
}

/// As [`escape_into`], and escapes `"` and `\` as well, so that the text cannot end the quotes around it.
fn escape_quoted(out: &mut String, text: &str) {
    for part in text.split_inclusive(['"', '\\']) {
        let rest = part.trim_end_matches(['"', '\\']);
        escape_into(out, rest);
        for c in part.chars().skip(rest.chars().count()) {
            out.push('\\');
            out.push(c);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_values_stay_bare_and_others_are_quoted() {
        let line = LogLine::new("auth failure")
            .field("user", "bob")
            .field("addr", "[2001:db8::1]:4711")
            .field("path", "/var/lib/cpd/cpd.db")
            .field("reason", "wrong password")
            .field("empty", "")
            .field("count", 3)
            .into_text();
        let expected = "auth failure user=bob addr=[2001:db8::1]:4711 path=/var/lib/cpd/cpd.db \
                        reason=\"wrong password\" empty=\"\" count=3";
        assert_eq!(line, expected);
    }

    #[test]
    fn a_value_cannot_forge_a_field_or_a_line() {
        let line = LogLine::new("x").field("v", "a\" addr=1.2.3.4 \\\r\nx v=b").into_text();
        assert_eq!(line, r#"x v="a\" addr=1.2.3.4 \\\r\nx v=b""#);
        assert_eq!(LogLine::new("x").field("v", "a=b").into_text(), r#"x v="a=b""#);
    }

    #[test]
    fn lines_are_bounded() {
        let long = "é".repeat(VALUE_MAX_BYTES);
        let line = LogLine::new("x").field("v", &long).into_text();
        assert!(line.len() < VALUE_MAX_BYTES + 16 && line.ends_with("…\""), "{line}");
        let mut line = LogLine::new("x");
        for _ in 0..1000 {
            line = line.field("v", "\u{1b}".repeat(100));
        }
        let text = line.into_text();
        assert!(text.len() <= LINE_MAX_BYTES + 16 && text.ends_with(" cut=true"));
    }
}
