//! The minutes that are still open, and what was counted in them. Pure: it is kept in the state as JSON.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::line::Line;

const SECONDS: i64 = 60;

/// What was counted, by minute: its first second, in seconds of the Unix epoch.
///
/// The newest minute is open, and the one before it: servers write a line when a request ends, and not always in order. So
/// there are never more than two.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Minutes(BTreeMap<i64, Counts>);

/// What was counted in one minute.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    requests: u64,
    bytes: u64,
    /// By class: `2xx`.
    statuses: BTreeMap<String, u64>,
}

/// What a minute came to.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Summary {
    minute: String,
    #[serde(flatten)]
    counts: Counts,
}

impl Minutes {
    /// Counts a line in its minute.
    pub(crate) fn count(&mut self, line: &Line) {
        let second = line.at.as_second();
        let counts = self.0.entry(second - second.rem_euclid(SECONDS)).or_default();
        counts.requests += 1;
        counts.bytes = counts.bytes.saturating_add(line.bytes);
        *counts.statuses.entry(format!("{}xx", line.status / 100)).or_default() += 1;
    }

    /// Takes out the minutes that are over, oldest first: all but the newest and the one before it.
    pub(crate) fn take_finished(&mut self) -> Vec<Summary> {
        let Some((&newest, _)) = self.0.last_key_value() else { return Vec::new() };
        let open = self.0.split_off(&(newest - SECONDS));
        let finished = std::mem::replace(&mut self.0, open);
        finished.into_iter().map(|(second, counts)| Summary { minute: shown(second), counts }).collect()
    }
}

/// Such as `2026-11-25T18:20Z`.
fn shown(second: i64) -> String {
    // A second that was read from a line is in range.
    Timestamp::from_second(second).map_or_else(|_| second.to_string(), |at| at.strftime("%Y-%m-%dT%H:%MZ").to_string())
}
