//! Text for people and JSON for programs, both safe for a terminal.

use std::fmt::Write;

use serde::Serialize;

/// `text` with everything a terminal might obey, or that would reorder a line, written as an escape.
pub(crate) fn safe(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\t' => shown.push_str("\\t"),
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            c if obeyed(c) => {
                let _ = write!(shown, "\\u{{{:x}}}", u32::from(c));
            }
            c => shown.push(c),
        }
    }
    shown
}

/// One JSON document in a line.
pub(crate) fn json(document: &impl Serialize) -> String {
    // Nothing that is shown has keys other than text or can fail otherwise.
    let text = serde_json::to_string(document).unwrap_or_default();
    let mut shown = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        // serde_json escapes C0 alone. The others can only stand inside strings, where the escape means the same.
        if obeyed(c) {
            let mut units = [0u16; 2];
            for unit in c.encode_utf16(&mut units) {
                let _ = write!(shown, "\\u{unit:04x}");
            }
        } else {
            shown.push(c);
        }
    }
    shown.push('\n');
    shown
}

/// An error as a document for programs.
pub(crate) fn json_error(code: &str, message: &str) -> String {
    #[derive(Serialize)]
    struct Document<'a> {
        error: Of<'a>,
    }
    #[derive(Serialize)]
    struct Of<'a> {
        code: &'a str,
        message: &'a str,
    }
    json(&Document { error: Of { code, message } })
}

/// Control characters, line separators, and the marks that turn the direction of writing or are not seen at all.
fn obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
        || matches!(c, '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Rows in columns, each as wide as its widest cell in characters.
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

struct Column {
    header: &'static str,
    right: bool,
}

impl Table {
    /// A table under `headers`. One that begins with `>` is a column of numbers, aligned to the right.
    pub fn new(headers: &[&'static str]) -> Table {
        let column = |header: &&'static str| match header.strip_prefix('>') {
            Some(header) => Column { header, right: true },
            None => Column { header, right: false },
        };
        Table { columns: headers.iter().map(column).collect(), rows: Vec::new() }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| safe(&cell)).collect());
    }

    /// The table as text, a line a row, without spaces at the ends of lines.
    pub fn text(&self) -> String {
        let header: Vec<String> = self.columns.iter().map(|column| column.header.to_owned()).collect();
        let lines = || std::iter::once(&header).chain(&self.rows);
        let width = |at: usize| {
            lines().filter_map(|cells| cells.get(at)).map(|cell| cell.chars().count()).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let mut text = String::new();
        for cells in lines() {
            let mut line = String::new();
            for ((cell, width), column) in cells.iter().zip(&widths).zip(&self.columns) {
                if !line.is_empty() {
                    line.push_str("  ");
                }
                let _ = if column.right { write!(line, "{cell:>width$}") } else { write!(line, "{cell:<width$}") };
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Names and values, a line each.
pub(crate) fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
    let mut text = String::new();
    for (name, value) in pairs {
        let _ = writeln!(text, "{name:<width$}  {}", safe(value));
    }
    text
}

/// `number` and what it counts, in the plural where it is due.
pub(crate) fn count(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_escaped() {
        assert_eq!(safe("a\tb\u{1b}[31m\u{9b}2J\u{7f}\u{202e}x"), "a\\tb\\u{1b}[31m\\u{9b}2J\\u{7f}\\u{202e}x");
        assert_eq!(safe("gr\u{fc}\u{df}e, \u{4f60}\u{597d}"), "gr\u{fc}\u{df}e, \u{4f60}\u{597d}");
        let text = json(&["\u{1b}\u{9b}\u{7f}\u{202e}\u{e0001}\u{fc}\""]);
        assert_eq!(text, "[\"\\u001b\\u009b\\u007f\\u202e\\udb40\\udc01\u{fc}\\\"\"]\n");
        let back: Vec<String> = serde_json::from_str(&text).expect("JSON");
        assert_eq!(back, ["\u{1b}\u{9b}\u{7f}\u{202e}\u{e0001}\u{fc}\""]);
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["NAME", ">N", "LAST"]);
        table.row(["b\u{f6}b".to_owned(), "7".to_owned(), "-".to_owned()]);
        table.row(["alexander".to_owned(), "1000".to_owned(), "x\ny".to_owned()]);
        assert_eq!(table.text(), "NAME          N  LAST\nb\u{f6}b           7  -\nalexander  1000  x\\ny\n");
        assert_eq!(Table::new(&["A", ">B"]).text(), "A  B\n");
        assert_eq!(count(1, "message"), "1 message");
        assert_eq!(count(0, "message"), "0 messages");
    }
}
