//! What may be shown on a terminal or written to a log: text of unknown origin must not be able to do anything there.

/// Whether a character affects how text is displayed instead of being visible itself: control characters (Cc: C0, DEL,
/// C1), line and paragraph separators, invisible characters, and those that change the direction of writing.
pub fn affects_display(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Appends `text`, escaped so that it stays on one line and is safe to show on a terminal: `\n`, `\r`, `\t` and `\u{1b}`
/// in place of such characters.
pub fn escape_into(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if affects_display(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
}

/// As [`escape_into`], into a new string.
pub fn escape(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    escape_into(&mut shown, text);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_acts_on_a_terminal_is_left() {
        let every: String = (0..=0x10_ffff).filter_map(char::from_u32).filter(|c| affects_display(*c)).collect();
        assert!(every.contains('\u{1b}') && every.contains('\u{7f}') && every.contains('\u{9b}'));
        assert!(every.contains('\u{202e}') && every.contains('\u{2028}') && every.contains('\u{2066}'));
        let mut out = String::new();
        escape_into(&mut out, &every);
        assert!(out.is_ascii() && !out.bytes().any(|b| b.is_ascii_control()), "{out}");
        let mut kept = String::new();
        escape_into(&mut kept, "grüße 你好 🙂");
        assert_eq!(kept, "grüße 你好 🙂");
    }
}
