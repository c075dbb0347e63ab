//! `GET /queues/{queue}/messages?limit=10`: the first messages of a queue, without claiming them.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Shared;
use super::limits::{PEEK_BYTES_MAX, PEEK_MESSAGES_MAX};
use super::path::Queue;
use super::problem::Problem;
use crate::broker::PeekedMessage;
use crate::time::rfc3339;

/// What stands after the question mark.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Parameters {
    #[serde(default = "limit_default")]
    limit: usize,
}

fn limit_default() -> usize {
    10
}

/// The first messages. If their bodies are large, there are fewer of them, and `truncated` says so.
pub(super) async fn peek(
    State(shared): State<Shared>,
    Queue(queue): Queue,
    parameters: Result<Query<Parameters>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let refuse =
        |why: String| Problem::malformed(format!("{why}; write ?limit=N with N from 1 to {PEEK_MESSAGES_MAX}"));
    let Query(Parameters { limit }) = parameters.map_err(|rejection| refuse(rejection.body_text()))?;
    if !(1..=PEEK_MESSAGES_MAX).contains(&limit) {
        return Err(refuse(format!("the limit {limit} is out of range")));
    }
    let peeked = match shared.broker.peek(&queue, limit).await {
        Ok(peeked) => peeked,
        Err(error) => return Err(Problem::of(error, &*shared.broker).await),
    };
    let mut bytes = 0;
    let mut messages = Vec::new();
    for message in &peeked {
        if bytes >= PEEK_BYTES_MAX {
            break;
        }
        bytes += message.message.body.len();
        messages.push(show(message));
    }
    let mut answer = json!({ "messages": messages });
    if messages.len() < peeked.len() {
        answer["truncated"] = true.into();
    }
    Ok(Json(answer))
}

fn show(peeked: &PeekedMessage) -> Value {
    let message = &peeked.message;
    let attributes: Map<_, _> =
        message.attributes.iter().map(|(name, value)| (name.to_string(), Value::from(&**value))).collect();
    let mut shown = json!({
        "id": message.id.to_string(),
        "state": peeked.state.to_string(),
        "attempt": peeked.attempts,
        "content_type": message.content_type,
        "key": message.key,
        "attributes": attributes,
        "enqueued_at": rfc3339(message.enqueued_at_ms),
    });
    if let Some(due_at_ms) = peeked.due_at_ms {
        shown["due_at"] = rfc3339(due_at_ms).into();
    }
    match std::str::from_utf8(&message.body) {
        Ok(text) => shown["body"] = text.into(),
        Err(_) => shown["body_base64"] = BASE64_STANDARD.encode(&message.body).into(),
    }
    shown
}
