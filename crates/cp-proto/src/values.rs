//! The values of the protocol. A value of these types always obeys section 2 of docs/protocol.md.

use std::fmt;

use crate::limits::{MESSAGE_MAX_BYTES, PASSWORD_MAX_BYTES, USERNAME_MAX_BYTES};
use crate::secret::wipe;

/// A user name: 1 to 10 ASCII letters, digits, `.`, `_`, `-`, starting with a letter or digit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Username {
    length: u8,
    bytes: [u8; USERNAME_MAX_BYTES],
}

impl Username {
    /// Parses a user name; `None` if section 2 does not allow it.
    pub fn parse(bytes: &[u8]) -> Option<Username> {
        let first = *bytes.first()?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if !first.is_ascii_alphanumeric() || !bytes.iter().all(|b| plain(*b)) {
            return None;
        }
        let mut name = Username { length: u8::try_from(bytes.len()).ok()?, bytes: [0; USERNAME_MAX_BYTES] };
        name.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(name)
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        self.bytes.get(..usize::from(self.length)).and_then(|b| std::str::from_utf8(b).ok()).unwrap_or_default()
    }
}

impl std::hash::Hash for Username {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        // The bytes after the name are zero, so equal names have equal arrays.
        state.write(&self.bytes);
    }
}

impl PartialOrd for Username {
    fn partial_cmp(&self, other: &Username) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Username {
    fn cmp(&self, other: &Username) -> std::cmp::Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl fmt::Debug for Username {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Username {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A password as a client sent it: 1 to 15 bytes of UTF-8 without control characters and without a space at either
/// end. It is never printed, and overwritten when dropped. It is boxed so that a move copies the pointer and leaves no
/// second copy of the password in memory.
pub struct Password {
    length: u8,
    bytes: Box<[u8; PASSWORD_MAX_BYTES]>,
}

impl Password {
    /// Parses a password; `None` if section 2 does not allow it.
    pub fn parse(bytes: &[u8]) -> Option<Password> {
        if bytes.is_empty() || bytes.starts_with(b" ") || bytes.ends_with(b" ") {
            return None;
        }
        let text = std::str::from_utf8(bytes).ok()?;
        if text.chars().any(char::is_control) {
            return None;
        }
        let mut password = Password { length: u8::try_from(bytes.len()).ok()?, bytes: Box::default() };
        password.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(password)
    }

    /// The bytes to hash.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }
}

impl Drop for Password {
    fn drop(&mut self) {
        wipe(self.bytes.as_mut_slice());
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// Whether `bytes` are a valid message: 1 to 1009 bytes of UTF-8 without control characters other than TAB.
pub fn is_valid_message(bytes: &[u8]) -> bool {
    if bytes.is_empty() || bytes.len() > MESSAGE_MAX_BYTES {
        return false;
    }
    if bytes.iter().fold(true, |plain, b| plain & (0x20..0x7f).contains(b)) {
        return true;
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => text.chars().all(|c| c == '\t' || !c.is_control()),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests;
