//! How results look: tables for people, and the words in their cells.

use std::time::Duration;

use comfy_table::{CellAlignment, ContentArrangement, Table};
use serde_json::Value;

/// A table without lines. Columns in `right` are numbers.
pub(super) fn table(header: &[&str], right: &[usize], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.to_vec());
    table.add_rows(rows);
    for (index, column) in table.column_iter_mut().enumerate() {
        // The first column starts where the line starts.
        column.set_padding((if index == 0 { 0 } else { 1 }, 1));
        if right.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// The text or number at `name`; `-` if there is none.
pub(super) fn cell(value: &Value, name: &str) -> String {
    match &value[name] {
        Value::Null => "-".to_owned(),
        Value::String(text) => one_line(text, 80),
        other => other.to_string(),
    }
}

/// A size such as `1.5 MiB`.
pub(super) fn size(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "-".to_owned(), |bytes| bytesize::ByteSize(bytes).display().iec().to_string())
}

/// An age such as `3m 20s`: its two largest units are enough.
pub(super) fn age(ms: Option<u64>) -> String {
    let Some(ms) = ms else { return "-".to_owned() };
    let text = humantime::format_duration(Duration::from_secs(ms / 1000)).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// A number of things: `1 message`, `2 messages`.
pub(super) fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// At most `characters_max` of a text, without line ends or other control characters: what a sender wrote must not
/// move the cursor of whoever looks at it.
pub(super) fn one_line(text: &str, characters_max: usize) -> String {
    let mut characters = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut line: String = characters.by_ref().take(characters_max).collect();
    if characters.next().is_some() {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_short_and_of_one_line() {
        assert_eq!(one_line("a\n\x1b[31mb", 80), "a  [31mb");
        assert_eq!(one_line("äöü", 2), "äö…");
        assert_eq!(age(Some(93_784_999)), "1day 2h");
        assert_eq!((age(Some(0)).as_str(), age(None).as_str()), ("0s", "-"));
        assert_eq!(size(Some(1536)), "1.5 KiB");
        assert_eq!((count(1, "message"), count(2, "message")), ("1 message".into(), "2 messages".into()));
    }

    #[test]
    fn numbers_are_aligned_at_the_right() {
        let table =
            table(&["QUEUE", "READY"], &[1], [vec!["a".into(), "7".into()], vec!["longer".into(), "12".into()]]);
        assert_eq!(table, "QUEUE   READY\na           7\nlonger     12");
    }
}
