//! What texts may look like, as regular expressions that say exactly what the code takes.

use std::time::Duration;

/// Durations from `min` to `max`, as [`crate::config::units::parse_duration`] reads them.
pub(super) fn duration(min: Duration, max: Duration) -> String {
    let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    let (min, max) = (min.as_millis() as u64, max.as_millis() as u64);
    let parts = units.into_iter().filter_map(|(unit, ms)| {
        let (least, most) = (min.div_ceil(ms), max / ms);
        (least <= most).then(|| format!("{}{unit}", number(least, most)))
    });
    format!("^0*({})$", parts.collect::<Vec<_>>().join("|"))
}

/// The whole numbers from `min` to `max` without leading zeros; a zero itself is written as `0`, of which the zeros before
/// take care if there are any.
fn number(min: u64, max: u64) -> String {
    let mut parts = Vec::new();
    let mut from = min;
    while from <= max {
        // The longest run from here on whose last digits are free.
        let mut size = 1_u64;
        while from.is_multiple_of(size * 10) && from + (size * 10 - 1) <= max && from / (size * 10) > 0 {
            size *= 10;
        }
        // Runs next to each other that differ in one digit are one.
        let digit = from / size % 10;
        let last = (digit..=9).take_while(|digit_to| from + (digit_to - digit) * size + (size - 1) <= max).last();
        let last = last.unwrap_or(digit);
        let head = match from / size / 10 {
            0 => String::new(),
            head => head.to_string(),
        };
        let class = if digit == last { digit.to_string() } else { format!("[{digit}-{last}]") };
        let zeros = size.ilog10();
        let tail = match zeros {
            0 => String::new(),
            zeros => format!("[0-9]{{{zeros}}}"),
        };
        parts.push(format!("{head}{class}{tail}"));
        from += (last - digit + 1) * size;
    }
    format!("({})", parts.join("|"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A matcher for what [`number`] writes: alternatives of digits, classes and `[0-9]{n}`.
    fn matches(pattern: &str, text: &str) -> bool {
        pattern.trim_matches(['(', ')']).split('|').any(|one| {
            let (mut rest, mut text) = (one, text.as_bytes());
            while let Some(first) = rest.chars().next() {
                let (low, high, used) = if first == '[' {
                    (rest.as_bytes()[1], rest.as_bytes()[3], 5)
                } else {
                    (first as u8, first as u8, 1)
                };
                rest = &rest[used..];
                let times = match rest.strip_prefix('{').and_then(|times| times.split_once('}')) {
                    Some((times, after)) => {
                        rest = after;
                        times.parse().unwrap()
                    }
                    None => 1,
                };
                for _ in 0..times {
                    match text.split_first() {
                        Some((digit, more)) if (low..=high).contains(digit) => text = more,
                        _ => return false,
                    }
                }
            }
            text.is_empty()
        })
    }

    #[test]
    fn numbers_within_the_limits_match_and_no_others() {
        for (min, max) in [(0, 0), (0, 9), (1, 12), (0, 60), (0, 365), (1, 720), (1000, 4321), (7, 1007), (0, 8760)] {
            let pattern = number(min, max);
            for value in 0..max * 11 + 20 {
                assert_eq!(matches(&pattern, &value.to_string()), (min..=max).contains(&value), "{value} in {pattern}");
            }
        }
    }
}
