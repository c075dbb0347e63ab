//! Request headers: what they say about a message, and how many of them a request may have.

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use bytes::Bytes;

use super::fields;
use super::limits::{HEADERS_BYTES_MAX, HEADERS_MAX};
use super::problem::Problem;
use crate::config::nearest;
use crate::delivery::NewMessage;

/// The ordering key of a message.
pub const KEY: &str = "linecook-key";
/// How long a message waits before it is ready.
pub const DELAY: &str = "linecook-delay";
/// What stands before the name of an attribute.
pub const ATTRIBUTE_PREFIX: &str = "linecook-attribute-";
/// A text that names a message for its sender.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

const TRACE_PARENT: &str = "traceparent";
const CLOUD_EVENT_PREFIX: &str = "ce-";
const OWN_PREFIX: &str = "linecook-";

/// The message that these headers and this body make.
pub(super) fn message(headers: &HeaderMap, body: Bytes) -> Result<NewMessage, Problem> {
    let mut message = NewMessage { body, ..NewMessage::default() };
    // A name that is there twice comes twice in a row.
    let mut last = None;
    for (name, value) in headers {
        let another = last.replace(name) == Some(name);
        let field = name.as_str();
        let attribute = match field {
            _ if *name == header::CONTENT_TYPE => {
                message.content_type = Some(fields::content_type("Content-Type", text(name, value)?)?);
                None
            }
            KEY => {
                message.key = Some(fields::key("Linecook-Key", text(name, value)?)?);
                None
            }
            DELAY => {
                message.delay_ms = fields::delay_ms("Linecook-Delay", text(name, value)?)?;
                None
            }
            IDEMPOTENCY_KEY => {
                message.idempotency_key = Some(fields::idempotency_key("Idempotency-Key", text(name, value)?)?);
                None
            }
            TRACE_PARENT => Some(field),
            _ if field.starts_with(CLOUD_EVENT_PREFIX) => Some(field),
            _ if field.starts_with(OWN_PREFIX) => match field.strip_prefix(ATTRIBUTE_PREFIX) {
                Some(attribute) => Some(attribute),
                None => return Err(unknown(field)),
            },
            _ => continue,
        };
        if another {
            return Err(Problem::malformed(format!("the header {field} is there twice; send it once")));
        }
        if let Some(attribute) = attribute {
            fields::add_attribute(&mut message.attributes, attribute, text(name, value)?)?;
        }
    }
    Ok(message)
}

/// A batch says in its elements what its messages carry. In a header it would silently be lost.
pub(super) fn check_batch(headers: &HeaderMap) -> Result<(), Problem> {
    let of_one = |name: &&HeaderName| name.as_str() == IDEMPOTENCY_KEY || name.as_str().starts_with(OWN_PREFIX);
    match headers.keys().find(of_one) {
        Some(name) => Err(Problem::malformed(format!(
            "the header {name} means nothing for a batch; give \"key\", \"delay\", \"idempotency_key\" and \
             \"attributes\" in each message"
        ))),
        None => Ok(()),
    }
}

/// A misspelt header must not be a delay that never happens.
fn unknown(field: &str) -> Problem {
    let known = [KEY, DELAY, ATTRIBUTE_PREFIX];
    let shown: String = field.chars().take(80).collect();
    Problem::malformed(match nearest(field, known.into_iter()) {
        Some(meant) => format!("unknown header {shown}; did you mean {meant}?"),
        None => format!("unknown header {shown}; there are {KEY}, {DELAY} and {ATTRIBUTE_PREFIX}NAME"),
    })
}

fn text<'h>(name: &HeaderName, value: &'h HeaderValue) -> Result<&'h str, Problem> {
    std::str::from_utf8(value.as_bytes())
        .map_err(|_| Problem::malformed(format!("the header {name} is not UTF-8; put bytes into the body")))
}

/// Refuses requests with too many or too large headers. The connection has its own, higher limit, beyond which it does
/// not even read on.
pub(super) fn check_size(headers: &HeaderMap) -> Result<(), Problem> {
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if headers.len() <= HEADERS_MAX && bytes <= HEADERS_BYTES_MAX {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        "headers-too-large",
        "Headers too large",
        format!(
            "the request has {} headers with {bytes} bytes, and the limit is {HEADERS_MAX} headers with \
             {HEADERS_BYTES_MAX} bytes; put more into the body",
            headers.len()
        ),
    ))
}
