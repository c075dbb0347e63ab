//! Events that go out.

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use super::{PREFIX, REQUIRED, SPEC_VERSION};
use crate::delivery::{Delivery, Message, QueueName};
use crate::time::rfc3339;

/// The type of a message that was no event.
const TYPE: &str = "linecook.message";

/// A delivery as an event. Its members are in order of their names.
pub(in crate::http) fn event(queue: &QueueName, delivery: &Delivery, lease: &str) -> BTreeMap<String, Box<RawValue>> {
    let message = &delivery.message;
    let mut members: BTreeMap<String, Value> = BTreeMap::new();
    if is_event(message) {
        members.extend(attributes(message).map(|(name, value)| (name.to_owned(), value.into())));
    } else {
        members.insert("specversion".to_owned(), SPEC_VERSION.into());
        members.insert("id".to_owned(), message.id.to_string().into());
        members.insert("source".to_owned(), format!("/queues/{queue}").into());
        members.insert("type".to_owned(), TYPE.into());
        members.insert("time".to_owned(), rfc3339(message.enqueued_at_ms).into());
    }
    for (name, value) in &message.attributes {
        // Names of extensions have letters and digits only. The distributed tracing extension is one of them.
        if !name.starts_with(PREFIX) && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
            members.entry(name.to_string()).or_insert_with(|| (&**value).into());
        }
    }
    if let Some((_, subject)) = message.attributes.iter().find(|(name, _)| **name == *crate::subjects::ATTRIBUTE) {
        members.insert("linecooksubject".to_owned(), (&**subject).into());
    }
    members.insert("linecooklease".to_owned(), lease.into());
    members.insert("linecookid".to_owned(), message.id.to_string().into());
    members.insert("linecookqueue".to_owned(), queue.as_str().into());
    members.insert("linecookattempt".to_owned(), i32::try_from(delivery.attempt).unwrap_or(i32::MAX).into());
    if let Some(key) = &message.key {
        members.insert("linecookkey".to_owned(), (&**key).into());
    }
    if let Some(content_type) = &message.content_type {
        members.insert("datacontenttype".to_owned(), (&**content_type).into());
    }
    // Not among the extensions, whatever an attribute is called.
    members.remove("data");
    members.remove("data_base64");
    let raw = |value: &Value| to_raw_value(value).expect("a value without maps of other keys than texts is JSON");
    let mut event: BTreeMap<_, _> = members.iter().map(|(name, value)| (name.clone(), raw(value))).collect();
    let (name, data) = data(message);
    if let Some(data) = data {
        event.insert(name.to_owned(), data);
    }
    event
}

fn attributes(message: &Message) -> impl Iterator<Item = (&str, &str)> {
    message.attributes.iter().filter_map(|(name, value)| Some((name.strip_prefix(PREFIX)?, &**value)))
}

fn is_event(message: &Message) -> bool {
    REQUIRED.iter().all(|required| attributes(message).any(|(name, _)| name == *required))
}

/// The body: JSON as it is, text as text, and anything else in base64.
fn data(message: &Message) -> (&'static str, Option<Box<RawValue>>) {
    if message.body.is_empty() {
        return ("data", None);
    }
    if let Ok(text) = std::str::from_utf8(&message.body)
        && let Some(content_type) = message.content_type.as_deref()
    {
        if !is_json(content_type) {
            return ("data", to_raw_value(text).ok());
        }
        if let Ok(json) = RawValue::from_string(text.trim().to_owned()) {
            return ("data", Some(json));
        }
    }
    ("data_base64", to_raw_value(&BASE64_STANDARD.encode(&message.body)).ok())
}

/// Whether the data of this content type is JSON.
pub(super) fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let subtype = essence.split_once('/').map_or("", |(_, subtype)| subtype);
    subtype == "json" || subtype.ends_with("+json")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::delivery::sample;
    use crate::http::cloudevents::of_structured;

    fn shown(message: impl FnOnce(&mut Message)) -> Value {
        let mut delivery = sample(9, 2, 0);
        message(&mut delivery.message);
        let queue = QueueName::new("orders").unwrap();
        serde_json::to_value(event(&queue, &delivery, "the-lease")).unwrap()
    }

    #[test]
    fn an_event_goes_out_as_it_came_in() {
        let event = json!({
            "specversion": "1.0", "id": "1", "source": "/s", "type": "t", "subject": "x", "extra": "7",
            "datacontenttype": "application/json", "data": { "a": [1] },
        });
        let sent = of_structured(event.to_string().as_bytes()).unwrap();
        let mut out = shown(|message| {
            message.body = sent.body;
            message.content_type = sent.content_type;
            message.attributes = sent.attributes;
        });
        let members = out.as_object_mut().unwrap();
        assert_eq!(members.remove("linecooklease"), Some("the-lease".into()));
        assert_eq!(members.remove("linecookattempt"), Some(2.into()));
        members.retain(|name, _| !name.starts_with("linecook"));
        assert_eq!(out, event);
    }

    #[test]
    fn any_other_message_is_an_event_too() {
        let out = shown(|message| {
            message.body = b"\xff"[..].into();
            message.key = Some("k".into());
            message.attributes = vec![("traceparent".into(), "00-1".into()), ("my-own".into(), "x".into())];
        });
        assert_eq!(
            (&out["type"], &out["source"], &out["specversion"]),
            (&json!(TYPE), &json!("/queues/orders"), &json!("1.0"))
        );
        assert_eq!(
            (&out["data_base64"], &out["linecookkey"], &out["traceparent"]),
            (&json!("/w=="), &json!("k"), &json!("00-1"))
        );
        assert!(out.get("my-own").is_none() && out.get("data").is_none());
        let text = shown(|message| {
            message.body = b"not json"[..].into();
            message.content_type = Some("application/json".into());
        });
        assert_eq!(text["data_base64"], "bm90IGpzb24=");
    }
}
