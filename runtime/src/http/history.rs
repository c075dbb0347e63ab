//! `GET /queues/{queue}/messages?state=history&from=TIME&to=TIME&after=POSITION&limit=N`: acknowledged messages that the queue
//! keeps, in the order of their acknowledgement.

use axum::Json;
use serde_json::{Value, json};

use super::Shared;
use super::limits::{HISTORY_BYTES_MAX, PEEK_MESSAGES_MAX};
use super::peek::show_message;
use super::problem::Problem;
use crate::broker::HistoryRange;
use crate::delivery::QueueName;
use crate::time::{now_ms, parse_time, rfc3339};

/// A span of time, as a request names it: from the first millisecond to before the last.
pub(super) fn span(from: Option<&str>, to: Option<&str>, to_default_ms: u64) -> Result<(u64, u64), Problem> {
    let now_ms = now_ms();
    let read = |name: &str, text: &str| {
        parse_time(text, now_ms).map_err(|why| Problem::malformed(format!("\"{name}\": {why}")))
    };
    let from_ms = from.map_or(Ok(0), |from| read("from", from))?;
    let to_ms = to.map_or(Ok(to_default_ms), |to| read("to", to))?;
    // One that ends before it begins holds nothing.
    Ok((from_ms, to_ms.max(from_ms)))
}

/// A page of it.
pub(super) async fn look(
    shared: &Shared,
    queue: &QueueName,
    (from_ms, to_ms): (u64, u64),
    after: Option<u64>,
    limit: usize,
) -> Result<Json<Value>, Problem> {
    let range =
        HistoryRange { from_ms, to_ms, after, limit: limit.min(PEEK_MESSAGES_MAX), bytes_max: HISTORY_BYTES_MAX };
    let page = match shared.broker.history(queue, &range).await {
        Ok(page) => page,
        Err(error) => return Err(Problem::of(error, &*shared.broker).await),
    };
    let messages: Vec<Value> = page
        .messages
        .iter()
        .map(|one| {
            let mut shown = show_message(&one.message, "history");
            shown["position"] = one.position.into();
            shown["acked_at"] = rfc3339(one.acked_at_ms).into();
            shown
        })
        .collect();
    let mut answer = json!({ "messages": messages });
    if let Some(next) = page.next {
        answer["next"] = next.into();
    }
    if page.unreadable > 0 {
        answer["unreadable"] = page.unreadable.into();
    }
    Ok(Json(answer))
}
