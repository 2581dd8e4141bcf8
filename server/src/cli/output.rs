//! How answers are printed.
//!
//! Promise: bytes of keys never reach a terminal as control characters; a stream that was closed
//! is an error, never a panic.
//! Not known here: what is printed.

use std::io::{self, Write as _};

use clap::ValueEnum;
use serde_json::Value;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Table,
    Json,
}

/// Columns of text under a head.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(head: &[&str]) -> Self {
        Self {
            rows: vec![head.iter().map(|&title| title.to_owned()).collect()],
        }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(super) fn text(&self) -> String {
        let columns = self.rows.first().map_or(0, Vec::len);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:<width$}  "));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

pub(super) fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

pub(super) fn print_json(value: &Value) -> io::Result<()> {
    print(&format!("{value:#}\n"))
}

/// To stderr, which may be closed.
pub(super) fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A key or prefix for people: as it is where it is text, escaped where it is not.
pub(super) fn show_bytes(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok("") => "\"\"".to_owned(),
        Ok(text) if !text.chars().any(|c| c.is_control() || c == '\\') => text.to_owned(),
        Ok(_) | Err(_) => bytes.escape_ascii().to_string(),
    }
}

/// Text where it is text; the bytes are in it either way.
pub(super) fn json_bytes(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => serde_json::json!({ "hex": hex::encode(bytes) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align_and_end_lines_clean() {
        let mut table = Table::new(&["ID", "PREFIX"]);
        table.row(["1".to_owned(), "/a/".to_owned()]);
        table.row(["100".to_owned(), "/é".to_owned()]);
        assert_eq!(table.text(), "ID   PREFIX\n1    /a/\n100  /é\n");
    }

    #[test]
    fn bytes_are_harmless_on_a_terminal() {
        assert_eq!(show_bytes(b"/secret/"), "/secret/");
        assert_eq!(show_bytes(b""), "\"\"");
        assert_eq!(show_bytes(b"\x1b[2J"), r"\x1b[2J");
        assert_eq!(show_bytes(&[0xff, b'a']), r"\xffa");
        assert_eq!(json_bytes(&[0xff]), serde_json::json!({ "hex": "ff" }));
    }
}
