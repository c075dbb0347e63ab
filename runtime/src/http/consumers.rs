//! `GET /consumers`: what the consumers are doing, and which `queue.toml` they come from.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::Shared;

/// All consumers, by name.
pub(super) async fn list(State(shared): State<Shared>) -> Json<Value> {
    Json(json!({ "consumers": shared.board.all(), "config": shared.board.config() }))
}
