//! What whoever starts the tests asks for by environment variables.

/// The number in a variable. `None`: it is not set.
///
/// # Panics
/// If it is set to something else than a whole number: what was asked for must not be passed over.
pub fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable}={value} is not a whole number")))
}
