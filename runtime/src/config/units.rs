//! Durations (`"250ms"`, `"30s"`, `"4d"`), sizes (`"64KiB"`, `"10GiB"`) and rates (`"100/s"`) as people write them.
//!
//! The grammar is strict: a whole number, directly followed by a unit. A bare number is refused, because everybody
//! would guess another unit for it.

use std::fmt;
use std::time::Duration;

use super::RateLimit;

/// A unit and how much it is, in milliseconds, bytes or seconds.
type Unit = (&'static str, u64);

const DURATION_UNITS: &[Unit] = &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

const SIZE_UNITS: &[Unit] = &[
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1000),
    ("KB", 1000),
    ("B", 1),
];

const RATE_UNITS: &[Unit] = &[("/h", 3600), ("/m", 60), ("/s", 1)];

/// Why a text is no duration, no size or no rate. [`InvalidQuantity::hint`] says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct InvalidQuantity {
    problem: String,
    hint: String,
}

impl InvalidQuantity {
    /// What to write instead.
    pub fn hint(&self) -> &str {
        &self.hint
    }
}

/// Reads a duration. Its units are `ms`, `s`, `m`, `h` and `d`.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidQuantity> {
    parse(text, DURATION_UNITS, "duration", "s", "\"250ms\", \"30s\", \"25m\", \"12h\" or \"4d\"")
        .map(Duration::from_millis)
}

/// Reads a size, in bytes. Its units are `B`, `KiB` to `TiB` (powers of 1024) and `kB` to `TB` (powers of 1000).
pub fn parse_size(text: &str) -> Result<u64, InvalidQuantity> {
    parse(text, SIZE_UNITS, "size", "MiB", "\"64KiB\", \"128MiB\", \"10GiB\" or \"1MB\"")
}

/// Reads a rate. Its units are `/s`, `/m` and `/h`.
pub fn parse_rate(text: &str) -> Result<RateLimit, InvalidQuantity> {
    let (messages, unit) = split(text, RATE_UNITS, "rate", "/s", "\"100/s\", \"30/m\" or \"5/h\"")?;
    Ok(RateLimit { messages, per: Duration::from_secs(unit) })
}

impl fmt::Display for RateLimit {
    /// So that [`parse_rate`] reads the same.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = RATE_UNITS.iter().find(|(_, seconds)| *seconds == self.per.as_secs());
        write!(f, "{}{}", self.messages, unit.map_or("", |(unit, _)| unit))
    }
}

/// Writes a duration so that [`parse_duration`] reads the same, to the millisecond.
pub fn format_duration(duration: Duration) -> String {
    format(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), DURATION_UNITS, "0s")
}

/// Writes a size so that [`parse_size`] reads the same.
pub fn format_size(bytes: u64) -> String {
    format(bytes, SIZE_UNITS, "0B")
}

fn parse(text: &str, units: &[Unit], noun: &str, usual: &str, examples: &str) -> Result<u64, InvalidQuantity> {
    let (number, factor) = split(text, units, noun, usual, examples)?;
    number.checked_mul(factor).ok_or_else(|| too_large(text, noun, examples))
}

fn too_large(text: &str, noun: &str, examples: &str) -> InvalidQuantity {
    invalid(text, "is too large", format!("a {noun} is {examples}"))
}

fn invalid(text: &str, problem: &str, hint: String) -> InvalidQuantity {
    let shown: String = text.chars().take(40).collect();
    InvalidQuantity { problem: format!("{shown:?} {problem}"), hint }
}

/// The number, and how much its unit is.
fn split(text: &str, units: &[Unit], noun: &str, usual: &str, examples: &str) -> Result<(u64, u64), InvalidQuantity> {
    let refuse = |problem: &str, hint: String| Err(invalid(text, problem, hint));
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    if number.is_empty() && text.starts_with('-') {
        return refuse("is negative", format!("a {noun} is {examples}"));
    }
    if number.is_empty() {
        return refuse(&format!("is not a {noun}"), format!("write {examples}"));
    }
    if unit.is_empty() {
        return refuse("has no unit", format!("write \"{number}{usual}\", or another unit: {}", list(units)));
    }
    let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
        if unit.starts_with('.') {
            return refuse("is not a whole number", format!("use a smaller unit: {}", list(units)));
        }
        let trimmed = unit.trim();
        return match units.iter().find(|(name, _)| name.eq_ignore_ascii_case(trimmed)) {
            Some((name, _)) => refuse(&format!("is not a {noun}"), format!("did you mean \"{number}{name}\"?")),
            None => refuse(&format!("is not a {noun}"), format!("write {examples}")),
        };
    };
    let number = number.parse::<u64>().map_err(|_| too_large(text, noun, examples))?;
    Ok((number, *factor))
}

