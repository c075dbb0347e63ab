//! CloudEvents 1.0 over HTTP (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md>).
//!
//! An event becomes a message: its data is the body, `datacontenttype` the content type, and every other attribute an
//! attribute of the message with `ce-` before its name, whichever way the event came in. `source` and `id` name an event
//! for good, so they are the idempotency key unless one is given.
//!
//! Attributes of messages are texts. So that an extension that came in as a number or a truth value goes out as one, the
//! attribute `cloudevents-types` says which they are (`count=integer on=boolean`); headers say nothing of types, so an
//! event that comes in binary mode has texts only.
//!
//! Going out (`claim`), a message that is an event is shown as the event that it was, and any other as an event of the type
//! `linecook.message`. What Linecook knows of the delivery is in extensions (`linecooklease`, `linecookattempt`, …), or in
//! binary mode in headers (`Linecook-Lease`, `Linecook-Attempt`, …).

use axum::http::{HeaderMap, header};
use sha2::{Digest, Sha256};

use super::problem::Problem;

mod read;
mod values;
mod write;

pub(super) use self::read::{check_binary, of_batch, of_structured};
pub(super) use self::write::{About, event};

/// The media type of one event in JSON.
pub(super) const STRUCTURED: &str = "application/cloudevents+json";
/// The media type of many.
pub(super) const BATCH: &str = "application/cloudevents-batch+json";
/// How the media types of all formats begin.
const FORMATS: &str = "application/cloudevents";
/// What stands before the name of an attribute, in headers and in attributes of messages.
pub(super) const PREFIX: &str = "ce-";
/// The attribute of a message that says which of its extensions are no texts. It is no reserved name, so that a consumer
/// that passes an event on passes its types on.
const TYPES: &str = "cloudevents-types";

const SPEC_VERSION: &str = "1.0";
const REQUIRED: [&str; 4] = ["id", "source", "specversion", "type"];

/// How a request brings its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// The body is the message; if it is an event, the headers say so.
    Binary,
    /// One event in JSON.
    Structured,
    /// An array of events in JSON.
    Batch,
}

impl Mode {
    /// By the content type.
    pub(super) fn of(headers: &HeaderMap) -> Result<Mode, Problem> {
        let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let essence = media_type.split(';').next().unwrap_or_default().trim();
        match essence {
            _ if essence.eq_ignore_ascii_case(STRUCTURED) => Ok(Mode::Structured),
            _ if essence.eq_ignore_ascii_case(BATCH) => Ok(Mode::Batch),
            _ if essence.get(..FORMATS.len()).is_some_and(|start| start.eq_ignore_ascii_case(FORMATS)) => {
                Err(Problem::new(
                    axum::http::StatusCode::UNSUPPORTED_MEDIA_TYPE,
                    "event-format",
                    "Event format is not supported",
                    format!("events are taken as {STRUCTURED} or {BATCH}, or in binary mode"),
                ))
            }
            _ => Ok(Mode::Binary),
        }
    }
}

/// How a client wants its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// As the API shows them elsewhere.
    Json,
    /// As one event: its data is the body, its attributes are headers.
    Binary,
    /// As one event in JSON.
    Structured,
    /// As a batch of events in JSON.
    Batch,
}

impl Wanted {
    /// By `Accept`, if it names a media type of events, which binary mode has none of. Weights are not looked at: who names
    /// such a type wants events.
    pub(super) fn of(headers: &HeaderMap, otherwise: Wanted) -> Wanted {
        let accepts = |media_type: &str| {
            let mut types = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
            let is = |one: &str| one.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(media_type);
            types.any(|value| value.split(',').any(is))
        };
        match otherwise {
            Wanted::Json if accepts(BATCH) => Wanted::Batch,
            _ if accepts(STRUCTURED) => Wanted::Structured,
            otherwise => otherwise,
        }
    }

    /// The most messages that one answer can hold.
    pub(super) fn messages_max(self) -> usize {
        match self {
            Wanted::Binary | Wanted::Structured => 1,
            Wanted::Batch | Wanted::Json => usize::MAX,
        }
    }
}

/// The idempotency key of an event. Hashed, since both parts may be as long as they like.
fn idempotency_key(source: &str, id: &str) -> Box<str> {
    let mut hash = Sha256::new();
    hash.update((source.len() as u64).to_le_bytes());
    hash.update(source);
    hash.update(id);
    let hex: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("ce:{hex}").into()
}

