//! The small texts inside a script's lines: escapes, repetitions, durations; and bytes made readable for a report.

use std::time::Duration;

/// Longest text that a report shows of one line, in characters.
const SHOWN_MAX_CHARS: usize = 160;

/// Whether `\r`, `\xff` and the like mean something in a text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Escapes {
    Plain,
    Raw,
}

/// The bytes of `text`: `{ab*3}` stands for `ababab`; with [`Escapes::Raw`] the escapes of a raw string are replaced.
/// A brace that begins no repetition is a brace.
pub fn expand(text: &str, escapes: Escapes) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        if let Some((piece, count, after)) = repetition(rest) {
            bytes.extend(expand(piece, escapes)?.repeat(count));
            rest = after;
        } else if next == '\\' && escapes == Escapes::Raw {
            rest = escape(rest, &mut bytes)?;
        } else {
            let (one, after) = rest.split_at(next.len_utf8());
            bytes.extend(one.as_bytes());
            rest = after;
        }
    }
    Ok(bytes)
}

/// `{piece*count}` at the start of `text`, and what follows it.
fn repetition(text: &str) -> Option<(&str, usize, &str)> {
    let (inside, after) = text.strip_prefix('{')?.split_once('}')?;
    let (piece, count) = inside.rsplit_once('*')?;
    if piece.is_empty() || piece.contains('{') || !count.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some((piece, count.parse().ok()?, after))
}

/// Replaces the escape at the start of `text`; gives what follows it.
fn escape<'a>(text: &'a str, bytes: &mut Vec<u8>) -> Result<&'a str, String> {
    let mut rest = text.chars();
    rest.next();
    match rest.next() {
        Some('r') => bytes.push(b'\r'),
        Some('n') => bytes.push(b'\n'),
        Some('t') => bytes.push(b'\t'),
        Some('0') => bytes.push(0),
        Some('\\') => bytes.push(b'\\'),
        Some('"') => bytes.push(b'"'),
        Some('x') => {
            let digits: String = rest.by_ref().take(2).collect();
            let byte = u8::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 2);
            bytes.push(byte.ok_or("\\x wants two hexadecimal digits")?);
        }
        Some('u') => {
            let (digits, after) = rest.as_str().strip_prefix('{').and_then(|t| t.split_once('}')).ok_or("\\u{…}")?;
            let character = u32::from_str_radix(digits, 16).ok().and_then(char::from_u32);
            bytes.extend(character.ok_or("\\u{…} wants the number of a character")?.to_string().as_bytes());
            return Ok(after);
        }
        other => return Err(format!("unknown escape \\{}", other.map(String::from).unwrap_or_default())),
    }
    Ok(rest.as_str())
}

/// `70ms`, `2s`, `1m`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| format!("no duration: {text}"))?;
    match &text[digits.len()..] {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number * 60)),
        _ => Err(format!("a duration is a number and ms, s or m: {text}")),
    }
}

/// `bytes` for a report: control characters and invalid UTF-8 as escapes, long texts cut.
pub fn readable(bytes: &[u8]) -> String {
    let mut shown = String::new();
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                c if c.is_control() => shown.extend(c.escape_default()),
                c => shown.push(c),
            }
        }
        shown.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    if shown.chars().count() > SHOWN_MAX_CHARS {
        let head: String = shown.chars().take(SHOWN_MAX_CHARS).collect();
        return format!("{head}… ({} bytes)", bytes.len());
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parser_expands_repetitions_everywhere_and_escapes_in_raw_strings_only() {
        assert_eq!(expand("SMSGbob:{ab*3}!", Escapes::Plain).unwrap(), b"SMSGbob:ababab!");
        assert_eq!(expand("a\\r", Escapes::Plain).unwrap(), b"a\\r");
        assert_eq!(expand("{\\xff*2}\\r\\n\\t\\0\\\\\\\"", Escapes::Raw).unwrap(), b"\xff\xff\r\n\t\0\\\"");
        assert_eq!(expand("\\u{e9}{é*2}", Escapes::Raw).unwrap(), "ééé".as_bytes());
    }

    #[test]
    fn parser_takes_other_braces_as_they_are() {
        for text in ["{", "}", "{}", "{a}", "{*3}", "{a*}", "{a*b}", "{a*3"] {
            let expected = if text == "{a*}" { None } else { Some(text.as_bytes().to_vec()) };
            assert_eq!(expand(text, Escapes::Plain).ok(), expected.or(Some(b"{a*}".to_vec())), "{text}");
        }
    }

    #[test]
    fn parser_refuses_broken_escapes() {
        for text in ["\\", "\\q", "\\x", "\\x1", "\\xgg", "\\u", "\\u{", "\\u{d800}", "\\u{}"] {
            assert!(expand(text, Escapes::Raw).is_err(), "{text}");
        }
    }

    #[test]
    fn parser_reads_durations() {
        assert_eq!(duration("70ms"), Ok(Duration::from_millis(70)));
        assert_eq!(duration("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("1m"), Ok(Duration::from_secs(60)));
        for text in ["", "5", "ms", "-1s", "1h", "1.5s", "1 s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_report_shows_bytes_safely() {
        assert_eq!(readable("a\u{1b}é\r\n".as_bytes()), "a\\u{1b}é\\r\\n");
        assert_eq!(readable(b"\xff\xf6"), "\\xff\\xf6");
        assert!(readable(&[b'a'; 1000]).ends_with("… (1000 bytes)"));
    }
}