fn format(value: u64, units: &[Unit], zero: &str) -> String {
    // The units stand from large to small, the last is 1, so that one always divides.
    match units.iter().find(|(_, factor)| value.is_multiple_of(*factor)) {
        Some((unit, factor)) if value > 0 => format!("{}{unit}", value / factor),
        _ => zero.to_owned(),
    }
}

fn list(units: &[Unit]) -> String {
    units.iter().rev().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, ms) in [
            ("0s", 0),
            ("250ms", 250),
            ("30s", 30_000),
            ("25m", 1_500_000),
            ("12h", 43_200_000),
            ("4d", 345_600_000),
            ("007s", 7000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in
            [("0B", 0), ("1B", 1), ("64KiB", 65_536), ("10GiB", 10 << 30), ("1MB", 1_000_000), ("2kB", 2000)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn rates_are_read_and_written() {
        for (text, messages, seconds) in [("100/s", 100, 1), ("30/m", 30, 60), ("0/h", 0, 3600)] {
            let rate = RateLimit { messages, per: Duration::from_secs(seconds) };
            assert_eq!(parse_rate(text), Ok(rate), "{text}");
            assert_eq!(rate.to_string(), text);
        }
        for (text, problem, hint) in [
            ("100", "\"100\" has no unit", "write \"100/s\", or another unit: /s, /m, /h"),
            ("100/d", "\"100/d\" is not a rate", "write \"100/s\", \"30/m\" or \"5/h\""),
            ("100 /s", "\"100 /s\" is not a rate", "did you mean \"100/s\"?"),
            ("0.5/s", "\"0.5/s\" is not a whole number", "use a smaller unit: /s, /m, /h"),
            ("-1/s", "\"-1/s\" is negative", "a rate is"),
            ("/s", "\"/s\" is not a rate", "write"),
        ] {
            let error = parse_rate(text).unwrap_err();
            assert_eq!(error.to_string(), problem);
            assert!(error.hint().starts_with(hint), "{text}: {}", error.hint());
        }
    }

    #[test]
    fn what_is_written_reads_the_same() {
        for text in ["1ms", "90s", "12h", "4d", "61m", "0s"] {
            assert_eq!(format_duration(parse_duration(text).unwrap()), text);
        }
        for text in ["1B", "64KiB", "10GiB", "1MB", "1500B", "0B"] {
            assert_eq!(parse_size(&format_size(parse_size(text).unwrap())), parse_size(text));
        }
        assert_eq!(format_size(128 << 20), "128MiB");
    }

    #[test]
    fn anything_else_is_refused_with_what_to_write() {
        for (text, problem, hint) in [
            ("30", "\"30\" has no unit", "write \"30s\", or another unit: ms, s, m, h, d"),
            ("", "\"\" is not a duration", "write \"250ms\""),
            ("-5s", "\"-5s\" is negative", "a duration is"),
            ("1.5s", "\"1.5s\" is not a whole number", "use a smaller unit"),
            ("30 s", "\"30 s\" is not a duration", "did you mean \"30s\"?"),
            ("30S", "\"30S\" is not a duration", "did you mean \"30s\"?"),
            ("1h30m", "\"1h30m\" is not a duration", "write \"250ms\""),
            ("99999999999999999999s", "\"99999999999999999999s\" is too large", "a duration is"),
            ("18446744073709551615d", "\"18446744073709551615d\" is too large", "a duration is"),
            ("٣s", "\"٣s\" is not a duration", "write \"250ms\""),
        ] {
            let error = parse_duration(text).unwrap_err();
            assert_eq!(error.to_string(), problem);
            assert!(error.hint().starts_with(hint), "{text}: {}", error.hint());
        }
        assert_eq!(parse_size("64kib").unwrap_err().hint(), "did you mean \"64KiB\"?");
        assert_eq!(
            parse_size("128").unwrap_err().hint(),
            "write \"128MiB\", or another unit: B, KB, kB, MB, GB, TB, KiB, MiB, GiB, TiB"
        );
    }
}
