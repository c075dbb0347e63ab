//! `GET /queues/{queue}/messages?limit=10`: the first messages of a queue, without claiming them. An answer holds some MiB of
//! bodies at most; `next` says with which `after` the next one goes on. With `state=history`: [`super::history`].

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Shared;
use super::history;
use super::limits::{PEEK_BYTES_MAX, PEEK_MESSAGES_MAX};
use super::path::Queue;
use super::problem::Problem;
use crate::broker::PeekedMessage;
use crate::delivery::Message;
use crate::time::rfc3339;

/// What stands after the question mark.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Parameters {
    #[serde(default = "limit_default")]
    limit: usize,
    after: Option<u64>,
    state: Option<String>,
    from: Option<String>,
    to: Option<String>,
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
    let refuse = |why: String| {
        Problem::malformed(format!(
            "{why}; write ?limit=N with N from 1 to {PEEK_MESSAGES_MAX}, after=POSITION, and for what was acknowledged \
             state=history with from=TIME and to=TIME"
        ))
    };
    let Query(Parameters { limit, after, state, from, to }) =
        parameters.map_err(|rejection| refuse(rejection.body_text()))?;
    if !(1..=PEEK_MESSAGES_MAX).contains(&limit) {
        return Err(refuse(format!("the limit {limit} is out of range")));
    }
    // Only what was acknowledged has a time to look for.
    let of_history = from.is_some() || to.is_some();
    match state.as_deref().or(of_history.then_some("history")) {
        Some("history") => {
            let span = history::span(from.as_deref(), to.as_deref(), u64::MAX)?;
            return history::look(&shared, &queue, span, after, limit).await;
        }
        Some(other) => return Err(refuse(format!("there is no state {other:?} to look for"))),
        None => {}
    }
    let page = match shared.broker.peek_after(&queue, after, limit).await {
        Ok(page) => page,
        Err(error) => return Err(Problem::of(error, &*shared.broker).await),
    };
    let mut bytes = 0;
    let mut messages = Vec::new();
    for message in &page.messages {
        if bytes >= PEEK_BYTES_MAX {
            break;
        }
        bytes += message.message.body.len();
        messages.push(show(message));
    }
    let is_cut = messages.len() < page.messages.len();
    let mut answer = json!({ "messages": messages });
    if let Some(next) = page.next.filter(|_| !is_cut) {
        answer["next"] = next.into();
    }
    // Fewer than were asked for, because they are large.
    if is_cut || (page.next.is_some() && messages.len() + (page.unreadable as usize) < limit) {
        answer["truncated"] = true.into();
    }
    if page.unreadable > 0 {
        answer["unreadable"] = page.unreadable.into();
    }
    Ok(Json(answer))
}

fn show(peeked: &PeekedMessage) -> Value {
    let mut shown = show_message(&peeked.message, &peeked.state.to_string());
    shown["attempt"] = peeked.attempts.into();
    if let Some(due_at_ms) = peeked.due_at_ms {
        shown["due_at"] = rfc3339(due_at_ms).into();
    }
    shown
}

/// A message that nobody has claimed, in its state.
pub(super) fn show_message(message: &Message, state: &str) -> Value {
    let mut shown = show_content(message);
    shown["state"] = state.into();
    shown
}

/// What all messages have.
pub(super) fn show_content(message: &Message) -> Value {
    let attributes: Map<_, _> =
        message.attributes.iter().map(|(name, value)| (name.to_string(), Value::from(&**value))).collect();
    let mut shown = json!({
        "id": message.id.to_string(),
        "content_type": message.content_type,
        "key": message.key,
        "attributes": attributes,
        "enqueued_at": rfc3339(message.enqueued_at_ms),
    });
    match std::str::from_utf8(&message.body) {
        Ok(text) => shown["body"] = text.into(),
        Err(_) => shown["body_base64"] = BASE64_STANDARD.encode(&message.body).into(),
    }
    shown
}
