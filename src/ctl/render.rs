//! Text output and JSON output. Neither contains anything that a terminal would interpret.

use std::fmt::Write;

use cp_proto::printable::{affects_display, escape};
use serde::Serialize;

/// Encodes one JSON document as one line.
pub(crate) fn to_json_line(document: &impl Serialize) -> String {
    // This cannot fail: all documents have text as keys.
    let text = serde_json::to_string(document).unwrap_or_default();
    let mut shown = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        // serde_json escapes only C0 control characters. The others occur only inside strings, where the escape is
        // equivalent.
        if affects_display(c) {
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

/// Encodes an error as the JSON document that `--json` prints.
pub(crate) fn json_error(code: &str, message: &str) -> String {
    #[derive(Serialize)]
    struct Document<'a> {
        error: ErrorFields<'a>,
    }
    #[derive(Serialize)]
    struct ErrorFields<'a> {
        code: &'a str,
        message: &'a str,
    }
    to_json_line(&Document { error: ErrorFields { code, message } })
}

/// A table in which each column is as wide as its widest cell, counted in characters.
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

struct Column {
    header: &'static str,
    align_right: bool,
}

impl Table {
    /// A table with these column headers. A header that begins with `>` means that the column is aligned to the right.
    pub fn new(headers: &[&'static str]) -> Table {
        let column = |header: &&'static str| match header.strip_prefix('>') {
            Some(header) => Column { header, align_right: true },
            None => Column { header, align_right: false },
        };
        Table { columns: headers.iter().map(column).collect(), rows: Vec::new() }
    }

    /// Adds a row. The cells are escaped.
    pub fn add_row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| escape(&cell)).collect());
    }

    /// Formats the table with one line per row and no trailing spaces.
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
                let _ =
                    if column.align_right { write!(line, "{cell:>width$}") } else { write!(line, "{cell:<width$}") };
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Formats names and values, one pair per line. The values are escaped.
pub(crate) fn format_pairs<N: AsRef<str>>(pairs: &[(N, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.as_ref().chars().count()).max().unwrap_or_default();
    let mut text = String::new();
    for (name, value) in pairs {
        // A newer daemon's counters have names that this program does not know.
        let _ = writeln!(text, "{:<width$}  {}", escape(name.as_ref()), escape(value));
    }
    text
}

/// Formats a number with a noun, which is in the plural unless the number is 1.
pub(crate) fn format_count(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_that_a_terminal_interprets_are_escaped() {
        assert_eq!(escape("a\tb\u{1b}[31m\u{9b}2J\u{7f}\u{202e}x"), "a\\tb\\u{1b}[31m\\u{9b}2J\\u{7f}\\u{202e}x");
        assert_eq!(escape("gr\u{fc}\u{df}e, \u{4f60}\u{597d}"), "gr\u{fc}\u{df}e, \u{4f60}\u{597d}");
        let text = to_json_line(&["\u{1b}\u{9b}\u{7f}\u{202e}\u{e0001}\u{fc}\""]);
        assert_eq!(text, "[\"\\u001b\\u009b\\u007f\\u202e\\udb40\\udc01\u{fc}\\\"\"]\n");
        let back: Vec<String> = serde_json::from_str(&text).expect("JSON");
        assert_eq!(back, ["\u{1b}\u{9b}\u{7f}\u{202e}\u{e0001}\u{fc}\""]);
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["NAME", ">N", "LAST"]);
        table.add_row(["b\u{f6}b".to_owned(), "7".to_owned(), "-".to_owned()]);
        table.add_row(["alexander".to_owned(), "1000".to_owned(), "x\ny".to_owned()]);
        assert_eq!(table.text(), "NAME          N  LAST\nb\u{f6}b           7  -\nalexander  1000  x\\ny\n");
        assert_eq!(Table::new(&["A", ">B"]).text(), "A  B\n");
        assert_eq!(format_count(1, "message"), "1 message");
        assert_eq!(format_count(0, "message"), "0 messages");
    }
}
