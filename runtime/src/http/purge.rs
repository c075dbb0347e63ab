//! `DELETE /queues/{queue}/messages`: everything that is in a queue goes. `DELETE /queues/{queue}`: and the queue with it.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::Shared;
use super::path::Queue;
use super::problem::Problem;

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

fn declared(queue: &str) -> Problem {
    let detail = format!(
        "queue {queue} is in use: queue.toml names it, or a consumer's dead letters go there; take it out of queue.toml \
         first, or empty it with `linecook purge {queue}`"
    );
    Problem::new(StatusCode::CONFLICT, "queue-declared", "The queue is declared", detail).with("queue", queue)
}
