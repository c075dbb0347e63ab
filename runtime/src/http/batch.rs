//! `POST /queues/{queue}/messages/batch`: many messages, all or none.
//!
//! The body is NDJSON (content type `application/x-ndjson`: a message a line, empty lines don't count) or a JSON array.
//! It is taken apart without copying; only what ends up in a message is copied out, so that a message that waits in
//! memory does not hold the whole request there.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt::{self, Write};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::limits::{BATCH_BYTES_MAX, BATCH_MESSAGES_MAX, BODY_BYTES_MAX};
use super::path::Queue;
use super::problem::Problem;
use super::send::{json, publish};
use super::{Shared, body, cloudevents, fields, headers};
use crate::broker::Published;
use crate::delivery::{NewMessage, QueueName};

/// Answers once all messages are durable.
pub(super) async fn send(
    State(shared): State<Shared>,
    Queue(queue): Queue,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, request_body) = request.into_parts();
    let messages = receive(&shared, &parts.headers, request_body).await?;
    send_all(&shared, &queue, messages).await
}

/// Sends messages that have been read.
pub(super) async fn send_all(
    shared: &Shared,
    queue: &QueueName,
    messages: Vec<NewMessage>,
) -> Result<Response, Problem> {
    let published = publish(shared, queue, messages).await?;
    Ok(json(StatusCode::ACCEPTED, answer(&published)))
}

/// The ids and the number of duplicates, as JSON. An id needs no escaping.
fn answer(published: &[Published]) -> String {
    const ID_BYTES: usize = 30;
    let mut text = String::with_capacity((published.len() + 1) * ID_BYTES);
    let duplicates = published.iter().filter(|one| one.duplicate).count();
    // Writing to a text does not fail.
    _ = write!(text, "{{\"duplicates\":{duplicates},\"ids\":[");
    for (index, one) in published.iter().enumerate() {
        _ = write!(text, "{}\"{}\"", if index == 0 { "" } else { "," }, one.id);
    }
    text.push_str("]}");
    text
}

/// The messages that a request makes. Its text is gone by then: waiting for the disk does not need it.
pub(super) async fn receive(
    shared: &Shared,
    headers: &HeaderMap,
    request_body: Body,
) -> Result<Vec<NewMessage>, Problem> {
    headers::check_batch(headers)?;
    let mode = cloudevents::Mode::of(headers)?;
    let bytes = body::read(headers, request_body, BATCH_BYTES_MAX, shared.timeouts.body).await?;
    match mode {
        cloudevents::Mode::Binary => read(headers, &bytes),
        cloudevents::Mode::Structured => Ok(vec![cloudevents::of_structured(&bytes)?]),
        cloudevents::Mode::Batch => cloudevents::of_batch(&bytes),
    }
}

/// All messages of a batch, checked.
fn read(headers: &HeaderMap, bytes: &[u8]) -> Result<Vec<NewMessage>, Problem> {
    let messages = if is_lines(headers, bytes)? { of_lines(bytes) } else { of_array(bytes) }?;
    if messages.is_empty() {
        return Err(Problem::malformed("the batch is empty; send at least one message"));
    }
    Ok(messages)
}

/// By content type; without a telling one (curl sends a form's), by whether the body starts as an array.
fn is_lines(headers: &HeaderMap, bytes: &[u8]) -> Result<bool, Problem> {
    let media_type = headers.get(header::CONTENT_TYPE).map_or(Ok(""), |value| value.to_str());
    let media_type = media_type.map_err(|_| Problem::malformed("Content-Type is not a media type"))?;
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    Ok(match essence.as_str() {
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" => true,
        "application/json" => false,
        _ => !bytes.trim_ascii_start().starts_with(b"["),
    })
}

fn of_lines(bytes: &[u8]) -> Result<Vec<NewMessage>, Problem> {
    let mut messages = Vec::new();
    for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        let index = messages.len();
        let place = |problem: Problem| {
            problem.at(&format!("line {} (message {index})", number + 1)).with("index", index).with("line", number + 1)
        };
        if index == BATCH_MESSAGES_MAX {
            return Err(too_many());
        }
        messages.push(item(line).and_then(message).map_err(place)?);
    }
    Ok(messages)
}

fn of_array(bytes: &[u8]) -> Result<Vec<NewMessage>, Problem> {
    let index = Cell::new(None);
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let parts = reader.deserialize_seq(Elements { index: &index }).and_then(|parts| reader.end().map(|()| parts));
    let parts = parts.map_err(|error| match index.get() {
        Some(BATCH_MESSAGES_MAX) => too_many(),
        Some(index) => Problem::malformed(format!("{error} of the batch; is a comma or a bracket missing?"))
            .at(&format!("message {index}"))
            .with("index", index),
        None => Problem::malformed(format!("the batch is not a JSON array: {error}; send an array of messages")),
    })?;
    parts
        .into_iter()
        .enumerate()
        .map(|(index, part)| {
            let place = |problem: Problem| problem.at(&format!("message {index}")).with("index", index);
            item(part.get().as_bytes()).and_then(message).map_err(place)
        })
        .collect()
}

/// The members of one message. An array of their values in order is none, although serde takes it for one.
fn item(bytes: &[u8]) -> Result<Item<'_>, Problem> {
    if bytes.first() == Some(&b'[') {
        return Err(Problem::malformed("it is an array; a message is {\"body\":…} or {\"body_base64\":\"…\"}"));
    }
    serde_json::from_slice(bytes).map_err(malformed)
}

