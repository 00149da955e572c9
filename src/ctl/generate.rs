//! Generates passwords.

use cp_proto::limits::PASSWORD_MAX_BYTES;
use cp_proto::secret::wipe;

use crate::ctl::exit::{ExitStatus, Failure};

/// Letters and digits that are not easily confused: without 0, O, 1, l, I, i and o.
const ALPHABET: &[u8] = b"23456789abcdefghjkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ";

/// Generates a password of the greatest length allowed, with about 86 bits from the kernel's random number generator.
///
/// # Errors
/// [`ExitStatus::Refused`] if the kernel provides no random numbers.
pub(crate) fn password() -> Result<String, Failure> {
    // Bytes from this multiple of the alphabet's length on are rejected, as they would favour its first letters.
    let fair = u8::try_from(256 / ALPHABET.len() * ALPHABET.len()).unwrap_or(u8::MAX);
    let mut password = String::with_capacity(PASSWORD_MAX_BYTES);
    while password.len() < PASSWORD_MAX_BYTES {
        let mut random = [0u8; 2 * PASSWORD_MAX_BYTES];
        getrandom::fill(&mut random)
            .map_err(|e| Failure::new(ExitStatus::Refused, format!("the system has no random numbers: {e}")))?;
        let fair = random.iter().filter(|byte| **byte < fair);
        let letters = fair.filter_map(|byte| ALPHABET.get(usize::from(*byte) % ALPHABET.len()));
        password.extend(letters.take(PASSWORD_MAX_BYTES - password.len()).map(|b| char::from(*b)));
        wipe(&mut random);
    }
    Ok(password)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cp_proto::values::Password;

    #[test]
    fn generated_passwords_are_valid_and_use_all_letters_equally() {
        let mut counts = [0u32; 256];
        for _ in 0..4000 {
            let password = password().expect("random numbers");
            assert_eq!(password.len(), PASSWORD_MAX_BYTES);
            assert!(Password::parse(password.as_bytes()).is_some());
            password.bytes().for_each(|b| counts[usize::from(b)] += 1);
        }
        // 60,000 letters over an alphabet of 55 are 1091 each, with a standard deviation of 33. The limits are seven of
        // these away, which does not happen by chance.
        for letter in ALPHABET {
            let count = counts[usize::from(*letter)];
            assert!((860..1322).contains(&count), "{}: {count}", char::from(*letter));
        }
        assert_eq!(counts.iter().filter(|count| **count > 0).count(), ALPHABET.len());
    }
}
