//! `DELETE /queues/{queue}/messages`: everything that is in a queue goes. `DELETE /queues/{queue}`: and the queue with it.
//! `DELETE /consumers/{name}/state`: what a consumer that is gone had put on record for itself.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::Shared;
use super::path::{Named, Queue};
use super::problem::Problem;
use crate::delivery::consumer_space;

/// Takes away what is there, and counts it.
pub(super) async fn purge(State(shared): State<Shared>, Queue(queue): Queue) -> Result<Json<Value>, Problem> {
    match shared.broker.purge(&queue).await {
        Ok(purged) => Ok(Json(json!({ "purged": purged }))),
        Err(error) => Err(Problem::of(error, &*shared.broker).await),
    }
}

/// The same for a queue that `queue.toml` does not name any more: it is not there any more afterwards.
pub(super) async fn delete(State(shared): State<Shared>, Queue(queue): Queue) -> Result<Json<Value>, Problem> {
    let found = shared.broker.queue(&queue).await;
    let purged = match found {
        Ok(found) if found.declared => return Err(declared(queue.as_str())),
        Ok(_) => shared.broker.purge(&queue).await,
        Err(error) => Err(error),
    };
    match purged {
        Ok(purged) => Ok(Json(json!({ "purged": purged, "deleted": true }))),
        Err(error) => Err(Problem::of(error, &*shared.broker).await),
    }
}

/// The durable state of a consumer that `queue.toml` does not name any more: all keys, at once.
pub(super) async fn drop_state(State(shared): State<Shared>, Named(name): Named) -> Result<Json<Value>, Problem> {
    // One that was taken out is shown until its last delivery has ended, which may still write.
    if shared.board.all().iter().any(|consumer| consumer.name == name) {
        return Err(named(&name));
    }
    let space = consumer_space(&name);
    let dropped = match shared.broker.state_bytes(&space) {
        Ok(0) => return Err(no_state(&name)),
        Ok(bytes) => shared.broker.drop_state(&space).await.map(|()| bytes),
        Err(error) => Err(error),
    };
    match dropped {
        Ok(bytes) => Ok(Json(json!({ "name": name, "dropped_bytes": bytes }))),
        Err(error) => Err(Problem::of(error, &*shared.broker).await),
    }
}

fn named(consumer: &str) -> Problem {
    let detail = format!(
        "consumer {consumer} is in use: queue.toml names it, or its last deliveries have not ended; take it out of queue.toml \
         first"
    );
    Problem::new(StatusCode::CONFLICT, "consumer-declared", "The consumer is declared", detail)
}

fn no_state(consumer: &str) -> Problem {
    let shown: String = consumer.chars().take(80).collect();
    let detail = format!("no consumer {shown:?} has left any state");
    Problem::new(StatusCode::NOT_FOUND, "no-state", "No state", detail)
}

fn declared(queue: &str) -> Problem {
    let detail = format!(
        "queue {queue} is in use: queue.toml names it, or a consumer's dead letters go there; take it out of queue.toml \
         first, or empty it with `linecook purge {queue}`"
    );
    Problem::new(StatusCode::CONFLICT, "queue-declared", "The queue is declared", detail).with("queue", queue)
}
