//! Wall time, as milliseconds of the Unix epoch, for facts and for people. What is due when is the queue engine's.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Now. A clock before 1970 stands at the epoch.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Milliseconds of the Unix epoch as RFC 3339 in UTC, with milliseconds.
pub(crate) fn rfc3339(at_ms: u64) -> String {
    // Beyond the year 9999 there is no RFC 3339 text; a clock that far off is shown as its last second.
    const YEAR_9999_MS: u64 = 253_402_300_799_000;
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(at_ms.min(YEAR_9999_MS))).to_string()
}
