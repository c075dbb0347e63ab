//! One line of an access log: the Common Log Format, and what the Combined one adds to it.

use jiff::Timestamp;
use jiff::fmt::strtime;

/// As much of a line as an error shows.
const SHOWN_CHARACTERS_MAX: usize = 100;

/// What is counted of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) at: Timestamp,
    pub(crate) status: u16,
    pub(crate) bytes: u64,
}

impl Line {
    /// Reads `host ident user [time] "request" status bytes`, and leaves the rest alone.
    ///
    /// # Errors
    ///
    /// What is wrong with it, with its beginning.
    pub(crate) fn parse(text: &str) -> Result<Line, String> {
        let shown: String = text.chars().take(SHOWN_CHARACTERS_MAX).collect();
        let wrong = |what: &str| format!("{what}: {shown:?}");
        let (_, rest) = text.split_once('[').ok_or_else(|| wrong("there is no time in brackets"))?;
        let (time, rest) = rest.split_once(']').ok_or_else(|| wrong("there is no time in brackets"))?;
        let at = strtime::parse("%d/%b/%Y:%H:%M:%S %z", time).and_then(|time| time.to_timestamp());
        let at = at.map_err(|error| wrong(&format!("the time {time:?} can't be read ({error})")))?;
        let rest = rest.trim_start().strip_prefix('"').and_then(after_quoted);
        let mut fields = rest.ok_or_else(|| wrong("there is no request in quotes"))?.split_whitespace();
        let status = fields.next().and_then(|status| status.parse().ok()).filter(|status| (100..600).contains(status));
        let status = status.ok_or_else(|| wrong("there is no status"))?;
        let bytes = match fields.next() {
            Some("-") => Some(0),
            Some(bytes) => bytes.parse().ok(),
            None => None,
        };
        Ok(Line { at, status, bytes: bytes.ok_or_else(|| wrong("there is no size"))? })
    }
}

/// What comes after a quoted text whose opening quote is behind us. In it, `\"` is a quote.
fn after_quoted(text: &str) -> Option<&str> {
    let mut escaped = false;
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return text.get(index + 1..),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_both_formats_are_read() {
        let line = |at: &str, status, bytes| Ok(Line { at: at.parse().unwrap(), status, bytes });
        for (text, expected) in [
            (
                r#"127.0.0.1 - frank [10/Oct/2000:13:55:36 -0700] "GET /apache_pb.gif HTTP/1.0" 200 2326"#,
                line("2000-10-10T20:55:36Z", 200, 2326),
            ),
            (
                r#"::1 - - [01/Jan/2026:00:00:00 +0100] "GET /?q=\"[x]\" HTTP/1.1" 304 - "https://a.example/" "curl/8 \"x\"""#,
                line("2025-12-31T23:00:00Z", 304, 0),
            ),
            (r#"h - - [25/Nov/2026:18:20:59 +0000] "-" 408 0 trailing"#, line("2026-11-25T18:20:59Z", 408, 0)),
        ] {
            assert_eq!(Line::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_line_says_what_is_missing() {
        for (text, says) in [
            ("", "there is no time"),
            ("nonsense", "there is no time in brackets: \"nonsense\""),
            ("h - - [now] \"GET /\" 200 1", "the time \"now\" can't be read"),
            ("h - - [31/Feb/2026:00:00:00 +0000] \"GET /\" 200 1", "can't be read"),
            ("h - - [25/Nov/2026:18:20:59 +0000] GET / 200 1", "there is no request"),
            ("h - - [25/Nov/2026:18:20:59 +0000] \"GET / 200 1", "there is no request"),
            ("h - - [25/Nov/2026:18:20:59 +0000] \"GET /\" ok 1", "there is no status"),
            ("h - - [25/Nov/2026:18:20:59 +0000] \"GET /\" 999 1", "there is no status"),
            ("h - - [25/Nov/2026:18:20:59 +0000] \"GET /\" 200", "there is no size"),
            ("h - - [25/Nov/2026:18:20:59 +0000] \"GET /\" 200 -1", "there is no size"),
        ] {
            let error = Line::parse(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
        let error = Line::parse(&"ü".repeat(10_000)).unwrap_err();
        assert!(error.len() < 400, "{error}");
    }
}
