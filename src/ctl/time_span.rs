//! Time spans as operators write and read them, such as `7d`.

/// The seconds in each unit, beginning with the largest unit.
const UNITS: [(char, u64); 5] = [('w', 604_800), ('d', 86_400), ('h', 3600), ('m', 60), ('s', 1)];

/// Parses a time span: a whole number above 0 and its unit, `s`, `m`, `h`, `d` or `w`. Returns seconds.
///
/// # Errors
/// A message that explains what is wrong.
pub fn parse(text: &str) -> Result<u64, String> {
    let rule = || "a span is a number and its unit, one of s, m, h, d and w: 7d".to_owned();
    let unit = text.chars().last().ok_or_else(rule)?;
    let (_, seconds) = UNITS.iter().find(|(letter, _)| *letter == unit).ok_or_else(rule)?;
    let digits = text.strip_suffix(unit).unwrap_or_default();
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(rule());
    }
    let number: u64 = digits.parse().map_err(|_| "the span is too long".to_owned())?;
    match number.checked_mul(*seconds) {
        None => Err("the span is too long".to_owned()),
        Some(0) => Err("a span of nothing would take everything; leave the flag out for that".to_owned()),
        Some(total) => Ok(total),
    }
}

/// Formats `seconds` with at most two units, of which days are the largest: `3d 4h`, `5m 20s`, `0s`.
pub fn format(seconds: u64) -> String {
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (letter, size) in UNITS.iter().skip(1) {
        let number = rest / size;
        rest %= size;
        if number > 0 || !parts.is_empty() {
            parts.push((number, *letter));
        }
    }
    let shown: Vec<String> =
        parts.iter().take(2).filter(|(number, _)| *number > 0).map(|(n, letter)| format!("{n}{letter}")).collect();
    if shown.is_empty() { "0s".to_owned() } else { shown.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read() {
        for (text, seconds) in [("1s", 1), ("90m", 5400), ("12h", 43_200), ("7d", 604_800), ("2w", 1_209_600)] {
            assert_eq!(parse(text), Ok(seconds), "{text}");
        }
        for text in ["", "7", "d", "7y", "-7d", "+7d", "7 d", "1.5h", "1d12h", "0s", "\u{e9}", "7\u{e9}"] {
            assert!(parse(text).is_err(), "{text}");
        }
        for text in ["99999999999999999999s", "18446744073709551615w"] {
            assert_eq!(parse(text), Err("the span is too long".to_owned()));
        }
    }

    #[test]
    fn spans_are_shown() {
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (60, "1m"), (320, "5m 20s"), (3601, "1h"), (273_600, "3d 4h"), (864_000, "10d")]
        {
            assert_eq!(format(seconds), text);
        }
    }
}
