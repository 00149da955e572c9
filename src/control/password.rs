//! What a new password must be, and what is wrong with one that is not. A login is held to
//! [`Password::parse`](crate::proto::types::Password::parse) alone, so that passwords of earlier versions go on working.

use std::fmt;

use super::PASSWORD_RULE;
use crate::proto::limits::PASSWORD_MAX_BYTES;
use crate::proto::types::Password;

/// A byte order mark: some editors and shells put one before a file's first line, and nobody sees it.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// Why bytes are no new password. It tells their number and a control character, and nothing else of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PasswordFault {
    Empty,
    NotUtf8,
    Control(char),
    TooLong { bytes: usize },
    Space,
    ByteOrderMark,
}

/// The new password in `bytes`.
///
/// # Errors
/// The first fault, by the rule of docs/protocol.md section 2.
pub fn new_password(bytes: &[u8]) -> Result<Password, PasswordFault> {
    if bytes.is_empty() {
        return Err(PasswordFault::Empty);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| PasswordFault::NotUtf8)?;
    if let Some(control) = text.chars().find(|c| c.is_control()) {
        return Err(PasswordFault::Control(control));
    }
    let too_long = PasswordFault::TooLong { bytes: bytes.len() };
    if bytes.len() > PASSWORD_MAX_BYTES {
        return Err(too_long);
    }
    if text.starts_with(BYTE_ORDER_MARK) {
        return Err(PasswordFault::ByteOrderMark);
    }
    // What is left to be wrong is a space at an end; the rule itself has the last word.
    Password::parse(bytes).ok_or(PasswordFault::Space)
}

impl fmt::Display for PasswordFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PasswordFault::Empty => f.write_str("there is no password: ")?,
            PasswordFault::NotUtf8 => f.write_str("the password is not UTF-8: ")?,
            PasswordFault::Control(c) => write!(f, "the password holds a control character ({}): ", Key(*c))?,
            PasswordFault::TooLong { bytes } => write!(f, "the password has {bytes} bytes: ")?,
            PasswordFault::Space => f.write_str("the password has a space at one end: ")?,
            PasswordFault::ByteOrderMark => f.write_str("the password begins with a byte order mark (U+FEFF): ")?,
        }
        f.write_str(PASSWORD_RULE)
    }
}

/// A control character as the key that types it, where there is one.
struct Key(char);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            '\t' => f.write_str("TAB"),
            '\u{1b}' => f.write_str("ESC"),
            '\0' => f.write_str("NUL"),
            '\r' => f.write_str("CR"),
            '\u{7f}' => f.write_str("DEL"),
            // Ctrl and a letter: the letter's code without its upper bits.
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
            (b"ab\tcd", PasswordFault::Control('\t')),
            (b"ab\x1bXcd", PasswordFault::Control('\u{1b}')),
            (b"a\0b", PasswordFault::Control('\0')),
            ("a\u{85}b".as_bytes(), PasswordFault::Control('\u{85}')),
            (b"0123456789abcdef", PasswordFault::TooLong { bytes: 16 }),
            (" \u{e9}".as_bytes(), PasswordFault::Space),
            (b"a ", PasswordFault::Space),
            (b" ", PasswordFault::Space),
            ("\u{feff}secret".as_bytes(), PasswordFault::ByteOrderMark),
        ] {
            assert_eq!(new_password(bytes).map(drop), Err(fault), "{bytes:?}");
            assert!(fault.to_string().ends_with(PASSWORD_RULE));
        }
        for good in ["a", "0123456789abcde", "a b", "\u{d6}l", "\u{fffd}", "a\u{feff}b", "\u{1f512}"] {
            assert_eq!(new_password(good.as_bytes()).expect(good).as_bytes(), good.as_bytes());
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
            let said = PasswordFault::Control(c).to_string();
            assert!(said.contains(&format!("({name})")) && !said.contains(c), "{said}");
        }
    }
}
