//! `kind = "watch"`.

use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use super::{ProducerSpans, choice, patterns};
use crate::config::producers::{After, WatchBody, WatchConfig};
use crate::config::reader::TableReader;

const SETTLE: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(3600);
const SETTLE_DEFAULT: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Afterwards {
    Keep,
    Move,
    Delete,
}

/// Reads the keys of this kind.
pub(super) fn read(table: &TableReader<'_>, folder: &Path, spans: &mut ProducerSpans) -> Option<WatchConfig> {
    let watched = table.require("folder", "\"inbox\"").and_then(|value| value.path("\"inbox\""));
    spans.folder = watched.as_ref().map(|path| path.span.clone());
    let watched = watched.map(|path| folder.join(path.value));
    let recursive = table.get("recursive").map_or(Some(false), |value| value.flag());
    let files = match table.get("files") {
        Some(_) => patterns(table, "\"*.csv\"").iter().map(|pattern| pattern.value.to_owned()).collect(),
        None => vec!["*".to_owned()],
    };
    let settle = table.get("settle").map_or(Some(SETTLE_DEFAULT), |value| value.duration(SETTLE));
    let body = table.get("body").map_or(Some(WatchBody::Content), |value| {
        choice(&value, "what a body can be", &[("content", WatchBody::Content), ("path", WatchBody::Path)])
    });
    let after = self::after(table, folder, watched.as_deref(), recursive == Some(true), spans);
    if files.is_empty() {
        return None;
    }
    Some(WatchConfig { folder: watched?, files, recursive: recursive?, settle: settle?, body: body?, after: after? })
}

/// What `after` and `move_to` say together.
fn after(
    table: &TableReader<'_>,
    folder: &Path,
    watched: Option<&Path>,
    recursive: bool,
    spans: &mut ProducerSpans,
) -> Option<After> {
    let after = table.get("after").map_or(Some(Afterwards::Keep), |value| {
        let choices = [("keep", Afterwards::Keep), ("move", Afterwards::Move), ("delete", Afterwards::Delete)];
        choice(&value, "what can become of a file", &choices)
    })?;
    if after != Afterwards::Move {
        if let Some(value) = table.get("move_to") {
            value.refuse_key("`move_to` has no effect without `after = \"move\"`", "add that, or remove it");
        }
        return Some(if after == Afterwards::Keep { After::Keep } else { After::Delete });
    }
    let value = table.require("move_to", "\"done\"")?;
    let to = value.path("\"done\"")?;
    spans.move_to = Some(to.span);
    let to = folder.join(to.value);
    if watched.is_some_and(|watched| to == watched || recursive && to.starts_with(watched)) {
        let message = "files that were moved there would be found again";
        value.refuse(message, "name a folder that is not watched, on the same file system if possible");
        return None;
    }
    Some(After::Move(to))
}
