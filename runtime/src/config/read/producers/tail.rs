//! `kind = "tail"`.

use std::ops::RangeInclusive;
use std::path::Path;

use super::{ProducerSpans, choice, patterns};
use crate::config::producers::{LongLines, Start, TailConfig};
use crate::config::reader::TableReader;
use crate::delivery::limits::BODY_BYTES_MAX;

const LINE_BYTES: RangeInclusive<u64> = 64..=BODY_BYTES_MAX as u64;
const LINE_BYTES_DEFAULT: u64 = 64 << 10;

const FILES_EXAMPLE: &str = "\"/var/log/app/*.log\"";

/// Reads the keys of this kind.
pub(super) fn read(table: &TableReader<'_>, folder: &Path, spans: &mut ProducerSpans) -> Option<TailConfig> {
    table.require("files", FILES_EXAMPLE);
    let patterns = patterns(table, FILES_EXAMPLE);
    spans.files = patterns.iter().map(|pattern| pattern.span.clone()).collect();
    let files: Vec<_> = patterns.iter().map(|pattern| below(folder, pattern.value)).collect();
    let start = table.get("start").map_or(Some(Start::Beginning), |value| {
        choice(&value, "a place to start", &[("beginning", Start::Beginning), ("end", Start::End)])
    });
    let line_bytes_max = table.get("max_line").map_or(Some(LINE_BYTES_DEFAULT), |value| value.size(LINE_BYTES));
    let long_lines = table.get("long_lines").map_or(Some(LongLines::Split), |value| {
        choice(&value, "a way to treat long lines", &[("split", LongLines::Split), ("refuse", LongLines::Refuse)])
    });
    if files.is_empty() {
        return None;
    }
    let line_bytes_max = line_bytes_max? as usize;
    // The folders are known when the consumers are.
    Some(TailConfig { files, start: start?, line_bytes_max, long_lines: long_lines?, writable: Vec::new() })
}

/// A pattern of paths in a folder whose own name is no pattern.
fn below(folder: &Path, pattern: &str) -> String {
    if Path::new(pattern).is_absolute() || folder.as_os_str().is_empty() {
        return pattern.to_owned();
    }
    format!("{}/{pattern}", glob::Pattern::escape(&folder.to_string_lossy()))
}
