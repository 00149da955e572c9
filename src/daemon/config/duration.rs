//! Durations as they are written in the configuration: a whole number and a unit, `50ms`, `30s`, `5m`, `12h`, `1d`.

use cpd_core::time::Millis;

const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Parses `text` to milliseconds. `None` if it is not a whole number with a unit, or is too large.
pub fn parse(text: &str) -> Option<Millis> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let (_, millis) = UNITS.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*millis)
}

/// Formats `millis` in the largest unit that represents it exactly, except that one minute is `60s`, as in the shipped
/// configuration.
pub fn show(millis: Millis) -> String {
    if millis == 0 {
        return String::from("0s");
    }
    let fits = |unit: u64| millis.is_multiple_of(unit) && !(unit == 60_000 && millis == 60_000);
    match UNITS.iter().find(|(_, unit)| fits(*unit)) {
        Some((name, unit)) => format!("{}{name}", millis / unit),
        None => format!("{millis}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        let good = [("50ms", 50), ("30s", 30_000), ("5m", 300_000), ("12h", 43_200_000), ("1d", 86_400_000), ("0s", 0)];
        for (text, millis) in good {
            assert_eq!(parse(text), Some(millis), "{text}");
        }
        for text in
            ["", "30", "s", "1.5h", "-1s", "+1s", " 1s", "1 s", "1S", "1w", "1sec", "é", "99999999999999999999s"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(parse("18446744073709551615d"), None, "too large for milliseconds");
    }

    #[test]
    fn what_is_shown_can_be_read_again() {
        for millis in [0, 1, 50, 999, 1000, 1500, 30_000, 60_000, 61_000, 120_000, 1_800_000, 3_600_000, 86_400_000] {
            assert_eq!(parse(&show(millis)), Some(millis));
        }
        assert_eq!(show(60_000), "60s");
        assert_eq!(show(1_800_000), "30m");
        assert_eq!(show(86_400_000), "1d");
    }
}
