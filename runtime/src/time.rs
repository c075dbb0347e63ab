//! Wall time, as milliseconds of the Unix epoch, for facts and for people. What is due when is the queue engine's.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::config::units::parse_duration;

/// Now. A clock before 1970 stands at the epoch.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// A point in time as people write it: RFC 3339, or how long ago it was ("2h"). Milliseconds of the Unix epoch; the error says
/// what to write.
pub(crate) fn parse_time(text: &str, now_ms: u64) -> Result<u64, String> {
    if let Ok(ago) = parse_duration(text) {
        return Ok(now_ms.saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)));
    }
    let refuse = || {
        let shown: String = text.chars().take(40).collect();
        format!("{shown:?} is no time: write \"2026-01-31T12:00:00Z\", or how long ago it was: \"90s\", \"2h\", \"7d\"")
    };
    // The library reads UTC only.
    let (local, offset_ms) = match text.char_indices().rev().nth(5).map(|(at, _)| text.split_at(at)) {
        Some((local, offset)) if local.len() > 10 && offset.starts_with(['+', '-']) => {
            let (hours, minutes) = offset[1..].split_once(':').ok_or_else(refuse)?;
            let two = |digits: &str| digits.parse::<i64>().ok().filter(|_| digits.len() == 2);
            let (hours, minutes) = two(hours).zip(two(minutes)).ok_or_else(refuse)?;
            let ms = (hours * 60 + minutes) * 60_000;
            (format!("{local}Z"), if offset.starts_with('-') { -ms } else { ms })
        }
        _ => (text.to_owned(), 0),
    };
    let at = humantime::parse_rfc3339(&local).map_err(|_| refuse())?;
    let at_ms = at.duration_since(UNIX_EPOCH).map_err(|_| refuse())?.as_millis() as i64;
    u64::try_from(at_ms - offset_ms).map_err(|_| refuse())
}

/// Milliseconds of the Unix epoch as RFC 3339 in UTC, with milliseconds.
pub(crate) fn rfc3339(at_ms: u64) -> String {
    // Beyond the year 9999 there is no RFC 3339 text; a clock that far off is shown as its last second.
    const YEAR_9999_MS: u64 = 253_402_300_799_000;
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(at_ms.min(YEAR_9999_MS))).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_date_or_so_long_ago() {
        for (text, at_ms) in [
            ("2h", 1_764_100_000_000 - 7_200_000),
            ("0s", 1_764_100_000_000),
            ("90000d", 0),
            ("2025-11-25T20:00:00Z", 1_764_100_800_000),
            ("2025-11-25T20:00:00.25Z", 1_764_100_800_250),
            ("2025-11-25T21:30:00+01:30", 1_764_100_800_000),
            ("2025-11-25T15:00:00-05:00", 1_764_100_800_000),
        ] {
            assert_eq!(parse_time(text, 1_764_100_000_000), Ok(at_ms), "{text}");
        }
        for text in ["", "2", "yesterday", "2025-11-25", "2025-11-25T20:00:00", "2025-11-25T20:00:00+1:00", "é+01:00"]
        {
            let why = parse_time(text, 1_764_100_000_000).unwrap_err();
            assert!(why.contains("write \"2026-") && why.contains("\"2h\""), "{why}");
        }
    }
}
