//! Checks new passwords and names what is wrong with them. A login is checked by
//! [`Password::parse`](cp_proto::values::Password::parse) only, so that passwords set with earlier versions still
//! work.

use std::fmt;

use cp_proto::limits::PASSWORD_MAX_BYTES;
use cp_proto::values::Password;

use super::limits::PASSWORD_RULE;

/// A byte order mark. Some editors and shells put one at the beginning of a file, where it is invisible.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// The reason why bytes are not allowed as a new password. It reveals at most their number or one control character.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PasswordFault {
    Empty,
    NotUtf8,
    ControlCharacter(char),
    TooLong { bytes: usize },
    SpaceAtEnd,
    ByteOrderMark,
}

/// Parses a new password by the rule of docs/protocol.md section 2.
///
/// # Errors
/// The first fault that was found.
pub fn parse_new_password(bytes: &[u8]) -> Result<Password, PasswordFault> {
    if bytes.is_empty() {
        return Err(PasswordFault::Empty);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| PasswordFault::NotUtf8)?;
    if let Some(control) = text.chars().find(|c| c.is_control()) {
        return Err(PasswordFault::ControlCharacter(control));
    }
    let too_long = PasswordFault::TooLong { bytes: bytes.len() };
    if bytes.len() > PASSWORD_MAX_BYTES {
        return Err(too_long);
    }
    if text.starts_with(BYTE_ORDER_MARK) {
        return Err(PasswordFault::ByteOrderMark);
    }
    // The only fault that remains possible is a space at one end; `Password::parse` is what enforces the rule.
    Password::parse(bytes).ok_or(PasswordFault::SpaceAtEnd)
}

impl fmt::Display for PasswordFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PasswordFault::Empty => f.write_str("there is no password: ")?,
            PasswordFault::NotUtf8 => f.write_str("the password is not UTF-8: ")?,
            PasswordFault::ControlCharacter(c) => {
                write!(f, "the password holds a control character ({}): ", KeyName(*c))?
            }
            PasswordFault::TooLong { bytes } => write!(f, "the password has {bytes} bytes: ")?,
            PasswordFault::SpaceAtEnd => f.write_str("the password has a space at one end: ")?,
            PasswordFault::ByteOrderMark => f.write_str("the password begins with a byte order mark (U+FEFF): ")?,
        }
        f.write_str(PASSWORD_RULE)
    }
}

/// Formats a control character as the name of the key that types it, or as its code point if there is no such key.
struct KeyName(char);

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            '\t' => f.write_str("TAB"),
            '\u{1b}' => f.write_str("ESC"),
            '\0' => f.write_str("NUL"),
            '\r' => f.write_str("CR"),
            '\u{7f}' => f.write_str("DEL"),
            // Ctrl and a letter send the letter's code without bit 0x40.
            c @ '\u{1}'..='\u{1a}' => write!(f, "Ctrl-{}", char::from_u32(u32::from(c) | 0x40).unwrap_or('?')),
            c => write!(f, "U+{:04X}", u32::from(c)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_its_fault() {
        for (bytes, fault) in [
            (&b""[..], PasswordFault::Empty),
            (b"\xd6l", PasswordFault::NotUtf8),
            (b"\xc3", PasswordFault::NotUtf8),
            (b"ab\tcd", PasswordFault::ControlCharacter('\t')),
            (b"ab\x1bXcd", PasswordFault::ControlCharacter('\u{1b}')),
            (b"a\0b", PasswordFault::ControlCharacter('\0')),
            ("a\u{85}b".as_bytes(), PasswordFault::ControlCharacter('\u{85}')),
            (b"0123456789abcdef", PasswordFault::TooLong { bytes: 16 }),
            (" \u{e9}".as_bytes(), PasswordFault::SpaceAtEnd),
            (b"a ", PasswordFault::SpaceAtEnd),
            (b" ", PasswordFault::SpaceAtEnd),
            ("\u{feff}secret".as_bytes(), PasswordFault::ByteOrderMark),
        ] {
            assert_eq!(parse_new_password(bytes).map(drop), Err(fault), "{bytes:?}");
            assert!(fault.to_string().ends_with(PASSWORD_RULE));
        }
        for good in ["a", "0123456789abcde", "a b", "\u{d6}l", "\u{fffd}", "a\u{feff}b", "\u{1f512}"] {
            assert_eq!(parse_new_password(good.as_bytes()).expect(good).as_bytes(), good.as_bytes());
        }
    }

    #[test]
    fn an_old_password_with_a_byte_order_mark_is_still_one() {
        assert!(Password::parse("\u{feff}secret".as_bytes()).is_some());
    }

    #[test]
    fn control_characters_are_named_by_their_keys() {
        for (c, name) in
            [('\t', "TAB"), ('\u{17}', "Ctrl-W"), ('\u{1b}', "ESC"), ('\u{1c}', "U+001C"), ('\u{9b}', "U+009B")]
        {
            let said = PasswordFault::ControlCharacter(c).to_string();
            assert!(said.contains(&format!("({name})")) && !said.contains(c), "{said}");
        }
    }
}
