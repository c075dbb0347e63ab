//! The rules for what a message carries beside its body, whichever way it came in.

use linecook_store::ATTRIBUTE_PREFIX_RESERVED;

use serde::de::Error;
use serde::{Deserialize, Deserializer};

use super::limits::{
    ATTRIBUTE_NAME_BYTES_MAX, ATTRIBUTE_VALUE_BYTES_MAX, ATTRIBUTES_MAX, CONTENT_TYPE_BYTES_MAX, DELAY_MAX,
    IDEMPOTENCY_KEY_BYTES_MAX, KEY_BYTES_MAX,
};
use super::problem::Problem;
use crate::config::units::{format_duration, parse_duration};

type Attributes = Vec<(Box<str>, Box<str>)>;

/// Checks an ordering key. `field` is what the sender knows it as.
pub(super) fn key(field: &str, text: &str) -> Result<Box<str>, Problem> {
    if text.is_empty() {
        return Err(Problem::malformed(format!("{field} is empty; leave it out if the order does not matter")));
    }
    at_most(field, text, KEY_BYTES_MAX)?;
    Ok(text.into())
}

/// Checks an idempotency key.
pub(super) fn idempotency_key(field: &str, text: &str) -> Result<Box<str>, Problem> {
    if text.is_empty() {
        return Err(Problem::malformed(format!("{field} is empty; leave it out if the message may come twice")));
    }
    at_most(field, text, IDEMPOTENCY_KEY_BYTES_MAX)?;
    Ok(text.into())
}

/// Checks a media type.
pub(super) fn content_type(field: &str, text: &str) -> Result<Box<str>, Problem> {
    at_most(field, text, CONTENT_TYPE_BYTES_MAX)?;
    if text.is_empty() || text.bytes().any(|byte| !(b' '..=b'~').contains(&byte)) {
        return Err(Problem::malformed(format!(
            "{field} is not a media type; write one such as \"application/json\", or leave it out"
        )));
    }
    Ok(text.into())
}

/// Reads a delay, in milliseconds.
pub(super) fn delay_ms(field: &str, text: &str) -> Result<u64, Problem> {
    let delay =
        parse_duration(text).map_err(|error| Problem::malformed(format!("{field}: {error}; {}", error.hint())))?;
    if delay > DELAY_MAX {
        return Err(Problem::malformed(format!(
            "{field} is {text}, and the longest delay is {}",
            format_duration(DELAY_MAX)
        )));
    }
    Ok(delay.as_millis() as u64)
}

/// Checks one attribute and adds it to those before it.
pub(super) fn add_attribute(attributes: &mut Attributes, name: &str, value: &str) -> Result<(), Problem> {
    let shown: String = name.chars().take(80).collect();
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err(Problem::malformed(format!(
            "the attribute name {shown:?} is empty or has control characters; give it a plain name"
        )));
    }
    at_most(&format!("the attribute name {shown:?}"), name, ATTRIBUTE_NAME_BYTES_MAX)?;
    let reserved = ATTRIBUTE_PREFIX_RESERVED.len();
    if name.get(..reserved).is_some_and(|start| start.eq_ignore_ascii_case(ATTRIBUTE_PREFIX_RESERVED)) {
        return Err(Problem::malformed(format!(
            "the attribute name {shown:?} starts with {ATTRIBUTE_PREFIX_RESERVED:?}, which is Linecook's own; choose another"
        )));
    }
    at_most(&format!("the attribute {shown:?}"), value, ATTRIBUTE_VALUE_BYTES_MAX)?;
    if attributes.iter().any(|(other, _)| **other == *name) {
        return Err(Problem::malformed(format!("the attribute {shown:?} is given twice; give it once")));
    }
    if attributes.len() == ATTRIBUTES_MAX {
        return Err(Problem::malformed(format!(
            "there are more than {ATTRIBUTES_MAX} attributes; put the rest into the body"
        )));
    }
    attributes.push((name.into(), value.into()));
    Ok(())
}

/// A whole number in JSON, which may be written as `10.0`: JSON does not tell the two apart.
pub(super) fn whole_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    let Some(number) = Option::<serde_json::Number>::deserialize(deserializer)? else { return Ok(None) };
    let of_float = || {
        let float = number.as_f64().filter(|float| float.fract() == 0.0 && (0.0..=usize::MAX as f64).contains(float));
        float.map(|float| float as usize)
    };
    let whole = number.as_u64().and_then(|whole| usize::try_from(whole).ok()).or_else(of_float);
    whole.map(Some).ok_or_else(|| D::Error::custom(format!("{number} is not a whole number from 0 on")))
}

fn at_most(field: &str, text: &str, bytes_max: usize) -> Result<(), Problem> {
    if text.len() > bytes_max {
        let problem = format!("{field} has {} bytes, and the limit is {bytes_max}; shorten it", text.len());
        return Err(Problem::malformed(problem).with("bytes_max", bytes_max));
    }
    Ok(())
}
