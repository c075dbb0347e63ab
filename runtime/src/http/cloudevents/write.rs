//! Events that go out.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::Response;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use super::values::{percent_encoded, typed};
use super::{PREFIX, SPEC_VERSION, STRUCTURED, TYPES, check_attributes, is_name};
use crate::delivery::{Delivery, Message, QueueName};
use crate::http::limits::HEADERS_BYTES_MAX;
use crate::time::rfc3339;

/// The type of a message that was no event.
const TYPE: &str = "linecook.message";
/// What the names of our own extensions begin with.
const OWN: &str = "linecook";

/// What Linecook knows of a delivery that goes out.
pub(in crate::http) struct About<'a> {
    pub(in crate::http) queue: &'a QueueName,
    pub(in crate::http) delivery: &'a Delivery,
    pub(in crate::http) lease: String,
    pub(in crate::http) lease_expires_at_ms: u64,
}

/// A delivery as an event. Its members are in order of their names.
pub(in crate::http) fn event(about: &About<'_>) -> BTreeMap<String, Box<RawValue>> {
    let message = &about.delivery.message;
    let mut members = attributes(about.queue, message);
    members.extend(about.facts().map(|(name, value)| (format!("{OWN}{}", name.replace('-', "")), value)));
    if let Some(content_type) = &message.content_type {
        members.insert("datacontenttype".to_owned(), (&**content_type).into());
    }
    let raw = |value: &Value| to_raw_value(value).expect("a value without maps of other keys than texts is JSON");
    let mut event: BTreeMap<_, _> = members.iter().map(|(name, value)| (name.clone(), raw(value))).collect();
    let (name, data) = data(message);
    if let Some(data) = data {
        event.insert(name.to_owned(), data);
    }
    event
}

impl About<'_> {
    /// What an event does not say itself, under names that follow `linecook` or `Linecook-`.
    fn facts(&self) -> impl Iterator<Item = (&'static str, Value)> {
        let Delivery { message, attempt, .. } = self.delivery;
        let of_subject = message.attributes.iter().find(|(name, _)| **name == *crate::subjects::ATTRIBUTE);
        [
            Some(("lease", self.lease.as_str().into())),
            Some(("lease-expires-at", rfc3339(self.lease_expires_at_ms).into())),
            Some(("id", message.id.to_string().into())),
            Some(("queue", self.queue.as_str().into())),
            Some(("attempt", i32::try_from(*attempt).unwrap_or(i32::MAX).into())),
            message.key.as_ref().map(|key| ("key", (&**key).into())),
            of_subject.map(|(_, subject)| ("subject", (&**subject).into())),
        ]
        .into_iter()
        .flatten()
    }

    /// The delivery as an answer of its own, in binary mode if it is wanted and can be. In JSON goes what is too much for
    /// headers, and what would be taken for an event in JSON by its content type; a receiver tells the modes apart by that.
    pub(in crate::http) fn answer(&self, binary: bool) -> Result<Response, serde_json::Error> {
        let message = &self.delivery.message;
        let mut headers = self.headers();
        let attributes = attributes(self.queue, message);
        let mut response = match attributes_in_headers(&attributes).filter(|_| binary && can_be_binary(message)) {
            Some(of_event) => {
                headers.extend(of_event);
                let content_type = message.content_type.as_deref().and_then(|text| HeaderValue::from_str(text).ok());
                // What HTTP takes a body for that says nothing.
                let unknown = HeaderValue::from_static("application/octet-stream");
                headers.insert(header::CONTENT_TYPE, content_type.unwrap_or(unknown));
                Response::new(Body::from(message.body.clone()))
            }
            None => {
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(STRUCTURED));
                Response::new(Body::from(serde_json::to_vec(&event(self))?))
            }
        };
        response.headers_mut().extend(headers);
        Ok(response)
    }

    /// `Linecook-Lease` and the others. Their values are encoded as those of events are.
    fn headers(&self) -> HeaderMap {
        let header = |(name, value): (&str, Value)| {
            let name = HeaderName::try_from(format!("{OWN}-{name}")).ok()?;
            Some((name, header_value(&value)?))
        };
        self.facts().filter_map(header).collect()
    }
}

/// All attributes of the event but `datacontenttype` and our own.
fn attributes(queue: &QueueName, message: &Message) -> BTreeMap<String, Value> {
    let mut members: BTreeMap<String, Value> = BTreeMap::new();
    if is_event(message) {
        let types = message.attributes.iter().find(|(name, _)| **name == *TYPES).map_or("", |(_, types)| types);
        members.extend(of_event(message).map(|(name, text)| (name.to_owned(), typed(types, name, text))));
    } else {
        members.insert("specversion".to_owned(), SPEC_VERSION.into());
        members.insert("id".to_owned(), message.id.to_string().into());
        members.insert("source".to_owned(), format!("/queues/{queue}").into());
        members.insert("type".to_owned(), TYPE.into());
        members.insert("time".to_owned(), rfc3339(message.enqueued_at_ms).into());
    }
    for (name, value) in &message.attributes {
        // Names of extensions have letters and digits only. The distributed tracing extension is one of them.
        if is_name(name) {
            members.entry(name.to_string()).or_insert_with(|| (&**value).into());
        }
    }
    // Whatever an attribute is called: the data is not among them, and what we say is not for others to say.
    members.retain(|name, _| name != "data" && name != "datacontenttype" && !name.starts_with(OWN));
    members
}

/// The message's attributes that are the event's.
fn of_event(message: &Message) -> impl Iterator<Item = (&str, &str)> {
    message.attributes.iter().filter_map(|(name, value)| Some((name.strip_prefix(PREFIX)?, &**value)))
}