/// An error within one message. Its line would be the first one always, which is confusing beside the batch's own.
fn malformed(error: serde_json::Error) -> Problem {
    let text = error.to_string();
    let text = text.strip_suffix(&format!(" at line 1 column {}", error.column())).unwrap_or(&text);
    Problem::malformed(format!(
        "{text} (column {}); a message is {{\"body\":…}} or {{\"body_base64\":\"…\"}}",
        error.column()
    ))
}

fn too_many() -> Problem {
    Problem::too_large(format!("there are more than {BATCH_MESSAGES_MAX} messages; send them in several batches"))
}

/// Finds where each element of the array starts and ends. `index` is that of the element that is being read.
struct Elements<'i> {
    index: &'i Cell<Option<usize>>,
}

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of messages")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        let mut parts = Vec::new();
        loop {
            self.index.set(Some(parts.len()));
            let Some(part) = elements.next_element()? else {
                self.index.set(None);
                return Ok(parts);
            };
            if parts.len() == BATCH_MESSAGES_MAX {
                return Err(A::Error::custom("too many messages"));
            }
            parts.push(part);
        }
    }
}

/// One message of a batch.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Item<'a> {
    // `null` is a JSON value like any other, so it is a body.
    #[serde(default, borrow, deserialize_with = "present")]
    body: Option<&'a RawValue>,
    #[serde(default, borrow)]
    body_base64: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    content_type: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    key: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    delay: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    idempotency_key: Option<Cow<'a, str>>,
    #[serde(default)]
    attributes: Pairs,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

fn message(item: Item<'_>) -> Result<NewMessage, Problem> {
    let (body, implied_type) = match (item.body, &item.body_base64) {
        (Some(raw), None) if raw.get().starts_with('"') => {
            let text: Cow<'_, str> = serde_json::from_str(raw.get()).map_err(malformed)?;
            (Bytes::copy_from_slice(text.as_bytes()), None)
        }
        (Some(raw), None) => (Bytes::copy_from_slice(raw.get().as_bytes()), Some("application/json")),
        (None, Some(text)) => {
            let bytes = BASE64_STANDARD.decode(text.as_bytes()).map_err(|error| {
                Problem::malformed(format!(
                    "body_base64 is not base64: {error}; use the standard alphabet with padding"
                ))
            })?;
            (bytes.into(), None)
        }
        (None, None) => return Err(Problem::malformed("it has no body; give \"body\" or \"body_base64\"")),
        (Some(_), Some(_)) => {
            return Err(Problem::malformed("it has both \"body\" and \"body_base64\"; give one of them"));
        }
    };
    if body.len() > BODY_BYTES_MAX {
        let problem = format!("its body has {} bytes, and the limit is {BODY_BYTES_MAX}", body.len());
        return Err(Problem::too_large(problem).with("bytes_max", BODY_BYTES_MAX));
    }
    let content_type = match (&item.content_type, implied_type) {
        (Some(given), _) => Some(fields::content_type("content_type", given)?),
        (None, implied) => implied.map(Into::into),
    };
    let mut attributes = Vec::new();
    for (name, value) in &item.attributes.0 {
        fields::add_attribute(&mut attributes, name, value)?;
    }
    Ok(NewMessage {
        body,
        content_type,
        key: item.key.map(|key| fields::key("key", &key)).transpose()?,
        attributes,
        idempotency_key: item
            .idempotency_key
            .map(|key| fields::idempotency_key("idempotency_key", &key))
            .transpose()?,
        delay_ms: item.delay.map_or(Ok(0), |delay| fields::delay_ms("delay", &delay))?,
    })
}

/// The members of an object, in the sender's order and with those that are there twice.
#[derive(Default)]
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Pairs, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = members.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }

            fn visit_unit<E: Error>(self) -> Result<Pairs, E> {
                Ok(Pairs::default())
            }
        }

        deserializer.deserialize_any(Members)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// A JSON value with a little of everything.
    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 12, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn lines_and_arrays_say_the_same(bodies in prop::collection::vec(json_value(), 1..8)) {
            let items: Vec<_> = bodies.iter().map(|body| json!({ "body": body }).to_string()).collect();
            let lines = of_lines(items.join("\n").as_bytes()).unwrap();
            let array = of_array(format!("[{}]", items.join(" ,\n")).as_bytes()).unwrap();
            prop_assert_eq!(&lines, &array);
            for (message, body) in lines.iter().zip(&bodies) {
                match body {
                    Value::String(text) => prop_assert_eq!(&message.body[..], text.as_bytes()),
                    other => prop_assert_eq!(&serde_json::from_slice::<Value>(&message.body).unwrap(), other),
                }
            }
        }

        #[test]
        fn bytes_from_outside_never_panic(
            start in prop_oneof![Just(""), Just("["), Just("[{\"body\":"), Just("{\"body\":1}\n{\"attributes\":{")],
            rest in prop::collection::vec(
                prop_oneof![any::<u8>(), prop::sample::select(b"[]{}\",:\\n0eu \n".to_vec())], 0..64
            ),
        ) {
            let bytes = [start.as_bytes(), &rest].concat();
            _ = of_lines(&bytes);
            _ = of_array(&bytes);
        }
    }

    #[test]
    fn nesting_takes_no_stack() {
        let deep = format!("{}1{}", "[".repeat(400_000), "]".repeat(400_000));
        let messages = of_array(format!("[{{\"body\":{deep}}}]").as_bytes()).unwrap();
        assert_eq!(&messages[0].body[..], deep.as_bytes());
    }
}
