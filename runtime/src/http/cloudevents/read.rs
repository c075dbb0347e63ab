//! Events that come in.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde_json::value::RawValue;

use super::values::{Type, decoded, types_text};
use super::{PREFIX, TYPES, check_attributes, check_name, idempotency_key};
use crate::delivery::NewMessage;
use crate::http::fields;
use crate::http::limits::{ATTRIBUTE_VALUE_BYTES_MAX, ATTRIBUTES_MAX, BATCH_MESSAGES_MAX, BODY_BYTES_MAX};
use crate::http::problem::Problem;

/// Checks a message that came in binary mode. It is an event if it says which version of the specification it is of;
/// other messages may have attributes that begin with `ce-` as they like.
pub(in crate::http) fn check_binary(message: &mut NewMessage) -> Result<(), Problem> {
    if !message.attributes.iter().any(|(name, _)| &**name == "ce-specversion") {
        return Ok(());
    }
    for (name, value) in &mut message.attributes {
        let Some(bare) = name.strip_prefix(PREFIX) else { continue };
        check_name(bare)?;
        if bare == "datacontenttype" {
            return Err(Problem::malformed("ce-datacontenttype is no header of an event; Content-Type says it"));
        }
        match decoded(value) {
            Some(Cow::Owned(decoded)) => *value = decoded.into(),
            Some(Cow::Borrowed(plain)) if plain.len() < value.len() => *value = plain.into(),
            Some(Cow::Borrowed(_)) => {}
            None => return Err(Problem::malformed(format!("the header {name} is percent-encoded, but not of UTF-8"))),
        }
    }
    let attributes = &message.attributes;
    let get = |wanted: &str| {
        let found = attributes.iter().find(|(name, _)| name.strip_prefix(PREFIX) == Some(wanted));
        found.map(|(_, value)| &**value)
    };
    check_attributes(get)?;
    if message.idempotency_key.is_none() {
        message.idempotency_key =
            Some(idempotency_key(get("source").unwrap_or_default(), get("id").unwrap_or_default()));
    }
    Ok(())
}

/// One event in JSON.
pub(in crate::http) fn of_structured(bytes: &[u8]) -> Result<NewMessage, Problem> {
    let event: &RawValue = serde_json::from_slice(bytes)
        .map_err(|error| Problem::malformed(format!("the event is no JSON object: {error}")))?;
    message(event)
}

/// An array of events in JSON, which may be empty.
pub(in crate::http) fn of_batch(bytes: &[u8]) -> Result<Vec<NewMessage>, Problem> {
    let events: Vec<&RawValue> = serde_json::from_slice(bytes)
        .map_err(|error| Problem::malformed(format!("the batch is no JSON array of events: {error}")))?;
    if events.len() > BATCH_MESSAGES_MAX {
        let detail = format!("there are more than {BATCH_MESSAGES_MAX} events; send them in several batches");
        return Err(Problem::too_large(detail));
    }
    let place = |index: usize| move |problem: Problem| problem.at(&format!("event {index}")).with("index", index);
    events.into_iter().enumerate().map(|(index, event)| message(event).map_err(place(index))).collect()
}

fn message(event: &RawValue) -> Result<NewMessage, Problem> {
    let malformed = |error| Problem::malformed(format!("the event is no JSON object: {error}"));
    let mut members: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(event.get()).map_err(malformed)?;
    // Null says what a missing member says.
    members.retain(|_, value| value.get() != "null");
    let (data, data_base64) = (members.remove("data"), members.remove("data_base64"));
    let (mut attributes, mut types) = (BTreeMap::new(), Vec::new());
    for (name, value) in &members {
        check_name(name)?;
        let (text, of) = text(name, value)?;
        attributes.insert(name.as_ref(), text);
        types.extend(of.map(|of| (name.as_ref(), of)));
    }
    let get = |name: &str| attributes.get(name).map(|value| &**value);
    check_attributes(get)?;
    let given_type = get("datacontenttype");
    let (body, implied_type) = match (data, data_base64) {
        (Some(_), Some(_)) => {
            return Err(Problem::malformed("the event has both \"data\" and \"data_base64\"; give one of them"));
        }
        (Some(data), None) => data_bytes(data, given_type)?,
        (None, Some(raw)) => {
            let text: Cow<'_, str> = serde_json::from_str(raw.get())
                .map_err(|_| Problem::malformed("the event's \"data_base64\" is no text"))?;
            let bytes = BASE64_STANDARD
                .decode(text.as_bytes())
                .map_err(|error| Problem::malformed(format!("the event's \"data_base64\" is not base64: {error}")))?;
            (bytes.into(), None)
        }
        (None, None) => (Bytes::new(), None),
    };
    if body.len() > BODY_BYTES_MAX {
        let detail = format!("the event's data has {} bytes, and the limit is {BODY_BYTES_MAX}", body.len());
        return Err(Problem::too_large(detail).with("bytes_max", BODY_BYTES_MAX));
    }
    let content_type = match given_type {
        Some(given) => Some(fields::content_type("datacontenttype", given)?),
        None => implied_type.map(Into::into),
    };
    let key = idempotency_key(get("source").unwrap_or_default(), get("id").unwrap_or_default());
    let mut kept = Vec::new();
    for (name, value) in attributes.iter().filter(|(name, _)| **name != "datacontenttype") {
        fields::add_attribute(&mut kept, &format!("{PREFIX}{name}"), value)?;
    }
    // Texts will do as well, so nothing is refused because there is no room for types.
    if !types.is_empty() && kept.len() < ATTRIBUTES_MAX {
        let types = types_text(types);
        if types.len() <= ATTRIBUTE_VALUE_BYTES_MAX {
            kept.push((TYPES.into(), types.into()));
        }
    }
    Ok(NewMessage { body, content_type, attributes: kept, idempotency_key: Some(key), ..NewMessage::default() })
}