/// Whether it came as an event: then its attributes were checked. Others may have some of the same names.
fn is_event(message: &Message) -> bool {
    let get = |wanted: &str| of_event(message).find(|(name, _)| *name == wanted).map(|(_, value)| value);
    get("specversion").is_some() && of_event(message).all(|(name, _)| is_name(name)) && check_attributes(get).is_ok()
}

/// As headers, if they are not more than others have to take.
fn attributes_in_headers(attributes: &BTreeMap<String, Value>) -> Option<HeaderMap> {
    let mut headers = HeaderMap::with_capacity(attributes.len());
    let mut bytes = 0;
    for (name, value) in attributes {
        let (name, value) = (HeaderName::try_from(format!("{PREFIX}{name}")).ok()?, header_value(value)?);
        bytes += name.as_str().len() + value.len();
        headers.insert(name, value);
    }
    (bytes <= HEADERS_BYTES_MAX).then_some(headers)
}

fn header_value(value: &Value) -> Option<HeaderValue> {
    let text = value.as_str().map_or_else(|| value.to_string(), percent_encoded);
    HeaderValue::try_from(text).ok()
}

/// Whether the content type can be a header, and is none of events: what is kept as one may be any text.
fn can_be_binary(message: &Message) -> bool {
    let Some(content_type) = message.content_type.as_deref() else { return true };
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let token = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
    };
    let is_media_type = essence.split_once('/').is_some_and(|(of, subtype)| token(of) && token(subtype));
    is_media_type && !essence.to_ascii_lowercase().starts_with("application/cloudevents")
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
        serde_json::to_value(event(&about(&queue, &delivery))).unwrap()
    }

    fn about<'a>(queue: &'a QueueName, delivery: &'a Delivery) -> About<'a> {
        About { queue, delivery, lease: "the-lease".to_owned(), lease_expires_at_ms: 1000 }
    }

    fn answered(message: impl FnOnce(&mut Message)) -> Response {
        let mut delivery = sample(9, 2, 0);
        message(&mut delivery.message);
        about(&QueueName::new("orders").unwrap(), &delivery).answer(true).unwrap()
    }

    #[test]
    fn an_event_goes_out_as_it_came_in() {
        let event = json!({
            "specversion": "1.0", "id": "1", "source": "/s", "type": "t", "subject": "x", "extra": "7",
            "count": -7, "on": true,
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

    #[test]
    fn what_only_looks_like_an_event_is_none() {
        for (name, value) in [("ce-specversion", "0.3"), ("ce-a b", "x"), ("ce-time", "now"), ("ce-subject", "")] {
            let mut of_event = vec![("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")];
            of_event.retain(|(other, _)| *other != name);
            of_event.push((name, value));
            let out = shown(|message| {
                message.attributes = of_event.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
            });
            assert_eq!((&out["type"], &out["specversion"]), (&json!(TYPE), &json!("1.0")), "{name}");
        }
    }

    #[test]
    fn our_own_extensions_are_for_nobody_else_to_set() {
        let out = shown(|message| {
            message.attributes = vec![("linecooklease".into(), "forged".into()), ("linecookkey".into(), "x".into())];
        });
        assert_eq!(out["linecooklease"], "the-lease");
        assert!(out.get("linecookkey").is_none());
    }

    #[test]
    fn in_binary_mode_attributes_are_headers() {
        let event = json!({
            "specversion": "1.0", "id": "1", "source": "/ünï", "type": "t", "subject": "a \"b\" 100%", "count": 7,
            "datacontenttype": "text/plain", "data": "text",
        });
        let sent = of_structured(event.to_string().as_bytes()).unwrap();
        let out = answered(|message| {
            message.body = sent.body;
            message.content_type = sent.content_type;
            message.attributes = sent.attributes;
            message.key = Some("a b".into());
        });
        let headers: Vec<_> =
            out.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        for wanted in [
            ("ce-specversion", "1.0"),
            ("ce-id", "1"),
            ("ce-source", "/%C3%BCn%C3%AF"),
            ("ce-type", "t"),
            ("ce-subject", "a%20%22b%22%20100%25"),
            ("ce-count", "7"),
            ("content-type", "text/plain"),
            ("linecook-lease", "the-lease"),
            ("linecook-lease-expires-at", "1970-01-01T00:00:01.000Z"),
            ("linecook-attempt", "2"),
            ("linecook-queue", "orders"),
            ("linecook-key", "a%20b"),
        ] {
            assert!(headers.contains(&wanted), "{wanted:?} is not in {headers:?}");
        }
        assert!(!headers.iter().any(|(name, _)| *name == "ce-datacontenttype" || name.starts_with("ce-linecook")));
    }

    #[test]
    fn what_headers_cannot_say_goes_out_in_json() {
        let large = answered(|message| message.attributes = vec![("large".into(), "é".repeat(8000).into())]);
        let taken_for_json =
            answered(|message| message.content_type = Some("Application/CloudEvents+json; charset=utf-8".into()));
        let no_media_type = answered(|message| message.content_type = Some("any text".into()));
        for out in [large, taken_for_json, no_media_type] {
            assert_eq!(out.headers()["content-type"], STRUCTURED);
            assert_eq!(
                (&out.headers()["linecook-lease"], out.headers().get("ce-id")),
                (&"the-lease".parse().unwrap(), None)
            );
        }
        let without_type = answered(|_| {});
        assert_eq!(without_type.headers()["content-type"], "application/octet-stream");
    }
}
