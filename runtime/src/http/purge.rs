//! `DELETE /queues/{queue}/messages`: everything that is in a queue goes.

use axum::Json;
use axum::extract::State;
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