/// JSON data is kept as it was written. Where the content type says that the data is no JSON, a text is the data itself.
fn data_bytes(data: &RawValue, content_type: Option<&str>) -> Result<(Bytes, Option<&'static str>), Problem> {
    let is_json = content_type.is_none_or(super::write::is_json);
    if !is_json && data.get().starts_with('"') {
        let text: Cow<'_, str> = serde_json::from_str(data.get())
            .map_err(|error| Problem::malformed(format!("the event's \"data\" is no valid text: {error}")))?;
        return Ok((Bytes::copy_from_slice(text.as_bytes()), None));
    }
    Ok((Bytes::copy_from_slice(data.get().as_bytes()), Some("application/json")))
}

/// The types that attributes have in JSON: text, a whole number, or a truth value.
fn text<'e>(name: &str, value: &'e RawValue) -> Result<(Cow<'e, str>, Option<Type>), Problem> {
    let raw = value.get();
    let shown: String = name.chars().take(80).collect();
    // JSON does not tell 7 and 7.0 apart.
    let float =
        raw.parse::<f64>().ok().filter(|float| float.fract() == 0.0 && float.abs() <= f64::from(i32::MAX) + 1.0);
    let whole = float.and_then(|float| i32::try_from(float as i64).ok());
    let known = ["datacontenttype", "dataschema", "id", "source", "specversion", "subject", "time", "type"];
    if raw.starts_with('"') {
        let text = serde_json::from_str::<TextOf<'_>>(raw);
        return text
            .map(|TextOf(text)| (text, None))
            .map_err(|error| Problem::malformed(format!("the event's {shown:?} is no valid text: {error}")));
    }
    if !known.contains(&name) {
        match (whole, raw) {
            (Some(whole), _) => return Ok((whole.to_string().into(), Some(Type::Integer))),
            (None, "true" | "false") => return Ok((Cow::Borrowed(raw), Some(Type::Boolean))),
            _ => {}
        }
    }
    let wanted = if known.contains(&name) { "a text" } else { "a text, a whole number of 32 bits, true or false" };
    Err(Problem::malformed(format!("the event's {shown:?} must be {wanted}")))
}

/// A text that is borrowed where it has no escapes.
#[derive(serde::Deserialize)]
struct TextOf<'e>(#[serde(borrow)] Cow<'e, str>);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn attributes(message: &NewMessage) -> Vec<(&str, &str)> {
        message.attributes.iter().map(|(name, value)| (&**name, &**value)).collect()
    }

    #[test]
    fn an_event_in_json_becomes_a_message() {
        let event = br#"{"specversion":"1.0","id":"1","source":"/s","type":"t","subject":null,"count":7.0,"on":true,
                         "time":"2026-01-02T03:04:05Z","data":{"a" : [1]}}"#;
        let message = of_structured(event).unwrap();
        assert_eq!(
            (&message.body[..], message.content_type.as_deref()),
            (&b"{\"a\" : [1]}"[..], Some("application/json"))
        );
        assert_eq!(
            attributes(&message),
            [
                ("ce-count", "7"),
                ("ce-id", "1"),
                ("ce-on", "true"),
                ("ce-source", "/s"),
                ("ce-specversion", "1.0"),
                ("ce-time", "2026-01-02T03:04:05Z"),
                ("ce-type", "t"),
                ("cloudevents-types", "count=integer on=boolean"),
            ]
        );
        let with = |more: &str| {
            of_structured(format!(r#"{{"specversion":"1.0","id":"1","source":"/s","type":"t"{more}}}"#).as_bytes())
        };
        let text = with(r#","datacontenttype":"text/plain","data":"a\nb""#).unwrap();
        assert_eq!((&text.body[..], text.content_type.as_deref()), (&b"a\nb"[..], Some("text/plain")));
        // A text is JSON as well.
        assert_eq!(&with(r#","data":"a""#).unwrap().body[..], b"\"a\"");
        assert_eq!(&with(r#","data_base64":"/9g=""#).unwrap().body[..], b"\xff\xd8");
        assert_eq!(with("").unwrap().body.len(), 0);
        assert_eq!(with("").unwrap().idempotency_key, message.idempotency_key);
        for wrong in [
            r#","data":1,"data_base64":"""#,
            r#","data_base64":"!""#,
            r#","subject":7"#,
            r#","subject":"""#,
            r#","Upper":"x""#,
            r#","list":[1]"#,
            r#","big":99999999999"#,
            r#","time":"now""#,
        ] {
            assert!(with(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "7", "[]", "{}", r#"{"specversion":"0.3","id":"1","source":"/s","type":"t"}"#] {
            assert!(of_structured(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn bytes_from_outside_never_panic(text in r#"(\[|\{|"specversion":"1.0",|"id":"1",|"source":"é",|"data":|null|[\PC]|\}|\]){0,12}"#) {
            _ = of_structured(text.as_bytes());
            _ = of_batch(text.as_bytes());
        }
    }
}
