//! Durations as people write and read them, in the configuration and in cpctl: a whole number and a unit, such as `50ms`,
//! `30s`, `12h` or `7d`.

use cpd_core::time::Millis;

/// The milliseconds in each unit, beginning with the largest unit.
const UNITS: [(&str, u64); 6] =
    [("w", 604_800_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Parses `text` to milliseconds. `None` if it is not a whole number with a unit, or is too large.
pub fn parse(text: &str) -> Option<Millis> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let (_, millis) = UNITS.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*millis)
}

/// Parses an age of at least a second, in whole seconds.
///
/// # Errors
/// A message that explains what is wrong.
pub fn parse_age(text: &str) -> Result<u64, String> {
    match parse(text) {
        None => {
            Err("it is not a number and its unit, one of s, m, h, d and w, such as 7d, or it is too large".to_owned())
        }
        Some(0) => Err("everything is older than that; leave the flag out to take everything".to_owned()),
        Some(millis) if !millis.is_multiple_of(1000) => Err("it is not in whole seconds".to_owned()),
        Some(millis) => Ok(millis / 1000),
    }
}

/// Formats `millis` in the largest unit up to a day that represents it exactly, except that one minute is `60s`, as in the
/// shipped configuration.
pub fn show(millis: Millis) -> String {
    if millis == 0 {
        return String::from("0s");
    }
    let fits = |unit: u64| millis.is_multiple_of(unit) && !(unit == 60_000 && millis == 60_000);
    match up_to_days().find(|(_, unit)| fits(*unit)) {
        Some((name, unit)) => format!("{}{name}", millis / unit),
        None => format!("{millis}ms"),
    }
}

/// Formats `seconds` with at most two units, of which days are the largest: `3d 4h`, `5m 20s`, `0s`.
pub fn show_roughly(seconds: u64) -> String {
    let mut rest = seconds.saturating_mul(1000);
    let mut shown: Vec<String> = Vec::new();
    let mut units = 0;
    for (name, unit) in up_to_days().filter(|(_, unit)| *unit >= 1000) {
        let number = rest / unit;
        rest %= unit;
        units += usize::from(number > 0 || units > 0);
        if number > 0 && units <= 2 {
            shown.push(format!("{number}{name}"));
        }
    }
    if shown.is_empty() { "0s".to_owned() } else { shown.join(" ") }
}

/// The units in which durations are shown: weeks are only read.
fn up_to_days() -> impl Iterator<Item = (&'static str, u64)> {
    UNITS.into_iter().skip(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        let good = [
            ("50ms", 50),
            ("30s", 30_000),
            ("5m", 300_000),
            ("12h", 43_200_000),
            ("1d", 86_400_000),
            ("2w", 1_209_600_000),
            ("0s", 0),
        ];
        for (text, millis) in good {
            assert_eq!(parse(text), Some(millis), "{text}");
        }
        for text in [
            "",
            "30",
            "s",
            "1.5h",
            "-1s",
            "+1s",
            " 1s",
            "1 s",
            "1S",
            "1y",
            "1sec",
            "1d12h",
            "é",
            "99999999999999999999s",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(parse("18446744073709551615d"), None, "too large for milliseconds");
    }

    #[test]
    fn ages_are_whole_seconds_above_0() {
        for (text, seconds) in [("1s", 1), ("90m", 5400), ("12h", 43_200), ("7d", 604_800), ("2w", 1_209_600)] {
            assert_eq!(parse_age(text), Ok(seconds), "{text}");
        }
        for text in ["", "7", "d", "7y", "-7d", "7 d", "0s", "0d", "500ms", "1500ms", "\u{e9}", "7\u{e9}"] {
            assert!(parse_age(text).is_err(), "{text}");
        }
        assert!(parse_age("99999999999999999999s").is_err_and(|why| why.contains("too large")));
    }

    #[test]
    fn what_is_shown_can_be_read_again() {
        for millis in [0, 1, 50, 999, 1000, 1500, 30_000, 60_000, 61_000, 120_000, 1_800_000, 3_600_000, 86_400_000] {
            assert_eq!(parse(&show(millis)), Some(millis));
        }
        assert_eq!(show(60_000), "60s");
        assert_eq!(show(1_800_000), "30m");
        assert_eq!(show(14 * 86_400_000), "14d");
    }

    #[test]
    fn long_times_are_shown_roughly() {
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (60, "1m"), (320, "5m 20s"), (3601, "1h"), (273_600, "3d 4h"), (864_000, "10d")]
        {
            assert_eq!(show_roughly(seconds), text);
        }
    }
}