/// What a name of an attribute may be.
fn check_name(name: &str) -> Result<(), Problem> {
    if !is_name(name) {
        let shown: String = name.chars().take(80).collect();
        return Err(Problem::malformed(format!(
            "{shown:?} can't be an attribute of an event: its name has lower-case letters and digits only"
        )));
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// What must hold for attributes that every event has or may have.
fn check_attributes<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Result<(), Problem> {
    for name in REQUIRED {
        match get(name) {
            None => return Err(Problem::malformed(format!("the event has no {name:?}, which every event has"))),
            Some("") => return Err(Problem::malformed(format!("the event's {name:?} is empty"))),
            Some(_) => {}
        }
    }
    let version = get("specversion").unwrap_or_default();
    if version != SPEC_VERSION {
        let shown: String = version.chars().take(40).collect();
        let detail = format!("the event's \"specversion\" is {shown:?}; what is spoken here is {SPEC_VERSION:?}");
        return Err(Problem::malformed(detail));
    }
    if let Some(time) = get("time")
        && !is_rfc3339(time)
    {
        let shown: String = time.chars().take(80).collect();
        let detail = format!("the event's \"time\" is {shown:?}; it is written as in 2026-01-02T03:04:05Z (RFC 3339)");
        return Err(Problem::malformed(detail));
    }
    for name in ["subject", "dataschema", "datacontenttype"] {
        if get(name) == Some("") {
            return Err(Problem::malformed(format!("the event's {name:?} is empty; leave it out")));
        }
    }
    Ok(())
}

/// Whether a text is a date and time of RFC 3339, of any year. It is kept as it is, so only its form counts.
fn is_rfc3339(text: &str) -> bool {
    let bytes = text.as_bytes();
    let number = |from: usize, to: usize| -> Option<u32> {
        let digits = bytes.get(from..to)?;
        digits.iter().try_fold(0, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + u32::from(digit - b'0')))
    };
    let marks = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    if !marks.iter().all(|(at, mark)| bytes.get(*at) == Some(mark)) || !matches!(bytes.get(10), Some(b'T' | b't')) {
        return false;
    }
    let (Some(year), Some(month), Some(day)) = (number(0, 4), number(5, 7), number(8, 10)) else { return false };
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days = match month {
        2 => 28 + u32::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return false,
    };
    // A minute may have a leap second.
    let clock = [number(11, 13).zip(Some(23)), number(14, 16).zip(Some(59)), number(17, 19).zip(Some(60))];
    if !(1..=days).contains(&day) || !clock.iter().all(|part| part.is_some_and(|(value, most)| value <= most)) {
        return false;
    }
    let mut rest = &bytes[19..];
    if let Some(fraction) = rest.strip_prefix(b".") {
        let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return false;
        }
        rest = &fraction[digits..];
    }
    let at = bytes.len() - rest.len();
    match rest {
        b"Z" | b"z" => true,
        [b'+' | b'-', _, _, b':', _, _] => {
            number(at + 1, at + 3).is_some_and(|hours| hours <= 23)
                && number(at + 4, at + 6).is_some_and(|minutes| minutes <= 59)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        for (time, good) in [
            ("2026-01-02T03:04:05Z", true),
            ("2026-01-02T03:04:05.678Z", true),
            ("2026-01-02T03:04:05+02:00", true),
            ("2026-01-02T03:04:05.123456-11:30", true),
            ("2026-01-02T03:04:05+99:00", false),
            ("2026-01-02T03:04:05+0é:0", false),
            ("0028-10-10t17:46:59.616-09:58", true),
            ("2024-02-29T00:00:60z", true),
            ("2023-02-29T00:00:00Z", false),
            ("2023-13-01T00:00:00Z", false),
            ("2023-01-00T00:00:00Z", false),
            ("2023-01-01T24:00:00Z", false),
            ("2023-01-01T00:00:00.Z", false),
            ("2023-01-01T00:00:00", false),
            ("2023-01-01 00:00:00Z", false),
            ("yesterday", false),
            ("", false),
        ] {
            let get = |name: &str| match name {
                "specversion" => Some("1.0"),
                "time" => Some(time),
                "id" | "source" | "type" => Some("x"),
                _ => None,
            };
            assert_eq!(check_attributes(get).is_ok(), good, "{time}");
        }
    }

    #[test]
    fn the_key_tells_sources_and_ids_apart() {
        assert_ne!(idempotency_key("a", "bc"), idempotency_key("ab", "c"));
        assert_eq!(idempotency_key("a", "b"), idempotency_key("a", "b"));
    }
}
