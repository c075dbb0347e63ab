//! `GET /queues` and `GET /queues/{queue}`: how many messages are where.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::{Value, json};

use super::Shared;
use super::auth::Principal;
use super::path::Queue;
use super::problem::Problem;
use crate::auth::Action;
use crate::broker::QueueStats;
use crate::status::ConsumerStatus;
use crate::time::now_ms;

/// One queue, as the API shows it.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    name: &'a str,
    /// Whether `queue.toml` names it, or a consumer's dead letters go there. If not, it is there until it is empty.
    declared: bool,
    ready: u64,
    delayed: u64,
    leased: u64,
    bytes: u64,
    oldest_age_ms: Option<u64>,
    history: u64,
    history_bytes: u64,
    history_given_up: u64,
    consumer: Option<&'a str>,
}

/// All queues, by name.
pub(super) async fn list(State(shared): State<Shared>, principal: Principal) -> Result<Json<Value>, Problem> {
    let mut queues = shared.broker.queues().await.map_err(|error| Problem::broker(&error))?;
    queues.retain(|queue| principal.may_see(queue.name.as_str()));
    let (consumers, now_ms) = (shared.board.all(), now_ms());
    let queues: Vec<_> = queues.iter().map(|queue| show(queue, &consumers, now_ms)).collect();
    Ok(Json(json!({ "queues": queues })))
}

/// One queue.
pub(super) async fn one(
    State(shared): State<Shared>,
    Queue(name): Queue,
    principal: Principal,
) -> Result<Json<Value>, Problem> {
    if !principal.may_see(name.as_str()) {
        // Any scope would do; this is the least.
        principal.require(Action::Consume, name.as_str())?;
    }
    match shared.broker.queue(&name).await {
        Ok(queue) => Ok(Json(json!(show(&queue, &shared.board.all(), now_ms())))),
        Err(error) => Err(Problem::of(error, &*shared.broker).await),
    }
}

fn show<'a>(queue: &'a QueueStats, consumers: &'a [ConsumerStatus], now_ms: u64) -> Shown<'a> {
    let consumer = consumers.iter().find(|consumer| consumer.queue == queue.name.as_str());
    Shown {
        name: queue.name.as_str(),
        declared: queue.declared,
        ready: queue.ready,
        delayed: queue.delayed,
        leased: queue.leased,
        bytes: queue.bytes,
        oldest_age_ms: queue.oldest_enqueued_at_ms.map(|at| now_ms.saturating_sub(at)),
        history: queue.history,
        history_bytes: queue.history_bytes,
        history_given_up: queue.history_given_up,
        consumer: consumer.map(|consumer| consumer.name.as_str()),
    }
}
